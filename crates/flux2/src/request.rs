//! A request for a picture ([`GenerateRequest`]), and the same with every default filled in and every limit checked
//! ([`ResolvedRequest`]). Code that takes the latter checks nothing again.

mod reference;

use std::num::NonZeroUsize;

use crate::canvas::{Placed, Source};
use crate::compat::Compat;
use crate::event::Warning;
use crate::image::{Rounding, resize};
use crate::sampler::schedule::MAX_STEPS;
use crate::sampler::{self, NoiseKind, Schedule};
use crate::upscale::Upscaling;
use crate::variant::Variant;
use crate::{Error, Result, latents};

pub use reference::Reference;
pub(crate) use reference::ReferenceKey;

/// Side of a token of the flow transformer in pixels; sides of a picture are multiples of it.
pub const GRID_PX: u32 = 16;
/// Shortest side of a picture in pixels.
pub const MIN_PX: u32 = 64;
/// Longest side of a picture in pixels.
pub const MAX_PX: u32 = 4096;
/// Largest number of reference images in a request.
pub const MAX_REFERENCES: usize = 16;
/// Largest guidance scale.
const MAX_GUIDANCE: f32 = 100.0;

/// One picture to make. `None` leaves a choice to the model.
#[derive(Clone, Debug, Default)]
pub struct GenerateRequest {
    /// Description of the picture; may be empty.
    pub prompt: String,
    /// What guidance leads away from, for base models; by default the empty prompt.
    pub negative_prompt: Option<String>,
    /// The template that the prompt was made from, to be stored in the picture.
    pub template: Option<String>,
    /// Images to edit or combine, at most [`MAX_REFERENCES`]. The prompt refers to them by their number, from 1, or from
    /// 2 if there is a source that is a reference too.
    pub references: Vec<Reference>,
    /// A picture to paint into. It gives the size.
    pub source: Option<Source>,
    /// Width in pixels; by default that of the first prepared reference, or what the model was made for.
    pub width: Option<u32>,
    /// Height in pixels; by default as the width.
    pub height: Option<u32>,
    /// Denoising steps; by default what the model was made for.
    pub steps: Option<u32>,
    /// Classifier-free guidance scale, for base models.
    pub guidance: Option<f32>,
    /// Seed of the noise that denoising starts from.
    pub seed: u64,
    /// The generator that turns the seed into noise.
    pub noise: NoiseKind,
    /// The program whose noise levels and rounding are followed. Its noise is chosen by `noise`, and references are
    /// prepared as it does by [`Reference::prepared`].
    pub compat: Option<Compat>,
    /// How the picture is enlarged once it is drawn; `None` leaves it as it is.
    pub upscale: Option<Upscaling>,
}

impl GenerateRequest {
    /// A request for a picture of `prompt`, with everything else left to the model, and seed 0.
    pub fn new(prompt: impl Into<String>) -> Self {
        GenerateRequest { prompt: prompt.into(), ..Default::default() }
    }
}

/// A complete and valid request.
#[derive(Clone, Debug)]
pub struct ResolvedRequest {
    /// Description of the picture.
    pub prompt: String,
    /// What guidance leads away from; `None` is the empty prompt. None for a distilled model.
    pub negative_prompt: Option<String>,
    /// The template that the prompt was made from.
    pub template: Option<String>,
    /// References, scaled down to at most a megapixel and cropped to the grid.
    pub references: Vec<Reference>,
    /// The picture to paint into, with the region of it that is drawn.
    pub source: Option<Placed>,
    /// Width in pixels of what is drawn, a multiple of [`GRID_PX`].
    pub width: u32,
    /// Height in pixels of what is drawn, a multiple of [`GRID_PX`].
    pub height: u32,
    /// Denoising steps, at least 1.
    pub steps: u32,
    /// Guidance scale, if the model is not distilled. A scale up to 1 is one pass a step, as without guidance.
    pub guidance: Option<f32>,
    /// Seed of the noise that denoising starts from.
    pub seed: u64,
    /// The generator that turns the seed into noise.
    pub noise: NoiseKind,
    /// The program whose noise levels and rounding are followed.
    pub compat: Option<Compat>,
    /// How the picture is enlarged once it is drawn.
    pub upscale: Option<Upscaling>,
    /// Parts of the request that are ignored or probably not meant.
    pub warnings: Vec<Warning>,
}

impl ResolvedRequest {
    /// The latents that denoising starts from: noise of the seed as tokens `[n_img, channels]`, made on at most
    /// `threads` threads.
    pub fn initial_latents(&self, channels: usize, threads: NonZeroUsize) -> Vec<f32> {
        let [h, w] = self.grid();
        latents::pack(&sampler::noise_on(threads, self.noise, self.seed, channels * h * w), channels, h, w)
    }

    /// Fill in what `variant` has defaults for, check the limits.
    ///
    /// # Errors
    /// [`Error::SizeGrid`], [`Error::SizeRange`], [`Error::SizeOfSource`], [`Error::Steps`], [`Error::Guidance`],
    /// [`Error::ReferenceCount`], [`Error::NegativePrompt`], [`Error::UpscaleFactor`], [`Error::UpscaleSize`], or an
    /// image error for a reference that is too small or too narrow.
    pub fn new(request: &GenerateRequest, variant: &Variant) -> Result<Self> {
        let count = request.references.len();
        if count > MAX_REFERENCES {
            return Err(Error::ReferenceCount { count, max: MAX_REFERENCES });
        }
        let mut warnings = Vec::new();
        let steps = request.steps.unwrap_or(variant.default_steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::Steps { steps, max: MAX_STEPS });
        }
        if variant.is_distilled() && steps > 4 * variant.default_steps {
            warnings.push(Warning::ManySteps { steps, default: variant.default_steps });
        }
        if let Some(guidance) = request.guidance {
            if !(0.0..=MAX_GUIDANCE).contains(&guidance) {
                return Err(Error::Guidance { guidance });
            }
            if variant.is_distilled() {
                warnings.push(Warning::GuidanceIgnored { guidance, variant: variant.name });
            }
        }
        let guidance = variant.default_guidance.map(|default| request.guidance.unwrap_or(default));
        match (&request.negative_prompt, guidance) {
            (Some(_), None) => return Err(Error::NegativePrompt { variant: variant.name }),
            (Some(_), Some(scale)) if scale <= 1.0 => {
                warnings.push(Warning::NegativePromptIgnored { guidance: scale });
            }
            _ => {}
        }

        let check = |axis, px: Option<u32>| px.map_or(Ok(()), |px| check_size(axis, px));
        check("width", request.width)?;
        check("height", request.height)?;
        let references = request.references.clone();
        let of_several = |(number, reference): (usize, &Reference)| {
            reference.has_more_frames.then_some(Warning::FirstFrame { reference: number + 1 })
        };
        warnings.extend(references.iter().enumerate().filter_map(of_several));
        references.iter().try_for_each(|Reference { source_px: [w, h], .. }| resize::check_reference(*w, *h))?;
        let source = request.source.as_ref().map(|source| source.place(draws_well(variant)));
        if let Some(source) = &source {
            let given = [("width", request.width), ("height", request.height)];
            if let Some((axis, px)) = given.into_iter().find_map(|(axis, px)| Some((axis, px?))) {
                return Err(Error::SizeOfSource { axis, px });
            }
            warnings.extend(source_warnings(source));
        }
        let default = references.first().map_or([variant.default_px; 2], |r| [r.image.width(), r.image.height()]);
        let (width, height) = (request.width.unwrap_or(default[0]), request.height.unwrap_or(default[1]));
        let [width, height] = source.as_ref().map_or([width, height], |source| source.region().drawn);
        let finished = source.as_ref().map_or([width, height], |source| source.source().canvas_px());
        request.upscale.as_ref().map_or(Ok([0; 2]), |upscaling| upscaling.size.of(finished))?;
        Ok(ResolvedRequest {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            template: request.template.clone(),
            references,
            source,
            width,
            height,
            steps,
            guidance,
            seed: request.seed,
            noise: request.noise,
            compat: request.compat,
            upscale: request.upscale.clone(),
            warnings,
        })
    }

    /// The noise levels of a picture that starts from noise, from 1 down to 0.
    ///
    /// # Errors
    /// None for a request that was checked.
    pub fn sigmas(&self) -> Result<Vec<f32>> {
        let schedule = self.compat.map_or_else(Schedule::default, Compat::schedule);
        sampler::sigmas_by(schedule, self.steps, self.grid().iter().product())
    }

    /// How the decoder's output becomes bytes.
    pub fn rounding(&self) -> Rounding {
        self.compat.map_or_else(Rounding::default, Compat::rounding)
    }

    /// Width and height of the finished picture in pixels, before it is enlarged.
    pub fn picture_px(&self) -> [u32; 2] {
        self.source.as_ref().map_or([self.width, self.height], |source| source.source().canvas_px())
    }

    /// Whether the model sees the source beside what it draws.
    pub fn sees_source(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.source().options().as_reference)
    }

    /// Width and height in pixels of everything that the model sees beside what it draws: the source, the references.
    pub fn reference_px(&self) -> impl Iterator<Item = [u32; 2]> {
        let source = self.sees_source().then_some([self.width, self.height]);
        source.into_iter().chain(self.references.iter().map(|r| [r.image.width(), r.image.height()]))
    }

    /// Rows and columns of image tokens: `[height, width]` in units of [`GRID_PX`].
    pub fn grid(&self) -> [usize; 2] {
        [self.height, self.width].map(|px| (px / GRID_PX) as usize)
    }
}

/// About the most pixels of a source that `variant` draws at once: pictures of twice its usual side.
fn draws_well(variant: &Variant) -> u64 {
    u64::from(2 * variant.default_px).pow(2)
}

/// What of a source is probably not meant.
fn source_warnings(source: &Placed) -> impl Iterator<Item = Warning> {
    let region = source.region();
    let is_full = source.source().mask_is_full().then_some(Warning::FullMask);
    let reduced = region.is_reduced.then(|| Warning::RegionReduced { region: region.size(), drawn: region.drawn });
    is_full.into_iter().chain(reduced)
}

fn check_size(axis: &'static str, px: u32) -> Result<()> {
    if !(MIN_PX..=MAX_PX).contains(&px) {
        return Err(Error::SizeRange { axis, px, min: MIN_PX, max: MAX_PX });
    }
    if !px.is_multiple_of(GRID_PX) {
        return Err(Error::SizeGrid { axis, px, multiple: GRID_PX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flux2_base::Remedy;

    use super::*;
    use crate::image::RgbImage;

    fn distilled() -> &'static Variant {
        Variant::by_name("klein-4b").unwrap()
    }

    fn base() -> &'static Variant {
        Variant::by_name("klein-base-4b").unwrap()
    }

    fn reference(width: u32, height: u32) -> Reference {
        let image = RgbImage::new(width, height, vec![128; (width * height * 3) as usize]).unwrap();
        Reference::from_image(image)
    }

    #[test]
    fn defaults_come_from_the_variant() {
        let request = GenerateRequest::default();
        let (d, b) =
            (ResolvedRequest::new(&request, distilled()).unwrap(), ResolvedRequest::new(&request, base()).unwrap());
        assert_eq!((d.width, d.height, d.steps, d.guidance), (512, 512, 4, None));
        assert_eq!((b.steps, b.guidance), (50, Some(4.0)));
        assert!(d.warnings.is_empty() && b.warnings.is_empty());
    }

    #[test]
    fn guidance_on_a_distilled_model_is_a_warning_and_no_guidance() {
        let request = GenerateRequest { guidance: Some(4.0), ..Default::default() };
        let resolved = ResolvedRequest::new(&request, distilled()).unwrap();
        assert_eq!(resolved.guidance, None);
        assert_eq!(resolved.warnings, [Warning::GuidanceIgnored { guidance: 4.0, variant: "klein-4b" }]);
    }

    #[test]
    fn a_negative_prompt_needs_guidance() {
        let request = GenerateRequest { negative_prompt: Some("blur".into()), ..Default::default() };
        let error = ResolvedRequest::new(&request, distilled()).unwrap_err();
        assert!(matches!(error, Error::NegativePrompt { variant: "klein-4b" }));
        let resolved = ResolvedRequest::new(&request, base()).unwrap();
        assert_eq!((resolved.negative_prompt.as_deref(), resolved.warnings.len()), (Some("blur"), 0));
        let without = ResolvedRequest::new(&GenerateRequest { guidance: Some(1.0), ..request }, base()).unwrap();
        assert_eq!(without.warnings, [Warning::NegativePromptIgnored { guidance: 1.0 }]);
    }

    #[test]
    fn a_seed_given_as_steps_is_pointed_out() {
        let request = GenerateRequest { steps: Some(42), ..Default::default() };
        let resolved = ResolvedRequest::new(&request, distilled()).unwrap();
        assert_eq!(resolved.warnings, [Warning::ManySteps { steps: 42, default: 4 }]);
        assert!(ResolvedRequest::new(&request, base()).unwrap().warnings.is_empty());
    }

    #[test]
    fn the_first_reference_gives_the_size() {
        let references = vec![reference(100, 75), reference(200, 200)];
        let request = GenerateRequest { references, ..Default::default() };
        let resolved = ResolvedRequest::new(&request, distilled()).unwrap();
        assert_eq!((resolved.width, resolved.height), (96, 64));
        let request = GenerateRequest { width: Some(256), ..request };
        let resolved = ResolvedRequest::new(&request, distilled()).unwrap();
        assert_eq!((resolved.width, resolved.height), (256, 64));
    }

    #[test]
    fn sizes_off_the_grid_or_out_of_range_are_refused() {
        let with = |px| GenerateRequest { width: Some(px), ..Default::default() };
        let error = |px| ResolvedRequest::new(&with(px), distilled()).unwrap_err();
        assert!(matches!(error(500), Error::SizeGrid { axis: "width", px: 500, multiple: 16 }));
        assert_eq!(error(500).remedy(), Some(Remedy::ChooseSize { axis: "width", low: 496, high: 512 }));
        assert!(matches!(error(48), Error::SizeRange { px: 48, .. }));
        assert!(matches!(error(8192), Error::SizeRange { px: 8192, .. }));
        assert!(matches!(error(u32::MAX), Error::SizeRange { .. }));
    }

    #[test]
    fn steps_guidance_and_references_have_limits() {
        let error = |request: GenerateRequest| ResolvedRequest::new(&request, base()).unwrap_err();
        assert!(matches!(error(GenerateRequest { steps: Some(0), ..Default::default() }), Error::Steps { .. }));
        for guidance in [f32::NAN, -1.0, f32::INFINITY] {
            let request = GenerateRequest { guidance: Some(guidance), ..Default::default() };
            assert!(matches!(error(request), Error::Guidance { .. }));
        }
        let references = vec![reference(64, 64); 17];
        let request = GenerateRequest { references, ..Default::default() };
        assert!(matches!(error(request), Error::ReferenceCount { count: 17, max: 16 }));
    }
}
