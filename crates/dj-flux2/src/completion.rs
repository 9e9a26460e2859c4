//! Completion of a command line while it is typed: the shell starts this program with a variable set, and it answers
//! with flags and values. Models are those on this disk; nothing is loaded and the network is not used.

use std::ffi::OsStr;
use std::path::Path;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};
use clap_complete::env::CompleteEnv;
use flux2::Variant;
use flux2::find::ModelFinder;
use flux2::weights::Location;

use crate::{args, config, templates};

/// The variable that a shell's script sets.
pub const VARIABLE: &str = "COMPLETE";

/// Answers a shell and ends the process, if one asks.
pub fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The command line with what completes its values. Flags of `generate` are also those of the program, as it need not
/// be typed.
pub fn command() -> clap::Command {
    let program = args::command(true);
    let generate = program.find_subcommand("generate").expect("it is there").clone();
    let flags = generate.get_arguments().map(|arg| with_values(arg.clone()));
    let program = program.args(flags.collect::<Vec<_>>()).subcommand_required(false).arg_required_else_help(false);
    let names: Vec<String> = program.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.iter().fold(program, |program, name| program.mut_subcommand(name, |sub| sub.mut_args(with_values)))
}

fn with_values(arg: clap::Arg) -> clap::Arg {
    let completer: fn(&OsStr) -> Vec<CompletionCandidate> = match arg.get_id().as_str() {
        "model" => models,
        "lora" => |typed| files(typed, &["safetensors"]),
        "preset" => presets,
        "template" => named_templates,
        "input" | "from" => |typed| files(typed, &["png", "jpg", "jpeg", "webp"]),
        "batch" => |typed| files(typed, &["jsonl"]),
        _ => return arg,
    };
    arg.add(ArgValueCompleter::new(completer))
}

/// Candidates that begin with what was typed.
fn beginning_with(typed: &OsStr, names: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let candidates = names.filter(|(name, _)| name.starts_with(&typed));
    candidates.map(|(name, about)| CompletionCandidate::new(name).help(Some(about.into()))).collect()
}

/// Folders, and files with one of the endings.
fn files(typed: &OsStr, endings: &'static [&'static str]) -> Vec<CompletionCandidate> {
    let is_file = move |path: &Path| {
        path.extension().is_some_and(|found| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
    };
    PathCompleter::any().filter(move |path| path.is_dir() || is_file(path)).complete(typed)
}

/// Published models on this disk.
pub fn models_here() -> impl Iterator<Item = &'static Variant> {
    let finder = ModelFinder::usual();
    Variant::named().iter().filter(move |variant| finder.model(&Location::from(variant.name)).is_ok())
}

/// Models on this disk by name, then paths.
fn models(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = models_here().map(|variant| (variant.name.to_owned(), variant.license.to_owned()));
    let mut candidates = beginning_with(typed, names);
    candidates.extend(files(typed, &["safetensors", "gguf"]));
    candidates
}

fn presets(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(config) = config::load(None) else { return Vec::new() };
    let typed = typed.to_string_lossy();
    // Behind a comma, the ones before it stay.
    let before = typed.rfind(',').map_or("", |at| &typed[..=at]);
    let names = config.presets.iter().map(|(name, preset)| (format!("{before}{name}"), preset.about.clone()));
    beginning_with(OsStr::new(&*typed), names)
}

fn named_templates(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = templates::built_in();
    if let Ok(config) = config::load(None) {
        all.extend(config.templates);
    }
    beginning_with(typed, all.into_iter().map(|(name, template)| (name, template.about)))
}
