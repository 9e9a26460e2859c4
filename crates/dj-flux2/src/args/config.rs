//! Flags of `config`, `presets`, `templates`, `completions` and `man-pages`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

/// Flags of `config`.
#[derive(clap::Args)]
pub struct ConfigArgs {
    /// File of settings in place of the user's [default: $DJ_FLUX2_CONFIG, or ~/.config/dj-flux2/config.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `config`.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print the settings of a run, and those of the tables in the files
    Show(ConfigShowArgs),
    /// Set a flag in the user's file
    Set {
        /// Name of a flag without dashes; or serve.NAME, mcp.NAME, session.NAME, presets.PRESET.NAME, templates.NAME
        #[arg(value_name = "NAME")]
        name: String,
        /// Its value; several for a flag that may be repeated
        #[arg(value_name = "VALUE", required = true, allow_hyphen_values = true)]
        values: Vec<String>,
    },
    /// Remove a flag from the user's file
    Unset {
        /// As for `set`
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Print the paths of the files that are read
    Path,
    /// Open the user's file in $VISUAL or $EDITOR
    Edit,
}

/// Flags of `config show`.
#[derive(clap::Args)]
pub struct ConfigShowArgs {
    /// Say where each value comes from
    #[arg(long)]
    pub origin: bool,

    /// Print one JSON object per setting
    #[arg(long)]
    pub json: bool,

    /// Flags of `generate`, to see what they would change
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub flags: Vec<OsString>,
}

/// Flags of `presets`.
#[derive(clap::Args)]
pub struct PresetsArgs {
    /// Model to predict for, as for `generate` [default: $DJ_FLUX2_MODEL, or klein-mini]
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,

    /// Predict nothing: list names and settings only
    #[arg(long)]
    pub fast: bool,

    /// Print one JSON object per preset
    #[arg(long)]
    pub json: bool,

    /// File of settings in place of the user's, as for `generate`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `templates`.
#[derive(clap::Args)]
pub struct TemplatesArgs {
    /// One of them, with its text
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// Print one JSON object per template
    #[arg(long)]
    pub json: bool,

    /// File of settings in place of the user's, as for `generate`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `completions`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// Shell whose script is printed; `install` writes it where the shell looks for it
    #[arg(value_name = "SHELL")]
    pub what: What,

    /// Shell to install it for [default: that of $SHELL]
    #[arg(value_name = "FOR")]
    pub shell: Option<What>,
}

/// A shell, or the wish to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
    Nushell,
    Install,
}

/// Flags of `man-pages`.
#[derive(clap::Args)]
pub struct ManPagesArgs {
    /// Folder, made if it is missing; one page for the program and one for each subcommand
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}
