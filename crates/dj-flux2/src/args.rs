//! What was typed, and nothing more: the command line as clap types. What it means is decided in `settings`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use flux2::Device;

/// Words in the first place that are not a prompt.
const SUBCOMMANDS: &[&str] = if cfg!(feature = "hub") {
    &[
        "generate", "info", "inspect", "plan", "bench", "convert", "doctor", "download", "models", "verify", "remove",
        "help",
    ]
} else {
    &["generate", "info", "inspect", "plan", "bench", "convert", "doctor", "help"]
};

const MODEL_HELP: &str = match (cfg!(feature = "hub"), cfg!(feature = "mini")) {
    (true, true) => {
        "Folder of the model, its transformer as a file, or a name, as in klein-4b; klein-mini is built in [default: $DJ_FLUX2_MODEL, or klein-mini]"
    }
    (true, false) => {
        "Folder of the model, its transformer as a file, or a name, as in klein-4b [default: $DJ_FLUX2_MODEL]"
    }
    (false, true) => {
        "Folder of the model, its transformer as a file, or klein-mini, which is built in [default: $DJ_FLUX2_MODEL, or klein-mini]"
    }
    (false, false) => "Folder of the model, or its transformer as a file [default: $DJ_FLUX2_MODEL]",
};

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "dj-flux2",
    version,
    about = "Text-to-image and image editing with FLUX.2 [klein]",
    after_help = "`dj-flux2 \"a red fox\"` is short for `dj-flux2 generate \"a red fox\"`; flags may stand before the prompt.\n\
                  `dj-flux2 generate --help` lists them.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Make pictures from a prompt, and from reference images
    #[command(allow_negative_numbers = true, args_override_self = true)]
    Generate(Box<GenerateArgs>),
    /// Print what made a picture
    Info(InfoArgs),
    /// Say what a file or folder of weights is, without loading it
    Inspect(InspectArgs),
    /// Say how much memory a picture would take, without making it
    #[command(allow_negative_numbers = true, args_override_self = true)]
    Plan(Box<GenerateArgs>),
    /// Time the ops, or whole pictures, on this machine
    Bench(BenchArgs),
    /// Write a model in another number format, or go on where that stopped
    Convert(ConvertArgs),
    /// Say what this machine computes with, and what is missing for its GPU
    Doctor,
    /// Bring a model here, or go on where that stopped
    #[cfg(feature = "hub")]
    Download(DownloadArgs),
    /// List the models that are known, and those that are on this disk
    #[cfg(feature = "hub")]
    Models(ModelsArgs),
    /// Compare the files of models with their hashes
    #[cfg(feature = "hub")]
    Verify(VerifyArgs),
    /// Remove a model from this disk
    #[cfg(feature = "hub")]
    Remove(RemoveArgs),
}

/// Flags of `generate`, and of `plan`: any command line can be planned.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GenerateArgs {
    /// What the picture shows, in quotes; `-` reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub prompt: Vec<String>,

    /// Read prompts from a file, one a line; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,

    /// Start from the parameters stored in a picture; other flags override them
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    #[arg(short, long, value_name = "PATH", help_heading = "Model", help = MODEL_HELP)]
    pub model: Option<PathBuf>,

    /// Transformer, file or folder, instead of the one in the folder of --model
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub transformer: Option<PathBuf>,

    /// Text encoder, file or folder; needed if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub text_encoder: Option<PathBuf>,

    /// Autoencoder, file or folder; needed if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub vae: Option<PathBuf>,

    /// LoRA to add to the transformer, a .safetensors file, with :SCALE for another scale than 1; repeat it for several
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Model")]
    pub lora: Vec<OsString>,

    /// Member of the family, where the files do not say: klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv, klein-mini
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub variant: Option<String>,

    /// Reference image to edit or combine; repeat it for several
    #[arg(short, long, value_name = "FILE", visible_aliases = ["image", "ref-image"], help_heading = "Picture")]
    pub input: Vec<PathBuf>,

    /// Width in pixels, a multiple of 16 from 64 to 4096 [default: the first reference's, or 512; 128 with klein-mini]
    #[arg(short = 'W', long, value_name = "PX", help_heading = "Picture")]
    pub width: Option<u32>,

    /// Height in pixels; likewise
    #[arg(short = 'H', long, value_name = "PX", help_heading = "Picture")]
    pub height: Option<u32>,

    /// Width and height at once, as in 1024x768
    #[arg(long, value_name = "WxH", value_parser = parse_size, conflicts_with_all = ["width", "height"], help_heading = "Picture")]
    pub size: Option<(u32, u32)>,

    /// Denoising steps [default: what the model was made for]
    #[arg(short, long, value_name = "N", help_heading = "Picture")]
    pub steps: Option<u32>,

    /// Guidance scale, for base models [default: what the model was made for]
    #[arg(short, long, value_name = "SCALE", help_heading = "Picture")]
    pub guidance: Option<f32>,

    /// Seed, 64 bits [default: random, and printed]
    #[arg(short = 'S', long, value_name = "N", help_heading = "Picture")]
    pub seed: Option<u64>,

    /// How the seed becomes noise: philox, torch-cpu, torch-cuda or torch-cuda:SMSxTHREADS [default: philox]
    #[arg(long, value_name = "KIND", help_heading = "Picture")]
    pub noise: Option<String>,

    /// Pictures for each prompt; every further picture has the next seed
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Picture")]
    pub count: u32,

    /// Where to write: .png, .jpg or .webp; `-` is standard output; {seed} and {index} are filled in
    #[arg(short, long, value_name = "FILE", default_value = "output.png", help_heading = "Output")]
    pub output: PathBuf,

    /// Fail instead of replacing a file
    #[arg(long, help_heading = "Output")]
    pub no_clobber: bool,

    /// Write nothing but pixels: no prompt, no seed
    #[arg(long, help_heading = "Output")]
    pub no_metadata: bool,

    /// Print one JSON object a picture on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print errors and random seeds only
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,

    /// Print model, device and the time of every stage
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,

    /// Number format to compute in [default: bf16]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<Dtype>,

    /// Round the weights of layers when they are loaded; int8 is --dtype int8 [default: they stay as stored]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub quantize: Option<Quantize>,

    /// Where to run: auto, cpu, cuda, or one GPU as in cuda:1; several pictures are made on all GPUs, unless one is named [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Running")]
    pub device: Option<Device>,

    /// CPU threads [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Running")]
    pub threads: Option<u16>,

    /// Memory the run may take, a GPU's or else the processor's, as in 6GiB: keeps fewer weights in it, or refuses before any
    /// work [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, help_heading = "Running")]
    pub max_memory: Option<usize>,

    /// Round weights, to q8_0 or q4_k, on a GPU to fp8 or int8, where nothing else keeps within --max-memory; it is said if it
    /// happens
    #[arg(long, requires = "max_memory", help_heading = "Running")]
    pub allow_quantize: bool,

    /// Keep no text embeddings on disk from run to run, and use none
    #[arg(long, help_heading = "Running")]
    pub no_text_cache: bool,
}

/// Flags of `info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    /// A PNG, JPEG or WebP picture that dj-flux2 made
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Print the parameters as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// Folder of a model or of one of its parts, a file of weights, a LoRA, or the name of a model that is here
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What to time.
#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

/// The benchmarks.
#[derive(Subcommand)]
pub enum Bench {
    /// Time each op at the shapes of klein-4b, beside the peak measured in the same run
    #[command(args_override_self = true)]
    Ops(BenchOpsArgs),
    /// Time a picture by stages, beside what the arithmetic allows
    #[command(args_override_self = true)]
    Generate(Box<BenchGenerateArgs>),
}

/// Flags of both benchmarks.
#[derive(clap::Args)]
pub struct BenchFlags {
    /// Number format to compute in [default: bf16]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<Dtype>,

    /// Where to run: auto, cpu, cuda, or one GPU as in cuda:1 [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Running")]
    pub device: Option<Device>,

    /// CPU threads [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Running")]
    pub threads: Option<u16>,

    /// Print one JSON object a result on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Show the results beside those of an earlier run, a file of what --json printed
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub compare: Option<PathBuf>,

    /// Print errors and results only
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// Flags of `bench ops`.
#[derive(clap::Args)]
pub struct BenchOpsArgs {
    /// Time only the ops whose name and shape hold this, as in `attention` or `linear 1536x`
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    #[command(flatten)]
    pub flags: BenchFlags,
}

/// Flags of `bench generate`.
#[derive(clap::Args)]
pub struct BenchGenerateArgs {
    /// Folder of the model, its transformer as a file, or klein-mini [default: $DJ_FLUX2_MODEL]
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,

    /// Text encoder, file or folder; needed if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub text_encoder: Option<PathBuf>,

    /// Autoencoder, file or folder; needed if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub vae: Option<PathBuf>,

    /// Random weights, made in memory, of the size of klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv or klein-mini
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "text_encoder", "vae"], help_heading = "Model")]
    pub synthetic: Option<String>,

    /// LoRA to add to the transformer, as for generate; repeat it for several
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Model")]
    pub lora: Vec<OsString>,

    /// Reference image; repeat it for several
    #[arg(short, long, value_name = "FILE", help_heading = "Picture")]
    pub input: Vec<PathBuf>,

    /// Width in pixels, a multiple of 16 from 64 to 4096 [default: as generate]
    #[arg(short = 'W', long, value_name = "PX", help_heading = "Picture")]
    pub width: Option<u32>,

    /// Height in pixels; likewise
    #[arg(short = 'H', long, value_name = "PX", help_heading = "Picture")]
    pub height: Option<u32>,

    /// Denoising steps [default: what the model was made for]
    #[arg(short, long, value_name = "N", help_heading = "Picture")]
    pub steps: Option<u32>,

    /// Pictures made before, whose times do not count
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Running")]
    pub warmup: u32,

    /// Pictures whose times count; the one with the median time is shown
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Running")]
    pub runs: u32,

    /// Round the weights of layers when they are loaded; int8 is --dtype int8 [default: they stay as stored]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub quantize: Option<Quantize>,

    /// Keep everything loaded from one picture to the next, as a server does; each still has a prompt of its own
    #[arg(long, help_heading = "Running")]
    pub resident: bool,

    /// Memory the run may take, as for generate
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, help_heading = "Running")]
    pub max_memory: Option<usize>,

    #[command(flatten)]
    pub flags: BenchFlags,
}

/// Flags of `convert`.
#[derive(clap::Args)]
pub struct ConvertArgs {
    /// What to convert: a model as -m takes it, or one of its networks, file or folder
    #[arg(value_name = "IN")]
    pub model: PathBuf,

    /// What to make: a folder of a whole model, a file of one network
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Number format of the weights; bf16 and int8 are written as safetensors, q8_0 and q4_k as GGUF
    #[arg(long, value_name = "FORMAT")]
    pub to: Quantize,

    /// Only this network of a model, as one file
    #[arg(long, value_name = "NETWORK")]
    pub component: Option<Component>,

    /// Replace OUT if it is there
    #[arg(long)]
    pub force: bool,

    /// CPU threads [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Print errors and OUT only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `download`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct DownloadArgs {
    /// klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv, or a repository of the hub as owner/name
    #[arg(value_name = "MODEL", default_value = "klein-4b")]
    pub model: String,

    /// Print errors and the folder only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `models`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct ModelsArgs {
    /// Print one JSON object a model
    #[arg(long)]
    pub json: bool,
}

/// Flags of `verify`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// As for `download` [default: all that are on this disk]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Bring damaged and missing files again
    #[arg(long)]
    pub repair: bool,

    /// Print errors and results only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `remove`.
#[cfg(feature = "hub")]
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// As for `download`
    #[arg(value_name = "MODEL")]
    pub model: String,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Number formats by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    Int8,
    Fp8,
}

/// Formats of weights by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    Bf16,
    Int8,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k")]
    Q4K,
}

/// Networks of a model by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    Transformer,
    TextEncoder,
    Vae,
}

fn parse_size(text: &str) -> Result<(u32, u32), &'static str> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.ok_or("a size is two numbers with an x between them, as in 1024x768")
}

/// Bytes from a number with a unit. `G` is short for `GiB`, as everywhere where memory is meant.
fn parse_memory(text: &str) -> Result<usize, &'static str> {
    let at = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let bytes = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err("the unit is KiB, MiB, GiB, KB, MB or GB, as in 6GiB"),
    };
    let number: f64 = number.parse().map_err(|_| "a size is a number and a unit, as in 6GiB")?;
    Ok((number * bytes) as usize)
}

/// The command line with `generate` put in front if no subcommand and no call for help is there.
pub fn with_subcommand(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let Some(first) = argv.get(1).map(|first| first.to_string_lossy()) else { return argv };
    if !SUBCOMMANDS.contains(&&*first) && !["-h", "--help", "-V", "--version"].contains(&&*first) {
        argv.insert(1, "generate".into());
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Vec<String> {
        let argv = std::iter::once(&"dj-flux2").chain(argv).map(OsString::from);
        with_subcommand(argv).iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn clap_accepts_the_definition() {
        <Args as clap::CommandFactory>::command().debug_assert();
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
    fn memory_is_a_number_and_a_unit() {
        for (text, bytes) in
            [("6GiB", 6 << 30), ("1.5g", 3 << 29), ("800 MB", 800_000_000), ("4096", 4096), ("0.5KiB", 512)]
        {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "6 apples", "-6GiB", "1.2.3G", "6e9"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(parse_size("1024x768"), Ok((1024, 768)));
        for wrong in ["1024", "1024x", "x768", "-64x64", "1024*768", "64x64x64"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
