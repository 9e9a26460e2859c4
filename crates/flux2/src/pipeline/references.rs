//! Reference images as tokens, encoded by the autoencoder or remembered.
//!
//! In:  prepared references. Out: [`ReferenceTokens`] of all of them.
//!
//! The tokens of an image depend on its pixels alone; its place among the references only enters the position ids. So
//! each image is remembered by itself, and requests with different references share what they have in common.

use std::sync::Arc;

use flux2_backend::Backend;

use super::networks::Networks;
use super::progress::phase;
use super::recent::Recent;
use crate::Result;
use crate::event::{CancelToken, Observer, Phase};
use crate::image;
use crate::latents::{self, PositionId};
use crate::request::{GRID_PX, Reference, ReferenceKey};

/// Most bytes of tokens that are remembered, in host memory: a megapixel takes 2 MiB, so two requests with as many
/// references as there may be.
const MAX_REMEMBERED_BYTES: usize = 64 << 20;

/// Reference images in the space of the flow transformer.
#[derive(Clone, Debug, Default)]
pub struct ReferenceTokens {
    /// `[n_ref, c]`, all images one after the other.
    pub tokens: Vec<f32>,
    /// Position ids, one for each token.
    pub ids: Vec<PositionId>,
}

impl ReferenceTokens {
    /// Leave out the first image, of `n` tokens in `values` values: the next one becomes the first.
    pub(super) fn drop_first(&mut self, n: usize, values: usize) {
        self.tokens.drain(..values);
        self.ids.drain(..n);
        self.ids.iter_mut().for_each(|id| *id = latents::one_reference_earlier(*id));
    }

    /// Size in bytes.
    fn bytes(&self) -> usize {
        size_of_val(&self.tokens[..]) + size_of_val(&self.ids[..])
    }
}

/// Tokens `[h * w, c]` of one image.
type Tokens = Arc<Vec<f32>>;

/// The encoded references of one pipeline.
pub(super) struct EncodedReferences {
    recent: Recent<ReferenceKey, Tokens>,
    /// Size of the tokens of the last request in bytes.
    joined_bytes: usize,
    /// Size of the tokens that are held to its source in bytes.
    held_bytes: usize,
}

impl EncodedReferences {
    /// Nothing remembered.
    pub(super) fn new() -> Self {
        EncodedReferences { recent: Recent::new(MAX_REMEMBERED_BYTES), joined_bytes: 0, held_bytes: 0 }
    }

    /// Drop what is remembered.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
    }

    /// Host memory that tokens take while a picture is made: those remembered and those of the last request.
    pub(super) fn bytes(&self) -> usize {
        self.recent.bytes() + self.joined_bytes + self.held_bytes
    }

    /// Count the tokens that are held to a source.
    pub(super) fn set_held(&mut self, bytes: usize) {
        self.held_bytes = bytes;
    }

    /// Tokens and position ids of `references`, in their order. Each image that is not remembered is encoded once.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), or if the autoencoder cannot be read.
    pub(super) fn encode<B: Backend>(
        &mut self,
        references: &[Reference],
        networks: &mut Networks<B>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<ReferenceTokens> {
        let keys: Vec<ReferenceKey> = references.iter().map(Reference::key).collect();
        let mut tokens: Vec<Option<Tokens>> = keys.iter().map(|key| self.recent.get(key)).collect();
        let is_first = |i: &usize| !keys[..*i].contains(&keys[*i]);
        let missing: Vec<usize> = (0..keys.len()).filter(|i| tokens[*i].is_none()).filter(is_first).collect();
        if !missing.is_empty() {
            let encoder = networks.vae_encoder(observer, cancel)?;
            let encoded = phase(observer, cancel, Phase::References, missing.len(), |pulse| {
                for i in missing {
                    let image = references[i].image();
                    let size = [image.height() as usize, image.width() as usize];
                    // One unit of progress for each image; within one, only cancellation is looked for.
                    let new = encoder.forward(&image::to_model_input(image), size, &mut || Ok(cancel.check()?))?;
                    let new = Arc::new(new);
                    self.recent.insert(keys[i].clone(), Arc::clone(&new), size_of_val(&new[..]));
                    keys.iter().zip(&mut tokens).filter(|(key, _)| **key == keys[i]).for_each(|(_, tokens)| {
                        *tokens = Some(Arc::clone(&new));
                    });
                    pulse()?;
                }
                Ok(())
            });
            networks.be.trim();
            encoded?;
        }
        let joined = join(references, tokens.iter().flatten());
        self.joined_bytes = joined.bytes();
        Ok(joined)
    }
}

/// The tokens of all images as one sequence, with the position ids of each.
fn join<'a>(references: &[Reference], tokens: impl Iterator<Item = &'a Tokens> + Clone) -> ReferenceTokens {
    let values = tokens.clone().map(|tokens| tokens.len()).sum();
    let mut all = ReferenceTokens { tokens: Vec::with_capacity(values), ids: Vec::new() };
    for (k, (reference, tokens)) in references.iter().zip(tokens).enumerate() {
        let [h, w] = [reference.image().height(), reference.image().width()].map(|px| (px / GRID_PX) as usize);
        all.tokens.extend_from_slice(tokens);
        all.ids.extend(latents::reference_ids(k, h, w));
    }
    all
}
