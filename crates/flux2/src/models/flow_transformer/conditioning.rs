//! What stays the same at all steps: the text, the references, the rotary tables.

use std::sync::Arc;

use flux2_backend::{Backend, Rope, RopeLayout, Tensor, Weight, ops};

use super::FlowTransformer;
use super::modulation::Modulations;
use super::pass::Batching;
use crate::Result;
use crate::latents::{self, PositionId, rope_tables};
use crate::models::Pulse;

/// Reference images as the transformer takes them; no references are empty `Tokens`.
pub enum References<'a, B: Backend> {
    /// Tokens `[n_ref, c]`, appended to those of the image at every step, and their position ids.
    Tokens(&'a [f32], &'a [PositionId]),
    /// Keys and values computed once, for the KV variant.
    Cached(Arc<ReferenceCache<B>>),
}

/// Inputs that are the same at all steps of a picture, or of `b` pictures that are denoised together; prepared before
/// the first step.
pub struct Conditioning<B: Backend> {
    /// Number of pictures, `b`. Their rows lie one picture behind the other in all tensors.
    pub(super) pictures: usize,
    pub(super) batching: Batching,
    /// The text after its embedder, f32 `[b * n_txt, hidden]`.
    pub(super) text: Tensor<B>,
    /// Reference tokens after their embedder, f32 `[b * n_ref, hidden]`, unless they are in `caches` or there are none.
    pub(super) references: Option<Tensor<B>>,
    /// Keys and values of the references of each picture, for the KV variant; else empty.
    pub(super) caches: Vec<Arc<ReferenceCache<B>>>,
    /// Rotary tables of text, image and (without `caches`) reference tokens.
    pub(super) rope: Rope<B>,
}

/// Keys and values of the reference tokens in every block, normalized and rotated: 2 x `[n_ref, hidden]` for each
/// block, which is 2 GiB for a megapixel in the 9B model.
pub struct ReferenceCache<B: Backend> {
    pub(super) double: Vec<KeysValues<B>>,
    pub(super) single: Vec<KeysValues<B>>,
}

/// Keys and values of one block, each `[n_ref, hidden]`.
pub(super) struct KeysValues<B: Backend> {
    pub(super) keys: Tensor<B>,
    pub(super) values: Tensor<B>,
}

impl<B: Backend> KeysValues<B> {
    /// The keys, and the values, of several pictures.
    pub(super) fn of_all<'a>(each: &[&'a Self]) -> (Vec<&'a Tensor<B>>, Vec<&'a Tensor<B>>) {
        each.iter().map(|one| (&one.keys, &one.values)).unzip()
    }
}

impl<B: Backend> Clone for Conditioning<B> {
    fn clone(&self) -> Self {
        let (text, references, caches) = (self.text.clone(), self.references.clone(), self.caches.clone());
        Conditioning { text, references, caches, rope: self.rope.clone(), ..*self }
    }
}

impl<B: Backend> FlowTransformer<B> {
    /// Prepare text, f32 `[n_txt, d_text]`, and references for an image of `grid` rows and columns of tokens.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn condition(
        &self,
        text_embedding: &Tensor<B>,
        [h, w]: [usize; 2],
        references: &References<B>,
    ) -> Result<Conditioning<B>> {
        let text = self.embed(text_embedding, &self.txt_in)?;
        let mut ids = latents::text_ids(text.rows());
        ids.extend(latents::image_ids(h, w));
        let (references, caches) = match references {
            References::Cached(cache) => (None, vec![Arc::clone(cache)]),
            References::Tokens([], _) => (None, Vec::new()),
            References::Tokens(tokens, reference_ids) => {
                ids.extend(*reference_ids);
                (Some(self.embed(&self.upload(tokens)?, &self.img_in)?), Vec::new())
            }
        };
        let (pictures, batching, rope) = (1, Batching::SameBytes, self.rope(&ids)?);
        Ok(Conditioning { pictures, batching, text, references, caches, rope })
    }

    /// The conditioning of the same picture with another text, f32 `[n_txt, d_text]` with as many tokens, such as the
    /// empty prompt of guidance. References and rotary tables are shared with `conditioning`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_text(&self, conditioning: &Conditioning<B>, text_embedding: &Tensor<B>) -> Result<Conditioning<B>> {
        let text = self.embed(text_embedding, &self.txt_in)?;
        text.expect_shape("another text", conditioning.text.shape())?;
        Ok(Conditioning { text, ..conditioning.clone() })
    }

    /// The conditioning of several pictures that are denoised together, in their order; `batching` says how.
    ///
    /// # Errors
    /// If they differ in the number of tokens of text, image or references.
    ///
    /// # Panics
    /// If there are none.
    pub fn join(&self, each: &[Conditioning<B>], batching: Batching) -> Result<Conditioning<B>> {
        if let [one] = each {
            return Ok(one.clone());
        }
        let first = &each[0];
        for one in each {
            one.text.expect_shape("text of a batch", first.text.shape())?;
            one.rope.cos.expect_shape("tokens of a batch", first.rope.cos.shape())?;
        }
        let rows = |of: fn(&Conditioning<B>) -> Option<&Tensor<B>>| -> Result<Option<Tensor<B>>> {
            let parts: Vec<&Tensor<B>> = each.iter().filter_map(|one| of(one)).collect();
            Ok(if parts.is_empty() { None } else { Some(ops::concat_rows(&self.be, &parts)?) })
        };
        let (text, references) = (rows(|one| Some(&one.text))?, rows(|one| one.references.as_ref())?);
        let (cos, sin) = (rows(|one| Some(&one.rope.cos))?, rows(|one| Some(&one.rope.sin))?);
        Ok(Conditioning {
            pictures: each.iter().map(|one| one.pictures).sum(),
            batching,
            text: text.expect("a picture or more"),
            references,
            caches: each.iter().flat_map(|one| one.caches.iter().cloned()).collect(),
            rope: Rope {
                cos: cos.expect("a picture or more"),
                sin: sin.expect("a picture or more"),
                layout: RopeLayout::Interleaved,
            },
        })
    }

    /// Run reference tokens `[n_ref, c]` of one picture through all blocks, at noise level 0, and keep their keys and
    /// values.
    ///
    /// # Errors
    /// What `pulse` returns, or if shapes do not fit.
    pub fn reference_cache(&self, tokens: &[f32], ids: &[PositionId], pulse: &mut Pulse) -> Result<ReferenceCache<B>> {
        let rope = self.rope(ids)?;
        let modulations = Modulations::new(&self.modulations(&[0.0])?.remove(0).0);
        let pass = self.pass(&modulations, 1, Batching::SameBytes);
        let mut image = self.embed(&self.upload(tokens)?, &self.img_in)?; // [n_ref, hidden]
        let mut cache = ReferenceCache { double: Vec::new(), single: Vec::new() };
        for block in &self.double_blocks {
            cache.double.push(block.forward_references(&pass, &rope, &mut image)?);
            pulse()?;
        }
        for block in &self.single_blocks {
            cache.single.push(block.forward_references(&pass, &rope, &mut image)?);
            pulse()?;
        }
        Ok(cache)
    }

    /// Tokens `[n, c]` from the host.
    fn upload(&self, tokens: &[f32]) -> Result<Tensor<B>> {
        let c = self.config.in_channels;
        Ok(self.be.upload(&[tokens.len() / c, c], tokens)?)
    }

    /// f32 `[n, d]` through an embedder -> f32 `[n, hidden]`.
    fn embed(&self, rows: &Tensor<B>, embedder: &Weight<B>) -> Result<Tensor<B>> {
        let rows = ops::cast(&self.be, rows, self.be.compute().dtype())?;
        Ok(ops::linear_f32(&self.be, &rows, embedder, None)?)
    }

    /// Rotary tables of tokens with these ids.
    pub(super) fn rope(&self, ids: &[PositionId]) -> Result<Rope<B>> {
        let (cos, sin) = rope_tables(ids, &self.config.rope_axes, self.config.rope_theta);
        let shape = [ids.len(), self.config.head_dim / 2];
        let (cos, sin) = (self.be.upload(&shape, &cos)?, self.be.upload(&shape, &sin)?);
        Ok(Rope { cos, sin, layout: RopeLayout::Interleaved })
    }
}
