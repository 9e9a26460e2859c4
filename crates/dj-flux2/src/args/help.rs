//! The help: the main flags, which fit a screen, with `--help`; all flags with `--help-all`.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _};

use super::Args;

/// Flags of `generate` and `plan` that `--help` shows, by their ids.
const MAIN_OF_GENERATE: [&str; 30] = [
    "prompt",
    "prompt_file",
    "batch",
    "from",
    "template",
    "preset",
    "model",
    "lora",
    "input",
    "source",
    "size",
    "aspect",
    "steps",
    "guidance",
    "seed",
    "count",
    "upscale",
    "output",
    "json",
    "dry_run",
    "open",
    "show",
    "show_steps",
    "grid",
    "quiet",
    "verbose",
    "device",
    "max_memory",
    "help",
    "help_all",
];

/// Flags of `explain` that `--help` shows.
const MAIN_OF_EXPLAIN: [&str; 18] = [
    "prompt", "from", "preset", "model", "lora", "input", "source", "size", "steps", "guidance", "seed", "output",
    "plots", "json", "open", "device", "help", "help_all",
];

/// Flags of `serve` that `--help` shows.
const MAIN_OF_SERVE: [&str; 15] = [
    "fleet",
    "model",
    "lora",
    "bind",
    "port",
    "api_key_file",
    "max_queue",
    "max_batch",
    "state",
    "device",
    "dtype",
    "max_memory",
    "log_level",
    "help",
    "help_all",
];

/// Flags of `worker` that `--help` shows.
const MAIN_OF_WORKER: [&str; 16] = [
    "fleet",
    "fleet_creds",
    "fleet_ca",
    "objects",
    "lease",
    "name",
    "workers",
    "model",
    "lora",
    "dtype",
    "quantize",
    "device",
    "max_memory",
    "log_level",
    "backend",
    "help",
];

/// Flags of `mcp` that `--help` shows.
const MAIN_OF_MCP: [&str; 11] = [
    "config",
    "model",
    "lora",
    "root",
    "idle_unload",
    "max_pixels",
    "dtype",
    "device",
    "max_memory",
    "help",
    "help_all",
];

/// The command line as clap takes it. Unless `all`, flags that are not among the main ones are missing from the help.
pub fn command(all: bool) -> clap::Command {
    let program = Args::command();
    if all {
        return program;
    }
    let names: Vec<String> = program.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.iter().fold(program, |program, name| match name.as_str() {
        "generate" | "plan" => program.mut_subcommand(name, |sub| only(sub, &MAIN_OF_GENERATE)),
        "explain" => program.mut_subcommand(name, |sub| only(sub, &MAIN_OF_EXPLAIN)),
        "serve" => program.mut_subcommand(name, |sub| only(sub, &MAIN_OF_SERVE)),
        "mcp" => program.mut_subcommand(name, |sub| only(sub, &MAIN_OF_MCP)),
        "worker" => program.mut_subcommand(name, |sub| only(sub, &MAIN_OF_WORKER)),
        _ => program,
    })
}

/// Leaves the main flags, in one list, each with the first part of its help.
fn only(command: clap::Command, main: &[&str]) -> clap::Command {
    command.mut_args(|arg| {
        if !main.contains(&arg.get_id().as_str()) {
            return arg.hide(true);
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let first = help.split([';', '[']).next().unwrap_or_default().trim().to_owned();
        let arg = if arg.is_positional() { arg } else { arg.help_heading(None::<&str>) };
        let has_values = arg.get_action().takes_values();
        arg.help(first).hide_possible_values(has_values)
    })
}

/// Parses a command line. `--help-all` anywhere before `--` is `--help` with all flags.
///
/// # Errors
/// Clap's, which may be the help that was asked for.
pub fn parse(mut argv: Vec<OsString>) -> Result<Args, clap::Error> {
    let end = argv.iter().position(|arg| arg == "--").unwrap_or(argv.len());
    let all = argv[..end].iter().position(|arg| arg == "--help-all");
    if let Some(at) = all {
        argv[at] = "--help".into();
    }
    let mut program = command(all.is_some());
    let matches = program.try_get_matches_from_mut(argv)?;
    Args::from_arg_matches(&matches).map_err(|error| error.format(&mut program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_flags_exist() {
        let mut program = command(true);
        program.build();
        let all = [
            ("generate", &MAIN_OF_GENERATE[..]),
            ("explain", &MAIN_OF_EXPLAIN),
            ("serve", &MAIN_OF_SERVE),
            ("mcp", &MAIN_OF_MCP),
            ("worker", &MAIN_OF_WORKER),
        ];
        for (name, main) in all {
            let Some(sub) = program.find_subcommand(name) else { continue };
            let known = |id: &&&str| sub.get_arguments().any(|arg| arg.get_id() == **id);
            let missing: Vec<_> = main.iter().filter(|id| !known(id)).collect();
            assert!(missing.is_empty() || cfg!(not(all(unix, feature = "fleet"))), "{name}: {missing:?}");
        }
    }

    #[test]
    fn help_fits_a_screen() {
        let mut program = command(false).term_width(80);
        program.build();
        let whole = program.render_help().to_string().lines().count();
        assert!((30..=40).contains(&whole), "{whole} lines");
        for (name, most) in [
            ("generate", 40),
            ("plan", 40),
            ("explain", 36),
            ("serve", 25),
            ("mcp", 24),
            ("session", 36),
            ("upscale", 40),
        ] {
            let Some(sub) = program.find_subcommand_mut(name) else { continue };
            let lines = sub.render_help().to_string().lines().count();
            assert!((12..=most).contains(&lines), "{name}: {lines} lines");
        }
    }

    /// A first-time user finds them from `--help`.
    #[cfg(feature = "serve")]
    #[test]
    fn help_of_serve_says_where_everything_is() {
        let mut program = command(false);
        program.build();
        let help = program.find_subcommand_mut("serve").unwrap().render_help().to_string();
        for path in ["/v1", "/sdapi", "/api", "/mcp", "page at /"] {
            assert!(help.contains(path), "{path}");
        }
    }
}
