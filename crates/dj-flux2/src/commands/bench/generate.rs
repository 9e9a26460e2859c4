//! `dj-flux2 bench generate`: times a picture stage by stage, relative to the roofline.

use std::path::Path;
use std::time::Duration;

use flux2::bench::{self, Cost, Flops, Peaks, Stages};
use flux2::image::Preparation;
use flux2::plan;
use flux2::units::Memory;
use flux2::weights::{Location, ModelFiles};
use flux2::{
    CancelToken, Engine, EngineOptions, GenerateRequest, MemoryPlan, ModelPaths, Reference, Residency, ResolvedRequest,
    Variant, engine,
};
use serde::{Deserialize, Serialize};

use super::compare::{self, Record};
use super::{options, percent, report, rounded, row, speed};
use crate::args::BenchGenerateArgs;
use crate::commands::residency_note;
use crate::failure::{Failure, Result, code};
use crate::interrupt::cancelled_by_signals;
use crate::prepare::{self, find_model, read_references};
use crate::report::{Report, json};
use crate::settings::loras;

/// The prompt, of usual length.
const PROMPT: &str =
    "A photo of a small wooden house beside a quiet lake at sunset, with mountains and pine trees in the distance";
const SEED: u64 = 42;

/// Result for a picture, as `--json` prints it.
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
    /// Time between steps in which a GPU waited for the host.
    #[serde(default)]
    idle_s: f64,
    decode_s: f64,
    total_s: f64,
    peak_rss_bytes: Option<u64>,
    gflops: f64,
    percent_of_roofline: Option<f64>,
    step_percent_of_roofline: Option<f64>,
    /// Energy of a GPU for each picture, mean of all counted runs.
    #[serde(default)]
    joules: Option<f64>,
    /// Pictures made together, whose times are those of all of them.
    #[serde(default = "one")]
    batch: u32,
    /// Seconds of `total_s - load_s` for each picture.
    #[serde(default)]
    s_per_picture: f64,
    #[serde(default)]
    pictures_per_s: f64,
}

fn one() -> u32 {
    1
}

impl Record for GenerateRecord {
    const COMMAND: &'static str = "bench generate";
}

impl GenerateRecord {
    fn new(bench: &Bench, resolved: &ResolvedRequest, median: &Median, cost: Cost, peaks: &Peaks) -> Self {
        let Median { stages, joules } = median;
        let s = |d: Duration| rounded(d.as_secs_f64(), 6);
        let share = |flops, seconds| peaks.seconds(flops).map(|least| rounded(100.0 * least / seconds, 1));
        let working = stages.working().as_secs_f64();
        let step_s: Vec<f64> = stages.steps.iter().copied().map(s).collect();
        let Bench { files, options, args, .. } = bench;
        let s_per_picture = working / f64::from(args.batch);
        GenerateRecord {
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
            joules: joules.map(|joules| rounded(joules, 2)),
            batch: args.batch,
            s_per_picture: rounded(s_per_picture, 6),
            pictures_per_s: rounded(1.0 / s_per_picture, 4),
        }
    }

    fn working_s(&self) -> f64 {
        self.total_s - self.load_s
    }

    fn mean_step_s(&self) -> f64 {
        mean(&self.step_s)
    }

    /// The latest result of the same model and size, else the latest.
    fn find<'a>(&self, earlier: &'a [GenerateRecord]) -> Option<&'a GenerateRecord> {
        let key = |r: &GenerateRecord| (r.model.clone(), r.width, r.height, r.batch);
        earlier.iter().rev().find(|r| key(r) == key(self)).or(earlier.last())
    }

    /// Model, dtype, size and steps, on one line.
    fn title(&self) -> String {
        let GenerateRecord { model, dtype, width, height, steps, batch, .. } = self;
        let together = if *batch > 1 { format!(", {batch} pictures together") } else { String::new() };
        format!("{model}, {dtype}, {width}x{height}, {steps} steps{together}")
    }
}

/// Times the picture that `args` ask for.
pub fn run(args: &BenchGenerateArgs) -> Result<()> {
    let flags = &args.flags;
    let earlier = flags.compare.as_deref().map(compare::read::<GenerateRecord>).transpose()?;
    let typed = |typed| loras::typed(typed, Path::is_file);
    let files = model(args)?.with_loras(&args.lora.iter().map(|lora| typed(lora)).collect::<Result<Vec<_>>>()?)?;
    let options = options(flags, args.quantize)?.for_model(&files);
    let check = |read: &[Reference], bytes| match args.max_memory {
        Some(limit) => plan::check_reading(limit, &files, &options, read, bytes),
        None => Ok(()),
    };
    let request = GenerateRequest {
        prompt: PROMPT.into(),
        references: read_references(&args.input, &Preparation::default(), check)?,
        width: args.width,
        height: args.height,
        steps: args.steps,
        seed: SEED,
        ..GenerateRequest::default()
    };
    let resolved = ResolvedRequest::new(&request, files.variant)?;
    let cost = Cost::of(&files, &resolved)?.of_pictures(args.batch as usize);

    let (cancel, mut report) = (cancelled_by_signals(), report(flags));
    report.counted("peak", 0, 1);
    let (mut device, peaks) = bench::peaks(&options)?;
    let mut bench = Bench { args, files, request, steps: resolved.steps, options };
    let plan = bench.keep_to_limit()?;
    let median = bench.median(&mut report, &cancel)?;

    let record = GenerateRecord::new(&bench, &resolved, &median, cost, &peaks);
    if flags.json {
        report.result(&json(&record))?;
    }
    let earlier = earlier.as_ref().and_then(|earlier| record.find(earlier));
    if !flags.json || (earlier.is_some() && !flags.quiet) {
        if let Some(plan) = plan {
            let (peak, how) = (Memory(plan.peak_bytes()), residency_note(bench.options.residency));
            device += &format!("\nmemory: at most {peak}{how}");
        }
        let table = Table { record: &record, earlier, cost, peaks, device, references: resolved.references.len() };
        table.lines().iter().try_for_each(|line| row(&report, flags, line))?;
    }
    Ok(())
}

/// The run with the median time, as a whole, so that its stages add up.
struct Median {
    stages: Stages,
    /// Energy of a GPU for each picture, mean of all counted runs; known if everything stays loaded between them.
    joules: Option<f64>,
}

/// What is timed.
struct Bench<'a> {
    args: &'a BenchGenerateArgs,
    files: ModelFiles,
    request: GenerateRequest,
    steps: u32,
    options: EngineOptions,
}

impl Bench<'_> {
    /// The request with a prompt of its own: one that was used before would not be encoded again.
    fn numbered(&self, number: u32) -> GenerateRequest {
        GenerateRequest { prompt: format!("{PROMPT}, {number}"), ..self.request.clone() }
    }

    /// The requests of run `run`, which are made together, each with a prompt of its own.
    fn together(&self, run: u32) -> Vec<GenerateRequest> {
        let batch = self.args.batch;
        match (self.args.resident, batch) {
            (false, 1) => vec![self.request.clone()],
            _ => (0..batch).map(|i| self.numbered((run - 1) * batch + i + 1)).collect(),
        }
    }

    /// Chooses what stays in memory; with a limit, also returns how much memory that needs.
    fn keep_to_limit(&mut self) -> Result<Option<MemoryPlan>> {
        let is_resident = self.args.resident;
        if is_resident {
            self.options.residency = Residency::KeepAll;
        }
        let Some(limit) = self.args.max_memory else { return Ok(None) };
        let requests = if is_resident { vec![self.numbered(1), self.numbered(2)] } else { vec![self.request.clone()] };
        let (within, plan) = plan::within(limit, &self.files, &self.options, &requests, false)?;
        self.options = within;
        Ok(Some(plan))
    }

    /// Runs the benchmark.
    fn median(&self, report: &mut Report, cancel: &CancelToken) -> Result<Median> {
        let Bench { args, files, steps, options, .. } = self;
        let batching = args.batching.into();
        let (warmup, all) = (args.warmup, args.warmup + args.runs);
        let mut resident = args.resident.then(|| engine::open(files.clone(), options)).transpose()?;
        let energy = |engine: &Option<Box<dyn Engine>>| engine.as_ref().and_then(|engine| engine.energy());
        let (mut runs, mut used_before) = (Vec::new(), None);
        for run in 1..=all {
            if run == warmup + 1 {
                used_before = energy(&resident);
            }
            let title = match run <= warmup {
                true => format!("warm-up {run} of {warmup}"),
                false => format!("run {} of {}", run - warmup, args.runs),
            };
            report.begin_run((all > 1).then_some(&title), *steps);
            let stages = match &mut resident {
                None => bench::generate(files, &self.together(run), batching, options, report, cancel)?,
                Some(engine) => bench::generate_with(&mut **engine, &self.together(run), batching, report, cancel)?,
            };
            if run > warmup {
                runs.push(stages);
            }
        }
        let used = used_before.zip(energy(&resident)).map(|(before, after)| after - before);
        let joules = used.map(|joules| joules / f64::from(args.runs * args.batch));
        runs.sort_by_key(Stages::working);
        Ok(Median { stages: runs.swap_remove((runs.len() - 1) / 2), joules })
    }
}

/// The model to run: random weights, or the model that a flag or the environment names.
fn model(args: &BenchGenerateArgs) -> Result<ModelFiles> {
    if let Some(name) = &args.synthetic {
        return ModelFiles::synthetic(Variant::by_name(name)?).ok_or_else(|| {
            let names: Vec<&str> = Variant::named().iter().map(|v| v.name).collect();
            Failure::usage(format!("{name} has no sizes of its own"), format!("use one of {}", names.join(", ")))
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
    let mut paths = ModelPaths {
        model: named.into(),
        text_encoder: args.text_encoder.as_ref().map(Location::from),
        vae: args.vae.as_ref().map(Location::from),
        ..Default::default()
    };
    prepare::locate(&mut paths, find_model)?;
    Ok(ModelFiles::open(&paths)?)
}

fn mean(seconds: &[f64]) -> f64 {
    seconds.iter().sum::<f64>() / seconds.len().max(1) as f64
}

/// Peak resident memory of this process, mapped files included; Linux only.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// The table of results.
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
        if now.batch > 1 {
            let GenerateRecord { batch, s_per_picture, pictures_per_s, .. } = now;
            lines.push(format!("{batch} pictures: {s_per_picture:.3} s each, {pictures_per_s:.2} a second"));
        }
        if let Some(bytes) = now.peak_rss_bytes {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let before = self.earlier.and_then(|earlier| earlier.peak_rss_bytes);
            let before = before.map_or(String::new(), |bytes| format!(", earlier {:.2} GiB", gib(bytes)));
            lines.push(format!("peak memory {:.2} GiB{before}", gib(bytes)));
        }
        if let Some(joules) = now.joules {
            let before = self.earlier.and_then(|earlier| earlier.joules);
            let before = before.map_or(String::new(), |joules| format!(", earlier {joules:.1} J"));
            lines.push(format!("energy {joules:.1} J per picture{before}"));
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
