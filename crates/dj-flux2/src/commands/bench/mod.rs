//! `dj-flux2 bench`: what this machine does with the program, op by op or picture by picture.
//!
//! Tables for people, JSON for scripts (their fields are stable: docs/reference/bench.md), and either beside an earlier run.

mod compare;
mod generate;
mod ops;

use flux2::{EngineOptions, Residency};

use crate::args::{Bench, BenchArgs, BenchFlags, Quantize};
use crate::failure::Result;
use crate::gpu_options::gpu_options;
use crate::report::Report;
use crate::settings::{self, Detail};

/// Time what `args` ask for.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        Bench::Ops(args) => ops::run(args),
        Bench::Generate(args) => generate::run(args),
    }
}

/// How to run: nothing is remembered from run to run.
fn options(flags: &BenchFlags, quantize: Option<Quantize>) -> Result<EngineOptions> {
    Ok(EngineOptions {
        precision: settings::precision(flags.dtype, quantize)?,
        device: flags.device.unwrap_or_default(),
        threads: settings::threads(flags.threads),
        gpu: gpu_options(),
        residency: Residency::OneAtATime,
        gpu_memory: None,
        text_cache: None,
    })
}

fn report(flags: &BenchFlags) -> Report {
    Report::new(if flags.quiet { Detail::Quiet } else { Detail::Normal }, flags.json)
}

/// A row of a table for people: on standard output, unless JSON is there.
fn row(report: &Report, flags: &BenchFlags, line: &str) -> Result<()> {
    match flags.json {
        true => report.line(line.trim_end()),
        false => report.result(line.trim_end())?,
    }
    Ok(())
}

/// `value` with so many digits after the point: what lies behind them is noise.
fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// A share as people read it, or nothing where it is not known.
fn percent(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{share:.1} %"))
}

/// How many times as fast as `earlier`; nothing where there is nothing to compare.
fn speed(earlier: f64, now: f64) -> String {
    if earlier > 0.0 && now > 0.0 { format!("{:.2}x", earlier / now) } else { String::new() }
}
