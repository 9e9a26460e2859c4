//! Choices in layers: flags, environment and the picture of `--from` each give some values, and remember that they did.
//!
//! A source becomes [`Choices`], in which every field may be missing. [`Choices::or`] puts one layer over another: the
//! upper one wins, field by field. `settings` fills in defaults and decides what the result means.
//!
//! A source hands over what it says even if it cannot be understood, as an error in the field: it is no error if a
//! higher layer gives that field.

mod canvas;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use flux2::image::{Parameters, Stored, Transparency};
use flux2::weights::{Location, LoraPath};
use flux2::{Device, NoiseKind, Precision};

use crate::args::{Compat, GenerateArgs, Seed, parse_color};
use crate::failure::{Failure, Result};
use crate::output::Existing;
use crate::settings::{Detail, formats, loras};
use crate::source_picture::{SourcePicture, Taken};

pub use canvas::CanvasChoices;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment,
    /// The parameters stored in this picture.
    Picture(PathBuf),
    /// Nobody chose it.
    Default,
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// Whether it comes from a picture that is to be made again.
    pub fn is_recorded(&self) -> bool {
        matches!(self.origin, Origin::Picture(_))
    }
}

/// A value, if a source gives one.
pub type Choice<T> = Option<Sourced<T>>;

impl Origin {
    /// A value that came from here.
    pub fn of<T>(&self, value: T) -> Sourced<T> {
        Sourced { value, origin: self.clone() }
    }

    /// The same for a value that may be missing.
    fn choice<T>(&self, value: Option<T>) -> Choice<T> {
        value.map(|value| self.of(value))
    }
}

/// What sources say about a run, each field with its origin.
#[derive(Debug, Default)]
pub struct Choices {
    pub prompts: Choice<Vec<String>>,
    /// Model, and parts that replace its own: paths or names.
    pub model: Choice<Location>,
    pub transformer: Choice<Location>,
    pub text_encoder: Choice<Location>,
    pub vae: Choice<Location>,
    pub loras: Choice<Result<Vec<LoraPath>>>,
    /// Name of the variant.
    pub variant: Choice<String>,
    /// Files of the reference images.
    pub references: Choice<Vec<PathBuf>>,
    /// The picture that is painted into.
    pub canvas: CanvasChoices,
    /// What happens to their transparency.
    pub transparency: Choice<Result<Transparency>>,
    pub width: Choice<u32>,
    pub height: Choice<u32>,
    pub steps: Choice<u32>,
    pub guidance: Choice<f32>,
    /// `None` inside asks for a random one.
    pub seed: Choice<Option<u64>>,
    pub noise: Choice<Result<NoiseKind>>,
    /// Pictures per prompt.
    pub count: Choice<u32>,
    /// File name, perhaps with placeholders; `-` is standard output.
    pub output: Choice<PathBuf>,
    pub existing: Choice<Existing>,
    /// Whether parameters are stored in the picture.
    pub metadata: Choice<bool>,
    pub fail_fast: Choice<bool>,
    pub json: Choice<bool>,
    pub detail: Choice<Detail>,
    pub precision: Choice<Result<Precision>>,
    pub device: Choice<Device>,
    pub threads: Choice<NonZeroUsize>,
    /// Limit in bytes.
    pub max_memory: Choice<usize>,
    pub allow_quantize: Choice<bool>,
    /// Folder of text embeddings; `None` inside means that none are kept.
    pub text_cache: Choice<Option<PathBuf>>,
}

impl Choices {
    /// These choices, and those of `lower` for fields that are missing here.
    pub fn or(self, lower: Choices) -> Choices {
        Choices {
            prompts: self.prompts.or(lower.prompts),
            model: self.model.or(lower.model),
            transformer: self.transformer.or(lower.transformer),
            text_encoder: self.text_encoder.or(lower.text_encoder),
            vae: self.vae.or(lower.vae),
            loras: self.loras.or(lower.loras),
            variant: self.variant.or(lower.variant),
            references: self.references.or(lower.references),
            canvas: self.canvas.or(lower.canvas),
            transparency: self.transparency.or(lower.transparency),
            width: self.width.or(lower.width),
            height: self.height.or(lower.height),
            steps: self.steps.or(lower.steps),
            guidance: self.guidance.or(lower.guidance),
            seed: self.seed.or(lower.seed),
            noise: self.noise.or(lower.noise),
            count: self.count.or(lower.count),
            output: self.output.or(lower.output),
            existing: self.existing.or(lower.existing),
            metadata: self.metadata.or(lower.metadata),
            fail_fast: self.fail_fast.or(lower.fail_fast),
            json: self.json.or(lower.json),
            detail: self.detail.or(lower.detail),
            precision: self.precision.or(lower.precision),
            device: self.device.or(lower.device),
            threads: self.threads.or(lower.threads),
            max_memory: self.max_memory.or(lower.max_memory),
            allow_quantize: self.allow_quantize.or(lower.allow_quantize),
            text_cache: self.text_cache.or(lower.text_cache),
        }
    }

    /// What was typed. `prompts` were read from wherever the arguments say; `is_file` tells whether a file exists.
    pub fn from_args(args: &GenerateArgs, prompts: Vec<String>, is_file: fn(&Path) -> bool) -> Choices {
        let flag = Origin::Flag;
        let typed_noise =
            |name: &String| name.parse().map_err(|e| Failure::usage(format!("{e}"), "leave --noise out for philox"));
        let typed_loras = || args.lora.iter().map(|typed| loras::typed(typed, is_file)).collect::<Result<_>>();
        let has_format = args.dtype.is_some() || args.quantize.is_some();
        let detail = match (args.quiet, args.verbose) {
            (true, _) => Some(Detail::Quiet),
            (_, true) => Some(Detail::Verbose),
            _ => None,
        };
        let compat = args.compat.map(|Compat::Diffusers| Transparency::Dropped);
        let existing = match (args.no_clobber, args.force) {
            (true, _) => Some(Existing::Keep),
            (_, true) => Some(Existing::ReplaceReadOnly),
            _ => None,
        };
        Choices {
            prompts: flag.choice(Some(prompts).filter(|prompts| !prompts.is_empty())),
            model: flag.choice(args.model.as_ref().map(Location::from)),
            transformer: flag.choice(args.transformer.as_ref().map(Location::from)),
            text_encoder: flag.choice(args.text_encoder.as_ref().map(Location::from)),
            vae: flag.choice(args.vae.as_ref().map(Location::from)),
            loras: flag.choice((!args.lora.is_empty()).then(typed_loras)),
            variant: flag.choice(args.variant.clone()),
            references: flag.choice(Some(args.input.clone()).filter(|files| !files.is_empty())),
            canvas: CanvasChoices::from_args(&args.canvas, args.compat),
            transparency: flag.choice(args.background.map(Transparency::Over).or(compat).map(Ok)),
            width: flag.choice(args.size.map(|(width, _)| width).or(args.width)),
            height: flag.choice(args.size.map(|(_, height)| height).or(args.height)),
            steps: flag.choice(args.steps),
            guidance: flag.choice(args.guidance),
            seed: flag.choice(args.seed.map(|seed| match seed {
                Seed::Number(seed) => Some(seed),
                Seed::Random => None,
            })),
            noise: flag.choice(args.noise.as_ref().map(typed_noise)),
            count: flag.choice(args.count),
            output: flag.choice(args.output.clone()),
            existing: flag.choice(existing),
            metadata: flag.choice(args.no_metadata.then_some(false)),
            fail_fast: flag.choice(args.fail_fast.then_some(true)),
            json: flag.choice(args.json.then_some(true)),
            detail: flag.choice(detail),
            precision: flag.choice(has_format.then(|| formats::precision(args.dtype, args.quantize))),
            device: flag.choice(args.device),
            threads: flag.choice(formats::threads(args.threads)),
            max_memory: flag.choice(args.max_memory),
            allow_quantize: flag.choice(args.allow_quantize.then_some(true)),
            text_cache: flag.choice(args.no_text_cache.then_some(None)),
        }
    }

    /// What environment variables say: `model` is that of `DJ_FLUX2_MODEL`, where empty means not set.
    pub fn from_environment(model: Option<OsString>, text_cache: Option<PathBuf>) -> Choices {
        let environment = Origin::Environment;
        let model = model.filter(|model| !model.is_empty()).map(|model| Location::from(PathBuf::from(model)));
        Choices {
            model: environment.choice(model),
            text_cache: environment.choice(text_cache.map(Some)),
            ..Choices::default()
        }
    }

    /// What made a picture. It names no model by path, so that one must come from another layer.
    pub fn from_picture(picture: &SourcePicture, is_file: fn(&Path) -> bool) -> Choices {
        let SourcePicture { file, stored } = picture;
        let origin = Origin::Picture(file.clone());
        match stored {
            Stored::Ours(made) => Self::from_parameters(made, &origin, file, is_file),
            Stored::Other(made) => {
                let Taken { prompt, seed, size, steps, left_out: _ } = Taken::of(made);
                Choices {
                    prompts: origin.choice(prompt.map(|prompt| vec![prompt])),
                    width: origin.choice(size.map(|(width, _)| width)),
                    height: origin.choice(size.map(|(_, height)| height)),
                    steps: origin.choice(steps),
                    seed: origin.choice(seed.map(Some)),
                    ..Choices::default()
                }
            }
        }
    }

    fn from_parameters(made: &Parameters, origin: &Origin, file: &Path, is_file: fn(&Path) -> bool) -> Choices {
        let recorded_loras = || made.loras.iter().map(|lora| loras::recorded(lora, file, is_file)).collect();
        let precision = made.dtype.parse().map_err(|()| unknown("dtype", &made.dtype, "--dtype bf16"));
        let noise = made.noise.parse().map_err(|_| unknown("noise", &made.noise, "--noise philox"));
        Choices {
            prompts: origin.choice(Some(vec![made.prompt.clone()])),
            loras: origin.choice((!made.loras.is_empty()).then(recorded_loras)),
            variant: origin.choice(made.variant.clone()),
            canvas: made
                .source
                .as_ref()
                .map_or_else(Default::default, |source| CanvasChoices::from_parameters(source, origin)),
            transparency: origin.choice(recorded_transparency(made).transpose()),
            // A picture that was painted into has the size of its source.
            width: origin.choice(made.source.is_none().then_some(made.width)),
            height: origin.choice(made.source.is_none().then_some(made.height)),
            steps: origin.choice(Some(made.steps)),
            guidance: origin.choice(made.guidance),
            seed: origin.choice(Some(Some(made.seed))),
            noise: origin.choice(Some(noise)),
            precision: origin.choice(Some(precision)),
            ..Choices::default()
        }
    }
}

/// What happened to the transparency of a picture's references; none if they had none.
fn recorded_transparency(made: &Parameters) -> Result<Option<Transparency>> {
    match (&made.background, made.compat.as_deref()) {
        (Some(color), _) => match parse_color(color) {
            Ok(color) => Ok(Some(Transparency::Over(color))),
            Err(_) => Err(unknown("background", color, "--background white")),
        },
        (None, Some("diffusers")) => Ok(Some(Transparency::Dropped)),
        (None, Some(other)) => Err(unknown("compat", other, "--compat diffusers")),
        (None, None) => Ok(None),
    }
}

/// A picture records something that this version does not know.
fn unknown(what: &str, value: &str, flag: &str) -> Failure {
    let message = format!("the picture was made with {what} {value:?}, which this version does not know");
    Failure::usage(message, format!("use another {what}, as in {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(value: u32, origin: Origin) -> Choices {
        Choices { width: Some(origin.of(value)), ..Choices::default() }
    }

    #[test]
    fn the_upper_layer_wins_field_by_field_and_origins_are_kept() {
        let picture = || Origin::Picture("fox.png".into());
        let lower = Choices { steps: Some(picture().of(3)), ..width(128, picture()) };
        let layered = width(64, Origin::Flag).or(lower).or(width(32, Origin::Default));
        assert_eq!(layered.width, Some(Origin::Flag.of(64)));
        assert_eq!(layered.steps, Some(picture().of(3)));
        assert_eq!(layered.height, None);
    }

    #[test]
    fn flags_that_were_not_typed_choose_nothing() {
        let nothing = Choices::from_args(&GenerateArgs::default(), vec![], |_| false);
        assert_eq!(format!("{nothing:?}"), format!("{:?}", Choices::default()));
        let environment = Choices::from_environment(Some("".into()), None);
        assert_eq!(format!("{environment:?}"), format!("{:?}", Choices::default()));
    }
}
