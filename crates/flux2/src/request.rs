//! A request for a picture ([`GenerateRequest`]), and the same with every default filled in and every limit checked
//! ([`ResolvedRequest`]). Code that takes the latter checks nothing again.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use flux2_base::digest::sha256;

use crate::compat::Compat;
use crate::event::Warning;
use crate::image::codec::{self, Prepared, Transparency};
use crate::image::{Preparation, RgbImage, Rounding, resize};
use crate::sampler::schedule::MAX_STEPS;
use crate::sampler::{self, NoiseKind, Schedule};
use crate::variant::Variant;
use crate::{Error, Result, latents};

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
    /// Images to edit or combine, at most [`MAX_REFERENCES`]. The prompt refers to them by their number, from 1.
    pub references: Vec<Reference>,
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
}

impl GenerateRequest {
    /// A request for a picture of `prompt`, with everything else left to the model, and seed 0.
    pub fn new(prompt: impl Into<String>) -> Self {
        GenerateRequest { prompt: prompt.into(), ..Default::default() }
    }
}

/// An image to edit or combine, as the model takes it, and the digest that identifies it.
///
/// It is decoded and shrunk once. Clones share its pixels, so many requests can have it.
#[derive(Clone, Debug)]
pub struct Reference {
    /// At most a megapixel, cropped to the grid; unless it cannot be a reference, which its request refuses.
    image: Arc<RgbImage>,
    sha256: String,
    /// Width and height before it was prepared.
    source_px: [u32; 2],
    /// What happened to its alpha channel, if it was transparent anywhere.
    transparency: Option<Transparency>,
    /// How it was prepared.
    preparation: Preparation,
    /// Whether its file holds frames or pages behind the one that is taken.
    has_more_frames: bool,
    /// Memory that it took at most to read it, in bytes: its file and what decoding needs.
    reading_bytes: usize,
}

/// Identifies the pixels of a prepared reference.
///
/// The digest of an image that comes from no file covers its pixels but not its shape: hence the size before
/// preparation. That of a file does not cover the color that it was put over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceKey {
    sha256: String,
    transparency: Option<Transparency>,
    /// Without its transparency, which counts only where the file has some.
    preparation: Preparation,
    source_px: [u32; 2],
    prepared_px: [u32; 2],
}

impl Reference {
    /// An image that comes from no file, named by the digest of its pixels.
    pub fn from_image(image: RgbImage) -> Self {
        let (sha256, source_px, reading_bytes) =
            (sha256(image.pixels()), [image.width(), image.height()], image.pixels().len());
        let image = Arc::new(resize::prepare_reference(&image).unwrap_or(image));
        let (preparation, has_more_frames) = (Preparation::default(), false);
        Reference { image, sha256, source_px, transparency: None, preparation, has_more_frames, reading_bytes }
    }

    /// Decode an image file of any [format that is read](crate::image::InputFormat), over white where it is transparent. `name` is what errors call it.
    ///
    /// # Errors
    /// Any of the image errors, all of kind [`ErrorKind::BadImage`](crate::ErrorKind::BadImage).
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::from_transparent(bytes, name, Transparency::default())
    }

    /// As [`from_bytes`](Self::from_bytes), with a choice of what happens to the alpha channel.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn from_transparent(bytes: &[u8], name: &str, transparency: Transparency) -> Result<Self> {
        Self::prepared(bytes, name, &Preparation { transparency, ..Preparation::default() })
    }

    /// As [`from_bytes`](Self::from_bytes), prepared in another way, as [another program](Compat::preparation) does.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn prepared(bytes: &[u8], name: &str, preparation: &Preparation) -> Result<Self> {
        let reading_bytes = Self::reading_bytes_to(preparation, bytes, name)?;
        let Prepared { image, source_px, was_transparent, has_more_frames } = codec::prepare(bytes, name, preparation)?;
        let transparency = was_transparent.then_some(preparation.transparency);
        let (image, sha256, preparation) = (Arc::new(image), sha256(bytes), *preparation);
        Ok(Reference { image, sha256, source_px, transparency, preparation, has_more_frames, reading_bytes })
    }

    /// Read and decode an image file; see [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    /// Those of [`codec::read_file`], and any of the image errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&codec::read_file(path)?, &path.display().to_string())
    }

    /// Memory that [`from_bytes`](Self::from_bytes) takes at most, in bytes, with the file itself. Only the header is
    /// decoded for it.
    ///
    /// # Errors
    /// Those of `from_bytes` about the header.
    pub fn reading_bytes_of(bytes: &[u8], name: &str) -> Result<usize> {
        Self::reading_bytes_to(&Preparation::default(), bytes, name)
    }

    /// The same for [`prepared`](Self::prepared).
    ///
    /// # Errors
    /// As [`reading_bytes_of`](Self::reading_bytes_of).
    pub fn reading_bytes_to(preparation: &Preparation, bytes: &[u8], name: &str) -> Result<usize> {
        Ok(bytes.len() + codec::reference_memory(bytes, name, preparation)?)
    }

    /// Memory that it took at most to read this reference, in bytes, its file included.
    pub fn reading_bytes(&self) -> usize {
        self.reading_bytes
    }

    /// Whether both share their pixels in memory.
    pub(crate) fn is_clone_of(&self, other: &Reference) -> bool {
        Arc::ptr_eq(&self.image, &other.image)
    }

    /// The key that its tokens are remembered by, once it is prepared.
    pub(crate) fn key(&self) -> ReferenceKey {
        let Reference { image, sha256, transparency, preparation, source_px, .. } = self;
        let prepared_px = [image.width(), image.height()];
        let preparation = Preparation { transparency: Transparency::default(), ..*preparation };
        ReferenceKey {
            sha256: sha256.clone(),
            transparency: *transparency,
            preparation,
            source_px: *source_px,
            prepared_px,
        }
    }

    /// The image as the model takes it.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// What happened to its alpha channel, if its file is transparent anywhere.
    pub fn transparency(&self) -> Option<Transparency> {
        self.transparency
    }

    /// SHA-256 in lower-case hex: of the file it came from, or of its pixels if it came from none.
    pub fn sha256(&self) -> &str {
        &self.sha256
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
    /// Width in pixels, a multiple of [`GRID_PX`].
    pub width: u32,
    /// Height in pixels, a multiple of [`GRID_PX`].
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
    /// [`Error::SizeGrid`], [`Error::SizeRange`], [`Error::Steps`], [`Error::Guidance`], [`Error::ReferenceCount`],
    /// [`Error::NegativePrompt`], or an image error for a reference that is too small or too narrow.
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
        let default = references.first().map_or([variant.default_px; 2], |r| [r.image.width(), r.image.height()]);
        let (width, height) = (request.width.unwrap_or(default[0]), request.height.unwrap_or(default[1]));
        Ok(ResolvedRequest {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            template: request.template.clone(),
            references,
            width,
            height,
            steps,
            guidance,
            seed: request.seed,
            noise: request.noise,
            compat: request.compat,
            warnings,
        })
    }

    /// The noise levels of its steps, from 1 down to 0.
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

    /// Rows and columns of image tokens: `[height, width]` in units of [`GRID_PX`].
    pub fn grid(&self) -> [usize; 2] {
        [self.height, self.width].map(|px| (px / GRID_PX) as usize)
    }
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
    fn a_file_over_another_background_is_another_reference() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/hidden_colors.png");
        let bytes = std::fs::read(file).unwrap();
        let [white, red, dropped] = [Transparency::default(), Transparency::Over([255, 0, 0]), Transparency::Dropped]
            .map(|transparency| Reference::from_transparent(&bytes, "hidden_colors.png", transparency).unwrap());
        assert_eq!(white.sha256(), red.sha256(), "it is the digest of the file");
        assert!(white.key() != red.key() && white.key() != dropped.key());
        assert_eq!(white.key(), Reference::from_bytes(&bytes, "again").unwrap().key());
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
