//! What a command line means: flag beats environment beats `--from` beats what the model was made for.
//!
//! In:  [`GenerateArgs`] and everything from [`Outside`] that it depends on; nothing is read here.
//! Out: [`Settings`], in which nothing that any model would refuse is left. Steps and guidance that were not given
//!      stay open, since the model's defaults fill them in once its files are read.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use flux2::image::codec::IfExists;
use flux2::image::{LoraParameters, Parameters};
use flux2::pipeline::MAX_PREPARED_PROMPTS;
use flux2::request::MAX_REFERENCES;
use flux2::variant::KLEIN_MINI;
use flux2::weights::{self, Compute, Format, Location, LoraPath};
use flux2::{
    EngineOptions, Error, GenerateRequest, GpuOptions, ModelPaths, NoiseKind, Precision, Reference, Residency,
    ResolvedRequest, TextCache, Variant,
};

use crate::args::{Dtype, GenerateArgs, Quantize};
use crate::failure::{Failure, Result, code};
use crate::output::Output;

/// What a run depends on besides its flags.
pub struct Outside<'a> {
    /// `DJ_FLUX2_MODEL`.
    pub model: Option<OsString>,
    /// Where the environment says that a GPU's libraries are.
    pub gpu: GpuOptions,
    /// The folder of text embeddings that the environment chooses, if any.
    pub text_cache: Option<PathBuf>,
    /// Parameters in the picture that `--from` names.
    pub from: Option<&'a Parameters>,
    /// Whether there is a file of that name.
    pub is_file: fn(&Path) -> bool,
    /// Prompts that were typed or read, if any.
    pub prompts: Vec<String>,
    /// The seed if none is given.
    pub fresh_seed: u64,
}

/// A run, decided.
#[derive(Debug)]
pub struct Settings {
    /// Where the model is.
    pub paths: ModelPaths,
    /// Whether nobody named one, so that the built-in one draws.
    pub model_is_fallback: bool,
    /// How to run it.
    pub options: EngineOptions,
    /// Bytes of memory it may take; then fewer weights may stay than `options` say.
    pub max_memory: Option<usize>,
    /// Whether weights may be rounded for that.
    pub may_round: bool,
    /// At least one.
    pub prompts: Vec<String>,
    /// Files of the reference images, in order.
    pub references: Vec<PathBuf>,
    /// Size, steps, guidance, noise and the first seed; prompt and references are added for each picture.
    pub request: GenerateRequest,
    /// Pictures for each prompt.
    pub count: u32,
    /// Whether nobody chose the seed.
    pub seed_is_fresh: bool,
    /// Where pictures go.
    pub output: Output,
    /// Whether their parameters go with them.
    pub metadata: bool,
    /// Whether results are JSON lines.
    pub json: bool,
    /// How much is said.
    pub detail: Detail,
}

/// Pictures in one run, at most: their names are all checked before the first is made.
const MAX_PICTURES: u64 = 100_000;

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Errors and random seeds.
    Quiet,
    /// Progress, warnings, what was saved.
    Normal,
    /// Model, device, and the time of every stage too.
    Verbose,
}

/// Pictures that one worker makes one after the other.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// Prompts that it encodes before the first, if it has not yet, by their places in [`Settings::prompts`].
    pub ahead: Range<usize>,
    /// Counted from 0.
    pub pictures: Range<u64>,
}

/// One picture of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job<'a> {
    /// 1 for the first.
    pub index: u64,
    pub prompt: &'a str,
    pub seed: u64,
    /// `None` is standard output.
    pub path: Option<PathBuf>,
}

impl Settings {
    /// Pictures in the run.
    pub fn pictures(&self) -> u64 {
        self.prompts.len() as u64 * u64::from(self.count)
    }

    /// All pictures: those of the first prompt first, each with the next seed.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        (0..self.pictures()).map(|i| self.job(i))
    }

    /// Picture `i`, counted from 0.
    pub fn job(&self, i: u64) -> Job<'_> {
        let (index, seed) = (i + 1, self.request.seed + i);
        Job { index, prompt: &self.prompts[self.prompt_of(i)], seed, path: self.output.path(index, seed) }
    }

    fn prompt_of(&self, picture: u64) -> usize {
        (picture / u64::from(self.count)) as usize
    }

    /// All pictures for so many workers, each of which loads its text encoder as seldom as can be: once for
    /// [`MAX_PREPARED_PROMPTS`].
    ///
    /// Where there are many pictures to a prompt, these go to whichever worker is free, and each encodes all prompts: that takes
    /// about a tenth of the time of as many pictures. Where there are few, each worker has neighbours and encodes their
    /// prompts only.
    pub fn batches(&self, workers: usize) -> Vec<Batch> {
        let (pictures, count, workers) = (self.pictures(), u64::from(self.count), workers as u64);
        if self.prompts.len() == 1 || count >= 2 * (workers - 1) {
            let batch = |i| {
                let first = self.prompt_of(i) / MAX_PREPARED_PROMPTS * MAX_PREPARED_PROMPTS;
                let ahead = first..self.prompts.len().min(first + MAX_PREPARED_PROMPTS);
                Batch { ahead, pictures: i..i + 1 }
            };
            return (0..pictures).map(batch).collect();
        }
        // So many pictures in a row have at most so many prompts.
        let prompts = |row: u64| (row + count - 2) / count + 1;
        let row = |rounds: u64| pictures.div_ceil(rounds * workers);
        let rounds = (1..).find(|rounds| prompts(row(*rounds)) <= MAX_PREPARED_PROMPTS as u64);
        let batches = rounds.expect("a single picture has one prompt") * workers;
        let batch = |i: u64| {
            let pictures = i * pictures / batches..(i + 1) * pictures / batches;
            let last = pictures.end.checked_sub(1).filter(|last| *last >= pictures.start)?;
            Some(Batch { ahead: self.prompt_of(pictures.start)..self.prompt_of(last) + 1, pictures })
        };
        (0..batches).filter_map(batch).collect()
    }

    /// What the engine is asked for.
    pub fn request_for(&self, job: &Job, references: &[Reference]) -> GenerateRequest {
        GenerateRequest {
            prompt: job.prompt.to_owned(),
            references: references.to_vec(),
            seed: job.seed,
            ..self.request.clone()
        }
    }

    /// As many of the requests as can differ in the memory they take: later ones come into the place of earlier ones.
    pub fn requests(&self, references: &[Reference]) -> Vec<GenerateRequest> {
        self.jobs().take(MAX_PREPARED_PROMPTS + 1).map(|job| self.request_for(&job, references)).collect()
    }
}

/// Decide a run.
pub fn resolve(args: &GenerateArgs, outside: Outside) -> Result<Settings> {
    let from = outside.from;
    let prompts = match (outside.prompts, from) {
        (prompts, _) if !prompts.is_empty() => prompts,
        (_, Some(from)) => vec![from.prompt.clone()],
        _ => return Err(Failure::usage("no prompt", "say what the picture shows, as in `dj-flux2 \"a red fox\"`")),
    };
    let pictures = prompts.len() as u64 * u64::from(args.count);
    if pictures > MAX_PICTURES {
        return Err(Failure::usage(
            format!("{} prompts with {} pictures each are over {MAX_PICTURES}", prompts.len(), args.count),
            "split them over several runs",
        ));
    }
    let (width, height) = match args.size {
        Some((width, height)) => (Some(width), Some(height)),
        None => (args.width.or(from.map(|f| f.width)), args.height.or(from.map(|f| f.height))),
    };
    let request = GenerateRequest {
        width,
        height,
        steps: args.steps.or(from.map(|f| f.steps)),
        guidance: args.guidance.or(from.and_then(|f| f.guidance)),
        seed: args.seed.or(from.map(|f| f.seed)).unwrap_or(outside.fresh_seed),
        noise: noise(args, from)?,
        ..Default::default()
    };
    let (model, model_is_fallback) = model(args, outside.model, from)?;
    let settings = Settings {
        paths: ModelPaths {
            model,
            transformer: args.transformer.as_ref().map(Location::from),
            text_encoder: args.text_encoder.as_ref().map(Location::from),
            vae: args.vae.as_ref().map(Location::from),
            loras: loras(args, from, outside.is_file)?,
            variant: args.variant.as_deref().map(Variant::by_name).transpose()?,
        },
        model_is_fallback,
        options: EngineOptions {
            device: args.device.unwrap_or_default(),
            precision: match (args.dtype, args.quantize, from) {
                (None, None, Some(from)) => {
                    from.dtype.parse().map_err(|()| recorded("dtype", &from.dtype, "--dtype bf16"))?
                }
                (dtype, quantize, _) => precision(dtype, quantize)?,
            },
            threads: threads(args.threads),
            gpu: outside.gpu,
            // What is loaded for the first of several pictures serves the others.
            residency: if pictures > 1 { Residency::KeepForNext } else { Residency::OneAtATime },
            gpu_memory: None,
            text_cache: outside.text_cache.filter(|_| !args.no_text_cache).map(TextCache::new),
        },
        max_memory: args.max_memory,
        may_round: args.allow_quantize,
        prompts,
        references: args.input.clone(),
        request,
        count: args.count,
        seed_is_fresh: args.seed.is_none() && from.is_none(),
        output: Output::new(&args.output, pictures, if args.no_clobber { IfExists::Fail } else { IfExists::Replace })?,
        metadata: !args.no_metadata,
        json: args.json,
        detail: match (args.quiet, args.verbose) {
            (true, _) => Detail::Quiet,
            (_, true) => Detail::Verbose,
            _ => Detail::Normal,
        },
    };
    check(&settings)?;
    Ok(settings)
}

/// What no model would do is refused before one is looked for.
fn check(settings: &Settings) -> Result<()> {
    if settings.json && settings.output == Output::Stdout {
        return Err(Failure::usage(
            "--json and the picture both want standard output",
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
    // Every variant has the same limits; the defaults that this one fills in are thrown away.
    ResolvedRequest::new(&settings.request, Variant::by_name("klein-base")?)?;
    Ok(())
}

/// Where the model is, and whether nobody named one: then the built-in one draws, unless a picture is to be made again that
/// another model made, or a part or variant is given, which belongs to a model that must be named too.
fn model(args: &GenerateArgs, environment: Option<OsString>, from: Option<&Parameters>) -> Result<(Location, bool)> {
    let environment = environment.filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(named) = args.model.clone().or(environment) {
        return Ok((named.into(), false));
    }
    let parts = [&args.transformer, &args.text_encoder, &args.vae];
    let is_whole = parts.iter().all(|part| part.is_none()) && args.variant.is_none() && args.lora.is_empty();
    match (Location::builtin().filter(|_| is_whole), from) {
        (Some(builtin), None) => Ok((builtin, true)),
        (Some(builtin), Some(from)) if from.model == KLEIN_MINI => Ok((builtin, false)),
        (_, Some(from)) => Err(Failure::new(
            code::MODEL_MISSING,
            format!("the picture was made with the model {:?}, and no model is named", from.model),
            "pass -m PATH with the folder of that model, or set DJ_FLUX2_MODEL to it",
        )),
        (None, None) => Err(Failure::new(
            code::MODEL_MISSING,
            "no model is named",
            "pass -m PATH with the folder of a FLUX.2 [klein] model, or set DJ_FLUX2_MODEL to it",
        )),
    }
}

/// The LoRAs that were typed, else those that the picture was made with.
fn loras(args: &GenerateArgs, from: Option<&Parameters>, is_file: fn(&Path) -> bool) -> Result<Vec<LoraPath>> {
    match (from, &args.from) {
        (Some(from), Some(picture)) if args.lora.is_empty() => {
            from.loras.iter().map(|lora| recorded_lora(lora, picture, is_file)).collect()
        }
        _ => args.lora.iter().map(|typed| lora(typed, is_file)).collect(),
    }
}

/// What `FILE[:SCALE]` means: a file that is called so as a whole comes first, then a number behind the last colon is the scale.
pub fn lora(typed: &OsStr, is_file: fn(&Path) -> bool) -> Result<LoraPath> {
    let scaled = || {
        let (path, scale) = typed.to_str()?.rsplit_once(':')?;
        Some((path, scale.parse::<f32>().ok()?))
    };
    let (location, scale) = match scaled().filter(|_| !is_file(Path::new(typed))) {
        Some((path, scale)) => (Path::new(path).into(), scale),
        None => (Path::new(typed).into(), 1.0),
    };
    if !scale.is_finite() {
        return Err(weights::Error::LoraScale { scale }.into());
    }
    Ok(LoraPath { location, scale })
}

/// The file of a LoRA that a picture was made with, here or beside the picture. Whether it is the same file is looked at later.
fn recorded_lora(lora: &LoraParameters, picture: &Path, is_file: fn(&Path) -> bool) -> Result<LoraPath> {
    let LoraParameters { name, scale, .. } = lora;
    let file = PathBuf::from(format!("{name}.safetensors"));
    // What a picture says is not trusted with a way out of the folder.
    let is_plain = matches!(file.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let beside = picture.with_file_name(&file);
    match [file, beside].into_iter().find(|path| is_plain && is_file(path)) {
        Some(path) => Ok(LoraPath { location: path.into(), scale: *scale }),
        None => Err(Failure::new(
            code::MODEL_MISSING,
            format!("{} was made with the LoRA {name:?}, which is neither here nor beside it", picture.display()),
            format!("pass the LoRAs it was made with, this one with --lora FILE:{scale}"),
        )),
    }
}

fn noise(args: &GenerateArgs, from: Option<&Parameters>) -> Result<NoiseKind> {
    match (&args.noise, from) {
        (Some(name), _) => name.parse().map_err(|e| Failure::usage(format!("{e}"), "leave --noise out for philox")),
        (None, Some(from)) => from.noise.parse().map_err(|_| recorded("noise", &from.noise, "--noise philox")),
        (None, None) => Ok(NoiseKind::default()),
    }
}

/// What the number formats that were typed mean together.
pub fn precision(dtype: Option<Dtype>, quantize: Option<Quantize>) -> Result<Precision> {
    let weights = quantize.map_or(Format::AsStored, format);
    let (compute, weights) = match (dtype, quantize) {
        (None | Some(Dtype::Bf16), _) => (Compute::Bf16, weights),
        (Some(Dtype::F32), _) => (Compute::F32, weights),
        (Some(Dtype::Int8), None | Some(Quantize::Int8)) => (Compute::Bf16, Format::Int8),
        (Some(Dtype::Fp8), None) => (Compute::Bf16, Format::Fp8),
        (Some(bytes @ (Dtype::Int8 | Dtype::Fp8)), Some(_)) => {
            let name = if bytes == Dtype::Int8 { "int8" } else { "fp8" };
            let message = format!("--dtype {name} rounds weights to bytes, and --quantize to something else");
            return Err(Failure::usage(message, "leave one of the two out"));
        }
    };
    Precision::new(compute, weights).ok_or_else(|| {
        let message = "--quantize int8 multiplies bytes, and --dtype f32 rounds nothing that is multiplied";
        Failure::usage(message, "leave --dtype out, or use --quantize q8_0")
    })
}

/// What a format of weights that was typed means.
pub fn format(typed: Quantize) -> Format {
    match typed {
        Quantize::Bf16 => Format::Bf16,
        Quantize::Int8 => Format::Int8,
        Quantize::Q8_0 => Format::Q8_0,
        Quantize::Q4K => Format::Q4K,
    }
}

/// Threads that were asked for.
pub fn threads(typed: Option<u16>) -> Option<NonZeroUsize> {
    typed.and_then(|n| NonZeroUsize::new(n.into()))
}

/// A picture that records what this version does not know.
fn recorded(what: &str, value: &str, flag: &str) -> Failure {
    let message = format!("the picture was made with {what} {value:?}, which this version does not know");
    Failure::usage(message, format!("use another {what}, as in {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> GenerateArgs {
        GenerateArgs { model: Some("model".into()), count: 1, output: "output.png".into(), ..Default::default() }
    }

    fn outside() -> Outside<'static> {
        Outside {
            model: None,
            gpu: GpuOptions::default(),
            text_cache: None,
            from: None,
            is_file: |_| false,
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
            loras: vec![],
            software: "dj-flux2".into(),
            version: "0.1.0".into(),
        }
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
    fn formats_that_contradict_each_other_are_refused() {
        let of = |dtype, quantize| precision(dtype, quantize).map(|p| p.to_string()).map_err(|failure| failure.message);
        assert_eq!(of(None, Some(Quantize::Q4K)).unwrap(), "bf16+q4_k");
        assert_eq!(of(Some(Dtype::F32), Some(Quantize::Q8_0)).unwrap(), "f32+q8_0");
        assert_eq!(of(None, Some(Quantize::Int8)).unwrap(), "int8");
        assert_eq!(of(Some(Dtype::Int8), Some(Quantize::Int8)).unwrap(), "int8");
        assert!(of(Some(Dtype::Int8), Some(Quantize::Q8_0)).unwrap_err().contains("something else"));
        assert!(of(Some(Dtype::F32), Some(Quantize::Int8)).unwrap_err().contains("rounds nothing"));
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
            let from = Parameters { model: made_with.into(), guidance: None, ..recorded_parameters() };
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
        let from = recorded_parameters();
        let outside = || Outside { from: Some(&from), prompts: vec![], ..outside() };
        let settings = resolve(&args(), outside()).unwrap();
        assert_eq!(settings.prompts, ["a blue hare"]);
        let r = &settings.request;
        assert_eq!((r.width, r.height, r.steps, r.guidance), (Some(128), Some(96), Some(3), Some(2.5)));
        assert_eq!((r.seed, settings.seed_is_fresh, r.noise), (11, false, NoiseKind::TorchCpu));
        assert_eq!(settings.options.precision, Precision::F32);

        let args = GenerateArgs {
            seed: Some(8),
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
    fn a_lora_is_a_file_and_perhaps_a_scale() {
        let typed = |text: &str, is_file| {
            lora(OsStr::new(text), is_file).map(|lora| (lora.location.path().display().to_string(), lora.scale))
        };
        let expect = |text, is_file, path: &str, scale| {
            assert_eq!(typed(text, is_file).unwrap(), (path.to_owned(), scale), "{text}");
        };
        expect("style.safetensors", |_| true, "style.safetensors", 1.0);
        expect("style.safetensors:0.8", |_| false, "style.safetensors", 0.8);
        expect("style:-2", |_| false, "style", -2.0);
        expect("a:b:1e-1", |_| false, "a:b", 0.1);
        // A colon in the name.
        expect("style:2", |path| path == Path::new("style:2"), "style:2", 1.0);
        expect("c:/style.safetensors", |_| false, "c:/style.safetensors", 1.0);
        expect("style:", |_| false, "style:", 1.0);
        expect("style:v2", |_| false, "style:v2", 1.0);
        for text in ["style:nan", "style:inf", "style:1e400"] {
            assert_eq!(typed(text, |_| false).unwrap_err().code, code::USAGE, "{text}");
        }
    }

    #[test]
    fn a_picture_names_its_loras_and_they_are_looked_for_here_and_beside_it() {
        let lora = |name: &str| LoraParameters { name: name.into(), scale: 0.5, sha256: "00".into() };
        let from = |name| Parameters { loras: vec![lora(name)], ..recorded_parameters() };
        let found = |name, typed: &[&str], is_file| {
            let args = GenerateArgs {
                from: Some("pictures/fox.png".into()),
                lora: typed.iter().map(OsString::from).collect(),
                ..args()
            };
            let settings = resolve(&args, Outside { from: Some(&from(name)), is_file, ..outside() })?;
            let shown = |lora: &LoraPath| format!("{}:{}", lora.location.path().display(), lora.scale);
            Ok::<_, Failure>(settings.paths.loras.iter().map(shown).collect::<Vec<_>>())
        };
        assert_eq!(found("style", &[], |_| true).unwrap(), ["style.safetensors:0.5"]);
        assert_eq!(found("style", &[], |p| p.starts_with("pictures")).unwrap(), ["pictures/style.safetensors:0.5"]);
        assert_eq!(found("style", &["other", "more:2"], |_| false).unwrap(), ["other:1", "more:2"]);
        for name in ["style", "../style", "/style", "a/b"] {
            let failure = found(name, &[], |p| p != Path::new("style.safetensors") && !p.starts_with("pictures"));
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
            let failure = resolve(&args(), Outside { from: Some(&from), prompts: vec![], ..outside() }).unwrap_err();
            assert_eq!(failure.code, code::USAGE, "{failure:?}");
        }
    }

    #[test]
    fn the_seed_runs_over_all_pictures() {
        let args = GenerateArgs { count: 2, seed: Some(40), output: "{index}-{seed}.png".into(), ..args() };
        let settings = resolve(&args, Outside { prompts: vec!["a".into(), "b".into()], ..outside() }).unwrap();
        let jobs: Vec<_> = settings.jobs().map(|j| (j.prompt, j.path.unwrap().display().to_string())).collect();
        assert_eq!(
            jobs,
            [("a", "1-40.png"), ("a", "2-41.png"), ("b", "3-42.png"), ("b", "4-43.png")]
                .map(|(prompt, path)| (prompt, path.to_owned()))
        );
    }

    /// A run of so many prompts with so many pictures each.
    fn run_of(prompts: usize, count: u32) -> Settings {
        let args = GenerateArgs { count, ..args() };
        resolve(&args, Outside { prompts: (0..prompts).map(|i| format!("fox {i}")).collect(), ..outside() }).unwrap()
    }

    #[test]
    fn a_worker_alone_encodes_sixteen_prompts_ahead() {
        let batches = run_of(18, 2).batches(1);
        assert_eq!(batches.len(), 36);
        assert_eq!(batches[31], Batch { ahead: 0..16, pictures: 31..32 });
        assert_eq!(batches[32], Batch { ahead: 16..18, pictures: 32..33 });
    }

    #[test]
    fn pictures_of_one_prompt_go_to_whoever_is_free() {
        let expected: Vec<Batch> = (0..8).map(|i| Batch { ahead: 0..1, pictures: i..i + 1 }).collect();
        assert_eq!(run_of(1, 8).batches(2), expected);
        assert_eq!(run_of(1, 8).batches(8), expected);
    }

    #[test]
    fn prompts_with_few_pictures_are_dealt_out_to_the_workers() {
        let of = |ahead, pictures| Batch { ahead, pictures };
        assert_eq!(run_of(5, 1).batches(2), [of(0..2, 0..2), of(2..5, 2..5)]);
        assert_eq!(run_of(2, 3).batches(3), [of(0..1, 0..2), of(0..2, 2..4), of(1..2, 4..6)]);
    }

    #[test]
    fn every_picture_is_in_one_batch_in_order_and_no_batch_has_too_many_prompts() {
        for workers in [1, 2, 3, 8] {
            for (prompts, count) in [(1, 8), (2, 4), (15, 3), (16, 1), (17, 1), (33, 1), (47, 3), (100, 5), (1000, 1)] {
                let settings = run_of(prompts, count);
                let batches = settings.batches(workers);
                let what = format!("{prompts} prompts with {count} pictures, {workers} workers");
                let pictures: Vec<u64> = batches.iter().flat_map(|batch| batch.pictures.clone()).collect();
                assert_eq!(pictures, (0..settings.pictures()).collect::<Vec<_>>(), "{what}");
                for Batch { ahead, pictures } in &batches {
                    assert!(!pictures.is_empty() && ahead.len() <= MAX_PREPARED_PROMPTS, "{what}: {ahead:?}");
                    let needed = pictures.clone().map(|i| settings.prompt_of(i));
                    assert!(needed.clone().all(|prompt| ahead.contains(&prompt)), "{what}: {ahead:?}");
                }
                assert!(batches.len() >= workers.min(pictures.len()), "{what}");
            }
        }
    }

    #[test]
    fn the_last_seed_is_the_largest_number() {
        let with = |count| GenerateArgs { seed: Some(u64::MAX - 1), count, ..args() };
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
            GenerateArgs { output: "fox.gif".into(), ..args() },
            GenerateArgs { output: "-".into(), json: true, ..args() },
        ] {
            assert_eq!(refused(&args).code, code::USAGE, "{args:?}");
        }
    }
}
