//! Text embeddings of prompts: remembered, read from disk, or computed.
//!
//! In:  a prompt. Out: its [`TextEmbedding`], the same bytes from each of the three places.
//!
//! Within one pipeline an embedding depends on the prompt alone, so the memory is keyed by it: model, backend and
//! number format are fixed, and a change of format [clears](Prompts::clear) it. The disk is shared by all runs, so its
//! key holds all of that; see [`text_cache`](crate::text_cache).

use flux2_backend::{Backend, Tensor};

use super::networks::Networks;
use super::progress::phase;
use super::recent::Recent;
use crate::event::{CancelToken, Observer, Phase, Warning};
use crate::text::{Cut, TokenizedPrompt, Tokenizer};
use crate::text_cache::{Entry, Inputs, TextCache};
use crate::weights::{ModelFiles, Part, TextConfig};
use crate::{Error, Result};

/// Prompts that can be encoded ahead. Their embeddings stay in device memory, 16 MB each for the 4B model, together
/// with that of a negative prompt.
pub const MAX_PREPARED_PROMPTS: usize = 16;

/// The output of the text encoder for one prompt.
pub struct TextEmbedding<B: Backend> {
    /// f32 `[n_txt, d_text]`.
    pub rows: Tensor<B>,
    /// If the prompt was too long.
    pub warning: Option<Warning>,
}

impl<B: Backend> Clone for TextEmbedding<B> {
    fn clone(&self) -> Self {
        TextEmbedding { rows: self.rows.clone(), warning: self.warning.clone() }
    }
}

/// The embeddings of one pipeline.
pub(super) struct Prompts<B: Backend> {
    tokenizer: Tokenizer,
    recent: Recent<String, TextEmbedding<B>>,
    on_disk: Option<TextCache>,
    /// Identifies the text encoder's weights in the disk cache; computed when the cache is first asked.
    fingerprint: Option<[u8; 32]>,
}

impl<B: Backend> Prompts<B> {
    /// Nothing remembered, nothing on disk.
    ///
    /// # Errors
    /// [`Error::TokenizerVocabulary`] if the tokenizer knows more tokens than the text encoder.
    pub(super) fn new(tokenizer: Tokenizer, config: &TextConfig) -> Result<Self> {
        let (highest, rows) = (tokenizer.highest_id(), config.vocab);
        if highest >= rows {
            return Err(Error::TokenizerVocabulary { highest, rows });
        }
        let embedding_bytes = size_of::<f32>() * config.max_length * config.embedding_dim();
        let recent = Recent::new((MAX_PREPARED_PROMPTS + 1) * embedding_bytes);
        Ok(Prompts { tokenizer, recent, on_disk: None, fingerprint: None })
    }

    /// Keep embeddings on disk as well, or no longer.
    pub(super) fn set_disk_cache(&mut self, cache: Option<TextCache>) {
        self.on_disk = cache;
    }

    /// Drop what is remembered.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
    }

    /// The token ids of `prompt` as the text encoder of `files` takes them.
    pub(super) fn tokenize(&self, prompt: &str, files: &ModelFiles) -> TokenizedPrompt {
        self.tokenizer.encode_prompt(prompt, files.text_encoder.config.max_length)
    }

    /// The tokenizer of the model.
    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The embedding of `prompt`.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or if the text encoder cannot be read.
    pub(super) fn embed(
        &mut self,
        prompt: &str,
        networks: &mut Networks<B>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<TextEmbedding<B>> {
        if let Some(known) = self.recent.get(prompt) {
            return Ok(known);
        }
        self.embed_all(&[prompt], networks, observer, cancel)?;
        Ok(self.recent.get(prompt).expect("remembered by now"))
    }

    /// Remember the embeddings of `prompts`, at most [`MAX_PREPARED_PROMPTS`] and a negative one. Those that are neither
    /// remembered nor on disk go through the text encoder together.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub(super) fn embed_all(
        &mut self,
        prompts: &[&str],
        networks: &mut Networks<B>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        let config = &networks.files.text_encoder.config;
        let (max_length, shape) = (config.max_length, [config.max_length, config.embedding_dim()]);
        let mut missing: Vec<(&str, TokenizedPrompt, Option<Entry>)> = Vec::new();
        for prompt in prompts {
            if self.recent.get(*prompt).is_some() || missing.iter().any(|(other, ..)| other == prompt) {
                continue;
            }
            let tokens = self.tokenizer.encode_prompt(prompt, max_length);
            let entry = self.disk_entry(&tokens.ids, tokens.valid, networks)?;
            match entry.as_ref().and_then(|entry| entry.load(observer)) {
                Some(rows) => self.remember(prompt, tokens, networks.be.upload(&shape, &rows)?),
                None => missing.push((prompt, tokens, entry)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let inputs: Vec<_> = missing.iter().map(|(_, tokens, _)| (&tokens.ids[..], tokens.valid)).collect();
        let computed = compute(&inputs, networks, observer, cancel)?;
        for ((prompt, tokens, entry), rows) in missing.into_iter().zip(computed) {
            if let Some(entry) = entry {
                entry.store(&networks.be.download(&rows)?, observer);
            }
            self.remember(prompt, tokens, rows);
        }
        Ok(())
    }

    /// Remember an embedding, f32 `[n_txt, d_text]`.
    fn remember(&mut self, prompt: &str, tokens: TokenizedPrompt, rows: Tensor<B>) {
        let TokenizedPrompt { ids, cut, .. } = tokens;
        let kept = ids.len();
        let warning = cut.map(|Cut { tokens, more, lost }| Warning::PromptCut { tokens, more, kept, lost });
        let bytes = size_of::<f32>() * rows.rows() * rows.cols();
        self.recent.insert(prompt.to_owned(), TextEmbedding { rows, warning }, bytes);
    }

    /// The place of an embedding on disk, if there is a disk cache.
    fn disk_entry(&mut self, ids: &[u32], valid: usize, networks: &Networks<B>) -> Result<Option<Entry>> {
        let Some(cache) = &self.on_disk else { return Ok(None) };
        let files = &networks.files.text_encoder;
        let encoder = match self.fingerprint {
            Some(known) => known,
            None => *self.fingerprint.insert(files.fingerprint()?),
        };
        let kernels = networks.be.kernels();
        // All layers are rounded to one format.
        let kernels = match networks.precision.format(Part::TextEncoder, "layer.0.q").dtype() {
            None => kernels,
            Some(dtype) => format!("{kernels}, weights in {dtype}"),
        };
        Ok(Some(cache.entry(&Inputs { encoder, config: &files.config, kernels: &kernels, ids, valid })))
    }
}

/// Run the text encoder on the token ids of prompts, of which the first `valid` are not padding -> each f32
/// `[n_txt, d_text]`.
fn compute<B: Backend>(
    prompts: &[(&[u32], usize)],
    networks: &mut Networks<B>,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Vec<Tensor<B>>> {
    let be = networks.be.clone();
    let encoder = networks.text_encoder(observer, cancel)?;
    let rows = phase(observer, cancel, Phase::Text, encoder.blocks(), |pulse| {
        let rows = encoder.forward_all(prompts, pulse)?;
        be.wait()?; // so that the phase lasts as long as the device works
        Ok(rows)
    });
    be.trim();
    rows
}
