//! Flags of `session`.

use std::path::PathBuf;

use flux2::Device;

/// Flags of `session`.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(
    after_help = "Type a prompt, or a command such as !help; $1, $-1 and $cat in a prompt are pictures drawn before.\n\
                        Without a terminal, lines are read from standard input: dj-flux2 session < script"
)]
pub struct SessionArgs {
    /// Model, as for `generate`; with --connect, the name of one that is served
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,

    /// Settings that have a name, as in high,wide; `dj-flux2 presets` lists them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub preset: Vec<String>,

    /// Any setting of `generate` by the name of its flag, as in steps=8; repeat for several; `!set` does the same
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,

    /// Where pictures are written, as for `generate`; a name without {index} or {seed} gets the number of the picture
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Device, as for `generate`
    #[arg(long, value_name = "DEVICE", conflicts_with = "connect")]
    pub device: Option<Device>,

    /// File of settings in place of the user's; `off` for none
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder in which pictures keep their numbers and names from session to session; `mcp --history` may go on with
    /// the same one; `off` for none [default: in the user's folder of state; for a script, off]
    #[arg(long, value_name = "FOLDER")]
    pub history: Option<PathBuf>,

    /// Draw on a server, as in http://127.0.0.1:8190, which `dj-flux2 serve` started
    #[arg(long, value_name = "URL")]
    pub connect: Option<String>,

    /// File that holds the API key for the server [default: $DJ_FLUX2_API_KEY]
    #[arg(long, value_name = "FILE", requires = "connect")]
    pub api_key_file: Option<PathBuf>,

    /// Go on with a script after a line that fails; the exit code says at the end that one did
    #[arg(long)]
    pub keep_going: bool,

    /// Print one JSON object for each result on standard output
    #[arg(long)]
    pub json: bool,
}
