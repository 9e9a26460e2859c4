//! Previews of the pictures of a pass: which are wanted, the estimate of a step, its way to the host, the events.
//!
//! Nothing here waits for a step. The estimate is queued behind the step, with its copy to the host, and is shown when
//! the clock reports the step: by then the next one is queued. A tiny decoder runs behind that next step, so that a GPU
//! is never without work, and its picture is shown when that step is reported.

use std::collections::VecDeque;
use std::sync::Arc;

use flux2_backend::{Backend, PendingDownload, Tensor, ops};

use super::Pipeline;
use super::networks::Networks;
use crate::event::{CancelToken, Event, Observer, Preview, Warning};
use crate::image::RgbImage;
use crate::models::tiny_decoder::TinyDecoder;
use crate::preview::{Cache, Fit, PATCHES, PreviewOptions, Projection, decoded, patches};
use crate::sampler::Held;
use crate::weights::WeightSource as _;
use crate::{Error, Result};

/// What makes previews of the pipeline's latents.
pub(super) struct Previewer<B: Backend> {
    options: PreviewOptions,
    /// `None` until a preview is wanted. `Some(None)` if there are none.
    painter: Option<Option<Painter<B>>>,
}

/// What makes colors of latents.
enum Painter<B: Backend> {
    Projection(Arc<Projection>),
    Decoder(Arc<TinyDecoder<B>>),
}

impl<B: Backend> Clone for Painter<B> {
    fn clone(&self) -> Self {
        match self {
            Painter::Projection(projection) => Painter::Projection(Arc::clone(projection)),
            Painter::Decoder(decoder) => Painter::Decoder(Arc::clone(decoder)),
        }
    }
}

impl<B: Backend> Previewer<B> {
    /// Nothing loaded yet.
    pub(super) fn new(options: PreviewOptions) -> Self {
        Previewer { options, painter: None }
    }

    /// Drop what was loaded.
    pub(super) fn release(&mut self) {
        self.painter = None;
    }
}

impl<B: Backend> Pipeline<B> {
    /// The same with previews made in this way, where an [`Observer`] wants them.
    pub fn with_previews(mut self, options: PreviewOptions) -> Self {
        self.previewer = Previewer::new(options);
        self
    }

    /// Find what makes colors. Without a decoder that is a map, which costs nothing if the autoencoder is known. For
    /// another one it is fitted, and a decoder is loaded, only if one of the first `pictures` of `observer` wants
    /// previews. That there are none is no failure of a picture.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn prepare_previews(
        &mut self,
        pictures: usize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        if self.previewer.painter.is_some() {
            return Ok(());
        }
        let is_wanted = (0..pictures).any(|picture| observer.wants_preview_of(picture));
        let found = match self.previewer.options.decoder_for(&self.networks.files.vae.config) {
            Some(_) if !is_wanted => return Ok(()),
            Some(file) => {
                TinyDecoder::load(&self.be, &file.config, &**file).map(|decoder| Painter::Decoder(Arc::new(decoder)))
            }
            None => match self.projection(is_wanted, observer, cancel) {
                Ok(None) => return Ok(()),
                Ok(Some(projection)) => Ok(Painter::Projection(Arc::new(projection))),
                Err(error) => Err(error),
            },
        };
        self.previewer.painter = Some(match found {
            Ok(found) => Some(found),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => {
                observer.on_event(&Event::Warning(Warning::NoPreviews { reason: error.to_string() }));
                None
            }
        });
        Ok(())
    }

    /// The map to colors. `None` if it would have to be fitted and is not wanted.
    pub(super) fn projection(
        &mut self,
        is_wanted: bool,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Option<Projection>> {
        match Kept::find(&self.networks, &self.previewer.options) {
            Ok(Kept { projection: Some(known), .. }) => Ok(Some(known)),
            Ok(Kept { .. }) | Err(_) if !is_wanted => Ok(None),
            Ok(Kept { channels, cache, .. }) => {
                let fitted = fit(channels, &mut self.networks, observer, cancel);
                // Also after an error.
                self.networks.after_decoding();
                fitted.inspect(|fitted| cache.iter().for_each(|cache| cache.store(fitted))).map(Some)
            }
            Err(error) => Err(error),
        }
    }
}

/// What there is without a fit.
struct Kept {
    channels: usize,
    /// The map, if the autoencoder is known or its map was kept on disk.
    projection: Option<Projection>,
    /// Where a fitted one is to be kept.
    cache: Option<Cache>,
}

impl Kept {
    fn find<B: Backend>(networks: &Networks<B>, options: &PreviewOptions) -> Result<Self> {
        let vae = &networks.files.vae;
        let means = vae.map()?.tensor("bn.mean")?.to_f32();
        let (channels, known) = (means.len() / 4, Projection::known(&means));
        if known.is_some() {
            return Ok(Kept { channels, projection: known, cache: None });
        }
        let cache = options.cache.as_deref().and_then(|folder| Some(Cache::new(folder, &vae.fingerprint().ok()?)));
        Ok(Kept { channels, projection: cache.as_ref().and_then(|cache| cache.load(channels)), cache })
    }
}

/// The map that fits what the decoder makes of random latents.
fn fit<B: Backend>(
    channels: usize,
    networks: &mut Networks<B>,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Projection> {
    let be = networks.be.clone();
    let decoder = networks.decoder(observer, cancel)?;
    let side = PATCHES[1];
    let mut fit = Fit::new(channels);
    for tokens in patches(channels) {
        let latents = be.upload(&[side * side, 4 * channels], &tokens)?;
        let pixels = decoder.forward(&latents, [side, side], &mut || Ok(cancel.check()?))?;
        fit.add(&tokens, [side, side], &pixels);
    }
    fit.solve().ok_or(Error::NotFinite)
}

/// Previews on their way.
pub(super) struct Previews<'a, B: Backend> {
    painter: Option<Painter<B>>,
    /// Rows and columns of tokens.
    grid: [usize; 2],
    steps: u32,
    /// Tokens that a mask holds to a source: they are shown as they will be in the end.
    held: Option<&'a Held>,
    queued: VecDeque<Queued>,
    decoding: VecDeque<Decoding>,
}

/// The estimates of a step.
struct Queued {
    /// Number of the step, from 1.
    step: usize,
    /// Places of the pictures, in the order of their rows.
    pictures: Vec<usize>,
    /// Those of them that are wanted.
    wanted: Vec<usize>,
    estimates: PendingDownload,
}

/// A preview that is decoded.
struct Decoding {
    /// Number of the step, from 1.
    step: usize,
    /// Place of the picture.
    place: usize,
    /// `[16 * h, 16 * w, 3]`.
    pixels: PendingDownload,
}

impl<'a, B: Backend> Previews<'a, B> {
    pub(super) fn new(previewer: &Previewer<B>, grid: [usize; 2], steps: u32, held: Option<&'a Held>) -> Self {
        let painter = previewer.painter.clone().flatten();
        Previews { painter, grid, steps, held, queued: VecDeque::new(), decoding: VecDeque::new() }
    }

    /// Queue the estimate of finished latents behind step `step`, counted from 0, if it is wanted of one of `pictures`:
    /// `latents` f32 `[b * n_img, c]` after the step, with `sigma` of noise left, and the `velocity` of the step.
    ///
    /// # Errors
    /// If there is no memory for a copy of the latents.
    pub(super) fn queue(
        &mut self,
        be: &B,
        step: usize,
        pictures: &[usize],
        [latents, velocity]: [&Tensor<B>; 2],
        sigma: f32,
        observer: &dyn Observer,
    ) -> Result<()> {
        let wanted: Vec<usize> = pictures.iter().copied().filter(|place| observer.wants_preview_of(*place)).collect();
        if self.painter.is_none() || wanted.is_empty() {
            return Ok(());
        }
        // The latents have moved from the noise as far as sigma is from 1: the rest of the way leads to the estimate.
        let mut estimates = latents.clone();
        if sigma != 0.0 {
            ops::euler_step(be, &mut estimates, velocity, -sigma)?;
        }
        let estimates = be.start_download(&estimates)?;
        self.queued.push_back(Queued { step: step + 1, pictures: pictures.to_vec(), wanted, estimates });
        Ok(())
    }

    /// Show the previews of the first `steps` steps, which are finished. Those that are decoded on a GPU come one step
    /// later, unless that was the last. If a decoder has no memory, there are no more previews.
    ///
    /// # Errors
    /// What went wrong on the device; [`Error::Cancelled`].
    pub(super) fn show(
        &mut self,
        be: &B,
        steps: usize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        self.show_decoded(be, steps, observer)?;
        while self.queued.front().is_some_and(|queued| queued.step <= steps) {
            let Some((queued, painter)) = self.queued.pop_front().zip(self.painter.clone()) else { break };
            let Queued { step, pictures, wanted, estimates } = queued;
            let mut estimates = estimates()?; // [b * n_img, c]
            let each = estimates.len() / pictures.len();
            for (place, tokens) in pictures.iter().zip(estimates.chunks_exact_mut(each)) {
                if !wanted.contains(place) {
                    continue;
                }
                // Queued steps count from 1.
                self.held.iter().for_each(|held| held.apply(tokens, step - 1, 0.0));
                match &painter {
                    Painter::Projection(projection) => {
                        self.send(step, *place, projection.picture(tokens, self.grid), observer);
                    }
                    Painter::Decoder(decoder) => match self.decode(be, decoder, tokens, cancel) {
                        Ok(pixels) => self.decoding.push_back(Decoding { step, place: *place, pixels }),
                        Err(error @ Error::Backend(flux2_backend::Error::OutOfMemory { .. })) => {
                            observer.on_event(&Event::Warning(Warning::NoPreviews { reason: error.to_string() }));
                            self.painter = None;
                            be.trim();
                            break;
                        }
                        Err(error) => return Err(error),
                    },
                }
            }
        }
        self.show_decoded(be, steps, observer)
    }

    fn decode(
        &self,
        be: &B,
        decoder: &TinyDecoder<B>,
        tokens: &[f32],
        cancel: &CancelToken,
    ) -> Result<PendingDownload> {
        let pixels = decoder.forward(tokens, self.grid, &mut || Ok(cancel.check()?))?;
        Ok(be.start_download(&pixels)?)
    }

    /// Show what was decoded behind the first `steps` steps, or what is done already.
    fn show_decoded(&mut self, be: &B, steps: usize, observer: &mut dyn Observer) -> Result<()> {
        let behind = |step: usize| if be.is_asynchronous() { (step + 1).min(self.steps as usize) } else { step };
        while self.decoding.front().is_some_and(|decoding| behind(decoding.step) <= steps) {
            let Some(Decoding { step, place, pixels }) = self.decoding.pop_front() else { break };
            self.send(step, place, decoded(&pixels()?, self.grid), observer);
        }
        Ok(())
    }

    fn send(&self, step: usize, place: usize, image: RgbImage, observer: &mut dyn Observer) {
        let preview = Preview { step: step as u32, steps: self.steps, image: Arc::new(image) };
        observer.on_event_of(place, &Event::Preview(preview));
    }
}
