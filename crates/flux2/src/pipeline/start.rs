//! Steps 3 and 4 of a picture: what denoising starts from.
//!
//! In:  a request, noise of its seed. Out: [`Start`]: latents, noise levels, tokens of the references.
//!
//! A picture without a source starts from the noise. With one, it starts from the source's tokens with as much noise as
//! its strength asks for, and tokens that the mask keeps are held to the source.

use flux2_backend::Backend;

use super::Pipeline;
use super::references::ReferenceTokens;
use crate::Result;
use crate::canvas::{Rule, TokenMask, Work, start_of};
use crate::event::{CancelToken, Observer};
use crate::request::{Reference, ResolvedRequest};
use crate::sampler::{self, Held, Hold};

/// What denoising starts from.
pub struct Start {
    /// `[n_img, c]`: noise, or a source with noise of the first level.
    pub latents: Vec<f32>,
    /// Noise levels, from that of `latents` down to 0: one more than there are steps.
    pub sigmas: Vec<f32>,
    /// Tokens that are held to the source.
    pub held: Option<Held>,
    /// Tokens of the source, if the model sees it, and of the references.
    pub references: ReferenceTokens,
}

impl<B: Backend> Pipeline<B> {
    /// Steps 3 and 4: what a picture starts from, with [noise of its seed](ResolvedRequest::initial_latents).
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), or if the autoencoder cannot be read.
    pub fn start(
        &mut self,
        request: &ResolvedRequest,
        noise: Vec<f32>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Start> {
        let Some(placed) = &request.source else {
            let references = self.encode_references(&request.references, observer, cancel)?;
            let sigmas = request.sigmas()?;
            return Ok(Start { latents: noise, sigmas, held: None, references });
        };
        let Work { image, tokens } = placed.work()?;
        let images: Vec<Reference> =
            std::iter::once(Reference::on_grid(image)).chain(request.references.iter().cloned()).collect();
        let mut references = self.encode_references(&images, observer, cancel)?;
        let source = references.tokens[..noise.len()].to_vec(); // [n_img, c]
        if !request.sees_source() {
            references.drop_first(request.grid().iter().product(), noise.len());
        }
        let options = placed.source().options();
        let Course { sigmas, hold } = course(&tokens, options.rule, options.strength, request)?;
        let mix = |(noise, source): (&f32, &f32)| sampler::with_noise(*source, *noise, sigmas[0]);
        let latents = noise.iter().zip(&source).map(mix).collect();
        let held = Held::new(noise, source, hold);
        self.references.set_held(held.as_ref().map_or(0, Held::bytes));
        Ok(Start { latents, sigmas, held, references })
    }
}

/// The noise levels of a picture with a source, and what is held at them.
struct Course {
    sigmas: Vec<f32>,
    hold: Hold,
}

fn course(tokens: &TokenMask, rule: Rule, strength: f64, request: &ResolvedRequest) -> Result<Course> {
    let (steps, n_img) = (request.steps, request.grid().iter().product());
    Ok(match rule {
        // The levels are those of the strength. The first ones are skipped if every token is held there.
        Rule::Own => {
            let sigmas = match strength == 1.0 {
                true => request.sigmas()?,
                false => sampler::sigmas_from(strength, steps, n_img)?,
            };
            let starts = tokens.starts(steps);
            let first = starts.iter().copied().min().unwrap_or(0).min(steps - 1);
            let hold = Hold::Steps(starts.iter().map(|start| start - first).collect());
            Course { sigmas: sigmas[first as usize..].to_vec(), hold }
        }
        // The levels are those of a picture from noise, and strength skips the first ones.
        Rule::Diffusers => {
            let sigmas = request.sigmas()?;
            let hold = Hold::Mixed(tokens.values.iter().map(|&value| value as f32).collect());
            Course { sigmas: sigmas[start_of(strength, steps) as usize..].to_vec(), hold }
        }
    })
}
