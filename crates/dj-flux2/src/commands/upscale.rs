//! `dj-flux2 upscale`: enlarges pictures.

use std::path::{Path, PathBuf};

use flux2::image::ImageFormat;
use flux2::units::Time;
use flux2::upscale::{Before, Upscaled};
use flux2::{CancelToken, EngineOptions, NoGpu, Precision, UpscaleEngine, UpscaleSize, Upscaler, Upscaling};
use serde::Serialize;

use crate::args::UpscaleArgs;
use crate::failure::{Failure, Result};
use crate::gpu_options::gpu_options;
use crate::interrupt::cancelled_by_signals;
use crate::output::{Existing, Output};
use crate::report::{Report, json, print};
use crate::settings::Detail;
use crate::settings::formats::{precision, threads};
use crate::typed_paths::{name_of, read_picture};
use crate::upscalers;

/// A finished picture, as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    /// File name.
    path: String,
    width: u32,
    height: u32,
    upscaler: &'a str,
    /// How often the network ran over the picture; 0 for Lanczos.
    passes: usize,
    tiles: usize,
    /// Whether the result is that of the network over the whole picture.
    is_exact: bool,
    device: &'a str,
    seconds: f64,
}

/// Enlarges the pictures of `args`.
pub fn run(args: &UpscaleArgs) -> Result<()> {
    let jobs = jobs(args)?;
    let upscaler = upscalers::find(args.upscaler.as_deref())?;
    let size = args.to.unwrap_or(UpscaleSize::By(args.by.unwrap_or_else(|| usual_factor(&upscaler))));
    let detail = match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    };
    let mut report = Report::new(detail, args.json);
    if args.show {
        report.show_pictures(true);
    }
    let cancel = cancelled_by_signals();
    let engine = UpscaleEngine::open(upscaler.clone(), &engine_options(args)?)?;
    report.verbose(format_args!("upscaler {}, device {}", upscaler.name(), engine.device()));
    if let Some(NoGpu { reason, has_driver: true, .. }) = engine.why_no_gpu() {
        report.note(format_args!("no GPU is used: {reason}"));
    }
    let run = Run { args, how: Upscaling { upscaler, size }, engine };
    jobs.iter().try_for_each(|job| run.one(job, &mut report, &cancel))
}

/// A factor that suits an upscaler.
fn usual_factor(upscaler: &Upscaler) -> f32 {
    upscaler.scale().map_or(2.0, |scale| scale as f32)
}

fn engine_options(args: &UpscaleArgs) -> Result<EngineOptions> {
    let precision = precision(args.dtype, None)?;
    if ![Precision::F32, Precision::BF16].contains(&precision) {
        return Err(Failure::usage(format!("upscalers are not computed in {precision}"), "use --dtype f32 or bf16"));
    }
    Ok(EngineOptions {
        device: args.device.unwrap_or_default(),
        precision,
        threads: threads(args.threads),
        gpu: gpu_options(),
        max_memory: args.max_memory,
        ..EngineOptions::default()
    })
}

/// A picture and where its enlarged version goes.
struct Job {
    input: PathBuf,
    path: PathBuf,
    output: Output,
}

/// The pictures of a run. Their names are checked before any work.
fn jobs(args: &UpscaleArgs) -> Result<Vec<Job>> {
    let existing = match (args.no_clobber, args.force) {
        (true, _) => Existing::Keep,
        (_, true) => Existing::ReplaceReadOnly,
        _ => Existing::Replace,
    };
    let is_folder = |path: &Path| path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
    let folder = args.output.as_deref().filter(|output| is_folder(output));
    if args.files.len() > 1 && args.output.is_some() && folder.is_none() {
        let message = format!("{} pictures and one output file", args.files.len());
        return Err(Failure::usage(message, "pass a folder with -o, ending in a slash if it is not there yet"));
    }
    let mut jobs: Vec<Job> = Vec::new();
    for input in &args.files {
        let path = match (&args.output, folder) {
            (Some(_), Some(folder)) => folder.join(named(input, "")),
            (Some(output), None) => output.clone(),
            (None, _) => input.with_file_name(named(input, "-upscaled")),
        };
        if let Some(other) = jobs.iter().find(|job| job.path == path) {
            let message = format!("{} and {} would both be {}", name_of(&other.input), name_of(input), path.display());
            return Err(Failure::usage(message, "enlarge them one by one, each with -o"));
        }
        // A name is taken as it is: braces in it are no placeholders.
        let literal = path.to_string_lossy().replace('{', "{{").replace('}', "}}");
        let output = Output::new(Some(Path::new(&literal)), 1, existing, |_| false)?;
        output.check(std::iter::once(path.clone()), &args.files)?;
        jobs.push(Job { input: input.clone(), path, output });
    }
    Ok(jobs)
}

/// The name of an enlarged picture: that of the picture with `suffix`, a PNG if its format is only read.
fn named(input: &Path, suffix: &str) -> String {
    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    let is_written = ImageFormat::from_path(input).is_ok();
    let extension =
        input.extension().filter(|_| is_written).map_or("png".into(), |extension| extension.to_string_lossy());
    format!("{stem}{suffix}.{extension}")
}

struct Run<'a> {
    args: &'a UpscaleArgs,
    how: Upscaling,
    engine: UpscaleEngine,
}

impl Run<'_> {
    fn one(&self, job: &Job, report: &mut Report, cancel: &CancelToken) -> Result<()> {
        let name = name_of(&job.input);
        let before = Before::read(&read_picture(&job.input)?, &name).map_err(Failure::image)?;
        let Upscaled { image, report: how, elapsed } =
            self.engine.upscale(before.image(), self.how.size, report, cancel)?;
        let (width, height) = (image.width(), image.height());
        let with_metadata = !self.args.no_metadata;
        for mark in before.marks_not_kept(with_metadata) {
            report.warning(format_args!("{name} carries {mark}, and the enlarged picture does not"));
        }
        let file = before.encode(&image, &self.how, job.output.format(), with_metadata)?;
        job.output.write(Some(&job.path), &file)?;
        report.show_finished(0, &image);
        if self.args.json {
            let record = Record {
                path: job.path.display().to_string(),
                width,
                height,
                upscaler: &how.upscaler,
                passes: how.passes,
                tiles: how.tiles,
                is_exact: how.is_exact,
                device: self.engine.device(),
                seconds: elapsed.as_secs_f64(),
            };
            return print(&json(&record));
        }
        if !how.is_exact {
            report.note(format_args!("{name}: {how}"));
        }
        if !self.args.quiet {
            report.line(format_args!("saved {} ({width}x{height}, {})", job.path.display(), Time(elapsed)));
        }
        Ok(())
    }
}
