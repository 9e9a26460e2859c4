//! `dj-flux2 generate`: from what was typed to pictures on disk.

use std::cell::LazyCell;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use flux2::engine::Engines;
use flux2::fleet::{self, Worker};
use flux2::image::{self, Parameters, codec, metadata, resize};
use flux2::pipeline::ladder::Rescue;
use flux2::pipeline::{GeneratedImage, KernelRun};
use flux2::units::Memory;
use flux2::weights::{Location, Lora, ModelFiles};
use flux2::{CancelToken, Engine, Error, Event, NoGpu, Reference, Remedy, Residency, Timings, Variant, engine};

#[cfg(feature = "hub")]
use super::download::find_or_offer;
use super::find::{find_model, find_part};
use super::read_parameters;
use crate::args::GenerateArgs;
use crate::cache_folder;
use crate::failure::{Failure, Result, code};
use crate::gpu_options::gpu_options;
use crate::output;
use crate::report::{Kernel, Record, Report, RescueRecord, Seconds};
use crate::settings::{self, Batch, Job, Outside, Settings};
use crate::wording;

/// Most bytes of prompts that are read from a file or standard input.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// Make the pictures that `args` ask for.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let from = args.from.as_deref().map(read_parameters).transpose()?;
    let mut settings = settings::resolve(
        args,
        Outside {
            model: std::env::var_os("DJ_FLUX2_MODEL"),
            gpu: gpu_options(),
            text_cache: cache_folder::text_cache(|name| std::env::var_os(name)),
            from: from.as_ref(),
            is_file: Path::is_file,
            prompts: read_prompts(args)?,
            fresh_seed: fresh_seed(),
        },
    )?;
    let inputs: Vec<PathBuf> = settings.references.iter().chain(&args.from).cloned().collect();
    settings.output.check(settings.jobs().filter_map(|job| job.path), &inputs)?;
    if settings.metadata {
        for prompt in &settings.prompts {
            metadata::check_prompt(prompt, settings.output.format())?;
        }
    }

    // Until a model is there or comes, Ctrl-C ends the process at once, also where it waits for an answer.
    let cancel: LazyCell<CancelToken> = LazyCell::new(cancelled_by_signals);
    let mut report = Report::new(settings.detail, settings.json);
    #[cfg(feature = "hub")]
    let found = find_or_offer(&settings.paths.model, &mut report, &cancel);
    #[cfg(not(feature = "hub"))]
    let found = find_model(&settings.paths.model);
    settings.paths.model = found?;
    let cancel = CancelToken::clone(&cancel);
    let paths = &mut settings.paths;
    for part in [&mut paths.transformer, &mut paths.text_encoder, &mut paths.vae].into_iter().flatten() {
        *part = find_part(part)?;
    }
    let mut files = ModelFiles::open(&settings.paths)?;
    // Files need not say how they are to be run, and --variant may have overruled them: the picture remembers.
    let made_as = from.as_ref().and_then(|f| f.variant.as_deref()).filter(|_| args.variant.is_none());
    if let Some(variant) = made_as.filter(|variant| *variant != files.variant.kind_name()) {
        report.warning(format_args!("the picture was made as {variant}, so this one is too"));
        settings.paths.variant = Some(Variant::by_name(variant)?);
        files = ModelFiles::open(&settings.paths)?;
    }
    let references = settings.references.iter().map(|path| read_reference(path)).collect::<Result<Vec<_>>>()?;
    if let (Some(parameters), Some(file)) = (&from, &args.from) {
        let origin = Origin { file, parameters };
        origin.check_references(&settings.references, &references)?;
        origin.check_loras(&files.loras, !args.lora.is_empty(), &report)?;
        origin.warn_of_differences(&files.name, &report);
    }
    // No more engines than pictures.
    let most = NonZeroUsize::new(settings.pictures() as usize).expect("a run has a picture");
    let Engines { engines, left_out } = match settings.max_memory {
        None => engine::open_all(&files, &settings.options, most)?,
        Some(limit) => {
            let (requests, asked) = (settings.requests(&references), &settings.options);
            let (engines, options, plan) =
                engine::open_within(limit, &files, asked, &requests, settings.may_round, most)?;
            if options.precision != asked.precision {
                let precision = options.precision;
                report.note(format_args!("weights are rounded to keep within {}: {precision}", Memory(limit)));
            }
            report.verbose(format_args!("memory: at most {}{}", Memory(plan.peak_bytes()), how(options.residency)));
            settings.options = options;
            engines
        }
    };
    let engine = &engines[0];
    report.verbose(format_args!("model {}, variant {}", engine.name(), engine.variant().name));
    for lora in engine.loras() {
        let Lora { name, scale, .. } = lora;
        report.verbose(format_args!("LoRA {name}, scale {scale}, {} matrices", lora.matrices()));
    }
    engines.iter().for_each(|engine| report.verbose(format_args!("device {}", engine.device())));
    for (device, NoGpu { reason, remedy, .. }) in &left_out {
        report.note(format_args!("{device} is not used: {reason}{}", behind(remedy.as_ref())));
    }
    if let Some(NoGpu { reason, remedy, has_driver }) = engine.why_no_gpu() {
        // Where nobody installed a driver, nobody is surprised.
        let line = format!("no GPU is used: {reason}{}", behind(remedy.as_ref()));
        if *has_driver { report.note(line) } else { report.verbose(line) }
    }
    if settings.model_is_fallback {
        report.note(fallback(engine.variant()));
    }
    if settings.seed_is_fresh {
        report.fresh_seed(settings.request.seed);
    }
    Run { settings: &settings, references }.all(engines, &mut report, &cancel)
}

/// What to do about a problem, behind the problem.
fn behind(remedy: Option<&Remedy>) -> String {
    remedy.map_or(String::new(), |remedy| format!("; {}", wording::remedy(remedy)))
}

/// What is made.
struct Run<'a> {
    settings: &'a Settings,
    references: Vec<Reference>,
}

/// What a worker says.
enum Said<'a> {
    Event(Event),
    Begun { job: Job<'a>, steps: u32 },
    Saved(Box<Saved<'a>>),
}

/// A picture that is where it should be, and how it came about.
struct Saved<'a> {
    job: Job<'a>,
    parameters: Parameters,
    timings: Timings,
    kernels: Vec<KernelRun>,
    rescues: Vec<Rescue>,
    total: Duration,
}

impl From<Event> for Said<'_> {
    fn from(event: Event) -> Self {
        Said::Event(event)
    }
}

impl<'a> Run<'a> {
    /// All pictures, on all engines.
    fn all(&self, mut engines: Vec<Box<dyn Engine>>, report: &mut Report, cancel: &CancelToken) -> Result<()> {
        let devices: Vec<String> = engines.iter().map(|engine| engine.device().to_owned()).collect();
        let several = engines.len() > 1;
        if several {
            report.workers(engines.iter().map(|engine| engine.place().to_string()));
        }
        let pictures = self.settings.pictures();
        let work = |worker: &mut Worker<Said<'a>>, batch| {
            self.batch(worker, batch).map_err(|failure| match several && failure.code != code::CANCELLED {
                true => Failure { message: format!("{}: {}", worker.engine().place(), failure.message), ..failure },
                false => failure,
            })
        };
        let hear = |worker: usize, said| match said {
            Said::Event(event) => {
                report.event(worker, &event);
                Ok(())
            }
            Said::Begun { job, steps } => {
                report.begin(worker, &job, pictures, steps);
                Ok(())
            }
            Said::Saved(saved) => saved.report(worker, &devices[worker], report),
        };
        fleet::run(&mut engines, self.settings.batches(devices.len()).into_iter(), cancel, work, hear)
    }

    fn batch(&self, worker: &mut Worker<Said<'a>>, batch: Batch) -> Result<()> {
        let Batch { ahead, pictures } = batch;
        // A single prompt is encoded with its picture, so that its time counts there.
        if ahead.len() > 1 {
            let prompts: Vec<&str> = self.settings.prompts[ahead].iter().map(String::as_str).collect();
            worker.prepare_prompts(&prompts)?;
        }
        pictures.map(|i| self.settings.job(i)).try_for_each(|job| self.one(worker, job))
    }

    fn one(&self, worker: &mut Worker<Said<'a>>, job: Job<'a>) -> Result<()> {
        let output = &self.settings.output;
        let start = Instant::now();
        let request = self.settings.request_for(&job, &self.references);
        let steps = request.steps.unwrap_or(worker.engine().variant().default_steps);
        worker.send(Said::Begun { job: job.clone(), steps });
        let GeneratedImage { image, parameters, timings, kernels, rescues } = worker.generate(&request)?;
        let stored = self.settings.metadata.then_some(&parameters);
        let bytes = image::encode(&image, output.format(), stored)?;
        output.write(job.path.as_deref(), &bytes)?;
        let total = start.elapsed();
        worker.send(Said::Saved(Box::new(Saved { job, parameters, timings, kernels, rescues, total })));
        Ok(())
    }
}

impl Saved<'_> {
    fn report(&self, worker: usize, device: &str, report: &Report) -> Result<()> {
        let Saved { job: Job { path, index, .. }, parameters, timings, kernels, rescues, total } = self;
        let record = Record {
            path: &path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
            index: *index,
            parameters,
            device,
            timings: Seconds::new(timings, *total),
            kernels: kernels.iter().map(Kernel::new).collect(),
            rescues: rescues.iter().map(RescueRecord::new).collect(),
        };
        report.saved(worker, path.as_deref(), &record, *total)
    }
}

// ---- what is read before anything is made ----

/// The prompts on the command line, in a file or on standard input; none if there are none.
pub(super) fn read_prompts(args: &GenerateArgs) -> Result<Vec<String>> {
    if let Some(path) = &args.prompt_file {
        let text = match path.to_str() {
            Some("-") => read_text(io::stdin(), "standard input")?,
            _ => {
                let file = File::open(path).map_err(|source| Error::Io { path: path.clone(), source })?;
                read_text(file, &path.display().to_string())?
            }
        };
        let lines = text.trim_start_matches('\u{feff}').lines();
        let prompts: Vec<String> = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        return match prompts.is_empty() {
            true => Err(Failure::usage(format!("{} holds no prompt", path.display()), "write one prompt a line")),
            false => Ok(prompts),
        };
    }
    match args.prompt.as_slice() {
        [] => Ok(vec![]),
        [dash] if dash == "-" => {
            let text = read_text(io::stdin(), "standard input")?;
            let prompt = text.strip_suffix('\n').unwrap_or(&text);
            Ok(vec![prompt.strip_suffix('\r').unwrap_or(prompt).to_owned()])
        }
        [prompt] => Ok(vec![prompt.clone()]),
        words => {
            let message = format!("the prompt is in {} pieces", words.len());
            Err(Failure::usage(message, format!("put it in quotes: \"{}\"", words.join(" "))))
        }
    }
}

fn read_text(reader: impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    let read = reader.take(MAX_PROMPT_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => Failure::usage(format!("{name} is not UTF-8"), "save it as UTF-8"),
        _ => Failure::new(code::FAILURE, format!("{name}: {e}"), "pass the prompt in quotes instead"),
    })?;
    if text.len() as u64 > MAX_PROMPT_BYTES {
        let message = format!("{name} holds more than {MAX_PROMPT_BYTES} bytes of prompts");
        return Err(Failure::usage(message, "split it"));
    }
    Ok(text)
}

pub(super) fn read_reference(path: &Path) -> Result<Reference> {
    let bytes = codec::read_file(path).map_err(Failure::image)?;
    let reference = Reference::from_bytes(&bytes, &path.display().to_string()).map_err(Failure::image)?;
    // The engine checks this too, but later, and it does not know the file.
    resize::check_reference(reference.image()).map_err(|e| Failure::image(e).of_file(path))?;
    Ok(reference)
}

/// A seed from the randomness that the standard library keys its hash maps with. Of 53 bits, since programs that read
/// JSON numbers as floating point, such as jq, would change a longer one.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(()) >> 11
}

// ---- the model ----

/// What a residency means, where it is not the usual one.
pub(super) fn how(residency: Residency) -> &'static str {
    match residency {
        Residency::KeepAll | Residency::KeepForNext => ", networks kept for the next picture",
        Residency::OneAtATime => ", one network at a time",
        Residency::Streamed => ", weights read for every use",
        Residency::Smallest => ", weights read for every use, large maps computed in pieces",
    }
}

/// What is said where nobody named a model.
fn fallback(variant: &Variant) -> String {
    let Variant { name, default_px: side, .. } = variant;
    let klein = match cfg!(feature = "hub") {
        true if find_model(&Location::from("klein-4b")).is_ok() => "for FLUX.2 [klein], which is here, add -m klein-4b",
        true => "for FLUX.2 [klein] run `dj-flux2 download klein-4b` and add -m klein-4b",
        false => {
            "for FLUX.2 [klein] download black-forest-labs/FLUX.2-klein-4B from huggingface.co and pass its folder with -m"
        }
    };
    format!("no model is set, so the built-in {name} draws ({side}x{side}, emoji-like); {klein}")
}

// ---- --from ----

/// The picture that is to be made again.
struct Origin<'a> {
    file: &'a Path,
    parameters: &'a Parameters,
}

impl Origin<'_> {
    /// The references that were used must be here again, in the same order.
    fn check_references(&self, paths: &[PathBuf], references: &[Reference]) -> Result<()> {
        let (file, wanted) = (self.file.display(), &self.parameters.references);
        if wanted.is_empty() {
            return Ok(());
        }
        let hint = "pass the files it was made with, in their order, each with -i";
        if wanted.len() != references.len() {
            let (wanted, given) = (wanted.len(), references.len());
            let images = if wanted == 1 { "image" } else { "images" };
            return Err(Failure::usage(
                format!("{file} was made with {wanted} reference {images}, {given} given"),
                hint,
            ));
        }
        match references.iter().zip(wanted).position(|(reference, wanted)| reference.sha256() != wanted.as_str()) {
            None => Ok(()),
            Some(i) => {
                let (n, given) = (i + 1, paths[i].display());
                Err(Failure::usage(format!("{given} is not reference image {n} of {file}"), hint))
            }
        }
    }

    /// The LoRAs that the picture names must be those it was made with; of others that were typed a name may be the same.
    fn check_loras(&self, loras: &[Lora], are_typed: bool, report: &Report) -> Result<()> {
        let file = self.file.display();
        for lora in loras {
            let mut namesakes = self.parameters.loras.iter().filter(|made| made.name == lora.name).peekable();
            if namesakes.peek().is_none() || namesakes.any(|made| made.sha256 == lora.sha256) {
                continue;
            }
            let message = format!("{}.safetensors is not the LoRA of that name that {file} was made with", lora.name);
            if !are_typed {
                let hint = format!("pass the LoRAs it was made with, this one with --lora FILE:{}", lora.scale);
                return Err(Failure::usage(message, hint));
            }
            report.warning(message);
        }
        Ok(())
    }

    fn warn_of_differences(&self, model: &str, report: &Report) {
        let (file, made, here) = (self.file.display(), self.parameters, env!("CARGO_PKG_VERSION"));
        if made.model != model {
            report.warning(format_args!("{file} was made with the model {:?}, this is {model:?}", made.model));
        }
        if made.version != here {
            report.warning(format_args!(
                "{file} was made by version {:?}, this is {here:?}; the picture may differ",
                made.version
            ));
        }
    }
}

// ---- Ctrl-C ----

/// A token that Ctrl-C or a termination signal cancels; a second one ends the process where it stands.
pub(super) fn cancelled_by_signals() -> CancelToken {
    let cancel = CancelToken::new();
    let token = cancel.clone();
    // Without a handler the signal ends the process at once, which leaves no partial file either.
    let _ = ctrlc::set_handler(move || {
        if token.is_cancelled() {
            exit_now();
        }
        token.cancel();
    });
    cancel
}

#[expect(clippy::exit, reason = "the second Ctrl-C is for a run that does not come to its next block")]
fn exit_now() {
    let _writing = output::WRITING.write().unwrap_or_else(PoisonError::into_inner);
    std::process::exit(code::CANCELLED.into());
}

#[cfg(test)]
mod tests {
    use std::fs;

    use flux2::{Device, GpuOptions};

    use super::*;

    /// Three prompts with two pictures each, by so many engines on the processor, into `folder`.
    fn make(workers: usize, folder: &Path, no_clobber: bool) -> Result<()> {
        let args = GenerateArgs {
            model: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/klein")),
            count: 2,
            size: Some((64, 64)),
            steps: Some(1),
            seed: Some(7),
            output: folder.join("fox.png"),
            no_clobber,
            quiet: true,
            device: Some(Device::Cpu),
            threads: Some(1),
            ..Default::default()
        };
        let outside = Outside {
            model: None,
            gpu: GpuOptions::default(),
            text_cache: None,
            from: None,
            is_file: Path::is_file,
            prompts: ["a red fox", "a blue hare", "a cat"].map(String::from).to_vec(),
            fresh_seed: 0,
        };
        let settings = settings::resolve(&args, outside)?;
        let files = ModelFiles::open(&settings.paths)?;
        let engines = (0..workers).map(|_| engine::open(files.clone(), &settings.options));
        let engines = engines.collect::<flux2::Result<Vec<_>>>()?;
        let mut report = Report::new(settings.detail, settings.json);
        Run { settings: &settings, references: vec![] }.all(engines, &mut report, &CancelToken::new())
    }

    fn made(workers: usize) -> Vec<(String, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        make(workers, folder.path(), true).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> =
            entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn several_engines_write_the_files_of_one() {
        let alone = made(1);
        let names: Vec<_> = alone.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fox-1.png", "fox-2.png", "fox-3.png", "fox-4.png", "fox-5.png", "fox-6.png"]);
        for workers in [2, 4] {
            assert!(made(workers) == alone, "{workers} engines");
        }
    }

    #[test]
    fn an_error_names_the_device_where_there_are_several() {
        let folder = tempfile::tempdir().unwrap();
        make(1, folder.path(), true).unwrap();
        let alone = make(1, folder.path(), true).unwrap_err();
        let one_of_two = make(2, folder.path(), true).unwrap_err();
        assert_eq!(one_of_two.code, alone.code);
        assert!(!alone.message.starts_with("cpu: ") && one_of_two.message.starts_with("cpu: "), "{one_of_two:?}");
    }
}
