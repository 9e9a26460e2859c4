//! Choices in layers: flags, environment, the picture of `--from`, presets and files of settings each give some values,
//! and remember that they did.
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

use flux2::image::{Parameters, Quality, Stored, Transparency};
use flux2::weights::{Location, LoraPath};
use flux2::{Compat, Device, NoiseKind, Precision};

use crate::args::{Area, Aspect, GenerateArgs, MarkArgs, Seed, parse_color};
use crate::failure::{Failure, Result};
use crate::output::Existing;
use crate::settings::{Detail, Show, formats, loras};
use crate::source_picture::{SourcePicture, Taken};

pub use canvas::CanvasChoices;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a batch, or a cell of a grid.
    Line,
    Flag,
    Environment,
    /// The parameters stored in this picture.
    Picture(PathBuf),
    /// Presets of these names.
    Preset(String),
    /// The file of settings of a project.
    Project(PathBuf),
    /// The user's file of settings.
    User(PathBuf),
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

    /// How many kinds of sources are above it.
    pub fn rank(&self) -> usize {
        match self {
            Origin::Line => 0,
            Origin::Flag => 1,
            Origin::Environment => 2,
            Origin::Picture(_) => 3,
            Origin::Preset(_) => 4,
            Origin::Project(_) => 5,
            Origin::User(_) => 6,
            Origin::Default => 7,
        }
    }

    /// Whether it is about this run alone. What a file says is for all runs, and waits for one in which it means
    /// something.
    pub fn is_of_one_run(&self) -> bool {
        matches!(self, Origin::Line | Origin::Flag)
    }

    /// The same for a value that may be missing.
    fn choice<T>(&self, value: Option<T>) -> Choice<T> {
        value.map(|value| self.of(value))
    }
}

/// What sources say about a run, each field with its origin.
#[derive(Clone, Debug, Default)]
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
    pub aspect: Choice<Aspect>,
    pub area: Choice<Area>,
    pub steps: Choice<u32>,
    pub guidance: Choice<f32>,
    pub negative_prompt: Choice<String>,
    pub seed: Choice<Seed>,
    pub noise: Choice<Result<NoiseKind>>,
    /// Name or text of the template that prompts are put into.
    pub template: Choice<String>,
    /// Names and values of its variables.
    pub variables: Choice<Vec<(String, String)>>,
    /// Whether prompts are templates themselves.
    pub expand: Choice<bool>,
    /// Folder of wildcards.
    pub wildcards: Choice<PathBuf>,
    /// Whether every combination is drawn.
    pub all: Choice<bool>,
    /// The program whose rules are followed.
    pub compat: Choice<Result<Compat>>,
    /// How many times as wide and high the finished pictures become.
    pub upscale: Choice<f32>,
    /// Name or file of what enlarges them.
    pub upscaler: Choice<PathBuf>,
    /// Pictures per prompt.
    pub count: Choice<u32>,
    /// File name, perhaps with placeholders; `-` is standard output.
    pub output: Choice<PathBuf>,
    pub existing: Choice<Existing>,
    /// Whether parameters are stored in the picture.
    pub metadata: Choice<bool>,
    /// Quality of lossy formats.
    pub quality: Choice<Quality>,
    /// File of the previews.
    pub preview: Choice<PathBuf>,
    /// File of what decodes them.
    pub preview_decoder: Choice<PathBuf>,
    pub watermark: Choice<bool>,
    /// Key and certificates that pictures are signed with.
    pub credentials: Choice<[PathBuf; 2]>,
    pub fail_fast: Choice<bool>,
    /// Whether finished pictures are opened in a program of the desktop.
    pub open: Choice<bool>,
    /// What is shown in the terminal.
    pub show: Choice<Show>,
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
    /// Leave the size to a source. What is typed beside one is refused before.
    pub fn drop_size(&mut self) {
        (self.width, self.height, self.aspect, self.area) = (None, None, None, None);
    }

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
            aspect: self.aspect.or(lower.aspect),
            area: self.area.or(lower.area),
            steps: self.steps.or(lower.steps),
            guidance: self.guidance.or(lower.guidance),
            negative_prompt: self.negative_prompt.or(lower.negative_prompt),
            seed: self.seed.or(lower.seed),
            noise: self.noise.or(lower.noise),
            template: self.template.or(lower.template),
            variables: self.variables.or(lower.variables),
            expand: self.expand.or(lower.expand),
            wildcards: self.wildcards.or(lower.wildcards),
            all: self.all.or(lower.all),
            compat: self.compat.or(lower.compat),
            upscale: self.upscale.or(lower.upscale),
            upscaler: self.upscaler.or(lower.upscaler),
            count: self.count.or(lower.count),
            output: self.output.or(lower.output),
            existing: self.existing.or(lower.existing),
            metadata: self.metadata.or(lower.metadata),
            quality: self.quality.or(lower.quality),
            preview: self.preview.or(lower.preview),
            preview_decoder: self.preview_decoder.or(lower.preview_decoder),
            watermark: self.watermark.or(lower.watermark),
            credentials: self.credentials.or(lower.credentials),
            fail_fast: self.fail_fast.or(lower.fail_fast),
            open: self.open.or(lower.open),
            show: self.show.or(lower.show),
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
        Self::from_args_of(Origin::Flag, args, prompts, is_file)
    }

    /// The same for flags that come from elsewhere, as from a file of settings.
    pub fn from_args_of(
        origin: Origin,
        args: &GenerateArgs,
        prompts: Vec<String>,
        is_file: fn(&Path) -> bool,
    ) -> Choices {
        let flag = origin;
        let typed_noise =
            |name: &String| name.parse().map_err(|e| Failure::usage(format!("{e}"), "leave --noise out for philox"));
        let typed_loras = || args.lora.iter().map(|typed| loras::typed(typed, is_file)).collect::<Result<_>>();
        let has_format = args.dtype.is_some() || args.quantize.is_some();
        let detail = match (args.quiet, args.verbose) {
            (true, _) => Some(Detail::Quiet),
            (_, true) => Some(Detail::Verbose),
            _ => None,
        };
        let show = match (args.show, args.show_steps) {
            (_, true) => Some(Show::Steps),
            (true, _) => Some(Show::Finished),
            _ => None,
        };
        let compat: Option<Compat> = args.compat.map(Compat::from);
        // The noise of a program that was typed also replaces what a picture records.
        let noise = args.noise.as_ref().map(typed_noise).or(compat.map(|compat| Ok(compat.noise())));
        let quality = Some(args.quality.chosen()).filter(|quality| *quality != Quality::default());
        let MarkArgs { watermark, c2pa_key, c2pa_cert } = &args.marks;
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
            canvas: CanvasChoices::from_args(&flag, &args.canvas, compat),
            transparency: flag
                .choice(args.background.map(Transparency::Over).or(compat.map(|_| Transparency::Dropped)).map(Ok)),
            width: flag.choice(args.size.map(|(width, _)| width).or(args.width)),
            height: flag.choice(args.size.map(|(_, height)| height).or(args.height)),
            aspect: flag.choice(args.aspect),
            area: flag.choice(args.area),
            steps: flag.choice(args.steps),
            guidance: flag.choice(args.guidance),
            negative_prompt: flag.choice(args.negative_prompt.clone()),
            seed: flag.choice(args.seed.clone()),
            noise: flag.choice(noise),
            compat: flag.choice(compat.map(Ok)),
            template: flag.choice(args.expansion.template.clone()),
            variables: flag.choice(Some(args.expansion.var.clone()).filter(|variables| !variables.is_empty())),
            expand: flag.choice(args.expansion.expand.then_some(true)),
            wildcards: flag.choice(args.expansion.wildcards.clone()),
            all: flag.choice(args.expansion.all.then_some(true)),
            upscale: flag.choice(args.upscale.upscale),
            upscaler: flag.choice(args.upscale.upscaler.clone()),
            count: flag.choice(args.count),
            output: flag.choice(args.output.clone()),
            existing: flag.choice(existing),
            metadata: flag.choice(args.no_metadata.then_some(false)),
            quality: flag.choice(quality),
            preview: flag.choice(args.previews.preview.clone()),
            preview_decoder: flag.choice(args.previews.preview_decoder.clone()),
            watermark: flag.choice(watermark.then_some(true)),
            credentials: flag.choice(c2pa_key.clone().zip(c2pa_cert.clone()).map(|(key, cert)| [key, cert])),
            fail_fast: flag.choice(args.fail_fast.then_some(true)),
            open: flag.choice(args.open.then_some(true)),
            show: flag.choice(show),
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
                    seed: origin.choice(seed.map(Seed::Number)),
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
            negative_prompt: origin.choice(made.negative_prompt.clone()),
            seed: origin.choice(Some(Seed::Number(made.seed))),
            noise: origin.choice(Some(noise)),
            compat: origin.choice(recorded_compat(made).transpose()),
            upscale: origin.choice(made.upscale.as_ref().and_then(|upscale| upscale.by)),
            upscaler: origin.choice(made.upscale.as_ref().map(|upscale| upscale.upscaler.clone().into())),
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
        // Another program than those that are known is refused where it is read.
        (None, compat) => Ok(compat.map(|_| Transparency::Dropped)),
    }
}

/// The program whose rules a picture was made by; none if it followed none.
fn recorded_compat(made: &Parameters) -> Result<Option<Compat>> {
    let parse = |name: &String| name.parse().map_err(|_| unknown("compat", name, "--compat diffusers"));
    made.compat.as_ref().map(parse).transpose()
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
