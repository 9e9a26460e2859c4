//! `dj-flux2 bench ops`: times each op at the shapes of klein-4b, relative to the peak measured in the same run.

use flux2::Error;
use flux2::bench::{self, Bound, OpEvent, OpTiming};
use serde::{Deserialize, Serialize};

use super::compare::{self, Record};
use super::{options, percent, report, rounded, row, speed};
use crate::args::BenchOpsArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::cancelled_by_signals;
use crate::report::{Report, json};

/// Result for one op, as `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpRecord {
    op: String,
    dtype: String,
    shape: Vec<usize>,
    threads: usize,
    median_ms: f64,
    gflops: f64,
    percent_of_peak: Option<f64>,
}

impl Record for OpRecord {
    const COMMAND: &'static str = "bench ops";
}

impl OpRecord {
    fn new(timing: &OpTiming, threads: usize) -> Self {
        OpRecord {
            op: timing.op.to_owned(),
            dtype: timing.dtype.clone(),
            shape: timing.shape.clone(),
            threads,
            median_ms: rounded(1e3 * timing.median.as_secs_f64(), 4),
            gflops: rounded(1e-9 * timing.flops, 2),
            percent_of_peak: timing.share_of_peak.map(|share| rounded(100.0 * share, 1)),
        }
    }

    /// The latest earlier result for the same op and shape, preferably with the same dtype and number of threads.
    fn find<'a>(&self, earlier: &'a [OpRecord]) -> Option<&'a OpRecord> {
        let same = |other: &&OpRecord| other.op == self.op && other.shape == self.shape;
        let same_way = |other: &&OpRecord| other.dtype == self.dtype && other.threads == self.threads;
        earlier.iter().rev().filter(same).find(same_way).or_else(|| earlier.iter().rev().find(same))
    }
}

/// Times the ops that `args` select.
pub fn run(args: &BenchOpsArgs) -> Result<()> {
    let earlier = args.flags.compare.as_deref().map(compare::read::<OpRecord>).transpose()?;
    let cancel = cancelled_by_signals();
    let mut run = Run { args, earlier, report: report(&args.flags), threads: 0, compared: 0 };
    let mut failure = None;
    let mut each = |event| {
        // If results cannot be printed, more of them are useless.
        if let Err(e) = run.event(event) {
            failure.get_or_insert(e);
            cancel.cancel();
        }
    };
    let filter = args.filter.as_deref().unwrap_or_default();
    let timed = bench::time_ops(&options(&args.flags, None)?, filter, &mut each, &cancel);
    let nothing_compared = run.earlier.is_some() && run.compared == 0;
    match (failure, timed) {
        (Some(failure), _) => Err(failure),
        (None, Err(Error::Cancelled)) => Err(Error::Cancelled.into()),
        (None, Ok(0)) => Err(Failure::usage(
            format!("no op or shape contains {filter:?}"),
            "leave --filter out to list all ops, as in `linear 1536x3072x9216`",
        )),
        (None, Ok(_)) if nothing_compared => Err(compare::nothing_in_common(args.flags.compare.as_deref())),
        (None, timed) => Ok(timed.map(drop)?),
    }
}

/// A benchmark in progress.
struct Run<'a> {
    args: &'a BenchOpsArgs,
    earlier: Option<Vec<OpRecord>>,
    report: Report,
    threads: usize,
    /// Results that have an earlier one.
    compared: usize,
}

impl Run<'_> {
    /// Whether a table is printed: always, except that JSON alone needs none.
    fn has_table(&self) -> bool {
        !self.args.flags.json || (self.earlier.is_some() && !self.args.flags.quiet)
    }

    fn row(&self, line: &str) -> Result<()> {
        if self.has_table() { row(&self.report, &self.args.flags, line) } else { Ok(()) }
    }

    fn event(&mut self, event: OpEvent) -> Result<()> {
        match event {
            OpEvent::Device { name, threads } => {
                self.threads = threads;
                self.report.counted("peak", 0, 1);
                self.row(&format!("device  {name}"))
            }
            OpEvent::Peaks { flops, bandwidth } => {
                let giga = |rate: Option<f64>, unit: &str| {
                    rate.map_or("not measured".into(), |rate| format!("{:.0} {unit}", 1e-9 * rate))
                };
                let (products, memory) = (giga(flops, "GFLOP/s"), giga(bandwidth, "GB/s read and written"));
                self.row(&format!("peak    products {products}, memory {memory}"))?;
                self.row("")?;
                let compared = if self.earlier.is_some() { "  earlier ms    speed" } else { "" };
                self.row(&format!(
                    "{:21} {:>18} {:>10} {:>9} {:>9}  {:8}{compared}",
                    "op", "shape", "ms", "GFLOP/s", "of peak", "of"
                ))
            }
            OpEvent::Started { op, index, ops } => {
                self.report.counted(op, index, ops);
                Ok(())
            }
            OpEvent::Finished(timing) => self.finished(&timing),
        }
    }

    fn finished(&mut self, timing: &OpTiming) -> Result<()> {
        let record = OpRecord::new(timing, self.threads);
        if self.args.flags.json {
            self.report.result(&json(&record))?;
        }
        let earlier = self.earlier.as_ref().map(|earlier| record.find(earlier));
        self.compared += usize::from(matches!(earlier, Some(Some(_))));
        let compared = match earlier {
            None => String::new(),
            Some(None) => format!("{:>12}", "-"),
            Some(Some(earlier)) => {
                let how = match (earlier.dtype == record.dtype, earlier.threads == record.threads) {
                    (true, true) => String::new(),
                    _ => format!("  (earlier: {}, threads {})", earlier.dtype, earlier.threads),
                };
                format!("{:>12.2} {:>8}{how}", earlier.median_ms, speed(earlier.median_ms, record.median_ms))
            }
        };
        let shape: Vec<String> = record.shape.iter().map(usize::to_string).collect();
        let bound = match timing.bound {
            Bound::Products => "products",
            Bound::Memory => "memory",
        };
        self.row(&format!(
            "{:21} {:>18} {:>10.2} {:>9.1} {:>9}  {bound:8}{compared}",
            record.op,
            shape.join("x"),
            record.median_ms,
            record.gflops,
            percent(record.percent_of_peak)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dtype: &str, threads: usize, median_ms: f64) -> OpRecord {
        let shape = vec![512, 2560];
        OpRecord {
            op: "rms_norm".into(),
            dtype: dtype.into(),
            shape,
            threads,
            median_ms,
            gflops: 1.0,
            percent_of_peak: None,
        }
    }

    #[test]
    fn an_earlier_run_of_the_same_kind_is_preferred_and_the_latest_of_these() {
        let earlier = [record("bf16", 2, 1.0), record("bf16", 2, 2.0), record("f32", 2, 3.0)];
        let found = |record: OpRecord| record.find(&earlier).map(|found| found.median_ms);
        assert_eq!(found(record("bf16", 2, 0.0)), Some(2.0));
        assert_eq!(found(record("bf16", 4, 0.0)), Some(3.0));
        assert_eq!(found(OpRecord { shape: vec![1], ..record("bf16", 2, 0.0) }), None);
    }
}
