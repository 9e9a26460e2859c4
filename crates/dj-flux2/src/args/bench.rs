//! Flags of `bench`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;
use flux2::Device;

use super::values::{Batching, Dtype, Quantize, parse_memory, thread_count};

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

/// Subcommands of `bench`.
#[derive(Subcommand)]
pub enum Bench {
    /// Time each op at the shapes of klein-4b, relative to the peak measured in the same run
    #[command(args_override_self = true)]
    Ops(BenchOpsArgs),
    /// Time a picture stage by stage, relative to the roofline
    #[command(args_override_self = true)]
    Generate(Box<BenchGenerateArgs>),
}

/// Flags of both benchmarks.
#[derive(clap::Args)]
pub struct BenchFlags {
    /// Number format of the computation [default: bf16]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<Dtype>,

    /// Device: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Running")]
    pub device: Option<Device>,

    /// CPU threads [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = thread_count(), help_heading = "Running")]
    pub threads: Option<u16>,

    /// Print one JSON object per result on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Show the results next to those of an earlier run, a file that holds the output of --json
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub compare: Option<PathBuf>,

    /// Print only errors and results
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// Flags of `bench ops`.
#[derive(clap::Args)]
pub struct BenchOpsArgs {
    /// Time only ops whose name and shape contain this, as in `attention` or `linear 1536x`
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    #[command(flatten)]
    pub flags: BenchFlags,
}

/// Flags of `bench generate`.
#[derive(clap::Args)]
pub struct BenchGenerateArgs {
    /// Model folder, transformer file, or name, as in generate [default: $DJ_FLUX2_MODEL]
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,

    /// Text encoder, file or folder; required if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub text_encoder: Option<PathBuf>,

    /// Autoencoder, file or folder; required if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub vae: Option<PathBuf>,

    /// Random weights, created in memory, with the sizes of klein-4b, klein-base-4b, klein-9b, klein-base-9b,
    /// klein-9b-kv or klein-mini
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "text_encoder", "vae"], help_heading = "Model")]
    pub synthetic: Option<String>,

    /// LoRA for the transformer, as in generate; repeat for several
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Model")]
    pub lora: Vec<OsString>,

    /// Reference image; repeat for several
    #[arg(short, long, value_name = "FILE", help_heading = "Picture")]
    pub input: Vec<PathBuf>,

    /// Width in pixels, a multiple of 16 from 64 to 4096 [default: as in generate]
    #[arg(short = 'W', long, value_name = "PX", help_heading = "Picture")]
    pub width: Option<u32>,

    /// Height in pixels, with the same limits
    #[arg(short = 'H', long, value_name = "PX", help_heading = "Picture")]
    pub height: Option<u32>,

    /// Denoising steps [default: set by the model]
    #[arg(short, long, value_name = "N", help_heading = "Picture")]
    pub steps: Option<u32>,

    /// Pictures made first and not timed
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Running")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    pub warmup: u32,

    /// Pictures timed; the one with the median time is shown
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Running")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// Quantize the weights while loading; int8 is the same as --dtype int8 [default: as stored]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub quantize: Option<Quantize>,

    /// Keep all networks loaded between pictures, as a server does; every picture has another prompt
    #[arg(long, help_heading = "Running")]
    pub resident: bool,

    /// Pictures made together, in one pass of each step
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "max_memory", help_heading = "Running")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub batch: u32,

    /// same-bytes: a picture does not depend on the others of its batch; fast: its last bits may
    #[arg(long, value_name = "HOW", default_value = "same-bytes", help_heading = "Running")]
    pub batching: Batching,

    /// Memory limit, as in generate
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, help_heading = "Running")]
    pub max_memory: Option<usize>,

    #[command(flatten)]
    pub flags: BenchFlags,
}
