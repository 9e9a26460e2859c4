//! `dj-flux2 plan`: what a command line of `generate` would take of memory.

use std::path::Path;

use flux2::plan::MemoryPlan;
use flux2::request::ResolvedRequest;
use flux2::units::Memory;
use flux2::weights::ModelFiles;
use flux2::{Error, Residency, engine};
use serde::Serialize;

use super::find::{find_model, find_part};
use super::generate::{how, read_prompts, read_reference};
use super::read_parameters;
use crate::args::GenerateArgs;
use crate::failure::Result;
use crate::gpu_options::gpu_options;
use crate::report::print;
use crate::settings::{self, Outside};

/// The plan, as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    /// Whose memory it is.
    device: &'a str,
    dtype: String,
    width: u32,
    height: u32,
    stages: Vec<StageRecord>,
    /// Of the program itself, or of its libraries on a GPU.
    program_bytes: usize,
    /// Of the largest stage, with the program.
    peak_bytes: usize,
    /// The same, where as few weights as possible are kept.
    least_bytes: usize,
}

#[derive(Serialize)]
struct StageRecord {
    stage: &'static str,
    allocated_bytes: usize,
    mapped_bytes: usize,
}

/// Print what `args` would take.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let from = args.from.as_deref().map(read_parameters).transpose()?;
    let mut prompts = read_prompts(args)?;
    if prompts.is_empty() && from.is_none() {
        prompts.push(String::new()); // every prompt takes the same
    }
    let outside = Outside {
        model: std::env::var_os("DJ_FLUX2_MODEL"),
        gpu: gpu_options(),
        text_cache: None,
        from: from.as_ref(),
        is_file: Path::is_file,
        prompts,
        fresh_seed: 0,
    };
    let mut settings = settings::resolve(args, outside)?;
    settings.paths.model = find_model(&settings.paths.model)?;
    let paths = &mut settings.paths;
    for part in [&mut paths.transformer, &mut paths.text_encoder, &mut paths.vae].into_iter().flatten() {
        *part = find_part(part)?;
    }
    let files = ModelFiles::open(&settings.paths)?;
    let references = settings.references.iter().map(|path| read_reference(path)).collect::<Result<Vec<_>>>()?;
    let requests = settings.requests(&references);
    let ResolvedRequest { width, height, .. } = ResolvedRequest::new(&requests[0], files.variant)?;

    let (options, plan) = match settings.max_memory {
        Some(limit) => engine::within(limit, &files, &settings.options, &requests, settings.may_round)?,
        None => (settings.options.clone(), engine::plan(&files, &settings.options, &requests)?),
    };
    // No limit can be kept that is smaller than what the refusal of an impossible one names.
    let least_bytes = match engine::within(0, &files, &settings.options, &requests, settings.may_round) {
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
        return print(&serde_json::to_string(&record).expect("strings and numbers serialise"));
    }
    let (name, precision) = (&files.name, options.precision);
    print(&format!("{name}, {width}x{height}, {precision}, on {}{}", plan.device, how(options.residency)))?;
    table(&plan)?;
    let largest = plan.largest().stage.name();
    print(&format!(
        "at most {}, in {largest}, with {} of the program itself",
        Memory(plan.peak_bytes()),
        Memory(plan.program)
    ))?;
    match options.residency {
        Residency::Smallest => Ok(()),
        _ => print(&format!("with --max-memory {} or more, fewer weights are kept", Memory(least_bytes))),
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
