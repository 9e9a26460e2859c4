//! Every flag of every subcommand, and which of them are settings, from what clap knows.

use std::any::TypeId;
use std::num::NonZeroUsize;

use clap::{Arg, Command, CommandFactory as _};

use super::{cell, table};
use crate::args::Args;
use crate::config::file::is_setting;
use crate::config::flags::{Flags, TABLES, is_list, is_path, takes_value};

/// docs/reference/generated/flags.md.
pub fn flags() -> String {
    let mut program = Args::command();
    program.build();
    let mut text = "# All flags\n\nEvery subcommand with every flag, as the program itself knows them. What they mean \
                    together, and output, exit codes and variables of the environment, is in \
                    [Command line](../cli.md).\n\n"
        .to_owned();
    for sub in program.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_command(&mut text, sub, "dj-flux2");
    }
    text
}

fn write_command(text: &mut String, command: &Command, before: &str) {
    let name = format!("{before} {}", command.get_name());
    *text += &format!("## {name}\n\n{}.\n\n", about(command));
    if command.get_name() == "plan" {
        *text += "It takes the flags of [`dj-flux2 generate`](#dj-flux2-generate).\n\n";
        return;
    }
    let shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "help_all", "version"].contains(&arg.get_id().as_str());
    let rows: Vec<_> = command.get_arguments().filter(shown).map(row).collect();
    if !rows.is_empty() {
        *text += &table(["flag", "default", "meaning"], rows);
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_command(text, sub, &name);
    }
}

fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    cell(about.trim_end_matches('.'))
}

fn row(arg: &Arg) -> [String; 3] {
    let value = arg.get_value_names().into_iter().flatten().map(|name| name.to_string()).collect::<Vec<_>>().join(" ");
    let mut names = vec![];
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    names.extend(arg.get_visible_aliases().into_iter().flatten().map(|alias| format!("--{alias}")));
    let mut flag = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if takes_value(arg) {
        let value = if value.is_empty() { arg.get_id().as_str().to_uppercase() } else { value };
        flag = match arg.is_positional() {
            true => format!("`{}`", cell(&value)),
            false => format!("{flag} `{}`", cell(&value)),
        };
    }
    let values: Vec<String> = match takes_value(arg) {
        true => arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    let (help, default) = help(arg);
    let values = if values.is_empty() { values.concat() } else { format!(". One of {}", values.join(", ")) };
    [flag, default, help + &values]
}

/// The help of a flag and its default. The help says it where clap does not set it.
fn help(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values = arg.get_default_values().iter().filter(|_| takes_value(arg));
    let set = values.map(|value| format!("`{}`", value.to_string_lossy())).collect::<Vec<_>>().join(", ");
    match help.split_once(" [default: ").and_then(|(help, rest)| Some((help, rest.strip_suffix(']')?))) {
        Some((help, default)) => (cell(help), cell(default)),
        None => (cell(&help), set),
    }
}

/// docs/reference/generated/config.md.
pub fn config() -> String {
    let mut text = "# All settings\n\nKeys of a file of settings: the long names of flags. What a file is for, which \
                    value counts and what a project may set is in [Settings](../../guide/config.md).\n\n"
        .to_owned();
    let of_generate = Flags::of_generate();
    let tables = TABLES.iter().map(|name| Flags::of(name).expect("this build has all subcommands"));
    for flags in std::iter::once(of_generate).chain(tables) {
        let name = flags.subcommand().to_owned();
        text += &match name.as_str() {
            "generate" => {
                "## Above the first table\n\nFor `generate`, `plan` and the prompts of `session`; those of a \
                           preset are the same.\n\n"
                    .to_owned()
            }
            _ => format!("## [{name}]\n\nFor `{name}`.\n\n"),
        };
        let names = flags.names().filter(|name| is_setting(name));
        let args = names.filter_map(|name| flags.find(name)).filter(|arg| !arg.is_hide_set());
        text += &table(
            ["key", "type", "default"],
            args.map(|arg| [format!("`{}`", arg.get_long().unwrap_or_default()), kind(arg), help(arg).1]),
        );
    }
    text + "## [presets.NAME]\n\n`about`, a text; `inherits`, the name of a preset or a list of names; and the keys \
            above the first table.\n\n## [templates]\n\nNames of templates, each a text with `{subject}`, or a table \
            with `about` and `text`.\n"
}

fn is_number(arg: &Arg) -> bool {
    let numbers = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroUsize>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
    ];
    numbers.iter().any(|number| arg.get_value_parser().type_id() == *number)
}

fn kind(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| format!("\"{}\"", value.get_name())).collect();
    let one = match (takes_value(arg), values.is_empty()) {
        (false, _) => "true or false".to_owned(),
        (true, false) => values.join(", "),
        (true, true) if is_path(arg) => "text: a path or a name".to_owned(),
        (true, true) if is_number(arg) => "number".to_owned(),
        (true, true) => "text".to_owned(),
    };
    if is_list(arg) { format!("{one}; or a list of these") } else { one }
}
