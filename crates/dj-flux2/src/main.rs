//! `dj-flux2`: FLUX.2 \[klein\] on the command line.
//!
//! In:  arguments, the environment, files.
//! Out: pictures in files, results on standard output, everything else on standard error, an exit code.
//!
//! ```text
//! args            what was typed                    choices        values in layers, each with its origin
//! usage           clap's errors, worded             settings       what the choices mean
//! prompts         prompts from files and pipes      source_picture the picture of --from
//! prepare         names to files, references read   interrupt      signals
//! commands        one file per subcommand           output         names and writing of pictures
//! report          what is printed                   failure        why a command stopped, its exit code
//! not_found       a name that leads to no model     cache_folder   where text embeddings are kept
//! mistyped        a word that is hardly a prompt        typed_paths    `-`, addresses, files that stand for folders
//! gpu_options     where a GPU's libraries are       hub_options    how the hub is reached, where models are kept
//! upscalers       a name or file that enlarges pictures
//! wording         what the library says as data, in the words of the command line
//! ```

#![forbid(unsafe_code)]

mod args;
mod cache_folder;
mod choices;
mod commands;
mod failure;
mod gpu_options;
#[cfg(feature = "hub")]
mod hub_options;
mod interrupt;
mod mistyped;
mod not_found;
mod output;
mod prepare;
mod prompts;
mod report;
mod settings;
mod source_picture;
mod typed_paths;
mod upscalers;
mod usage;
mod wording;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};

fn main() -> ExitCode {
    interrupt::ignore_file_size_signal();
    let (argv, implied) = args::with_subcommand(std::env::args_os());
    let args = match Args::try_parse_from(argv) {
        Ok(args) => args,
        Err(error) => return report::not_parsed(&error),
    };
    if let (Command::Generate(generate), true) = (&args.command, implied)
        && let Some(failure) = mistyped::refusal(&generate.prompt, Path::is_file)
    {
        return report::failed(&failure);
    }
    let result = match &args.command {
        Command::Generate(args) => commands::generate::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Upscale(args) => commands::upscale::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Plan(args) => commands::plan::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Doctor => commands::doctor::run(),
        #[cfg(feature = "hub")]
        Command::Download(args) => commands::download::run(args),
        #[cfg(feature = "hub")]
        Command::Models(args) => commands::models::run(args),
        #[cfg(feature = "hub")]
        Command::Verify(args) => commands::verify::run(args),
        #[cfg(feature = "hub")]
        Command::Remove(args) => commands::remove::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::failed(&failure),
    }
}
