//! `dj-flux2 plan`: how much memory, time and room on the disk a command line of `generate` would take.

use std::time::Duration;

use flux2::bench::{self, Cost};
use flux2::find::{FindError, ModelFinder};
use flux2::plan::{self, MemoryPlan};
use flux2::request::ResolvedRequest;
use flux2::units::{Memory, Time};
use flux2::weights::{Location, ModelFiles};
use flux2::{EngineOptions, ModelPaths, Residency, Variant};
use serde::Serialize;

use super::generate::foreign;
use super::residency_note;
use crate::args::GenerateArgs;
use crate::config;
use crate::failure::Result;
use crate::not_found::how_to_get;
use crate::prepare::{self, Prepared};
use crate::report::{Report, Size, json, print};
use crate::settings::grid::Grid;
use crate::settings::{self, Outside};
use crate::source_picture::SourcePicture;
use crate::typed_paths::{self, check_standard_input};
use crate::upscalers;

/// The plan, as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    /// The device whose memory it is.
    device: &'a str,
    dtype: String,
    width: u32,
    height: u32,
    /// Width and height of what is drawn, if that is a region of a source.
    drawn: Option<[u32; 2]>,
    stages: Vec<StageRecord>,
    /// Memory of the program itself, or of its libraries on a GPU.
    program_bytes: usize,
    /// Memory of the largest stage, with the program.
    peak_bytes: usize,
    /// The same if as few weights as possible are kept: the smallest limit that works.
    least_bytes: usize,
    /// Estimated time for a picture once the model is loaded.
    seconds: Option<f64>,
    /// Size of the model's files, if they are not on this disk.
    download_bytes: Option<u64>,
    /// Free room on the disk that they would be downloaded to.
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct StageRecord {
    stage: &'static str,
    allocated_bytes: usize,
    mapped_bytes: usize,
}

/// Prints how much memory and time the pictures of `args` would take. Their model need not be on this disk.
pub fn run(args: &GenerateArgs) -> Result<()> {
    foreign::check(&args.foreign)?;
    check_standard_input(args)?;
    let from = args.from.as_deref().map(|file| SourcePicture::read(file, args.sheets.cell)).transpose()?;
    let mut outside = Outside { text_cache: None, ..prepare::outside(args, from.as_ref())? };
    if outside.prompts.is_empty() && from.as_ref().is_none_or(|picture| picture.prompt().is_none()) {
        outside.prompts.push(String::new()); // the prompt does not matter for memory
    }
    let mut settings = match Grid::parse(&args.sheets.grid)? {
        None => settings::resolve(args, outside)?,
        Some(grid) => grid.largest_run(args, &config::load(args.config.as_deref())?.presets, &outside)?,
    };
    let missing = locate_or_miss(&mut settings.paths)?;
    settings.request.upscale = upscalers::of(settings.upscale.as_ref())?;
    let report = Report::new(settings.detail, settings.json);
    report.threads(settings.options.threads);
    let Prepared { files, references, source } = open_or_outline(missing, &settings, &report)?;
    settings.request.source = source;
    settings.fit(files.variant, &references);
    settings.options.previews.decoder = prepare::preview_decoder(&settings, &files)?;
    let requests = settings.requests(&references);
    let resolved = ResolvedRequest::new(&requests[0], files.variant)?;

    let (options, plan) = match settings.max_memory {
        Some(limit) => plan::within(limit, &files, &settings.options, &requests, settings.may_round)?,
        None => (settings.options.clone(), plan::of(&files, &settings.options, &requests)?),
    };
    let least_bytes = plan::least(&files, &settings.options, &requests, settings.may_round)?;
    let outlook = Outlook {
        seconds: seconds(&files, &resolved, &options, &report)?,
        download: missing.map(|variant| Download { variant, free_bytes: free_bytes() }),
    };
    let [width, height] = resolved.picture_px();
    let drawn = [resolved.width, resolved.height];
    if args.json {
        let stages = plan.stages.iter().map(|at| StageRecord {
            stage: at.stage.name(),
            allocated_bytes: at.memory.allocated,
            mapped_bytes: at.memory.mapped,
        });
        let record = Record {
            model: &files.name,
            device: &plan.device,
            dtype: options.precision.to_string(),
            width,
            height,
            drawn: resolved.source.as_ref().map(|_| drawn),
            stages: stages.collect(),
            program_bytes: plan.program,
            peak_bytes: plan.peak_bytes(),
            least_bytes,
            seconds: outlook.seconds,
            download_bytes: outlook.download.as_ref().map(|download| download.variant.download_bytes),
            free_bytes: outlook.download.as_ref().and_then(|download| download.free_bytes),
        };
        return print(&json(&record));
    }
    let (name, precision) = (&files.name, options.precision);
    let region = match drawn == [width, height] {
        true => String::new(),
        false => format!(" with {}x{} drawn", drawn[0], drawn[1]),
    };
    let kept = residency_note(options.residency);
    print(&format!("{name}, {width}x{height}{region}, {precision}, on {}{kept}", plan.device))?;
    table(&plan)?;
    let largest = plan.largest().stage.name();
    print(&format!(
        "at most {}, in {largest}, with {} of the program itself",
        Memory(plan.peak_bytes()),
        Memory(plan.program)
    ))?;
    let (most, least) = (Memory(plan.peak_bytes()).to_string(), Memory(least_bytes).rounded_up().to_string());
    match least_bytes < plan.peak_bytes() && least != most {
        true => print(&format!("the smallest --max-memory is {least}: fewer weights are kept then"))?,
        false => print("no --max-memory is smaller: this is the least that these pictures take")?,
    }
    outlook.lines(options.residency).iter().try_for_each(|line| print(line))
}

/// Where a model is.
enum Model {
    Here(Location),
    /// Not on this disk; what is published of it is known.
    Published(&'static Variant),
}

/// Finds a model, or what is published of it.
fn find_or_miss(named: &Location) -> Result<Model> {
    match ModelFinder::usual().model(&typed_paths::model(named)?) {
        Ok(location) => Ok(Model::Here(location)),
        Err(FindError::NotDownloaded { variant, .. }) => Ok(Model::Published(variant)),
        Err(error) => Err(error.into()),
    }
}

/// Finds the model that `paths` name. One that is published and not on this disk is returned.
pub fn locate_or_miss(paths: &mut ModelPaths) -> Result<Option<&'static Variant>> {
    let mut missing = None;
    prepare::locate(paths, |named| match find_or_miss(named)? {
        Model::Here(location) => Ok(location),
        Model::Published(variant) => {
            missing = Some(variant);
            Ok(named.clone())
        }
    })?;
    Ok(missing)
}

/// Opens what a run needs: of a model that is `missing` on this disk, its published sizes.
pub fn open_or_outline(
    missing: Option<&'static Variant>,
    settings: &settings::Settings,
    report: &Report,
) -> Result<Prepared> {
    match missing {
        Some(variant) => prepare::open_published(variant, settings, report),
        None => prepare::open(settings, report),
    }
}

/// Seconds for a picture once its model is loaded, from what it computes and how fast this machine is at that. If there
/// is no estimate, a warning says why.
fn seconds(
    files: &ModelFiles,
    request: &ResolvedRequest,
    options: &EngineOptions,
    report: &Report,
) -> Result<Option<f64>> {
    let cost = Cost::of(files, request)?;
    match bench::rates(&options.for_model(files)) {
        Ok(rates) => Ok(Some(rates.seconds(cost.total()))),
        Err(error) => {
            report.warning(format_args!("the time is not estimated: {error}"));
            Ok(None)
        }
    }
}

/// Free bytes on the disk that models are downloaded to.
fn free_bytes() -> Option<u64> {
    #[cfg(feature = "hub")]
    if let Some(folder) = flux2::hub::environment::cache_folder(|name| std::env::var_os(name)) {
        return flux2::hub::Cache::new(folder).free_bytes();
    }
    None
}

/// What a run takes besides memory.
struct Outlook {
    seconds: Option<f64>,
    download: Option<Download>,
}

/// A model that is not on this disk.
struct Download {
    variant: &'static Variant,
    free_bytes: Option<u64>,
}

impl Outlook {
    fn lines(&self, residency: Residency) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(seconds) = self.seconds {
            let reading = match residency {
                Residency::Blocks(_) | Residency::Smallest => ", beside the time to read weights for every use",
                Residency::OneAtATime | Residency::KeepForNext | Residency::KeepAll => "",
            };
            let time = Time(Duration::from_secs_f64(seconds));
            lines.push(format!(
                "about {time} a picture once the model is loaded{reading}: estimated, this machine was measured"
            ));
        }
        if let Some(Download { variant, free_bytes }) = &self.download {
            let free = match free_bytes {
                Some(free) if *free < variant.download_bytes => format!(", where only {} are free", Size(*free)),
                Some(free) => format!(", where {} are free", Size(*free)),
                None => String::new(),
            };
            lines.push(format!("{} is not on this disk{free}", variant.name));
            lines.push(how_to_get(variant));
        }
        lines
    }
}

fn table(plan: &MemoryPlan) -> Result<()> {
    print(&format!("{:<12}{:>12}{:>14}{:>12}", "stage", "allocated", "from files", "together"))?;
    for at in &plan.stages {
        let [allocated, mapped, total] =
            [at.memory.allocated, at.memory.mapped, at.memory.total()].map(|bytes| Memory(bytes).to_string());
        print(&format!("{:<12}{allocated:>12}{mapped:>14}{total:>12}", at.stage.name()))?;
    }
    Ok(())
}
