//! Latents and conditioning of pictures that are denoised together, and what is left when one of them is cancelled.

use flux2_backend::{Backend, Tensor, ops};

use crate::Result;
use crate::models::flow_transformer::{Batching, Conditioning, FlowTransformer};

/// The pictures of a pass.
pub(super) struct Batch<'a, B: Backend> {
    transformer: &'a FlowTransformer<B>,
    batching: Batching,
    pictures: Vec<Picture<B>>,
    joined: Option<Joined<B>>,
}

/// A picture by itself.
struct Picture<B: Backend> {
    /// Its place among those added.
    place: usize,
    /// f32 `[n_img, c]`; `None` while the pictures are joined.
    latents: Option<Tensor<B>>,
    prompt: Conditioning<B>,
    empty: Option<Conditioning<B>>,
}

/// The pictures together, one behind the other.
pub(super) struct Joined<B: Backend> {
    /// f32 `[b * n_img, c]`.
    pub(super) latents: Tensor<B>,
    pub(super) prompt: Conditioning<B>,
    /// With guidance, the conditioning with the negative prompt.
    pub(super) empty: Option<Conditioning<B>>,
}

impl<'a, B: Backend> Batch<'a, B> {
    /// No pictures yet.
    pub(super) fn new(transformer: &'a FlowTransformer<B>, batching: Batching) -> Self {
        Batch { transformer, batching, pictures: Vec::new(), joined: None }
    }

    /// Add a picture with latents f32 `[n_img, c]`.
    pub(super) fn add(&mut self, latents: Tensor<B>, prompt: Conditioning<B>, empty: Option<Conditioning<B>>) {
        self.pictures.push(Picture { place: self.pictures.len(), latents: Some(latents), prompt, empty });
    }

    /// Drop the pictures that are not `wanted`, which is asked for their place among those added, unless none is.
    pub(super) fn keep(&mut self, wanted: impl Fn(usize) -> bool) {
        let is_kept = |picture: &Picture<B>| wanted(picture.place);
        if self.pictures.iter().all(is_kept) || !self.pictures.iter().any(is_kept) {
            return;
        }
        self.separate();
        self.pictures.retain(is_kept);
    }

    /// Places of the pictures among those added, in the order of their rows.
    pub(super) fn places(&self) -> Vec<usize> {
        self.pictures.iter().map(|picture| picture.place).collect()
    }

    /// The pictures together, to be denoised further.
    ///
    /// # Errors
    /// If they do not fit each other, or the backend has no room.
    pub(super) fn joined(&mut self, be: &B) -> Result<&mut Joined<B>> {
        if self.joined.is_none() {
            let Batch { transformer, batching, pictures, .. } = self;
            let parts: Vec<Tensor<B>> = pictures.iter_mut().filter_map(|picture| picture.latents.take()).collect();
            let latents = match &parts[..] {
                [one] => one.clone(),
                all => ops::concat_rows(be, &all.iter().collect::<Vec<_>>())?,
            };
            drop(parts); // so that steps change the latents in place
            let prompts: Vec<_> = pictures.iter().map(|picture| picture.prompt.clone()).collect();
            let empty: Vec<_> = pictures.iter().filter_map(|picture| picture.empty.clone()).collect();
            let join = |each: &[Conditioning<B>]| transformer.join(each, *batching);
            let empty = if empty.is_empty() { None } else { Some(join(&empty)?) };
            self.joined = Some(Joined { latents, prompt: join(&prompts)?, empty });
        }
        Ok(self.joined.as_mut().expect("joined above"))
    }

    /// The latents of the `count` pictures that were added; `None` for those that were dropped.
    pub(super) fn finish(mut self, count: usize) -> Vec<Option<Tensor<B>>> {
        self.separate();
        let mut latents: Vec<Option<Tensor<B>>> = (0..count).map(|_| None).collect();
        for picture in self.pictures {
            latents[picture.place] = picture.latents;
        }
        latents
    }

    /// Give each picture its part of the latents.
    fn separate(&mut self) {
        let Some(Joined { latents, .. }) = self.joined.take() else { return };
        let n = latents.rows() / self.pictures.len();
        for (i, picture) in self.pictures.iter_mut().enumerate() {
            picture.latents = Some(latents.slice_rows(i * n..(i + 1) * n));
        }
    }
}
