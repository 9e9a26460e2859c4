//! What was typed, and nothing more: the command line as clap types. Its meaning is decided in `settings`.

mod bench;
mod canvas;
mod config;
#[cfg(all(test, feature = "hub", feature = "serve", feature = "mini"))]
mod documented;
mod expansion;
mod explain;
#[cfg(feature = "fleet")]
mod fleet;
mod generate;
mod help;
mod marks;
#[cfg(feature = "mcp")]
mod mcp;
mod quality;
#[cfg(any(feature = "mcp", feature = "serve"))]
mod running;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "session")]
mod session;
mod sheet;
mod upscale;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use bench::{Bench, BenchArgs, BenchFlags, BenchGenerateArgs, BenchOpsArgs};
pub use canvas::CanvasArgs;
pub use config::{
    CompletionsArgs, ConfigArgs, ConfigCommand, ConfigShowArgs, ManPagesArgs, PresetsArgs, TemplatesArgs, What,
};
pub use explain::ExplainArgs;
#[cfg(feature = "fleet")]
pub use fleet::{
    CredentialArgs, DeadCommand, FleetArgs, FleetCommand, FleetServerArgs, FleetStatusArgs, KeepArgs, WorkerArgs,
};
pub use generate::{ForeignArgs, GenerateArgs};
pub use help::{command, parse};
pub use marks::MarkArgs;
#[cfg(feature = "mcp")]
pub use mcp::McpArgs;
#[cfg(feature = "serve")]
pub use serve::{LogFormat, LogLevel, ServeArgs};
#[cfg(feature = "session")]
pub use session::SessionArgs;
pub use sheet::{CompareArgs, SheetArgs};
pub use upscale::UpscaleArgs;
#[cfg(any(feature = "mcp", feature = "serve"))]
pub use values::BackendKind;
use values::thread_count;
pub use values::{Area, Aspect, Component, Dtype, Quantize, Seed, parse_color};

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "dj-flux2",
    version,
    about = "Text-to-image and image editing with FLUX.2 [klein]",
    after_help = "`dj-flux2 \"a red fox\"` is short for `dj-flux2 generate \"a red fox\"`.\n\
                  `dj-flux2 generate --help` lists the main ones, --help-all has the rest.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Make pictures from a prompt and, optionally, reference images
    #[command(allow_negative_numbers = true, args_override_self = true)]
    Generate(Box<GenerateArgs>),
    /// Draw picture after picture with the model loaded
    #[cfg(feature = "session")]
    Session(Box<SessionArgs>),
    /// Enlarge pictures with a network or by Lanczos
    Upscale(Box<UpscaleArgs>),
    /// Print the parameters that a picture was made with
    Info(InfoArgs),
    /// Describe a file or folder of weights without loading it
    Inspect(InspectArgs),
    /// Print how much memory a picture needs, without making it
    #[command(allow_negative_numbers = true, args_override_self = true)]
    Plan(Box<GenerateArgs>),
    /// Make a picture and a page that explains how it came about
    #[command(allow_negative_numbers = true, args_override_self = true)]
    Explain(Box<ExplainArgs>),
    /// Serve pictures over HTTP: APIs, a page, and /mcp for agents
    #[cfg(feature = "serve")]
    Serve(Box<ServeArgs>),
    /// Draw jobs of a fleet: many machines behind one NATS server
    #[cfg(feature = "fleet")]
    Worker(Box<WorkerArgs>),
    /// Look at a fleet, drain its workers, repeat dead letters
    #[cfg(feature = "fleet")]
    Fleet(Box<FleetArgs>),
    /// Offer tools to agents such as Claude (Model Context Protocol)
    #[cfg(feature = "mcp")]
    Mcp(Box<McpArgs>),
    /// List the presets, with seconds and memory on this machine
    Presets(PresetsArgs),
    /// List the templates of prompts
    Templates(TemplatesArgs),
    /// Show and change the files of settings
    Config(ConfigArgs),
    /// Put finished pictures on one labeled sheet
    Sheet(SheetArgs),
    /// Say how two pictures and their parameters differ, and show it
    Compare(CompareArgs),
    /// Time single ops or whole pictures on this machine
    Bench(BenchArgs),
    /// Convert a model to another number format (resumable)
    Convert(ConvertArgs),
    /// Print the completions of a shell, or install them
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    ManPages(ManPagesArgs),
    /// Check this machine: CPU, GPUs, NVIDIA libraries, cache folders
    Doctor,
    /// Download a model (resumable)
    #[cfg(feature = "hub")]
    Download(DownloadArgs),
    /// List the published models and those on this disk
    #[cfg(feature = "hub")]
    Models(ModelsArgs),
    /// Check the files of downloaded models against their hashes
    #[cfg(feature = "hub")]
    Verify(VerifyArgs),
    /// Delete a downloaded model from this disk
    #[cfg(feature = "hub")]
    Remove(RemoveArgs),
}

/// Flags of `info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    /// A PNG, JPEG or WebP picture made by dj-flux2 or another program that stores its parameters
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print the parameters as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// Folder of a model or of one of its networks, file of weights, LoRA, or name of a downloaded model
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `convert`.
#[derive(clap::Args)]
pub struct ConvertArgs {
    /// A model, as for -m, or one of its networks, file or folder
    #[arg(value_name = "IN")]
    pub model: PathBuf,

    /// Where to write: a folder for a whole model, a file for one network
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Number format of the weights; bf16 and int8 are written as safetensors, q8_0 and q4_k as GGUF
    #[arg(long, value_name = "FORMAT")]
    pub to: Quantize,

    /// Convert only this network, to one file
    #[arg(long, value_name = "NETWORK")]
    pub component: Option<Component>,

    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,

    /// CPU threads [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = thread_count())]
    pub threads: Option<u16>,

    /// Print only errors and OUT
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `download`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct DownloadArgs {
    /// klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv, a Hugging Face repository as owner/name, or an
    /// upscaler such as realesr-general-x4v3
    #[arg(value_name = "MODEL", default_value = "klein-4b")]
    pub model: String,

    /// Print only errors and the folder
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `models`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct ModelsArgs {
    /// One of them; of klein-mini, also the words and sizes it knows
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Print one JSON object per model
    #[arg(long)]
    pub json: bool,
}

/// Flags of `verify`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// Model or upscaler, as for `download`, or the folder of a model [default: all on this disk]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Download damaged and missing files again
    #[arg(long)]
    pub repair: bool,

    /// Print only errors and results
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `remove`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Model or upscaler, as for `download`
    #[arg(value_name = "MODEL")]
    pub model: String,

    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
}

/// The command line with `generate` inserted, unless it starts with a subcommand or a flag of the program itself; and
/// whether the first positional argument may be a mistyped subcommand. After `--` it is a prompt.
pub fn with_subcommand(argv: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, bool) {
    let mut argv = sheet::with_whole_grids(argv.into_iter().collect());
    let implied = argv.get(1).is_some_and(|first| !is_top_level(&first.to_string_lossy()));
    let doubtful = implied && !argv.iter().any(|arg| arg == "--");
    if implied {
        argv.insert(1, "generate".into());
    }
    (argv, doubtful)
}

/// Whether clap knows `first` as a subcommand, or as a flag before any subcommand, such as `--version`.
fn is_top_level(first: &str) -> bool {
    let mut program = Args::command();
    program.build(); // adds `help` and its flag
    let is_flag = |arg: &clap::Arg| match first.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| first == format!("-{short}")),
    };
    program.find_subcommand(first).is_some() || program.get_arguments().any(is_flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Vec<String> {
        let argv = std::iter::once(&"dj-flux2").chain(argv).map(OsString::from);
        with_subcommand(argv).0.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn clap_accepts_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_prompt_alone_means_generate() {
        assert_eq!(command(&["a red fox"]), ["generate", "a red fox"]);
        assert_eq!(command(&["-m", "x", "a red fox"]), ["generate", "-m", "x", "a red fox"]);
        assert_eq!(command(&["--", "--odd"]), ["generate", "--", "--odd"]);
        assert_eq!(command(&[""]), ["generate", ""]);
    }

    #[test]
    fn a_subcommand_wins_over_a_prompt() {
        assert_eq!(command(&["info", "x.png"]), ["info", "x.png"]);
        assert_eq!(command(&["generate", "info"]), ["generate", "info"]);
        assert_eq!(command(&["help"]), ["help"]);
        assert_eq!(command(&["--version"]), ["--version"]);
        assert_eq!(command(&[]), [""; 0]);
    }

    #[test]
    fn no_subcommand_is_taken_for_a_prompt() {
        let mut program = Args::command();
        program.build();
        let names =
            program.get_subcommands().flat_map(|sub| std::iter::once(sub.get_name()).chain(sub.get_all_aliases()));
        for name in names {
            assert_eq!(command(&[name]), [name]);
        }
        for flag in ["-h", "--help", "-V", "--version"] {
            assert_eq!(command(&[flag]), [flag]);
        }
    }

    #[test]
    fn the_reference_lists_every_subcommand() {
        let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
        let reference = std::fs::read_to_string(reference).unwrap();
        for sub in Args::command().get_subcommands() {
            assert!(reference.contains(&format!("\n## {}\n", sub.get_name())), "{}", sub.get_name());
        }
    }
}
