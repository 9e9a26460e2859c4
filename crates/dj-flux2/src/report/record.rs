//! What `generate --json` prints for a picture. The fields are stable.

use std::fmt::{self, Display};
use std::time::Duration;

use flux2::Timings;
use flux2::image::Parameters;
use flux2::pipeline::KernelRun;
use flux2::pipeline::ladder::Rescue;
use flux2::weights::Strength;
use serde::Serialize;

/// A finished picture.
#[derive(Serialize)]
pub struct Record<'a> {
    /// File name; empty for standard output.
    pub path: &'a str,
    /// Number of the picture in the run, counted from 1.
    pub index: u64,
    /// The line of the batch that asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The parameters stored in the picture.
    #[serde(flatten)]
    pub parameters: &'a Parameters,
    /// Description of the device.
    pub device: &'a str,
    /// `alpha / rank` of each LoRA, in the order of `loras`.
    #[serde(skip_serializing_if = "<[StrengthRecord]>::is_empty")]
    pub lora_strengths: &'a [StrengthRecord],
    /// Pictures that were drawn together. They share the text stage and the steps, whose times are those of all.
    pub batch: usize,
    pub timings: Seconds,
    /// The kernels that ran.
    pub kernels: Vec<Kernel>,
    /// What was given up because memory was short.
    pub rescues: Vec<RescueRecord>,
}

/// The sheet of a run.
#[derive(Serialize)]
pub struct SheetRecord<'a> {
    /// File name.
    pub sheet: &'a str,
}

/// A picture of a run of several that could not be made.
#[derive(Serialize)]
pub struct FailedRecord<'a> {
    /// Number of the picture in the run, counted from 1.
    pub index: u64,
    /// The line of the batch that asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub prompt: &'a str,
    pub seed: u64,
    pub error: ErrorRecord<'a>,
}

/// Why a picture could not be made.
#[derive(Serialize)]
pub struct ErrorRecord<'a> {
    /// What the exit code would be if it were the only picture.
    pub code: u8,
    /// What happened.
    pub message: &'a str,
    /// What to do about it, or null.
    pub hint: Option<&'a str>,
}

/// `alpha / rank` of a LoRA, and what gives alpha.
#[derive(Serialize)]
pub struct StrengthRecord {
    /// The smallest and the largest of its matrices.
    alpha_by_rank: [f32; 2],
    /// Where alpha is given; none if nothing gives it, and the rank is taken.
    alpha_from: Option<String>,
    /// Matrices for which nothing gives alpha.
    matrices_without_alpha: usize,
}

impl StrengthRecord {
    pub fn new(strength: &Strength) -> Self {
        let Strength { least, most, source, unsaid } = strength;
        let alpha_from = source.map(|source| source.to_string());
        StrengthRecord { alpha_by_rank: [*least, *most], alpha_from, matrices_without_alpha: *unsaid }
    }
}

/// Products computed by one kernel.
#[derive(Serialize)]
pub struct Kernel {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    kernel: String,
    products: u64,
}

impl Kernel {
    pub fn new(run: &KernelRun) -> Self {
        let KernelRun { op, weights, kernel, products } = run;
        Kernel { op, weights: weights.map(|dtype| dtype.to_string()), kernel: kernel.clone(), products: *products }
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kernel { op, weights, kernel, products } = self;
        match weights {
            Some(weights) => write!(f, "{products} {op} of {weights} weights in {kernel}"),
            None => write!(f, "{products} {op} in {kernel}"),
        }
    }
}

/// A fallback taken because memory was short.
#[derive(Serialize)]
pub struct RescueRecord {
    stage: &'static str,
    rung: &'static str,
}

impl RescueRecord {
    pub fn new(rescue: &Rescue) -> Self {
        RescueRecord { stage: rescue.stage.name(), rung: rescue.rung.name() }
    }
}

/// Times in seconds. A stage whose result was still in memory took none.
#[derive(Serialize)]
pub struct Seconds {
    text: f64,
    references: f64,
    steps: Vec<f64>,
    decode: f64,
    #[serde(skip_serializing_if = "is_zero")]
    upscale: f64,
    total: f64,
}

impl Seconds {
    /// The times of the stages, and the `total` from the prompt to the written file.
    pub fn new(timings: &Timings, total: Duration) -> Self {
        let s = |d: Duration| d.as_micros() as f64 / 1e6;
        Seconds {
            text: s(timings.text),
            references: s(timings.references),
            steps: timings.steps.iter().copied().map(s).collect(),
            decode: s(timings.decode),
            upscale: s(timings.upscale),
            total: s(total),
        }
    }
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}
