//! `dj-flux2 plan`: how much memory a command line of `generate` would take.

use flux2::plan::{self, MemoryPlan};
use flux2::request::ResolvedRequest;
use flux2::units::Memory;
use flux2::{Error, Residency};
use serde::Serialize;

use super::residency_note;
use crate::args::GenerateArgs;
use crate::failure::Result;
use crate::prepare::{self, Prepared, find_model};
use crate::report::{Report, json, print};
use crate::settings::{self, Outside};
use crate::source_picture::SourcePicture;
use crate::typed_paths::check_standard_input;

/// The plan, as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    /// The device whose memory it is.
    device: &'a str,
    dtype: String,
    width: u32,
    height: u32,
    stages: Vec<StageRecord>,
    /// Memory of the program itself, or of its libraries on a GPU.
    program_bytes: usize,
    /// Memory of the largest stage, with the program.
    peak_bytes: usize,
    /// The same if as few weights as possible are kept: the smallest limit that works.
    least_bytes: usize,
}

#[derive(Serialize)]
struct StageRecord {
    stage: &'static str,
    allocated_bytes: usize,
    mapped_bytes: usize,
}

/// Prints how much memory the pictures of `args` would take.
pub fn run(args: &GenerateArgs) -> Result<()> {
    check_standard_input(args)?;
    let from = args.from.as_deref().map(SourcePicture::read).transpose()?;
    let mut outside = Outside { text_cache: None, ..prepare::outside(args, from.as_ref())? };
    if outside.prompts.is_empty() && !from.as_ref().is_some_and(SourcePicture::has_prompt) {
        outside.prompts.push(String::new()); // the prompt does not matter for memory
    }
    let mut settings = settings::resolve(args, outside)?;
    prepare::locate(&mut settings.paths, find_model)?;
    let report = Report::new(settings.detail, settings.json);
    report.threads(settings.options.threads);
    let Prepared { files, references } = prepare::open(&settings, &report)?;
    let requests = settings.requests(&references);
    let ResolvedRequest { width, height, .. } = ResolvedRequest::new(&requests[0], files.variant)?;

    let (options, plan) = match settings.max_memory {
        Some(limit) => plan::within(limit, &files, &settings.options, &requests, settings.may_round)?,
        None => (settings.options.clone(), plan::of(&files, &settings.options, &requests)?),
    };
    // No limit can be kept that is smaller than what the refusal of an impossible one names.
    let least_bytes = match plan::within(0, &files, &settings.options, &requests, settings.may_round) {
        Err(Error::MemoryLimit { least, .. }) => least,
        other => return other.map(|_| ()).map_err(Into::into),
    };
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
            stages: stages.collect(),
            program_bytes: plan.program,
            peak_bytes: plan.peak_bytes(),
            least_bytes,
        };
        return print(&json(&record));
    }
    let (name, precision) = (&files.name, options.precision);
    print(&format!("{name}, {width}x{height}, {precision}, on {}{}", plan.device, residency_note(options.residency)))?;
    table(&plan)?;
    let largest = plan.largest().stage.name();
    print(&format!(
        "at most {}, in {largest}, with {} of the program itself",
        Memory(plan.peak_bytes()),
        Memory(plan.program)
    ))?;
    match least_bytes < plan.peak_bytes() && options.residency != Residency::Smallest {
        true => print(&format!("the smallest --max-memory is {}: fewer weights are kept then", Memory(least_bytes))),
        false => print("no --max-memory is smaller: this is the least that these pictures take"),
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
