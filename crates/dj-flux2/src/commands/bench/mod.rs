//! `dj-flux2 bench`: times single ops or whole pictures on this machine.
//!
//! Prints tables for people or JSON for scripts, and either next to an earlier run. The fields of the JSON are stable.

mod compare;
mod generate;
mod ops;

use flux2::{EngineOptions, PreviewOptions, Residency};

use crate::args::{Bench, BenchArgs, BenchFlags, Quantize};
use crate::failure::Result;
use crate::gpu_options::gpu_options;
use crate::report::Report;
use crate::settings::{Detail, formats};

/// Runs the benchmark that `args` ask for.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        Bench::Ops(args) => ops::run(args),
        Bench::Generate(args) => generate::run(args),
    }
}

/// Options of an engine. No cache is used, so that every run does the same work.
fn options(flags: &BenchFlags, quantize: Option<Quantize>) -> Result<EngineOptions> {
    Ok(EngineOptions {
        precision: formats::precision(flags.dtype, quantize)?,
        device: flags.device.unwrap_or_default(),
        threads: formats::threads(flags.threads),
        gpu: gpu_options(),
        residency: Residency::OneAtATime,
        max_memory: None,
        text_cache: None,
        previews: PreviewOptions::default(),
    })
}

fn report(flags: &BenchFlags) -> Report {
    let report = Report::new(if flags.quiet { Detail::Quiet } else { Detail::Normal }, flags.json);
    report.threads(formats::threads(flags.threads));
    report
}

/// Prints a row of the table: on standard error if standard output holds JSON.
fn row(report: &Report, flags: &BenchFlags, line: &str) -> Result<()> {
    match flags.json {
        true => report.line(line.trim_end()),
        false => report.result(line.trim_end())?,
    }
    Ok(())
}

/// Rounds to `digits` decimal places; more would be noise.
fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// A percentage for people; empty if unknown.
fn percent(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{share:.1} %"))
}

/// How many times as fast as `earlier`; empty if either time is zero.
fn speed(earlier: f64, now: f64) -> String {
    if earlier > 0.0 && now > 0.0 { format!("{:.2}x", earlier / now) } else { String::new() }
}
