//! `dj-flux2 generate`: from arguments to pictures on disk.

mod dry_run;
mod expected;
pub mod foreign;
pub mod open;
mod outcomes;
mod run;
mod sheet;

use std::cell::LazyCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use flux2::engine::{self, Engines};
use flux2::image::metadata;
use flux2::units::Memory;
use flux2::weights::{Location, Lora};
use flux2::{CancelToken, GenerateRequest, NoGpu, Remedy, Variant};

use super::{find_or_offer, residency_note};
use crate::args::GenerateArgs;
use crate::config;
use crate::credentials;
use crate::failure::{Failure, Result, code};
use crate::interrupt::cancelled_by_signals;
use crate::output::check_preview;
use crate::prepare::{self, Prepared, find_model};
use crate::report::{Report, json, print};
use crate::settings::batch::{self, Batch, There};
use crate::settings::grid::Grid;
use crate::settings::{self, Settings, Show};
use crate::source_picture::SourcePicture;
use crate::typed_paths::check_standard_input;
use crate::upscalers;
use crate::wording;
use outcomes::Outcomes;
use run::Run;
use sheet::SheetOfRun;

/// Makes the pictures that `args` ask for, and their sheet.
pub fn run(args: &GenerateArgs) -> Result<()> {
    foreign::check(&args.foreign)?;
    check_standard_input(args)?;
    let from = args.from.as_deref().map(|file| SourcePicture::read(file, args.sheets.cell)).transpose()?;
    let outside = prepare::outside(args, from.as_ref())?;
    let grid = Grid::parse(&args.sheets.grid)?;
    let presets = || Ok::<_, Failure>(config::load(args.config.as_deref())?.presets);
    let mut runs = match (&grid, &args.batch) {
        (None, None) => vec![settings::resolve(args, outside)?],
        (Some(_), Some(_)) => return Err(Failure::usage("a batch has no grid", "leave --batch or --grid out")),
        (Some(grid), None) => grid.runs(args, &presets()?, &outside)?,
        (None, Some(file)) => {
            let Batch { runs, there } = batch::runs(file, args, &presets()?, &outside)?;
            report_there(args, &there)?;
            if runs.is_empty() {
                return Ok(());
            }
            runs
        }
    };
    let inputs = inputs(&runs, args);
    check_outputs(&runs, &inputs)?;
    if let Some([key, certificates]) = &runs[0].credentials {
        credentials::signer(Some((key, certificates)), HashMap::new())?;
    }
    let sheet = SheetOfRun::new(args, grid.as_ref(), &runs, &inputs)?;

    // Until the model is found or a download begins, Ctrl-C ends the process at once, even at a question.
    let cancel: LazyCell<CancelToken> = LazyCell::new(cancelled_by_signals);
    let Settings { detail, json, whole, fail_fast, open, show, .. } = runs[0];
    let mut report = Report::new(detail, json);
    if args.dry_run {
        return runs.into_iter().try_for_each(|settings| dry_run::print_pictures(settings, &report));
    }
    if let Some(picture) = from.as_ref().filter(|_| !args.preset.is_empty()) {
        let file = picture.file.display();
        report.note(format_args!("what {file} stores goes before --preset; flags such as --aspect go before both"));
    }
    if show != Show::Nothing {
        report.show_pictures(args.show || args.show_steps);
    }
    let mut outcomes = Outcomes::default();
    let is_one = runs.len() == 1;
    for settings in &mut runs {
        if let Err(failure) = make(settings, from.as_ref(), &mut report, &cancel, &mut outcomes) {
            if whole == 1 || fail_fast || failure.code == code::CANCELLED || is_one {
                return Err(failure);
            }
            not_made(settings, failure, &mut report, &mut outcomes)?;
        }
    }
    if let Some(sheet) = sheet.filter(|_| !outcomes.made.is_empty()) {
        sheet.write(&outcomes, whole, runs[0].metadata, &report)?;
    }
    if open {
        open::open(outcomes.made.iter().filter_map(|(_, made)| made.path.as_deref()), &report);
    }
    outcomes.verdict(whole)
}

/// Says which pictures of a batch are there already.
fn report_there(args: &GenerateArgs, there: &[There]) -> Result<()> {
    if args.json {
        return there.iter().try_for_each(|picture| print(&json(picture)));
    }
    if !there.is_empty() && !args.quiet {
        let report = Report::new(settings::Detail::Normal, false);
        report.note(format_args!("{} pictures of the batch are there already", there.len()));
    }
    Ok(())
}

/// Makes the pictures of one model.
fn make(
    settings: &mut Settings,
    from: Option<&SourcePicture>,
    report: &mut Report,
    cancel: &LazyCell<CancelToken>,
    outcomes: &mut Outcomes,
) -> Result<()> {
    let (engines, Prepared { files, references, .. }) = open_run(settings, from, report, cancel)?;
    Run { settings, files, references }.all(engines.engines, report, cancel, outcomes)
}

/// Opens what a run of one model needs: finds the model, reads the images, starts the devices.
pub fn open_run(
    settings: &mut Settings,
    from: Option<&SourcePicture>,
    report: &mut Report,
    cancel: &LazyCell<CancelToken>,
) -> Result<(Engines, Prepared)> {
    report.threads(settings.options.threads);
    prepare::locate(&mut settings.paths, |model| find_or_offer(model, report, cancel))?;
    LazyCell::force(cancel);

    settings.request.upscale = upscalers::of(settings.upscale.as_ref())?;
    let prepared = prepare::open(settings, report)?;
    settings.fit(prepared.files.variant, &prepared.references);
    if let Some(picture) = from {
        picture.check_references(&settings.references, &prepared.references)?;
        picture.check_source(prepared.source.as_ref(), report);
        picture.check_upscaler(settings.request.upscale.as_ref(), report);
        picture.check_loras(&prepared.files.loras, settings, report)?;
        picture.warn_of_differences(&prepared.files.name, report);
    }
    for (other, read) in prepared.files.passed_over() {
        let other = other.path().file_name().unwrap_or_default().display();
        let read = read.path().display();
        report.note(format_args!("{read} is read, {other} beside it is not"));
    }
    settings.request.source.clone_from(&prepared.source);
    settings.options.previews.decoder = prepare::preview_decoder(settings, &prepared.files)?;
    let engines = open_engines(settings, &prepared, report)?;
    describe(&engines, settings, report);
    Ok((engines, prepared))
}

/// Reports the pictures of a run that ended before it began them, as those of a model that is missing.
fn not_made(settings: &Settings, failure: Failure, report: &mut Report, outcomes: &mut Outcomes) -> Result<()> {
    for job in settings.jobs() {
        let place = job.index - 1;
        let is_over = outcomes.made.iter().any(|(made, _)| *made == place)
            || outcomes.failed.iter().any(|(failed, _)| *failed == place);
        if !is_over {
            report.not_made(&job, settings.whole, &failure)?;
            outcomes.failed.push((place, failure.clone()));
        }
    }
    Ok(())
}

/// The files that the runs read.
pub fn inputs(runs: &[Settings], args: &GenerateArgs) -> Vec<PathBuf> {
    let of_run = |settings: &Settings| -> Vec<PathBuf> {
        let paths = &settings.paths;
        let weights = std::iter::once(&paths.model)
            .chain([&paths.transformer, &paths.text_encoder, &paths.vae].into_iter().flatten())
            .chain(paths.loras.iter().map(|lora| &lora.location));
        let of_source = settings.source.iter().flat_map(|of| std::iter::once(&of.source).chain(&of.mask));
        let files =
            settings.references.iter().chain(of_source).chain(&args.from).chain(&args.prompt_file).chain(&args.batch);
        let files = files.chain(&settings.preview_decoder);
        files.map(PathBuf::as_path).chain(weights.map(Location::path)).map(Into::into).collect()
    };
    runs.iter().flat_map(of_run).collect()
}

/// Refuses output names and prompts that could not be written, before any work.
fn check_outputs(runs: &[Settings], inputs: &[PathBuf]) -> Result<()> {
    let paths = || runs.iter().flat_map(|settings| settings.jobs()).filter_map(|job| job.path);
    runs[0].output.check(paths(), inputs)?;
    if let Some(preview) = &runs[0].preview {
        check_preview(preview, paths().chain(inputs.iter().cloned()))?;
    }
    for settings in runs.iter().filter(|settings| settings.metadata) {
        for i in 0..settings.pictures() {
            let GenerateRequest { prompt, template, negative_prompt, .. } = settings.request(i);
            let texts = [prompt, template.unwrap_or_default(), negative_prompt.unwrap_or_default()].concat();
            metadata::check_prompt(&texts, settings.format(i))?;
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
    if settings.looks_like_template {
        report.note("the prompt is drawn as it is written; --expand reads {a|b} and __name__ in it");
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
