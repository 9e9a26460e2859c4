//! `dj-flux2 generate`: from arguments to pictures on disk.

mod run;

use std::cell::LazyCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use flux2::engine::{self, Engines};
use flux2::image::metadata;
use flux2::units::Memory;
use flux2::weights::{Location, Lora};
use flux2::{CancelToken, NoGpu, Remedy, Variant};

use super::{find_or_offer, residency_note};
use crate::args::GenerateArgs;
use crate::failure::Result;
use crate::interrupt::cancelled_by_signals;
use crate::prepare::{self, Prepared, find_model};
use crate::report::Report;
use crate::settings::{self, Settings};
use crate::source_picture::SourcePicture;
use crate::typed_paths::check_standard_input;
use crate::wording;
use run::Run;

/// Makes the pictures that `args` ask for.
pub fn run(args: &GenerateArgs) -> Result<()> {
    check_standard_input(args)?;
    let from = args.from.as_deref().map(SourcePicture::read).transpose()?;
    let mut settings = settings::resolve(args, prepare::outside(args, from.as_ref())?)?;
    check_outputs(&settings, args)?;

    // Until the model is found or a download begins, Ctrl-C ends the process at once, even at a question.
    let cancel: LazyCell<CancelToken> = LazyCell::new(cancelled_by_signals);
    let mut report = Report::new(settings.detail, settings.json);
    report.threads(settings.options.threads);
    prepare::locate(&mut settings.paths, |model| find_or_offer(model, &mut report, &cancel))?;
    let cancel = CancelToken::clone(&cancel);

    let prepared = prepare::open(&settings, &report)?;
    if let Some(picture) = &from {
        picture.check_references(&settings.references, &prepared.references)?;
        picture.check_source(prepared.source.as_ref(), &report);
        picture.check_loras(&prepared.files.loras, &settings, &report)?;
        picture.warn_of_differences(&prepared.files.name, &report);
    }
    for (other, read) in prepared.files.passed_over() {
        let other = other.path().file_name().unwrap_or_default().display();
        let read = read.path().display();
        report.note(format_args!("{read} is read, {other} beside it is not"));
    }
    settings.request.source.clone_from(&prepared.source);
    let engines = open_engines(&mut settings, &prepared, &report)?;
    describe(&engines, &settings, &report);
    let Prepared { files, references, .. } = prepared;
    Run { settings: &settings, files, references }.all(engines.engines, &mut report, &cancel)
}

/// Refuses output names and prompts that could not be written, before any work.
fn check_outputs(settings: &Settings, args: &GenerateArgs) -> Result<()> {
    let paths = &settings.paths;
    let weights = std::iter::once(&paths.model)
        .chain([&paths.transformer, &paths.text_encoder, &paths.vae].into_iter().flatten())
        .chain(paths.loras.iter().map(|lora| &lora.location));
    let of_source = settings.source.iter().flat_map(|of| std::iter::once(&of.source).chain(&of.mask));
    let files = settings.references.iter().chain(of_source).chain(&args.from).chain(&args.prompt_file);
    let inputs: Vec<PathBuf> = files.map(PathBuf::as_path).chain(weights.map(Location::path)).map(Into::into).collect();
    settings.output.check(settings.jobs().filter_map(|job| job.path), &inputs)?;
    if settings.metadata {
        for prompt in &settings.prompts {
            metadata::check_prompt(prompt, settings.output.format())?;
        }
    }
    Ok(())
}

/// Opens the model on every device that the settings allow, but on no more devices than there are pictures. With a
/// memory limit, the options in `settings` become those that keep to it.
fn open_engines(settings: &mut Settings, prepared: &Prepared, report: &Report) -> Result<Engines> {
    let Prepared { files, references, .. } = prepared;
    let most = NonZeroUsize::new(settings.pictures() as usize).expect("a run has a picture");
    let Some(limit) = settings.max_memory else {
        return Ok(engine::open_all(files, &settings.options, most)?);
    };
    let (requests, asked) = (settings.requests(references), &settings.options);
    let (engines, options, plan) = engine::open_within(limit, files, asked, &requests, settings.may_round, most)?;
    if options.precision != asked.precision {
        let (limit, precision) = (Memory(limit), options.precision);
        report.note(format_args!("weights are quantized to keep within {limit}: {precision}"));
    }
    let peak = Memory(plan.peak_bytes());
    report.verbose(format_args!("memory: at most {peak}{}", residency_note(options.residency)));
    settings.options = options;
    Ok(engines)
}

/// Prints the model and the devices with `-v`; fallbacks and a random seed always.
fn describe(engines: &Engines, settings: &Settings, report: &Report) {
    let Engines { engines, left_out } = engines;
    let engine = &engines[0];
    report.verbose(format_args!("model {}, variant {}", engine.name(), engine.variant().name));
    for lora in engine.loras() {
        let Lora { name, scale, strength, .. } = lora;
        report.verbose(format_args!("LoRA {name}, scale {scale}, {strength}, {} matrices", lora.matrices()));
    }
    engines.iter().for_each(|engine| report.verbose(format_args!("device {}", engine.device())));
    let with_remedy =
        |remedy: &Option<Remedy>| remedy.as_ref().map_or(String::new(), |it| format!("; {}", wording::remedy(it)));
    for (device, NoGpu { reason, remedy, .. }) in left_out {
        report.note(format_args!("{device} is not used: {reason}{}", with_remedy(remedy)));
    }
    if let Some(NoGpu { reason, remedy, has_driver }) = engine.why_no_gpu() {
        // A machine without a driver is not expected to use a GPU.
        let line = format!("no GPU is used: {reason}{}", with_remedy(remedy));
        if *has_driver { report.note(line) } else { report.verbose(line) }
    }
    if settings.model_is_fallback {
        report.note(fallback_note(engine.variant()));
    }
    if settings.seed_is_fresh {
        report.fresh_seed(settings.request.seed);
    }
}

/// The note for a run in which nobody named a model.
fn fallback_note(variant: &Variant) -> String {
    let Variant { name, default_px: side, .. } = variant;
    let klein = match cfg!(feature = "hub") {
        true if find_model(&Location::from("klein-4b")).is_ok() => "for FLUX.2 [klein], which is here, add -m klein-4b",
        true => "for FLUX.2 [klein] run `dj-flux2 download klein-4b` and add -m klein-4b",
        false => {
            "for FLUX.2 [klein] download black-forest-labs/FLUX.2-klein-4B from huggingface.co and pass its folder \
             with -m"
        }
    };
    format!("no model is set, so the built-in {name} draws ({side}x{side}, emoji-like); {klein}")
}
