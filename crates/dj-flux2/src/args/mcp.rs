//! Flags of `mcp`.

use std::path::PathBuf;

use super::marks::MarkArgs;
use super::running::RunningArgs;
use super::values::{BackendKind, parse_pair};

/// Flags of `mcp`.
#[derive(clap::Args, Clone, Debug)]
pub struct McpArgs {
    /// File of settings in place of the user's; its table `mcp` is read; `off` for none [default: $DJ_FLUX2_CONFIG,
    /// or ~/.config/dj-flux2/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print help with all flags
    #[arg(long)]
    pub help_all: bool,

    /// Model to offer, as for `generate`; repeat it for several, the first is the default; put NAME= before it to give
    /// it another name [default: $DJ_FLUX2_MODEL, or klein-mini]
    #[arg(short, long, value_name = "[NAME=]MODEL")]
    pub model: Vec<String>,

    /// LoRA that calls may add, by its name; repeat it for several
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_pair)]
    pub lora: Vec<(String, String)>,

    /// Upscaler that calls may name, as for `generate`; repeat it for several, the first is the default
    #[arg(long, value_name = "NAME")]
    pub upscaler: Vec<PathBuf>,

    /// Folder that pictures are written to; files that calls name are below it, and nothing else is read or written
    /// [default: dj-flux2/mcp in the user's data folder]
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<PathBuf>,

    /// Folder in which pictures keep their numbers and names; `session --history` may go on with the same one, and the
    /// reverse; `off` for none [default: .history in the folder of --root]
    #[arg(long, value_name = "FOLDER")]
    pub history: Option<PathBuf>,

    /// Unload a model after so many seconds without work; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub idle_unload: u64,

    /// Most pixels of a picture
    #[arg(long, value_name = "N", default_value_t = 4 << 20)]
    pub max_pixels: u64,

    #[command(flatten)]
    pub marks: MarkArgs,

    #[command(flatten)]
    pub running: RunningArgs,

    /// What draws: fake draws colors instead of a model's pictures, to test clients
    #[arg(long, value_name = "KIND", default_value = "engine", hide = true)]
    pub backend: BackendKind,

    /// Milliseconds of a step of the fake
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub fake_step_ms: u64,
}
