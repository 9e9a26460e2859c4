//! The tokenizer of Qwen3: byte-level BPE over a prompt in its chat template.
//!
//! In:  a `tokenizer.json` (or the built-in one); a prompt.
//! Out: a fixed number of token ids, how many of them are not padding, and what was cut.
//!
//! A tokenizer.json can hold any normalizer, any regular expression and any model, and the `tokenizers` crate panics on
//! some of them. Every text encoder of this family uses the same rules, so a file with other rules is refused.
//! Vocabulary, merges and added tokens are taken from the file and checked here; the rules are the constants below.
//! Follows `Qwen2Tokenizer` in transformers.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, TokenizerImpl};

use super::chat_template;
use crate::weights::Location;
use crate::{Error, Result};

/// Largest tokenizer.json that is read; Qwen3's has 11 MB.
pub const MAX_FILE_BYTES: u64 = 32 << 20;

/// Size of the built-in tokenizer.json.
const BUILTIN_BYTES: u64 = 11_422_654;

/// Bytes of memory that a tokenizer takes for each byte of its file; its tests measure it.
const MEMORY_OF_BYTE: usize = 8;

/// Longest prompt that is tokenized; 512 tokens are rarely more than 3 kB.
pub const MAX_PROMPT_BYTES: usize = 256 << 10;

/// The padding token.
const PAD_TOKEN: &str = "<|endoftext|>";

/// How Qwen2 and Qwen3 split text before merging: contractions, words, single digits, punctuation, white space.
const SPLIT_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen3's tokenizer.json, gzip -9n. Alibaba Cloud, Apache License 2.0; see the README beside it.
const BUILTIN: &[u8] = include_bytes!("../../assets/tokenizer/qwen3.json.gz");

/// Turns prompts into token ids. Clones share the vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    bpe: Arc<TokenizerImpl<BPE, NFC, Sequence, ByteLevel, ByteLevel>>,
    pad_id: u32,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.bpe.get_vocab_size(true);
        f.debug_struct("Tokenizer").field("tokens", &tokens).field("pad_id", &self.pad_id).finish()
    }
}

/// A prompt as the input of the text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Token ids, exactly as many as were asked for; padded on the right.
    pub ids: Vec<u32>,
    /// How many of `ids` are not padding; the attention mask is 1 for these and 0 for the rest.
    pub valid: usize,
    /// The end of the prompt, if it did not fit.
    pub cut: Option<Cut>,
}

/// The end of a prompt that did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Number of tokens of the prompt with its template, or of the part that was tokenized.
    pub tokens: usize,
    /// Whether the prompt is longer than [`MAX_PROMPT_BYTES`], beyond which it is not tokenized.
    pub more: bool,
    /// The part of the prompt that was cut; empty if only the end of the template was.
    pub lost: String,
}

/// A token of a prompt in its chat template.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PromptToken {
    /// Its id.
    pub id: u32,
    /// Its text; bytes that are no whole character as `<F0>`.
    pub text: String,
    /// Whether it is of the prompt, not of the template.
    pub is_prompt: bool,
}

/// The text of a token of the vocabulary, where each byte is a printable character: the bytes that are printable in
/// Latin-1 stand for themselves, the others, in order, for the characters from U+0100 on.
fn readable(token: &str) -> String {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let byte = |c: char| match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8),
        code => (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth(code as usize - 0x100),
    };
    // Special tokens are stored as they are read: all of them are printable.
    let bytes: Vec<u8> = token.chars().filter_map(byte).collect();
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("<{byte:02X}>")));
    }
    text
}

impl Tokenizer {
    /// The tokenizer of Qwen3, which all text encoders of this family share. Parsed at the first call and kept.
    pub fn builtin() -> Self {
        static CELL: OnceLock<Tokenizer> = OnceLock::new();
        let read = || {
            let mut json = Vec::with_capacity(12 << 20);
            flate2::read::GzDecoder::new(BUILTIN).read_to_end(&mut json).expect("the built-in tokenizer unpacks");
            Self::from_json(Path::new("built-in tokenizer"), &json).expect("the built-in tokenizer is valid")
        };
        CELL.get_or_init(read).clone()
    }

    /// Memory that a tokenizer takes at most while it is read, in bytes: of the model whose file it is, or the built-in
    /// one.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn memory(file: Option<&Location>) -> Result<usize> {
        let bytes = match file {
            None => BUILTIN_BYTES,
            Some(file) => {
                let mut reader = file.reader()?.take(MAX_FILE_BYTES);
                std::io::copy(&mut reader, &mut std::io::sink()).map_err(|e| file.io(e))?
            }
        };
        Ok(MEMORY_OF_BYTE * bytes as usize)
    }

    /// Read a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::TokenizerTooLarge`], [`Error::TokenizerJson`] if it is no
    /// such file, [`Error::TokenizerRule`] if it splits text unlike Qwen3, [`Error::TokenizerToken`] if a token is
    /// missing or has an unexpected id.
    pub fn from_file(file: impl Into<Location>) -> Result<Self> {
        let file = file.into();
        let mut json = Vec::new();
        file.reader()?.take(MAX_FILE_BYTES + 1).read_to_end(&mut json).map_err(|e| file.io(e))?;
        if json.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::TokenizerTooLarge { path: file.path().to_owned(), max_bytes: MAX_FILE_BYTES });
        }
        Self::from_json(file.path(), &json)
    }

    fn from_json(path: &Path, json: &[u8]) -> Result<Self> {
        let file: TokenizerFile =
            serde_json::from_slice(json).map_err(|source| Error::TokenizerJson { path: path.to_owned(), source })?;
        file.check_rules(path)?;
        file.check_vocabulary(path)?;

        // Building cannot fail on a checked file: the crate requires less than was checked.
        let bpe = BPE::builder()
            .vocab_and_merges(file.model.vocab, file.model.merges.into_iter().map(|Merge(a, b)| (a, b)).collect())
            .ignore_merges(file.model.ignore_merges)
            .build()
            .expect("every merge is in the vocabulary");
        let split = Split::new(SplitPattern::Regex(SPLIT_PATTERN.into()), SplitDelimiterBehavior::Isolated, false)
            .expect("the pattern compiles");
        let mut bpe = TokenizerImpl::new(bpe);
        bpe.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()])));
        bpe.with_normalizer(Some(NFC)).expect("there are no added tokens yet");
        let added_tokens = file.added_tokens.iter().map(|t| AddedToken::from(&*t.content, t.special).normalized(false));
        bpe.add_tokens(added_tokens).expect("added tokens are not normalized");

        // The crate numbers added tokens on from the vocabulary and ignores the ids in the file.
        let misnumbered = file.added_tokens.iter().find(|added| bpe.token_to_id(&added.content) != Some(added.id));
        if let Some(added) = misnumbered {
            return Err(Error::TokenizerToken { path: path.to_owned(), token: added.content.clone() });
        }
        let pad_id = bpe.token_to_id(PAD_TOKEN).expect("the padding token was looked for");
        Ok(Self { bpe: Arc::new(bpe), pad_id })
    }

    /// `prompt` in its chat template as exactly `max_length` ids: cut if there are more, padded on the right if there
    /// are fewer.
    ///
    /// As in the reference, a cut includes the end of the template, and the text of a special token in the prompt
    /// becomes that token. Only the first [`MAX_PROMPT_BYTES`] of a prompt are tokenized.
    pub fn encode_prompt(&self, prompt: &str, max_length: usize) -> TokenizedPrompt {
        let head = &prompt[..prompt.floor_char_boundary(MAX_PROMPT_BYTES)];
        let text = chat_template::render(head);
        let encoding = self.bpe.encode(&*text, false).expect("byte-level BPE takes any text");
        let tokens = encoding.len();
        let cut = encoding.get_offsets().get(max_length).map(|&(first_cut_byte, _)| {
            let prompt_end = chat_template::PREFIX.len() + head.len();
            // A character may be split between two tokens: search for the next one.
            let lost = (first_cut_byte.clamp(chat_template::PREFIX.len(), prompt_end)..=prompt_end)
                .find_map(|start| text.get(start..prompt_end))
                .unwrap_or_default();
            Cut { tokens, more: head.len() < prompt.len(), lost: lost.to_owned() }
        });
        let mut ids = encoding.get_ids().to_vec();
        ids.resize(max_length, self.pad_id);
        TokenizedPrompt { ids, valid: tokens.min(max_length), cut }
    }

    /// `prompt` in its chat template, and all its tokens, whether or not they fit: to be read by people.
    pub fn tokens(&self, prompt: &str) -> (String, Vec<PromptToken>) {
        let head = &prompt[..prompt.floor_char_boundary(MAX_PROMPT_BYTES)];
        let text = chat_template::render(head);
        let encoding = self.bpe.encode(&*text, false).expect("byte-level BPE takes any text");
        let prompt = chat_template::PREFIX.len()..chat_template::PREFIX.len() + head.len();
        let token = |(id, (begin, _)): (&u32, &(usize, usize))| {
            let text = self.bpe.id_to_token(*id).unwrap_or_default();
            PromptToken { id: *id, text: readable(&text), is_prompt: prompt.contains(begin) }
        };
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets()).map(token).collect();
        (text, tokens)
    }

    /// Id of the token that fills up a prompt.
    pub fn padding_id(&self) -> u32 {
        self.pad_id
    }

    /// The largest token id.
    pub fn highest_id(&self) -> usize {
        self.bpe.get_vocab_size(true).saturating_sub(1)
    }
}

// ---- the file ----

/// The parts of a tokenizer.json that encoding needs; post-processor and decoder are ignored.
#[derive(Deserialize)]
struct TokenizerFile {
    added_tokens: Vec<Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: Vec<Merge>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Added {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// Two adjacent tokens that become one. Newer files write `["a", "b"]`, older ones `"a b"`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, pair: &str) -> Result<Merge, E> {
                let (a, b) = pair.split_once(' ').ok_or_else(|| E::custom("a merge is two tokens"))?;
                Ok(Merge(a.to_owned(), b.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
                let mut next = || pair.next_element()?.ok_or_else(|| serde::de::Error::custom("a merge is two tokens"));
                Ok(Merge(next()?, next()?))
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}

impl TokenizerFile {
    /// Check that the file splits text as the constants above do, without dropout.
    fn check_rules(&self, path: &Path) -> Result<()> {
        let Self { added_tokens, normalizer, pre_tokenizer, model } = self;
        let split = &pre_tokenizer["pretokenizers"][0];
        let bytes = &pre_tokenizer["pretokenizers"][1];
        let plain = |affix: &Option<String>| affix.as_ref().is_none_or(String::is_empty);
        let stripping = |t: &&Added| t.single_word || t.lstrip || t.rstrip || t.normalized || t.content.is_empty();
        let rules = [
            ("normalizer", "NFC", normalizer["type"] == "NFC"),
            ("pre-tokenizer", "Qwen's pattern", split["pattern"]["Regex"] == SPLIT_PATTERN),
            ("pre-tokenizer", "isolated matches", split["behavior"] == "Isolated" && split["invert"] == false),
            ("pre-tokenizer", "the byte level", bytes["type"] == "ByteLevel" && bytes["use_regex"] == false),
            ("pre-tokenizer", "no space in front", bytes["add_prefix_space"] == false),
            ("model", "BPE", model.kind.as_ref().is_none_or(|kind| kind == "BPE")),
            ("model", "no dropout", model.dropout.is_none_or(|dropout| dropout == 0.0)),
            ("model", "no prefix", plain(&model.continuing_subword_prefix)),
            ("model", "no suffix", plain(&model.end_of_word_suffix)),
            ("added tokens", "taken as they stand", added_tokens.iter().find(stripping).is_none()),
            ("added tokens", "at most 4096", added_tokens.len() <= 4096),
            ("added tokens", "at most 256 bytes each", added_tokens.iter().all(|t| t.content.len() <= 256)),
        ];
        match rules.into_iter().find(|(_, _, holds)| !holds) {
            Some((part, expected, _)) => Err(Error::TokenizerRule { path: path.to_owned(), part, expected }),
            None => Ok(()),
        }
    }

    /// Check that every byte, every part and result of a merge, and every token that is used by name is in the
    /// vocabulary.
    fn check_vocabulary(&self, path: &Path) -> Result<()> {
        let missing = |token: &str| Error::TokenizerToken { path: path.to_owned(), token: token.to_owned() };
        let vocab = &self.model.vocab;
        for byte in ByteLevel::alphabet() {
            let byte = byte.to_string();
            if !vocab.contains_key(&byte) {
                return Err(missing(&byte));
            }
        }
        let mut merged = String::new();
        for Merge(a, b) in &self.model.merges {
            merged.clear();
            merged.extend([&**a, b]);
            if let Some(token) = [a, b, &merged].into_iter().find(|token| !vocab.contains_key(&**token)) {
                return Err(missing(token));
            }
        }
        let is_added = |token: &&&str| self.added_tokens.iter().any(|added| added.content == **token);
        match chat_template::SPECIAL_TOKENS.iter().chain([&PAD_TOKEN]).find(|token| !is_added(token)) {
            Some(token) => Err(missing(token)),
            None => Ok(()),
        }
    }
}
