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
//! config          files of settings, presets        templates      templates of prompts, wildcards
//! completion      answers to a shell that completes a command line
//! upscalers       a name or file that enlarges pictures
//! terminal_picture    pictures in the terminal   outlook        how long a run will take
//! wording         what the library says as data, in the words of the command line
//! sheets          labels and cells of sheets        drafts         pictures as the job engine takes them
//! host            the models of a server            reference      generated pages of the reference (tests)
//! ```

#![forbid(unsafe_code)]

mod args;
mod cache_folder;
mod choices;
mod commands;
mod completion;
mod config;
mod credentials;
mod drafts;
mod failure;
mod gpu_options;
#[cfg(any(feature = "mcp", feature = "session"))]
mod history;
#[cfg(any(feature = "mcp", feature = "serve"))]
mod host;
#[cfg(feature = "hub")]
mod hub_options;
mod interrupt;
mod mistyped;
mod not_found;
mod outlook;
mod output;
mod prepare;
mod prompts;
#[cfg(all(test, feature = "hub", feature = "mcp", feature = "mini", feature = "serve", feature = "session"))]
mod reference;
mod report;
mod settings;
mod sheets;
mod source_picture;
mod templates;
mod terminal_picture;
mod typed_paths;
mod upscalers;
mod usage;
mod wording;

use std::path::Path;
use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    interrupt::ignore_file_size_signal();
    completion::answer();
    let (argv, implied) = args::with_subcommand(std::env::args_os());
    let args = match args::parse(argv.clone()) {
        Ok(args) => args,
        Err(error) => return report::not_parsed(&error),
    };
    #[cfg(any(feature = "serve", feature = "mcp", feature = "session"))]
    let args = match with_settings(args, &argv) {
        Ok(args) => args,
        Err(failure) => return report::failed(&failure),
    };
    if let (Command::Generate(generate), true) = (&args.command, implied)
        && let Some(failure) = mistyped::refusal(&generate.prompt, Path::is_file)
    {
        return report::failed(&failure);
    }
    let result = match &args.command {
        Command::Generate(args) => commands::generate::run(args),
        #[cfg(feature = "session")]
        Command::Session(args) => commands::session::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Upscale(args) => commands::upscale::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Explain(args) => commands::explain::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(args),
        #[cfg(feature = "fleet")]
        Command::Worker(args) => commands::worker::run(args),
        #[cfg(feature = "fleet")]
        Command::Fleet(args) => commands::fleet::run(args),
        #[cfg(feature = "mcp")]
        Command::Mcp(args) => commands::mcp::run(args),
        Command::Presets(args) => commands::presets::run(args),
        Command::Templates(args) => commands::templates::run(args),
        Command::Config(args) => commands::config::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::ManPages(args) => commands::man_pages::run(args),
        Command::Sheet(args) => commands::sheet::run(args),
        Command::Compare(args) => commands::compare::run(args),
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

/// The arguments with those that a table of the user's file adds.
#[cfg(any(feature = "serve", feature = "mcp", feature = "session"))]
fn with_settings(args: args::Args, argv: &[std::ffi::OsString]) -> failure::Result<args::Args> {
    let (subcommand, file): (_, Option<&Path>) = match &args.command {
        #[cfg(feature = "serve")]
        Command::Serve(serve) => ("serve", serve.config.as_deref()),
        #[cfg(feature = "mcp")]
        Command::Mcp(mcp) => ("mcp", mcp.config.as_deref()),
        #[cfg(feature = "session")]
        Command::Session(session) => ("session", session.config.as_deref()),
        _ => return Ok(args),
    };
    let config = config::load(file)?;
    let settings = config.table(subcommand);
    if settings.is_empty() {
        return Ok(args);
    }
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let flags = config::flags::Flags::of(subcommand).expect("it was parsed");
    let argv = config::tables::with_settings(argv, &flags, settings, is_set)?;
    args::parse(argv).map_err(|error| usage::failure(&error))
}
