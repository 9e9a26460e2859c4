//! Flags of `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::ValueEnum;

#[cfg(feature = "fleet")]
use super::fleet::{CredentialArgs, KeepArgs};
use super::marks::MarkArgs;
use super::running::RunningArgs;
use super::values::{BackendKind, parse_memory, parse_pair};

/// Flags of a server that draws by itself.
#[cfg(feature = "fleet")]
const DRAWS: [&str; 25] = [
    "model",
    "lora",
    "upscaler",
    "preview_decoder",
    "preload",
    "idle_unload",
    "max_batch",
    "state",
    "no_journal",
    "keep_days",
    "keep_bytes",
    "reuse_pictures",
    "c2pa_key",
    "c2pa_cert",
    "dtype",
    "quantize",
    "device",
    "threads",
    "max_memory",
    "no_text_cache",
    "synthetic",
    "backend",
    "fake_step_ms",
    "fake_load_ms",
    "fake_fail",
];

/// Flags of `serve`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "APIs: OpenAI's images at /v1, AUTOMATIC1111's at /sdapi, one of its own at /api.\n\
                        For browsers there is a page at /, for agents the Model Context Protocol at /mcp.")]
#[allow(rustdoc::bare_urls)] // the documentation is the help
pub struct ServeArgs {
    /// File of settings in place of the user's; its table `serve` is read; `off` for none [default: $DJ_FLUX2_CONFIG,
    /// or ~/.config/dj-flux2/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print help with all flags
    #[arg(long)]
    pub help_all: bool,

    /// NATS server of a fleet, whose workers draw; as in nats://host:4222, several of a cluster with commas between them
    #[cfg(feature = "fleet")]
    #[arg(long, value_name = "URL", help_heading = "Fleet")]
    #[arg(conflicts_with_all = DRAWS)]
    pub fleet: Option<String>,

    #[cfg(feature = "fleet")]
    #[command(flatten)]
    pub credentials: CredentialArgs,

    #[cfg(feature = "fleet")]
    #[command(flatten)]
    pub keep: KeepArgs,

    /// Let only this kind of device draw, as `fleet status` prints it, so that equal requests give equal bytes
    #[cfg(feature = "fleet")]
    #[arg(long, value_name = "KIND", requires = "fleet", help_heading = "Fleet")]
    pub same_device: Option<String>,

    /// Model to serve, as for `generate`; repeat it for several, the first is the default; put NAME= before it to give
    /// it another name [default: $DJ_FLUX2_MODEL, or klein-mini]
    #[arg(short, long, value_name = "[NAME=]MODEL", help_heading = "Models")]
    pub model: Vec<String>,

    /// LoRA that requests may add, by its name; repeat it for several
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_pair, help_heading = "Models")]
    pub lora: Vec<(String, String)>,

    /// Upscaler that requests may name, as for `generate`; repeat it for several, the first is the default; downloaded
    /// ones and the built-in one are offered too
    #[arg(long, value_name = "NAME", help_heading = "Models")]
    pub upscaler: Vec<PathBuf>,

    /// Decoder of previews, which then have the picture's size: taef2_decoder.pth or taef2.safetensors for FLUX.2;
    /// models with other latents keep theirs
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    pub preview_decoder: Option<PathBuf>,

    /// Another name for a model, for clients with a fixed list, as in gpt-image-1=klein-4b; repeat it for several
    #[arg(long, value_name = "NAME=MODEL", value_parser = parse_pair, help_heading = "Models")]
    pub alias: Vec<(String, String)>,

    /// Model to load at the start, by its name; repeat it for several [default: the first]
    #[arg(long, value_name = "NAME", help_heading = "Models")]
    pub preload: Vec<String>,

    /// Unload a model after so many seconds without work [default: never]
    #[arg(long, value_name = "SECONDS", help_heading = "Models")]
    pub idle_unload: Option<u64>,

    /// Address to listen on; 0.0.0.0 and :: are all of this machine's
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Listening")]
    pub bind: IpAddr,

    /// Port to listen on; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8190, help_heading = "Listening")]
    pub port: u16,

    /// Listen on this Unix socket instead of a port
    #[cfg(unix)]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bind", "port"], help_heading = "Listening")]
    pub unix: Option<PathBuf>,

    /// Certificate for TLS, as PEM, followed by those it is signed with
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Listening")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Listening")]
    pub tls_key: Option<PathBuf>,

    /// File of API keys, one a line: NAME SHA256 [jobs=N] [per-minute=N] [priority=high|normal|low]; read again on
    /// SIGHUP
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub api_key_file: Option<PathBuf>,

    /// Let everybody in who reaches a public address
    #[arg(long, help_heading = "Access")]
    pub insecure: bool,

    /// Name of this server that requests may be sent to, besides localhost and addresses; repeat it for several
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    pub allow_host: Vec<String>,

    /// Origin whose pages may call the server, as in https://example.com; repeat it for several
    #[arg(long, value_name = "ORIGIN", help_heading = "Access")]
    pub cors_origin: Vec<String>,

    /// Most bytes of a request, as in 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "64MiB", help_heading = "Limits")]
    pub max_body: usize,

    /// Most pixels of a picture
    #[arg(long, value_name = "N", default_value_t = 4 << 20, help_heading = "Limits")]
    pub max_pixels: u64,

    /// Most characters of a prompt
    #[arg(long, value_name = "N", default_value_t = 32_000, help_heading = "Limits")]
    pub max_prompt: usize,

    /// Most pictures of a request
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Limits")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_count: u32,

    /// Most reference images of a request
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Limits")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=16))]
    pub max_references: u8,

    /// Most connections at one time
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: u32,

    /// Most jobs that wait
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Limits")]
    pub max_queue: usize,

    /// Longest queue, as seconds until its last job would start
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, help_heading = "Limits")]
    pub max_wait: u64,

    /// Most pictures that are drawn together [default: 8, as far as that is faster]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub max_batch: Option<u8>,

    /// Folder of the journal, the pictures and the uploads [default: dj-flux2/server in the user's state folder]
    #[arg(long, value_name = "FOLDER", help_heading = "Keeping")]
    pub state: Option<PathBuf>,

    /// Keep everything in memory: jobs are lost when the server ends
    #[arg(long, conflicts_with = "state", help_heading = "Keeping")]
    pub no_journal: bool,

    /// Delete pictures after so many days
    #[arg(long, value_name = "N", default_value_t = 7, help_heading = "Keeping")]
    pub keep_days: u32,

    /// Most bytes of all pictures; the oldest are deleted
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "2GiB", help_heading = "Keeping")]
    pub keep_bytes: usize,

    /// Return a picture that was drawn before, as far as it is kept, instead of drawing it again
    #[arg(long, help_heading = "Keeping")]
    pub reuse_pictures: bool,

    #[command(flatten)]
    pub marks: MarkArgs,

    #[command(flatten)]
    pub running: RunningArgs,

    /// Seconds to finish what runs, after the first SIGTERM; a second one ends at once
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Running")]
    pub drain_timeout: u64,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text", help_heading = "Running")]
    pub log_format: LogFormat,

    /// Least important lines of the log; prompts are in none
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Running")]
    pub log_level: LogLevel,

    /// What draws: fake draws colors instead of a model's pictures, to test clients
    #[arg(long, value_name = "KIND", default_value = "engine", help_heading = "Running")]
    pub backend: BackendKind,

    /// Random weights of the sizes of this published model, to time the server without a download
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "backend"], hide = true)]
    pub synthetic: Option<String>,

    /// Milliseconds of a step of the fake
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub fake_step_ms: u64,

    /// Milliseconds to load a model of the fake
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub fake_load_ms: u64,

    /// Failure of the fake: a prompt with TEXT fails as CLASS
    #[arg(long, value_name = "TEXT=CLASS", value_parser = parse_pair, hide = true)]
    pub fake_fail: Vec<(String, String)>,
}

/// Values of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Values of `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}
