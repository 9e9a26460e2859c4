//! Previews of the pictures of a pass: which are wanted, the estimate of a step, its way to the host, the events.
//!
//! Nothing here waits for a step. The estimate is queued behind the step, with its copy to the host, and is shown when
//! the clock reports the step: by then the next one is queued.

use std::collections::VecDeque;
use std::sync::Arc;

use flux2_backend::{Backend, PendingDownload, Tensor, ops};

use super::Pipeline;
use super::networks::Networks;
use crate::event::{CancelToken, Event, Observer, Preview, Warning};
use crate::preview::{Cache, Fit, PATCHES, PreviewOptions, Projection, patches};
use crate::sampler::Held;
use crate::weights::WeightSource as _;
use crate::{Error, Result};

/// The map to colors of the pipeline's autoencoder.
#[derive(Default)]
pub(super) struct Previewer {
    options: PreviewOptions,
    /// `None` until a preview is wanted. `Some(None)` if there is no map.
    projection: Option<Option<Arc<Projection>>>,
}

impl<B: Backend> Pipeline<B> {
    /// The same with previews made in this way, where an [`Observer`] wants them.
    pub fn with_previews(mut self, options: PreviewOptions) -> Self {
        self.previewer = Previewer { options, projection: None };
        self
    }

    /// Find the map to colors, which costs nothing if the autoencoder is known. For another one it is fitted only if
    /// one of the first `pictures` of `observer` wants previews. That there is none is no failure of a picture.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn prepare_previews(
        &mut self,
        pictures: usize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<()> {
        if self.previewer.projection.is_some() {
            return Ok(());
        }
        let is_wanted = (0..pictures).any(|picture| observer.wants_preview_of(picture));
        let found = match Kept::find(&self.networks, &self.previewer.options) {
            Ok(Kept { projection: Some(known), .. }) => Ok(known),
            Ok(Kept { .. }) | Err(_) if !is_wanted => return Ok(()),
            Ok(Kept { channels, cache, .. }) => {
                let fitted = fit(channels, &mut self.networks, observer, cancel);
                // Also after an error.
                self.networks.after_decoding();
                fitted.inspect(|fitted| cache.iter().for_each(|cache| cache.store(fitted)))
            }
            Err(error) => Err(error),
        };
        self.previewer.projection = Some(match found {
            Ok(found) => Some(Arc::new(found)),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => {
                observer.on_event(&Event::Warning(Warning::NoPreviews { reason: error.to_string() }));
                None
            }
        });
        Ok(())
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
pub(super) struct Previews<'a> {
    projection: Option<Arc<Projection>>,
    /// Rows and columns of tokens.
    grid: [usize; 2],
    steps: u32,
    /// Tokens that a mask holds to a source: they are shown as they will be in the end.
    held: Option<&'a Held>,
    queued: VecDeque<Queued>,
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

impl<'a> Previews<'a> {
    pub(super) fn new(previewer: &Previewer, grid: [usize; 2], steps: u32, held: Option<&'a Held>) -> Self {
        let projection = previewer.projection.clone().flatten();
        Previews { projection, grid, steps, held, queued: VecDeque::new() }
    }

    /// Queue the estimate of finished latents behind step `step`, counted from 0, if it is wanted of one of `pictures`:
    /// `latents` f32 `[b * n_img, c]` after the step, with `sigma` of noise left, and the `velocity` of the step.
    ///
    /// # Errors
    /// If there is no memory for a copy of the latents.
    pub(super) fn queue<B: Backend>(
        &mut self,
        be: &B,
        step: usize,
        pictures: &[usize],
        [latents, velocity]: [&Tensor<B>; 2],
        sigma: f32,
        observer: &dyn Observer,
    ) -> Result<()> {
        let wanted: Vec<usize> = pictures.iter().copied().filter(|place| observer.wants_preview_of(*place)).collect();
        if self.projection.is_none() || wanted.is_empty() {
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

    /// Show the previews of the first `steps` steps, which are finished.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub(super) fn show(&mut self, steps: usize, observer: &mut dyn Observer) -> Result<()> {
        let Some(projection) = self.projection.clone() else { return Ok(()) };
        while self.queued.front().is_some_and(|queued| queued.step <= steps) {
            let Some(queued) = self.queued.pop_front() else { break };
            let Queued { step, pictures, wanted, estimates } = queued;
            let mut estimates = estimates()?; // [b * n_img, c]
            let each = estimates.len() / pictures.len();
            for (place, tokens) in pictures.iter().zip(estimates.chunks_exact_mut(each)) {
                if wanted.contains(place) {
                    // Queued steps count from 1.
                    self.held.iter().for_each(|held| held.apply(tokens, step - 1, 0.0));
                    let image = Arc::new(projection.picture(tokens, self.grid));
                    let preview = Preview { step: step as u32, steps: self.steps, image };
                    observer.on_event_of(*place, &Event::Preview(preview));
                }
            }
        }
        Ok(())
    }
}
