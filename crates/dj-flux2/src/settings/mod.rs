//! What the choices mean: flag beats environment beats `--from` beats presets and files of settings beats the model's
//! default.
//!
//! In:  [`GenerateArgs`] and everything from [`Outside`] that it depends on; nothing is read here.
//! Out: [`Settings`], checked as far as possible without the model. Steps and guidance that nobody chose stay open: the
//!      model's defaults fill them in.

pub mod batch;
pub mod canvas;
pub mod expansion;
pub mod formats;
pub mod grid;
pub mod jobs;
pub mod loras;
mod runs;
pub mod size;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flux2::image::{ImageFormat, Preparation, Quality};
use flux2::marks::watermark;
use flux2::request::{GRID_PX, MAX_REFERENCES};
use flux2::variant::KLEIN_MINI;
use flux2::weights::Location;
use flux2::{
    EngineOptions, Error, GenerateRequest, GpuOptions, ModelPaths, PreviewOptions, Residency, ResolvedRequest,
    TextCache, UpscaleSize, Variant,
};

use crate::args::{GenerateArgs, Seed};
use crate::choices::{Choice, Choices, Origin, Sourced};
use crate::failure::{Failure, Result, code};
use crate::output::Output;
use crate::source_picture::SourcePicture;
use canvas::SourceSettings;
use expansion::{Expanded, Prompt, Sources};
use jobs::Cell;
use size::Size;

/// What a run depends on besides its flags.
#[derive(Clone)]
pub struct Outside<'a> {
    /// Value of `DJ_FLUX2_MODEL`.
    pub model: Option<OsString>,
    /// Where the GPU's libraries are, from the environment.
    pub gpu: GpuOptions,
    /// Folder of text embeddings, from the environment.
    pub text_cache: Option<PathBuf>,
    /// Folder of what previews are made with, from the environment.
    pub preview_cache: Option<PathBuf>,
    /// The picture of `--from`.
    pub from: Option<&'a SourcePicture>,
    /// Tells whether a file exists.
    pub is_file: fn(&Path) -> bool,
    /// Tells whether a folder exists.
    pub is_folder: fn(&Path) -> bool,
    /// Prompts that were typed or read; none if there are none.
    pub prompts: Vec<String>,
    /// What presets and files of settings say.
    pub files: Choices,
    /// Templates and wildcards.
    pub sources: Sources,
    /// The seed if nobody chooses one.
    pub fresh_seed: u64,
    /// Cells of the grid that the picture of these flags belongs to.
    pub cells: Option<u64>,
}

/// A run, decided.
#[derive(Debug)]
pub struct Settings {
    /// Where the model is: paths, and names that are still to be found.
    pub paths: ModelPaths,
    /// Whether nobody chose a model, so that the built-in one is used.
    pub model_is_fallback: bool,
    /// The variant that the picture of `--from` was made as, if no other is asked for.
    pub made_as: Option<String>,
    /// Whether the LoRAs are those that the picture of `--from` records.
    pub loras_are_recorded: bool,
    /// How to run the model.
    pub options: EngineOptions,
    /// Memory limit in bytes. To keep to it, fewer weights may stay in memory than `options` say.
    pub max_memory: Option<usize>,
    /// Whether weights may be quantized to keep to the limit.
    pub may_round: bool,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Pictures of each prompt.
    pub per_prompt: u64,
    /// Whether a prompt that is drawn as it is written looks like a template.
    pub looks_like_template: bool,
    /// Files of the reference images, in order.
    pub references: Vec<PathBuf>,
    /// How they are prepared.
    pub preparation: Preparation,
    /// The picture that is painted into.
    pub source: Option<SourceSettings>,
    /// Size, steps, guidance, noise and the first seed; prompt and references are added for each picture.
    pub request: GenerateRequest,
    /// How the finished pictures are enlarged; opened before they are drawn.
    pub upscale: Option<UpscaleSetting>,
    /// What is chosen of the size; the rest is in `request` after [`fit`](Self::fit).
    pub size: Size,
    /// The seeds of the run, if somebody chose them.
    pub seed: Seed,
    /// The pictures of a grid or a batch that this run makes, each with a request of its own; else none.
    pub cells: Vec<Cell>,
    /// Pictures of this run, and of others that it belongs to.
    pub whole: u64,
    /// Whether nobody chose the seed.
    pub seed_is_fresh: bool,
    /// Where pictures are written.
    pub output: Output,
    /// Whether parameters are stored in the pictures.
    pub metadata: bool,
    /// Quality of lossy formats.
    pub quality: Quality,
    /// Where previews are written.
    pub preview: Option<PathBuf>,
    /// What decodes them, opened once the model is known.
    pub preview_decoder: Option<PathBuf>,
    /// Whether the pictures get an invisible watermark.
    pub watermark: bool,
    /// Key and certificates that they are signed with.
    pub credentials: Option<[PathBuf; 2]>,
    /// Whether the first picture that fails ends the run.
    pub fail_fast: bool,
    /// Whether finished pictures are opened in a program of the desktop.
    pub open: bool,
    /// What is shown in the terminal.
    pub show: Show,
    /// Whether results are JSON lines.
    pub json: bool,
    /// How much is printed on standard error.
    pub detail: Detail,
}

/// How finished pictures are enlarged.
#[derive(Clone, Debug, PartialEq)]
pub struct UpscaleSetting {
    /// How many times as wide and high they become.
    pub by: f32,
    /// Name or file of what enlarges them; `None` is the built-in upscaler.
    pub upscaler: Option<PathBuf>,
}

/// Most pictures in one run: all their names are checked before the first one is made.
const MAX_PICTURES: u64 = 100_000;

/// How much is printed on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Errors and random seeds.
    Quiet,
    /// Also progress, warnings, and what was saved.
    Normal,
    /// Also the model, the device, and the time of every stage.
    Verbose,
}

/// What is shown in the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    #[default]
    Nothing,
    /// Finished pictures.
    Finished,
    /// Also what they look like after each step.
    Steps,
}

/// Decides a run.
pub fn resolve(args: &GenerateArgs, outside: Outside) -> Result<Settings> {
    let typed = Choices::from_args(args, outside.prompts.clone(), outside.is_file);
    resolve_choices(typed, outside)
}

/// Decides a run from `typed` choices, over those from outside.
pub fn resolve_choices(typed: Choices, outside: Outside) -> Result<Settings> {
    let Outside {
        model,
        gpu,
        text_cache,
        preview_cache,
        from,
        is_file,
        is_folder,
        files,
        sources,
        fresh_seed,
        cells,
        ..
    } = outside;
    let choices = typed
        .or(Choices::from_environment(model, text_cache))
        .or(from.map_or_else(Choices::default, |picture| Choices::from_picture(picture, is_file)))
        .or(files);
    let mut settings = decide(choices, from, gpu, &sources, is_folder, fresh_seed, cells)?;
    settings.options.previews.cache = preview_cache;
    check(&settings)?;
    Ok(settings)
}

/// Gives every choice its meaning, and its default where there is none.
fn decide(
    mut choices: Choices,
    from: Option<&SourcePicture>,
    gpu: GpuOptions,
    sources: &Sources,
    is_folder: fn(&Path) -> bool,
    fresh_seed: u64,
    cells: Option<u64>,
) -> Result<Settings> {
    let model = chosen_model(&choices, from);
    let transparency = value(choices.transparency.take()).transpose()?.unwrap_or_default();
    let is_recorded = from.is_some_and(SourcePicture::has_source);
    let source = canvas::decide(std::mem::take(&mut choices.canvas), transparency, is_recorded)?;
    if source.is_some() {
        choices.drop_size();
    }
    let size = Size::of(&choices)?;
    let seed = value(choices.seed.take()).unwrap_or(Seed::Random);
    let Expanded { prompts, per_prompt, looks_like_template } = pictures(&choices, &seed, sources, fresh_seed)?;
    let pictures = prompts.len() as u64 * per_prompt;
    let whole = cells.unwrap_or(pictures);
    let (width, height) = size.sides();
    let compat = value(choices.compat).transpose()?;
    let references = value(choices.references).unwrap_or_default();
    let preparation = Preparation {
        transparency,
        ..compat.map_or_else(Preparation::default, |compat| compat.preparation(references.len()))
    };
    let request = GenerateRequest {
        width,
        height,
        steps: value(choices.steps),
        guidance: value(choices.guidance),
        negative_prompt: value(choices.negative_prompt),
        seed: expansion::seed_of(&seed, fresh_seed, 0),
        noise: value(choices.noise).transpose()?.unwrap_or_default(),
        compat,
        ..Default::default()
    };
    let model = model?;
    let upscaler = choices.upscaler;
    if let (None, Some(Sourced { origin: Origin::Flag, .. })) = (&choices.upscale, &upscaler) {
        let hint = "add --upscale 2 or --upscale 4, or use `dj-flux2 upscale` for a picture that is there";
        return Err(Failure::usage("--upscaler says with what pictures are enlarged, and nothing says how far", hint));
    }
    let are_shown = choices.preview.is_some() || matches!(choices.show, Some(Sourced { value: Show::Steps, .. }));
    if let (false, Some(Sourced { origin: Origin::Flag, .. })) = (are_shown, &choices.preview_decoder) {
        let hint = "add --preview NAME.png, the file that previews are written to, or --show-steps";
        return Err(Failure::usage("--preview-decoder says what decodes previews, and nothing shows any", hint));
    }
    let upscale = value(choices.upscale).filter(|by| *by != 1.0);
    let upscale = upscale.map(|by| UpscaleSetting { by, upscaler: value(upscaler) });
    let loras_are_recorded = choices.loras.as_ref().is_some_and(Sourced::is_recorded);
    // A recorded variant counts only if the files turn out to be another one.
    let (recorded, typed): (Vec<_>, Vec<_>) = choices.variant.into_iter().partition(Sourced::is_recorded);
    let paths = ModelPaths {
        model: model.value,
        transformer: value(choices.transformer),
        text_encoder: value(choices.text_encoder),
        vae: value(choices.vae),
        loras: value(choices.loras).transpose()?.unwrap_or_default(),
        variant: typed.first().map(|variant| Variant::by_name(&variant.value)).transpose()?,
    };
    let options = EngineOptions {
        device: value(choices.device).unwrap_or_default(),
        precision: value(choices.precision).transpose()?.unwrap_or_default(),
        threads: value(choices.threads),
        gpu,
        // What is loaded for the first of several pictures serves the others.
        residency: if whole > 1 { Residency::KeepForNext } else { Residency::OneAtATime },
        max_memory: None,
        text_cache: value(choices.text_cache).flatten().map(TextCache::new),
        previews: PreviewOptions::default(),
    };
    let (output, existing) = (value(choices.output), value(choices.existing).unwrap_or_default());
    Ok(Settings {
        paths,
        model_is_fallback: model.origin == Origin::Default,
        made_as: recorded.into_iter().next().map(|variant| variant.value),
        loras_are_recorded,
        options,
        max_memory: value(choices.max_memory),
        may_round: value(choices.allow_quantize).unwrap_or(false),
        prompts,
        per_prompt,
        looks_like_template,
        references,
        preparation,
        source,
        request,
        upscale,
        size,
        cells: Vec::new(),
        whole,
        seed_is_fresh: seed == Seed::Random,
        seed,
        output: Output::new(output.as_deref(), whole, existing, is_folder)?,
        metadata: value(choices.metadata).unwrap_or(true),
        quality: value(choices.quality).unwrap_or_default(),
        preview: value(choices.preview),
        preview_decoder: value(choices.preview_decoder),
        watermark: value(choices.watermark).unwrap_or(false),
        credentials: value(choices.credentials),
        fail_fast: value(choices.fail_fast).unwrap_or(false),
        open: value(choices.open).unwrap_or(false),
        show: value(choices.show).unwrap_or_default(),
        json: value(choices.json).unwrap_or(false),
        detail: value(choices.detail).unwrap_or(Detail::Normal),
    })
}

/// The prompts of all pictures.
fn pictures(choices: &Choices, seed: &Seed, sources: &Sources, fresh_seed: u64) -> Result<Expanded> {
    let prompts = choices.prompts.as_ref().map(|prompts| prompts.value.clone());
    let prompts = prompts
        .ok_or_else(|| Failure::usage("no prompt", "say what the picture shows, as in `dj-flux2 \"a red fox\"`"))?;
    let count = choices.count.as_ref().map_or(1, |count| count.value);
    let per_prompt = match seed {
        Seed::List(_) if count > 1 => {
            let message = format!("a list of seeds is given, and {count} pictures for each prompt");
            return Err(Failure::usage(message, "leave -n out: each prompt is drawn with each seed"));
        }
        Seed::List(seeds) => seeds.len() as u64,
        Seed::Number(_) | Seed::Random => count.into(),
    };
    let too_many = |prompts: usize, each: u64| {
        Failure::usage(
            format!("{prompts} prompts with {each} pictures each are over {MAX_PICTURES} pictures"),
            "split them over several runs",
        )
    };
    if prompts.len() as u64 * per_prompt > MAX_PICTURES {
        return Err(too_many(prompts.len(), per_prompt));
    }
    let of = |picture| expansion::seed_of(seed, fresh_seed, picture);
    let expanded = expansion::expand(choices, sources, prompts, per_prompt, of, MAX_PICTURES)?;
    match expanded.prompts.len() as u64 * expanded.per_prompt > MAX_PICTURES {
        true => Err(too_many(expanded.prompts.len(), expanded.per_prompt)),
        false => Ok(expanded),
    }
}

fn value<T>(choice: Choice<T>) -> Option<T> {
    choice.map(|choice| choice.value)
}

/// Refuses what no model can do, before one is looked for.
fn check(settings: &Settings) -> Result<()> {
    if settings.json && settings.output == Output::Stdout {
        return Err(Failure::usage(
            "--json and the picture cannot both go to standard output",
            "write the picture to a file, with -o NAME.png",
        ));
    }
    let last = settings.pictures() - 1;
    let is_list = matches!(settings.seed, Seed::List(_));
    if !is_list && settings.request.seed.checked_add(last).is_none() {
        let message = format!("seed {} has no {} seeds after it", settings.request.seed, last);
        return Err(Failure::usage(message, format!("use -S {} or less", u64::MAX - last)));
    }
    let (width, height) = (settings.request.width, settings.request.height);
    if let (true, Some((width, height))) = (settings.watermark, width.zip(height)) {
        watermark::check_size(width, height)?;
    }
    if let Some(preview) = &settings.preview
        && !matches!(ImageFormat::from_path(preview), Ok(ImageFormat::Png | ImageFormat::Jpeg))
    {
        let message = format!("{} is no name for a preview", preview.display());
        return Err(Failure::usage(message, "end the name of --preview in .png or .jpg"));
    }
    let count = settings.references.len();
    if count > MAX_REFERENCES {
        return Err(Error::ReferenceCount { count, max: MAX_REFERENCES }.into());
    }
    if settings.may_round && settings.max_memory.is_none() {
        let message = "--allow-quantize is for runs with --max-memory, and there is no limit";
        return Err(Failure::usage(message, "add --max-memory SIZE, or use --quantize to quantize in any case"));
    }
    size::check(settings.request.width, settings.request.height)?;
    if let Some(UpscaleSetting { by, .. }) = settings.upscale {
        let sides = [settings.request.width, settings.request.height].map(|side| side.unwrap_or(GRID_PX));
        UpscaleSize::By(by).of(sides)?;
    }
    // Every variant has the same limits; the defaults that this one fills in are dropped.
    ResolvedRequest::new(&settings.request, Variant::by_name("klein-base")?)?;
    Ok(())
}

/// The model that was named, else the built-in one. The built-in one is no substitute where a part, a variant or a LoRA
/// was asked for, or where a picture of another model is to be made again: then a model must be named.
fn chosen_model(choices: &Choices, from: Option<&SourcePicture>) -> Result<Sourced<Location>> {
    if let Some(named) = &choices.model {
        return Ok(named.clone());
    }
    let has_parts = [&choices.transformer, &choices.text_encoder, &choices.vae].iter().any(|part| part.is_some());
    let has_variant = choices.variant.as_ref().is_some_and(|variant| !variant.is_recorded());
    let has_loras = choices.loras.as_ref().is_some_and(|loras| !loras.is_recorded());
    let builtin = Location::builtin().filter(|_| !(has_parts || has_variant || has_loras));
    match (builtin, from) {
        (Some(builtin), None) => Ok(Origin::Default.of(builtin)),
        (Some(builtin), Some(picture)) if picture.model() == Some(KLEIN_MINI) => {
            Ok(Origin::Picture(picture.file.clone()).of(builtin))
        }
        (_, Some(picture)) => {
            let made = match picture.model() {
                Some(model) => format!("was made with the model {model:?}"),
                None => "does not say which model made it".to_owned(),
            };
            Err(Failure::new(
                code::MODEL_MISSING,
                format!("the picture {made}, and no model is named"),
                "pass -m with the name or folder of a model, or set DJ_FLUX2_MODEL to it",
            ))
        }
        (None, None) => Err(Failure::new(
            code::MODEL_MISSING,
            "no model is named",
            "pass -m PATH with the folder of a FLUX.2 [klein] model, or set DJ_FLUX2_MODEL to it",
        )),
    }
}

#[cfg(test)]
mod tests;
