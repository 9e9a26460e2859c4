//! What the choices mean: flag beats environment beats `--from` beats the model's default.
//!
//! In:  [`GenerateArgs`] and everything from [`Outside`] that it depends on; nothing is read here.
//! Out: [`Settings`], checked as far as possible without the model. Steps and guidance that nobody chose stay open: the
//!      model's defaults fill them in.

pub mod canvas;
pub mod formats;
pub mod jobs;
pub mod loras;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flux2::image::Transparency;
use flux2::request::MAX_REFERENCES;
use flux2::variant::KLEIN_MINI;
use flux2::weights::Location;
use flux2::{
    EngineOptions, Error, GenerateRequest, GpuOptions, ModelPaths, Residency, ResolvedRequest, TextCache, Variant,
};

use crate::args::GenerateArgs;
use crate::choices::{Choice, Choices, Origin, Sourced};
use crate::failure::{Failure, Result, code};
use crate::output::Output;
use crate::source_picture::SourcePicture;
use canvas::SourceSettings;

/// What a run depends on besides its flags.
pub struct Outside<'a> {
    /// Value of `DJ_FLUX2_MODEL`.
    pub model: Option<OsString>,
    /// Where the GPU's libraries are, from the environment.
    pub gpu: GpuOptions,
    /// Folder of text embeddings, from the environment.
    pub text_cache: Option<PathBuf>,
    /// The picture of `--from`.
    pub from: Option<&'a SourcePicture>,
    /// Tells whether a file exists.
    pub is_file: fn(&Path) -> bool,
    /// Tells whether a folder exists.
    pub is_folder: fn(&Path) -> bool,
    /// Prompts that were typed or read; none if there are none.
    pub prompts: Vec<String>,
    /// The seed if nobody chooses one.
    pub fresh_seed: u64,
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
    pub prompts: Vec<String>,
    /// Files of the reference images, in order.
    pub references: Vec<PathBuf>,
    /// The picture that is painted into.
    pub source: Option<SourceSettings>,
    /// What happens to their transparency.
    pub transparency: Transparency,
    /// Size, steps, guidance, noise and the first seed; prompt and references are added for each picture.
    pub request: GenerateRequest,
    /// Pictures per prompt.
    pub count: u32,
    /// Whether nobody chose the seed.
    pub seed_is_fresh: bool,
    /// Where pictures are written.
    pub output: Output,
    /// Whether parameters are stored in the pictures.
    pub metadata: bool,
    /// Whether the first picture that fails ends the run.
    pub fail_fast: bool,
    /// Whether results are JSON lines.
    pub json: bool,
    /// How much is printed on standard error.
    pub detail: Detail,
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

/// Decides a run.
pub fn resolve(args: &GenerateArgs, outside: Outside) -> Result<Settings> {
    let Outside { model, gpu, text_cache, from, is_file, is_folder, prompts, fresh_seed } = outside;
    let choices = Choices::from_args(args, prompts, is_file)
        .or(Choices::from_environment(model, text_cache))
        .or(from.map_or_else(Choices::default, |picture| Choices::from_picture(picture, is_file)));
    let settings = decide(choices, from, gpu, is_folder, fresh_seed)?;
    check(&settings)?;
    Ok(settings)
}

/// Gives every choice its meaning, and its default where there is none.
fn decide(
    choices: Choices,
    from: Option<&SourcePicture>,
    gpu: GpuOptions,
    is_folder: fn(&Path) -> bool,
    fresh_seed: u64,
) -> Result<Settings> {
    let model = chosen_model(&choices, from);
    let prompts = value(choices.prompts)
        .ok_or_else(|| Failure::usage("no prompt", "say what the picture shows, as in `dj-flux2 \"a red fox\"`"))?;
    let count = value(choices.count).unwrap_or(1);
    let pictures = prompts.len() as u64 * u64::from(count);
    if pictures > MAX_PICTURES {
        return Err(Failure::usage(
            format!("{} prompts with {count} pictures each are over {MAX_PICTURES} pictures", prompts.len()),
            "split them over several runs",
        ));
    }
    let transparency = value(choices.transparency).transpose()?.unwrap_or_default();
    let source = canvas::decide(choices.canvas, transparency, from.is_some_and(SourcePicture::has_source))?;
    // The size of a picture of --from is not that of a source.
    let size = |choice: Choice<u32>| value(choice.filter(|size| source.is_none() || !size.is_recorded()));
    let seed = value(choices.seed).flatten();
    let request = GenerateRequest {
        width: size(choices.width),
        height: size(choices.height),
        steps: value(choices.steps),
        guidance: value(choices.guidance),
        seed: seed.unwrap_or(fresh_seed),
        noise: value(choices.noise).transpose()?.unwrap_or_default(),
        ..Default::default()
    };
    let model = model?;
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
        residency: if pictures > 1 { Residency::KeepForNext } else { Residency::OneAtATime },
        max_memory: None,
        text_cache: value(choices.text_cache).flatten().map(TextCache::new),
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
        references: value(choices.references).unwrap_or_default(),
        source,
        transparency,
        request,
        count,
        seed_is_fresh: seed.is_none(),
        output: Output::new(output.as_deref(), pictures, existing, is_folder)?,
        metadata: value(choices.metadata).unwrap_or(true),
        fail_fast: value(choices.fail_fast).unwrap_or(false),
        json: value(choices.json).unwrap_or(false),
        detail: value(choices.detail).unwrap_or(Detail::Normal),
    })
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
    if settings.request.seed.checked_add(last).is_none() {
        let message = format!("seed {} has no {} seeds after it", settings.request.seed, last);
        return Err(Failure::usage(message, format!("use -S {} or less", u64::MAX - last)));
    }
    let count = settings.references.len();
    if count > MAX_REFERENCES {
        return Err(Error::ReferenceCount { count, max: MAX_REFERENCES }.into());
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
mod tests {
    use flux2::image::{LoraParameters, Parameters, Stored};
    use flux2::weights::LoraPath;
    use flux2::{NoiseKind, Precision};

    use super::*;
    use crate::args::{Dtype, Seed};

    pub fn args() -> GenerateArgs {
        GenerateArgs { model: Some("model".into()), ..Default::default() }
    }

    pub fn outside() -> Outside<'static> {
        Outside {
            model: None,
            gpu: GpuOptions::default(),
            text_cache: None,
            from: None,
            is_file: |_| false,
            is_folder: |_| false,
            prompts: vec!["a red fox".into()],
            fresh_seed: 7,
        }
    }

    fn recorded_parameters() -> Parameters {
        Parameters {
            prompt: "a blue hare".into(),
            seed: 11,
            noise: "torch-cpu".into(),
            model: "klein-4b".into(),
            variant: None,
            dtype: "f32".into(),
            steps: 3,
            guidance: Some(2.5),
            width: 128,
            height: 96,
            references: vec![],
            source: None,
            background: None,
            compat: None,
            loras: vec![],
            software: "dj-flux2".into(),
            version: "0.1.0".into(),
        }
    }

    fn picture(parameters: Parameters) -> SourcePicture {
        SourcePicture { file: "pictures/fox.png".into(), stored: Stored::Ours(parameters.into()) }
    }

    fn refused(args: &GenerateArgs) -> Failure {
        resolve(args, outside()).unwrap_err()
    }

    #[test]
    fn nothing_given_leaves_the_choice_to_the_model() {
        let settings = resolve(&args(), outside()).unwrap();
        let request = &settings.request;
        assert_eq!((request.width, request.height, request.steps, request.guidance), (None, None, None, None));
        assert_eq!((request.seed, settings.seed_is_fresh), (7, true));
        assert_eq!((settings.options.precision, request.noise), (Precision::BF16, NoiseKind::Philox));
        assert_eq!(settings.detail, Detail::Normal);
    }

    #[test]
    fn text_embeddings_are_kept_where_the_environment_says_unless_a_flag_says_not() {
        let outside = || Outside { text_cache: Some("caches/text".into()), ..outside() };
        let folder = |args: &GenerateArgs, outside| {
            resolve(args, outside).unwrap().options.text_cache.map(|cache| cache.folder.display().to_string())
        };
        assert_eq!(folder(&args(), outside()).as_deref(), Some("caches/text"));
        assert_eq!(folder(&GenerateArgs { no_text_cache: true, ..args() }, outside()), None);
        assert_eq!(folder(&args(), Outside { text_cache: None, ..outside() }), None);
    }

    /// The path of the model, and whether nobody named it.
    fn model_of(args: &GenerateArgs, outside: Outside) -> Result<(String, bool)> {
        let settings = resolve(args, outside)?;
        Ok((settings.paths.model.path().display().to_string(), settings.model_is_fallback))
    }

    #[test]
    fn a_flag_beats_the_environment_and_no_name_at_all_is_the_built_in_model() {
        let model = |flag: Option<&str>, environment: Option<&str>| {
            let args = GenerateArgs { model: flag.map(PathBuf::from), ..args() };
            model_of(&args, Outside { model: environment.map(OsString::from), ..outside() })
        };
        assert_eq!(model(Some("flag"), Some("environment")).unwrap(), ("flag".into(), false));
        assert_eq!(model(None, Some("environment")).unwrap(), ("environment".into(), false));
        for environment in [None, Some("")] {
            match cfg!(feature = "mini") {
                true => assert_eq!(model(None, environment).unwrap(), ("klein-mini".into(), true)),
                false => assert_eq!(model(None, environment).unwrap_err().message, "no model is named"),
            }
        }
    }

    #[test]
    fn a_part_or_a_variant_without_a_model_is_refused() {
        let args = || GenerateArgs { model: None, ..args() };
        for args in [
            GenerateArgs { transformer: Some("t".into()), ..args() },
            GenerateArgs { text_encoder: Some("te".into()), ..args() },
            GenerateArgs { vae: Some("vae".into()), ..args() },
            GenerateArgs { variant: Some("klein-mini".into()), ..args() },
            GenerateArgs { lora: vec!["style.safetensors".into()], ..args() },
        ] {
            let failure = refused(&args);
            assert_eq!((failure.code, failure.message.as_str()), (code::MODEL_MISSING, "no model is named"));
        }
    }

    #[test]
    fn a_picture_of_another_model_is_not_made_again_by_the_built_in_one() {
        let model = |made_with: &str| {
            let from = picture(Parameters { model: made_with.into(), guidance: None, ..recorded_parameters() });
            let args = GenerateArgs { model: None, ..args() };
            model_of(&args, Outside { from: Some(&from), prompts: vec![], ..outside() })
        };
        let failure = model("klein-4b").unwrap_err();
        assert_eq!(failure.code, code::MODEL_MISSING);
        assert_eq!(failure.message, "the picture was made with the model \"klein-4b\", and no model is named");
        assert_eq!(model("klein-mini").ok(), cfg!(feature = "mini").then(|| ("klein-mini".into(), false)));
    }

    #[test]
    fn a_picture_gives_what_flags_leave_out() {
        let from = picture(recorded_parameters());
        let outside = || Outside { from: Some(&from), prompts: vec![], ..outside() };
        let settings = resolve(&args(), outside()).unwrap();
        assert_eq!(settings.prompts, ["a blue hare"]);
        let r = &settings.request;
        assert_eq!((r.width, r.height, r.steps, r.guidance), (Some(128), Some(96), Some(3), Some(2.5)));
        assert_eq!((r.seed, settings.seed_is_fresh, r.noise), (11, false, NoiseKind::TorchCpu));
        assert_eq!(settings.options.precision, Precision::F32);

        let args = GenerateArgs {
            seed: Some(Seed::Number(8)),
            steps: Some(5),
            width: Some(64),
            dtype: Some(Dtype::Bf16),
            noise: Some("philox".into()),
            ..args()
        };
        let settings = resolve(&args, Outside { prompts: vec!["a red fox".into()], ..outside() }).unwrap();
        assert_eq!(settings.prompts, ["a red fox"]);
        let r = &settings.request;
        assert_eq!((r.width, r.height, r.steps, r.guidance), (Some(64), Some(96), Some(5), Some(2.5)));
        assert_eq!((r.seed, r.noise, settings.options.precision), (8, NoiseKind::Philox, Precision::BF16));
    }

    #[test]
    fn a_picture_names_its_loras_and_they_are_looked_for_here_and_beside_it() {
        let lora = |name: &str| LoraParameters { name: name.into(), scale: 0.5, sha256: "00".into() };
        let from = |name| picture(Parameters { loras: vec![lora(name)], ..recorded_parameters() });
        let found = |name, typed: &[&str], is_file| {
            let args = GenerateArgs { lora: typed.iter().map(OsString::from).collect(), ..args() };
            let settings = resolve(&args, Outside { from: Some(&from(name)), is_file, ..outside() })?;
            let shown = |lora: &LoraPath| format!("{}:{}", lora.location.path().display(), lora.scale);
            Ok::<_, Failure>(settings.paths.loras.iter().map(shown).collect::<Vec<_>>())
        };
        assert_eq!(found("style", &[], |_| true).unwrap(), ["style.safetensors:0.5"]);
        assert_eq!(found("style", &[], |p| p.starts_with("pictures")).unwrap(), ["pictures/style.safetensors:0.5"]);
        let adapter = |p: &Path| p == Path::new("pictures/v1.5/adapter_model.safetensors");
        assert_eq!(found("v1.5", &[], adapter).unwrap(), ["pictures/v1.5:0.5"]);
        assert_eq!(found("style", &["other", "more:2"], |_| false).unwrap(), ["other:1", "more:2"]);
        let adapters = |p: &Path| p.ends_with("adapter_model.safetensors");
        assert_eq!(found("..", &[], adapters).unwrap_err().code, code::MODEL_MISSING);
        for name in ["style", "../style", "/style", "a/b"] {
            let is_elsewhere =
                |p: &Path| !["style.safetensors", "style", "pictures"].iter().any(|at| p.starts_with(at));
            let failure = found(name, &[], is_elsewhere);
            assert_eq!(failure.unwrap_err().code, code::MODEL_MISSING, "{name}");
        }
    }

    #[test]
    fn a_picture_of_another_time_is_not_guessed_at() {
        for from in [
            Parameters { noise: "brownian".into(), ..recorded_parameters() },
            Parameters { dtype: "f8".into(), ..recorded_parameters() },
            Parameters { steps: 0, ..recorded_parameters() },
            Parameters { width: 100, ..recorded_parameters() },
        ] {
            let from = picture(from);
            let failure = resolve(&args(), Outside { from: Some(&from), prompts: vec![], ..outside() }).unwrap_err();
            assert_eq!(failure.code, code::USAGE, "{failure:?}");
        }
    }

    #[test]
    fn the_last_seed_is_the_largest_number() {
        let with = |count| GenerateArgs { seed: Some(Seed::Number(u64::MAX - 1)), count: Some(count), ..args() };
        assert!(resolve(&with(2), outside()).is_ok());
        assert_eq!(refused(&with(3)).hint.unwrap(), format!("use -S {} or less", u64::MAX - 2));
    }

    #[test]
    fn what_no_model_does_is_refused_before_one_is_opened() {
        for args in [
            GenerateArgs { width: Some(500), ..args() },
            GenerateArgs { size: Some((64, 32)), ..args() },
            GenerateArgs { steps: Some(0), ..args() },
            GenerateArgs { guidance: Some(f32::NAN), ..args() },
            GenerateArgs { variant: Some("klien-4b".into()), ..args() },
            GenerateArgs { noise: Some("pink".into()), ..args() },
            GenerateArgs { input: vec!["a.png".into(); 17], ..args() },
            GenerateArgs { output: Some("fox.gif".into()), ..args() },
            GenerateArgs { output: Some("-".into()), json: true, ..args() },
        ] {
            assert_eq!(refused(&args).code, code::USAGE, "{args:?}");
        }
    }
}
