//! Flags of `generate` and `plan`.

use std::ffi::OsString;
use std::path::PathBuf;

use flux2::Device;

use super::canvas::CanvasArgs;
use super::expansion::ExpansionArgs;
use super::marks::{MarkArgs, PreviewArgs};
use super::quality::QualityFlags;
use super::sheet::SheetFlags;
use super::upscale::UpscaleFlags;
use super::values::{
    Area, Aspect, Compat, Dtype, Quantize, Seed, parse_area, parse_aspect, parse_color, parse_memory, parse_seed,
    parse_size, thread_count,
};

/// Help of `--model`; what it takes depends on the features of the build.
const MODEL_HELP: &str = match (cfg!(feature = "hub"), cfg!(feature = "mini")) {
    (true, true) => {
        "Folder or name of a model, as klein-4b; or its transformer as a file; klein-mini is built in [default: \
         $DJ_FLUX2_MODEL, or klein-mini]"
    }
    (true, false) => "Folder or name of a model, as klein-4b; or its transformer as a file [default: $DJ_FLUX2_MODEL]",
    (false, true) => {
        "Folder of a model; or its transformer as a file, or klein-mini, which is built in [default: $DJ_FLUX2_MODEL, \
         or klein-mini]"
    }
    (false, false) => "Folder of a model; or its transformer as a file [default: $DJ_FLUX2_MODEL]",
};

/// Flags of `generate`; `plan` takes the same, so that any command line can be planned.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GenerateArgs {
    /// What the picture shows, in quotes; `-` reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub prompt: Vec<String>,

    /// The same as a flag, as in other programs
    #[arg(short, long = "prompt", value_name = "PROMPT", conflicts_with = "prompt")]
    pub prompt_flag: Option<String>,

    /// Read prompts from a file, one per line; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_flag"])]
    pub prompt_file: Option<PathBuf>,

    /// Start from the parameters stored in a picture; other flags override them
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    /// Read runs from a file, one JSON object a line; it has names of flags, `prompt` and `output`; `-` is standard
    /// input; pictures that are there already are not drawn again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_flag", "prompt_file", "from"])]
    pub batch: Option<PathBuf>,

    #[command(flatten)]
    pub expansion: ExpansionArgs,

    /// Settings that have a name, as in high,wide; `dj-flux2 presets` lists them
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Settings")]
    pub preset: Vec<String>,

    /// File of settings in place of the user's; `off` for none [default: $DJ_FLUX2_CONFIG, or
    /// ~/.config/dj-flux2/config.toml]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,

    #[arg(short, long, value_name = "PATH", help_heading = "Model", help = MODEL_HELP)]
    pub model: Option<PathBuf>,

    /// Transformer, file or folder; replaces the one in the --model folder
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub transformer: Option<PathBuf>,

    /// Text encoder, file or folder; required if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub text_encoder: Option<PathBuf>,

    /// Autoencoder, file or folder; required if --model is a file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub vae: Option<PathBuf>,

    /// LoRA for the transformer; a .safetensors file or the folder of a PEFT adapter; append :SCALE for a scale other
    /// than 1; repeat for several
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Model")]
    pub lora: Vec<OsString>,

    /// Model variant, if the files do not say: klein-4b, klein-base-4b, klein-9b, klein-base-9b, klein-9b-kv,
    /// klein-mini
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub variant: Option<String>,

    /// Reference image to edit or combine; repeat for several
    #[arg(short, long, value_name = "FILE", visible_aliases = ["image", "ref-image"], help_heading = "Picture")]
    pub input: Vec<PathBuf>,

    /// Color that shows where reference images are transparent: a CSS name, or #RRGGBB [default: white]
    #[arg(long, value_name = "COLOR", value_parser = parse_color, help_heading = "Picture")]
    pub background: Option<[u8; 3]>,

    /// Do as another program does, so that a seed gives what it gives: noise, noise levels, sizes and alpha channel of
    /// reference images, rounding; `diffusers` also paints into --source by its rules. --noise and --background override
    /// their part
    #[arg(long, value_name = "PROGRAM", help_heading = "Picture")]
    pub compat: Option<Compat>,

    #[command(flatten)]
    pub canvas: CanvasArgs,

    /// Width in pixels, a multiple of 16 from 64 to 4096 [default: the first reference's, or 512; 128 with klein-mini]
    #[arg(short = 'W', long, value_name = "PX", help_heading = "Picture")]
    pub width: Option<u32>,

    /// Height in pixels, with the same limits
    #[arg(short = 'H', long, value_name = "PX", help_heading = "Picture")]
    pub height: Option<u32>,

    /// Width and height at once, as in 1024x768
    #[arg(long, value_name = "WxH", value_parser = parse_size, help_heading = "Picture")]
    #[arg(conflicts_with_all = ["width", "height"])]
    pub size: Option<(u32, u32)>,

    /// Shape of the picture, as in 16:9; -W or -H alone gives the other side
    #[arg(long, value_name = "W:H", value_parser = parse_aspect, help_heading = "Picture", conflicts_with = "size")]
    pub aspect: Option<Aspect>,

    /// Number of pixels for the shape: that of a size, as in 1024x1024, or a factor of the usual one, as in 4x
    #[arg(long, value_name = "AREA", value_parser = parse_area, help_heading = "Picture")]
    #[arg(conflicts_with_all = ["size", "width", "height"])]
    pub area: Option<Area>,

    /// Denoising steps [default: set by the model]
    #[arg(short, long, value_name = "N", visible_alias = "num-inference-steps", help_heading = "Picture")]
    pub steps: Option<u32>,

    /// Classifier-free guidance scale, base models only [default: set by the model]
    #[arg(short, long, value_name = "SCALE", visible_aliases = ["guidance-scale", "cfg-scale"])]
    #[arg(help_heading = "Picture")]
    pub guidance: Option<f32>,

    /// What the picture should not show, base models only: guidance leads away from it [default: the empty prompt]
    #[arg(long, value_name = "PROMPT", help_heading = "Picture")]
    pub negative_prompt: Option<String>,

    /// Seed, 64 bits, or several as in 1,5,10-20; -1 is a random one [default: random, and printed]
    #[arg(short = 'S', long, value_name = "N", value_parser = parse_seed, help_heading = "Picture")]
    pub seed: Option<Seed>,

    /// Noise generator: philox, torch-cpu, torch-cuda or torch-cuda:SMSxTHREADS [default: philox]
    #[arg(long, value_name = "KIND", help_heading = "Picture")]
    pub noise: Option<String>,

    /// Pictures per prompt; each one uses the next seed [default: 1]
    #[arg(short = 'n', long, value_name = "N", help_heading = "Picture")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: Option<u32>,

    #[command(flatten)]
    pub upscale: UpscaleFlags,

    /// Output file, .png, .jpg or .webp, or a folder; `-` is standard output; {seed} and {index} are replaced; missing
    /// folders are made; in a folder, names are time and seed [default: output.png, or the next output-2.png, ... that
    /// is not there]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Fail instead of replacing an existing file
    #[arg(long, help_heading = "Output")]
    pub no_clobber: bool,

    /// Replace a read-only file too
    #[arg(long, conflicts_with = "no_clobber", help_heading = "Output")]
    pub force: bool,

    /// Do not store the prompt, the seed and the other parameters in the picture
    #[arg(long, help_heading = "Output")]
    pub no_metadata: bool,

    #[command(flatten)]
    pub quality: QualityFlags,

    #[command(flatten)]
    pub previews: PreviewArgs,

    #[command(flatten)]
    pub marks: MarkArgs,

    /// Stop at the first picture that fails; without it the others are made
    #[arg(long, help_heading = "Output")]
    pub fail_fast: bool,

    /// Print one JSON object for each picture
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print what would be drawn, and draw nothing
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,

    /// Open the pictures in the desktop's program for them
    #[arg(long, help_heading = "Output")]
    pub open: bool,

    /// Show the finished pictures in the terminal
    #[arg(long, help_heading = "Output")]
    pub show: bool,

    /// The same, and what they look like after each step
    #[arg(long, help_heading = "Output")]
    pub show_steps: bool,

    /// Print only errors and random seeds
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,

    /// Also print model, device and time of every stage
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,

    #[command(flatten)]
    pub sheets: SheetFlags,

    /// Number format of the computation [default: bf16]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<Dtype>,

    /// Quantize the weights while loading; int8 is the same as --dtype int8 [default: as stored]
    #[arg(long, value_name = "FORMAT", help_heading = "Running")]
    pub quantize: Option<Quantize>,

    /// Device: auto, cpu, cuda, or one GPU as in cuda:1; several pictures use all GPUs unless one is named
    /// [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Running")]
    pub device: Option<Device>,

    /// CPU threads [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = thread_count(), help_heading = "Running")]
    pub threads: Option<u16>,

    /// Memory limit, as in 6GiB; it holds for each GPU, or for the process if it runs on the CPU: fewer weights stay in
    /// memory, or the run is refused before any work [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, help_heading = "Running")]
    pub max_memory: Option<usize>,

    /// Quantize weights (to q8_0 or q4_k, on a GPU to fp8 or int8) if the run cannot keep to --max-memory otherwise;
    /// a note says so
    #[arg(long, help_heading = "Running")]
    pub allow_quantize: bool,

    /// Neither read nor write the cache of text embeddings on disk
    #[arg(long, help_heading = "Running")]
    pub no_text_cache: bool,

    #[command(flatten)]
    pub foreign: ForeignArgs,

    /// Print help with all flags
    #[arg(long)]
    pub help_all: bool,
}

/// Flags of other programs that mean nothing here: they are taken so that the answer is better than "unexpected".
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ForeignArgs {
    /// Sampler of another program
    #[arg(long, value_name = "NAME", aliases = ["sampling-method", "sampler-name"], hide = true)]
    pub sampler: Option<String>,

    /// Scheduler of another program
    #[arg(long, value_name = "NAME", hide = true)]
    pub scheduler: Option<String>,

    /// Layers of CLIP to skip in another program
    #[arg(long, value_name = "N", hide = true)]
    pub clip_skip: Option<String>,

    /// Tokenizer length in another program
    #[arg(long, value_name = "N", hide = true)]
    pub max_sequence_length: Option<String>,
}

impl GenerateArgs {
    /// The prompt that was typed, with or without its flag; several words if its quotes are missing.
    pub fn typed_prompt(&self) -> &[String] {
        match &self.prompt_flag {
            Some(prompt) => std::slice::from_ref(prompt),
            None => &self.prompt,
        }
    }
}
