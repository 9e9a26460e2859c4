//! Flags of `serve` and `mcp` about how pictures are computed.

use flux2::Device;

use super::values::{Dtype, Quantize, parse_memory, thread_count};

/// How a process that stays computes its pictures.
#[derive(clap::Args, Clone, Debug)]
pub struct RunningArgs {
    /// Number format of the computation [default: bf16]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<Dtype>,

    /// Quantize the weights while loading [default: as stored]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub quantize: Option<Quantize>,

    /// Device: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto, all GPUs]
    #[arg(long, value_name = "DEVICE", help_heading = "Running")]
    pub device: Option<Device>,

    /// CPU threads that draw [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = thread_count(), help_heading = "Running")]
    pub threads: Option<u16>,

    /// Memory that models may take together, as in 6GiB; on each GPU, or in the process on the CPU: the least recently
    /// used ones are unloaded, and fewer weights stay in memory [default: the memory of a GPU; no limit on the CPU]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, help_heading = "Running")]
    pub max_memory: Option<usize>,

    /// Neither read nor write the cache of text embeddings on disk
    #[arg(long, help_heading = "Running")]
    pub no_text_cache: bool,
}
