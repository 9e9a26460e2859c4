//! `dj-flux2 bench generate`: a picture by stages, beside what the arithmetic allows.

use std::path::Path;
use std::time::Duration;

use flux2::bench::{self, Cost, Flops, Peaks, Stages};
use flux2::plan;
use flux2::units::Memory;
use flux2::weights::{Location, ModelFiles};
use flux2::{GenerateRequest, ModelPaths, Residency, ResolvedRequest, Variant, engine};
use serde::{Deserialize, Serialize};

use super::compare::{self, Record};
use super::{options, percent, report, rounded, row, speed};
use crate::args::BenchGenerateArgs;
use crate::commands::find::find_model;
use crate::commands::generate::{cancelled_by_signals, how, read_reference};
use crate::failure::{Failure, Result, code};
use crate::settings;

/// What is drawn: about as long as prompts are.
const PROMPT: &str =
    "A photo of a small wooden house beside a quiet lake at sunset, with mountains and pine trees in the distance";
const SEED: u64 = 42;

/// A picture, as `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub struct GenerateRecord {
    model: String,
    dtype: String,
    width: u32,
    height: u32,
    steps: u32,
    load_s: f64,
    text_s: f64,
    reference_s: f64,
    step_s: Vec<f64>,
    /// Between steps, where a GPU waited for the host.
    #[serde(default)]
    idle_s: f64,
    decode_s: f64,
    total_s: f64,
    peak_rss_bytes: Option<u64>,
    gflops: f64,
    percent_of_roofline: Option<f64>,
    step_percent_of_roofline: Option<f64>,
}

impl Record for GenerateRecord {
    const COMMAND: &'static str = "bench generate";
}

impl GenerateRecord {
    fn working_s(&self) -> f64 {
        self.total_s - self.load_s
    }

    fn mean_step_s(&self) -> f64 {
        mean(&self.step_s)
    }

    /// The latest result of the same model and size, else the latest.
    fn find<'a>(&self, earlier: &'a [GenerateRecord]) -> Option<&'a GenerateRecord> {
        let same = |r: &&GenerateRecord| (&r.model, r.width, r.height) == (&self.model, self.width, self.height);
        earlier.iter().rev().find(same).or(earlier.last())
    }

    /// What it is of, in a line.
    fn title(&self) -> String {
        let GenerateRecord { model, dtype, width, height, steps, .. } = self;
        format!("{model}, {dtype}, {width}x{height}, {steps} steps")
    }
}

/// Time the picture that `args` ask for.
pub fn run(args: &BenchGenerateArgs) -> Result<()> {
    let flags = &args.flags;
    let earlier = flags.compare.as_deref().map(compare::read::<GenerateRecord>).transpose()?;
    let loras = args.lora.iter().map(|typed| settings::lora(typed, Path::is_file)).collect::<Result<Vec<_>>>()?;
    let files = model(args)?.with_loras(&loras)?;
    let references = args.input.iter().map(|path| read_reference(path)).collect::<Result<Vec<_>>>()?;
    let request = GenerateRequest {
        prompt: PROMPT.into(),
        references,
        width: args.width,
        height: args.height,
        steps: args.steps,
        seed: SEED,
        ..GenerateRequest::default()
    };
    let resolved = ResolvedRequest::new(&request, files.variant)?;
    let cost = Cost::of(&files, &resolved)?;

    let (cancel, mut options, mut report) = (cancelled_by_signals(), options(flags, args.quantize)?, report(flags));
    report.counted("peak", 0, 1);
    let (mut device, peaks) = bench::peaks(&options)?;
    // A prompt that was drawn before would not be encoded again.
    let numbered = |run| GenerateRequest { prompt: format!("{PROMPT}, {run}"), ..request.clone() };
    if args.resident {
        options.residency = Residency::KeepAll;
    }
    let mut planned = None;
    if let Some(limit) = args.max_memory {
        let requests = if args.resident { vec![numbered(1), numbered(2)] } else { vec![request.clone()] };
        let (within, plan) = plan::within(limit, &files, &options, &requests, false)?;
        (options, planned) = (within, Some(plan));
    }
    let mut resident = args.resident.then(|| engine::open(files.clone(), &options)).transpose()?;
    let mut runs = Vec::new();
    for i in 0..args.warmup + args.runs {
        let (run, warmup) = (i + 1, args.warmup);
        let title = match run.checked_sub(warmup) {
            None | Some(0) => format!("warm-up {run} of {warmup}"),
            Some(run) => format!("run {run} of {}", args.runs),
        };
        report.begin_run((args.warmup + args.runs > 1).then_some(&title), resolved.steps);
        let stages = match &mut resident {
            None => bench::generate(&files, &request, &options, &mut report, &cancel)?,
            Some(engine) => bench::generate_with(&mut **engine, &numbered(run), &mut report, &cancel)?,
        };
        if i >= args.warmup {
            runs.push(stages);
        }
    }
    // One run as a whole, not a mean of each stage: the numbers add up.
    runs.sort_by_key(Stages::working);
    let stages = runs.swap_remove((runs.len() - 1) / 2);

    let s = |d: Duration| rounded(d.as_secs_f64(), 6);
    let share = |flops, seconds| peaks.seconds(flops).map(|least| rounded(100.0 * least / seconds, 1));
    let working = stages.working().as_secs_f64();
    let step_s: Vec<f64> = stages.steps.iter().copied().map(s).collect();
    let record = GenerateRecord {
        model: files.loras.iter().fold(files.name.clone(), |name, lora| format!("{name} + {}", lora.name)),
        dtype: options.precision.to_string(),
        width: resolved.width,
        height: resolved.height,
        steps: resolved.steps,
        load_s: s(stages.load),
        text_s: s(stages.text),
        reference_s: s(stages.references),
        idle_s: s(stages.idle),
        decode_s: s(stages.decode),
        total_s: s(stages.total),
        peak_rss_bytes: peak_rss_bytes(),
        gflops: rounded(1e-9 * cost.total().total() / working, 2),
        percent_of_roofline: share(cost.total(), working),
        step_percent_of_roofline: share(cost.step, mean(&step_s)),
        step_s,
    };
    if flags.json {
        report.result(&serde_json::to_string(&record).expect("strings and numbers serialise"))?;
    }
    let earlier = earlier.as_ref().and_then(|earlier| record.find(earlier));
    if !flags.json || (earlier.is_some() && !flags.quiet) {
        if let Some(plan) = planned {
            device += &format!("\nmemory: at most {}{}", Memory(plan.peak_bytes()), how(options.residency));
        }
        let table = Table { record: &record, earlier, cost, peaks, device, references: resolved.references.len() };
        table.lines().iter().try_for_each(|line| row(&report, flags, line))?;
    }
    Ok(())
}

/// The model to run: made up, named, or named by the environment.
fn model(args: &BenchGenerateArgs) -> Result<ModelFiles> {
    if let Some(name) = &args.synthetic {
        return ModelFiles::synthetic(Variant::by_name(name)?).ok_or_else(|| {
            let names: Vec<&str> = Variant::named().iter().map(|v| v.name).collect();
            Failure::usage(format!("{name} leaves its size to files"), format!("use one of {}", names.join(", ")))
        });
    }
    let environment = std::env::var_os("DJ_FLUX2_MODEL").filter(|path| !path.is_empty());
    let Some(named) = args.model.clone().or(environment.map(Into::into)) else {
        return Err(Failure::new(
            code::MODEL_MISSING,
            "no model is named",
            "pass -m PATH with the folder of a model, or --synthetic klein-4b for random weights of its size",
        ));
    };
    Ok(ModelFiles::open(&ModelPaths {
        model: find_model(&named.into())?,
        text_encoder: args.text_encoder.as_ref().map(Location::from),
        vae: args.vae.as_ref().map(Location::from),
        ..Default::default()
    })?)
}

fn mean(seconds: &[f64]) -> f64 {
    seconds.iter().sum::<f64>() / seconds.len().max(1) as f64
}

/// The most memory this process had at once, mapped files included; known on Linux only.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// The result for people.
struct Table<'a> {
    record: &'a GenerateRecord,
    earlier: Option<&'a GenerateRecord>,
    cost: Cost,
    peaks: Peaks,
    device: String,
    references: usize,
}

impl Table<'_> {
    fn lines(&self) -> Vec<String> {
        let (now, cost) = (self.record, &self.cost);
        let mut lines = vec![format!("{}\n{}", now.title(), self.device)];
        if let Some(earlier) = self.earlier {
            lines.push(format!("earlier: {}", earlier.title()));
        }
        let compared = if self.earlier.is_some() { "    earlier    speed" } else { "" };
        lines.push(format!(
            "\n{:14} {:>9} {:>9} {:>9} {:>12}{compared}",
            "stage", "seconds", "TFLOP", "GFLOP/s", "of roofline"
        ));
        lines.push(self.line("load", None, |r| r.load_s));
        lines.push(self.line("text", Some(cost.text), |r| r.text_s));
        if self.references > 0 {
            lines.push(self.line("references", Some(cost.references), |r| r.reference_s));
        }
        lines.push(self.line("step (mean)", Some(cost.step), GenerateRecord::mean_step_s));
        lines.push(self.line("decode", Some(cost.decode), |r| r.decode_s));
        lines.push(self.line("without load", Some(cost.total()), GenerateRecord::working_s));
        lines.push(self.line("total", None, |r| r.total_s));
        lines.push(String::new());
        if let Some(bytes) = now.peak_rss_bytes {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let before = self.earlier.and_then(|earlier| earlier.peak_rss_bytes);
            let before = before.map_or(String::new(), |bytes| format!(", earlier {:.2} GiB", gib(bytes)));
            lines.push(format!("peak memory {:.2} GiB{before}", gib(bytes)));
        }
        if let (Some(peak), Some(least)) = (self.peaks.blocks, self.peaks.seconds(cost.total())) {
            lines.push(format!(
                "roofline {:.0} GFLOP/s, measured: {least:.2} s is the least, without load",
                1e-9 * peak
            ));
        }
        lines
    }

    fn line(&self, stage: &str, flops: Option<Flops>, seconds: fn(&GenerateRecord) -> f64) -> String {
        let now = seconds(self.record);
        let (mut work, mut rate, mut share) = (String::new(), String::new(), String::new());
        if let Some(flops) = flops {
            work = format!("{:.3}", 1e-12 * flops.total());
            rate = format!("{:.0}", 1e-9 * flops.total() / now);
            share = percent(self.peaks.seconds(flops).map(|least| 100.0 * least / now));
        }
        let compared = self.earlier.map_or(String::new(), |earlier| {
            let earlier = seconds(earlier);
            format!(" {earlier:>10.3} {:>8}", speed(earlier, now))
        });
        format!("{stage:14} {now:>9.3} {work:>9} {rate:>9} {share:>12}{compared}")
    }
}
