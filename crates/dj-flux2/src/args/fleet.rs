//! Flags of `worker` and `fleet`, and those of a fleet for `serve`.

use std::path::PathBuf;

use clap::Subcommand;
use flux2_fleet::Place;

use super::running::RunningArgs;
use super::serve::{LogFormat, LogLevel};
use super::values::{BackendKind, parse_memory, parse_pair};

/// How a NATS server knows this program.
#[derive(clap::Args, Clone, Debug)]
pub struct CredentialArgs {
    /// File of credentials for the NATS server, as nsc writes them
    #[arg(long, value_name = "FILE", requires = "fleet", help_heading = "Fleet")]
    pub fleet_creds: Option<PathBuf>,

    /// Certificates that the NATS server's is signed with, as PEM [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "fleet", help_heading = "Fleet")]
    pub fleet_ca: Option<PathBuf>,

    /// Certificate of this program for the NATS server, as PEM
    #[arg(long, value_name = "FILE", requires = "fleet_key", help_heading = "Fleet")]
    pub fleet_cert: Option<PathBuf>,

    /// Private key of --fleet-cert, as PEM
    #[arg(long, value_name = "FILE", requires = "fleet_cert", help_heading = "Fleet")]
    pub fleet_key: Option<PathBuf>,
}

/// How jobs and pictures of a fleet are kept. The program that connects first decides it.
#[derive(clap::Args, Clone, Debug)]
pub struct KeepArgs {
    /// Where pictures and reference images are kept, the same for all programs of a fleet: nats, file:///FOLDER of a
    /// folder that all machines see, or s3://BUCKET/FOLDER with the usual variables as AWS_ACCESS_KEY_ID, AWS_ENDPOINT
    #[arg(long, value_name = "PLACE", default_value = "nats", requires = "fleet", help_heading = "Fleet")]
    pub objects: Place,

    /// Seconds without a sign of life after which the job of a worker is given to another
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "fleet", help_heading = "Fleet")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub lease: u32,

    /// Most jobs of the fleet that wait or are drawn
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "fleet", help_heading = "Fleet")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub fleet_jobs: u32,

    /// Copies of everything in a cluster of NATS servers: 3 in production
    #[arg(long, value_name = "N", default_value_t = 1, requires = "fleet", help_heading = "Fleet")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
}

/// Flags of `worker`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "One process for each GPU. One that loses its device is started again.")]
pub struct WorkerArgs {
    /// NATS server, as in nats://host:4222; several of a cluster with commas between them
    #[arg(long, value_name = "URL", help_heading = "Fleet")]
    pub fleet: String,

    #[command(flatten)]
    pub credentials: CredentialArgs,

    #[command(flatten)]
    pub keep: KeepArgs,

    /// Name of this machine's workers; a number is added to each [default: the name of the machine]
    #[arg(long, value_name = "NAME", help_heading = "Fleet")]
    pub name: Option<String>,

    /// Processes [default: one for each GPU, or one on the CPU]
    #[arg(long, value_name = "N", help_heading = "Fleet")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,

    /// Be the worker of this number, without others
    #[arg(long, value_name = "N", hide = true)]
    pub only: Option<u16>,

    /// Model to offer, as for `serve`; repeat it for several, the first is the default [default: $DJ_FLUX2_MODEL, or
    /// klein-mini]
    #[arg(short, long, value_name = "[NAME=]MODEL", help_heading = "Models")]
    pub model: Vec<String>,

    /// LoRA that jobs may add, by its name; repeat it for several
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_pair, help_heading = "Models")]
    pub lora: Vec<(String, String)>,

    /// Decoder of previews, as for `serve`
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    pub preview_decoder: Option<PathBuf>,

    /// Unload a model after so many seconds without work [default: never]
    #[arg(long, value_name = "SECONDS", help_heading = "Models")]
    pub idle_unload: Option<u64>,

    /// Most bytes of a reference image, as in 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "64MiB", help_heading = "Limits")]
    pub max_input: usize,

    /// Most pictures of a job
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Limits")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_count: u32,

    #[command(flatten)]
    pub running: RunningArgs,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text", help_heading = "Running")]
    pub log_format: LogFormat,

    /// Least important lines of the log; prompts are in none
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Running")]
    pub log_level: LogLevel,

    /// What draws: fake draws colors instead of a model's pictures, to test a fleet
    #[arg(long, value_name = "KIND", default_value = "engine", help_heading = "Running")]
    pub backend: BackendKind,

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

/// Flags of `fleet`.
#[derive(clap::Args)]
pub struct FleetArgs {
    #[command(subcommand)]
    pub command: FleetCommand,
}

/// Where a fleet is, for the commands that look at it.
#[derive(clap::Args, Clone, Debug)]
pub struct FleetServerArgs {
    /// NATS server, as in nats://host:4222; several of a cluster with commas between them
    #[arg(long, value_name = "URL")]
    pub fleet: String,

    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The subcommands of `fleet`.
#[derive(Subcommand)]
pub enum FleetCommand {
    /// Show queues, workers and dead letters; on a terminal, until Ctrl-C
    Status(FleetStatusArgs),
    /// Let workers finish their job and end
    Drain(FleetDrainArgs),
    /// Jobs that failed on every worker that tried them
    #[command(subcommand)]
    Dead(DeadCommand),
}

/// Flags of `fleet status`.
#[derive(clap::Args)]
pub struct FleetStatusArgs {
    #[command(flatten)]
    pub server: FleetServerArgs,

    /// Print once, also on a terminal
    #[arg(long)]
    pub once: bool,
}

/// Flags of `fleet drain`.
#[derive(clap::Args)]
pub struct FleetDrainArgs {
    #[command(flatten)]
    pub server: FleetServerArgs,

    /// Names of workers, as `fleet status` prints them
    #[arg(value_name = "WORKER", required_unless_present = "all")]
    pub worker: Vec<String>,

    /// All workers
    #[arg(long, conflicts_with = "worker")]
    pub all: bool,
}

/// The subcommands of `fleet dead`.
#[derive(Subcommand)]
pub enum DeadCommand {
    /// List them, the oldest first
    List(FleetServerArgs),
    /// Put jobs into the queue again
    Requeue(DeadRequeueArgs),
}

/// Flags of `fleet dead requeue`.
#[derive(clap::Args)]
pub struct DeadRequeueArgs {
    #[command(flatten)]
    pub server: FleetServerArgs,

    /// Jobs, as `fleet dead list` prints them
    #[arg(value_name = "JOB", required_unless_present = "all")]
    pub job: Vec<flux2_jobs::JobId>,

    /// All jobs
    #[arg(long, conflicts_with = "job")]
    pub all: bool,
}
