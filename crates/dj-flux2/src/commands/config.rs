//! `dj-flux2 config`: shows the settings of a run with their origins, and changes the user's file.

mod check;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::parser::ValueSource;
use clap::{Arg, CommandFactory as _};
use flux2::Variant;
use flux2::image::Stored;
use flux2::variant::KLEIN_MINI;
use serde::Serialize;

use crate::args::{Args, Command as Typed, ConfigArgs, ConfigCommand, ConfigShowArgs, GenerateArgs};
use crate::choices::Origin;
use crate::config::edit;
use crate::config::file::{self, NamedTemplate};
use crate::config::flags::{Flags, Place, Setting, TABLES};
use crate::config::{self, Config};
use crate::failure::{Failure, Result, code};
use crate::report::{json, print, shown};
use crate::source_picture::SourcePicture;
use crate::usage;
use check::check;

/// Runs the subcommand of `config`.
pub fn run(args: &ConfigArgs) -> Result<()> {
    let typed = args.config.as_deref();
    match &args.command {
        ConfigCommand::Show(show) => print_settings(typed, show),
        ConfigCommand::Set { name, values } => {
            let path = to_change(typed)?;
            edit::set(&path, name, values, |text| check(&path, text))
        }
        ConfigCommand::Unset { name } => edit::unset(&to_change(typed)?, name),
        ConfigCommand::Path => print_paths(typed),
        ConfigCommand::Edit => open_editor(&to_change(typed)?),
    }
}

/// A setting with its origin, as `--json` prints it.
#[derive(Serialize)]
struct Row {
    name: String,
    value: String,
    /// `flag`, `environment`, `picture`, `preset`, `project`, `user`, `model` or `default`.
    origin: &'static str,
    /// What is behind the origin: a variable, a preset, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// Values of one source by the names of their flags.
type Values = Vec<(String, String, &'static str, Option<String>, Option<usize>)>;

fn print_settings(config: Option<&Path>, show: &ConfigShowArgs) -> Result<()> {
    let argv = ["dj-flux2", "generate"].into_iter().map(OsString::from).chain(show.flags.iter().cloned());
    let argv: Vec<OsString> = argv.collect();
    let matches = Args::command().try_get_matches_from(&argv).map_err(|error| usage::failure(&error))?;
    let args = generate_args(argv)?;
    let files = config::load(args.config.as_deref().or(config))?;
    // Refuses what a run would refuse.
    files.choices(&args.preset, Path::is_file)?;
    let from = args.from.as_deref().map(|file| SourcePicture::read(file, args.sheets.cell)).transpose()?;
    let (_, typed) = matches.subcommand().expect("generate");
    let mut all = typed_values(typed);
    all.extend(environment_values());
    all.extend(from.as_ref().map(picture_values).unwrap_or_default());
    all.extend(file_values(&files, &args.preset)?);
    let mut rows = rows(all);
    rows.extend(TABLES.into_iter().flat_map(|name| table_rows(&files, name)));
    rows.extend(named_rows(&files));
    if show.json {
        rows.iter().try_for_each(|row| print(&json(row)))?;
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len() + row.value.len() + 3).max().unwrap_or_default();
    for Row { name, value, origin, of, line } in &rows {
        let text = shown(&format!("{name} = {value}"));
        let of = of.as_ref().map(|of| format!(" {of}")).unwrap_or_default();
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        match show.origin {
            true => print(&format!("{text:<width$}  {origin}{}", shown(&format!("{of}{line}"))))?,
            false => print(&text)?,
        }
    }
    Ok(())
}

fn generate_args(argv: Vec<OsString>) -> Result<GenerateArgs> {
    match crate::args::parse(argv).map_err(|error| usage::failure(&error))?.command {
        Typed::Generate(args) => Ok(*args),
        _ => unreachable!("the subcommand is `generate`"),
    }
}

/// What was typed. A size is its two sides.
fn typed_values(matches: &clap::ArgMatches) -> Values {
    let flags = Flags::of_generate();
    let given = |name: &str| {
        let id = flags.find(name).map(Arg::get_id)?.as_str();
        let is_typed = matches.value_source(id) == Some(ValueSource::CommandLine);
        let raw = matches.get_raw(id).filter(|_| is_typed)?;
        let texts: Vec<String> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        let is_switch = flags.find(name).is_some_and(|arg| !config::flags::takes_value(arg));
        Some(if is_switch { "true".to_owned() } else { texts.join(", ") })
    };
    let of = |name: &str| given(name).map(|value| (name.to_owned(), value, "flag", None, None));
    sides(flags.names().filter_map(of).collect())
}

fn environment_values() -> Values {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let model = set("DJ_FLUX2_MODEL").map(|model| ("model", model, "DJ_FLUX2_MODEL"));
    let variable = crate::cache_folder::VARIABLE;
    let off = set(variable).filter(|value| value == "off").map(|_| ("no-text-cache", "true".to_owned(), variable));
    let of = |(name, value, variable): (&str, String, &str)| {
        (name.to_owned(), value, "environment", Some(variable.to_owned()), None)
    };
    model.into_iter().chain(off).map(of).collect()
}

fn picture_values(picture: &SourcePicture) -> Values {
    let mut values: Vec<(&str, String)> = Vec::new();
    match &picture.stored {
        Stored::Ours(made) => {
            values.extend([
                ("width", made.width.to_string()),
                ("height", made.height.to_string()),
                ("steps", made.steps.to_string()),
                ("seed", made.seed.to_string()),
                ("noise", made.noise.clone()),
                ("dtype", made.dtype.clone()),
            ]);
            values.extend(made.guidance.map(|guidance| ("guidance", guidance.to_string())));
            values.extend(made.negative_prompt.clone().map(|text| ("negative-prompt", text)));
            let loras: Vec<String> = made.loras.iter().map(|lora| format!("{}:{}", lora.name, lora.scale)).collect();
            values.extend(Some(("lora", loras.join(", "))).filter(|_| !loras.is_empty()));
        }
        Stored::Other(made) => {
            let taken = crate::source_picture::Taken::of(made);
            values.extend(taken.seed.map(|seed| ("seed", seed.to_string())));
            values.extend(taken.steps.map(|steps| ("steps", steps.to_string())));
            values.extend(taken.size.iter().flat_map(|(w, h)| [("width", w.to_string()), ("height", h.to_string())]));
        }
    }
    let file = picture.file.display().to_string();
    values.into_iter().map(|(name, value)| (name.to_owned(), value, "picture", Some(file.clone()), None)).collect()
}

fn file_values(files: &Config, presets: &[String]) -> Result<Values> {
    let mut values = Values::new();
    for layer in files.layers(presets)? {
        let mut own = Values::new();
        for setting in layer.settings {
            let Place { file, line } = setting.place;
            let (origin, of, line) = match &layer.origin {
                Origin::Preset(name) => ("preset", name.clone(), None),
                Origin::Project(_) => ("project", file.display().to_string(), Some(line)),
                _ => ("user", file.display().to_string(), Some(line)),
            };
            own.push((setting.name, setting.value.to_string(), origin, Some(of), line));
        }
        values.extend(sides(own));
    }
    Ok(values)
}

/// A size as width and height, so that each can come from another source.
fn sides(values: Values) -> Values {
    let of = |(name, value, origin, of, line): (String, String, &'static str, Option<String>, Option<usize>)| match (
        name.as_str(),
        value.split_once(['x', 'X']),
    ) {
        ("size", Some((width, height))) => vec![
            ("width".to_owned(), width.to_owned(), origin, of.clone(), line),
            ("height".to_owned(), height.to_owned(), origin, of, line),
        ],
        _ => vec![(name, value, origin, of, line)],
    };
    values.into_iter().flat_map(of).collect()
}

/// For each flag in the order of the help, the first value; where there is none, that of the model or of the program.
fn rows(values: Values) -> Vec<Row> {
    let flags = Flags::of_generate();
    let model = values.iter().find(|(name, ..)| name == "model").map(|(_, value, ..)| value.clone());
    let variant = model.as_deref().or(Some(KLEIN_MINI).filter(|_| cfg!(feature = "mini")));
    let variant = variant.and_then(|name| Variant::by_repo(name).or_else(|| Variant::by_name(name).ok()));
    let row = |name: &str| {
        if let Some((name, value, origin, of, line)) = values.iter().find(|(known, ..)| known == name).cloned() {
            return Some(Row { name, value, origin, of, line });
        }
        let of_model = variant.and_then(|variant| {
            let value = match name {
                "steps" => variant.default_steps.to_string(),
                "guidance" => variant.default_guidance?.to_string(),
                "width" | "height" if !shapes(&values) => variant.default_px.to_string(),
                _ => return None,
            };
            Some((value, "model", Some(variant.name.to_owned())))
        });
        let (value, origin, of) = of_model.or_else(|| Some((default_of(flags.find(name)?)?, "default", None)))?;
        Some(Row { name: name.to_owned(), value, origin, of, line: None })
    };
    let is_setting = |name: &&str| file::is_setting(name) && *name != "size";
    flags.names().filter(is_setting).filter_map(row).collect()
}

/// The settings of a subcommand with a table of its own, in the order of its help.
fn table_rows(files: &Config, subcommand: &str) -> Vec<Row> {
    let Some(flags) = Flags::of(subcommand) else { return Vec::new() };
    let settings = files.table(subcommand);
    let environment = environment_values();
    let row = |name: &str| {
        let arg = flags.find(name)?;
        let set = settings.iter().find(|setting| setting.name == name);
        let above = environment.iter().find(|(known, ..)| known == name);
        let (value, origin, of, line) = match (above, set) {
            (Some((_, value, origin, of, _)), _) => (value.clone(), *origin, of.clone(), None),
            (None, Some(Setting { value, place: Place { file, line }, .. })) => {
                (value.to_string(), "user", Some(file.display().to_string()), Some(*line))
            }
            (None, None) => (default_of(arg).filter(|_| !arg.is_hide_set())?, "default", None, None),
        };
        Some(Row { name: format!("{subcommand}.{name}"), value, origin, of, line })
    };
    flags.names().filter(|name| file::is_setting(name)).filter_map(row).collect()
}

/// Presets and templates of files, by the names that `config set` takes.
fn named_rows(files: &Config) -> Vec<Row> {
    let row = |name: String, value: String, place: &Place| {
        let Place { file, line } = place;
        let origin = if files.places.project.as_ref() == Some(file) { "project" } else { "user" };
        Row { name, value, origin, of: Some(file.display().to_string()), line: Some(*line) }
    };
    let mut rows = Vec::new();
    for (name, preset) in files.presets.iter().filter(|(_, preset)| !preset.is_built_in()) {
        let inherits: Vec<&str> = preset.inherits.iter().map(|(name, _)| name.as_str()).collect();
        rows.extend(
            preset
                .inherits
                .first()
                .map(|(_, place)| row(format!("presets.{name}.inherits"), inherits.join(", "), place)),
        );
        let of_setting = |Setting { name: key, value, place }: &Setting| {
            row(format!("presets.{name}.{key}"), value.to_string(), place)
        };
        rows.extend(preset.settings.iter().map(of_setting));
    }
    let of_template = |(name, template): (&String, &NamedTemplate)| {
        row(format!("templates.{name}"), template.text.clone(), &template.place)
    };
    rows.extend(files.templates.iter().map(of_template));
    rows
}

/// Whether a shape or a number of pixels decides the size.
fn shapes(values: &Values) -> bool {
    values.iter().any(|(name, ..)| name == "aspect" || name == "area")
}

/// What a flag is without a value, if that is a value.
fn default_of(arg: &Arg) -> Option<String> {
    if let (true, [value]) = (config::flags::takes_value(arg), arg.get_default_values()) {
        return Some(value.to_string_lossy().into_owned());
    }
    let help = arg.get_help()?.to_string().replace('\n', " ");
    let default = help.split_once("[default: ")?.1.split_once(']')?.0.to_owned();
    // A sentence, or another flag's.
    let is_value = !default.contains([' ', '$']) || default == "as stored";
    is_value.then_some(default)
}

fn print_paths(typed: Option<&Path>) -> Result<()> {
    let places = config::load(typed)?.places;
    for (what, path) in [("user", &places.user), ("project", &places.project), ("not read", &places.foreign)] {
        let Some(path) = path else { continue };
        let note = match (what, path.is_file()) {
            ("not read", _) => ", which belongs to another user than the current folder",
            (_, true) => "",
            (_, false) => ", which is not there",
        };
        print(&format!("{what:<8}  {}{note}", path.display()))?;
    }
    Ok(())
}

/// The file that is changed.
fn to_change(typed: Option<&Path>) -> Result<PathBuf> {
    let named = typed.map(Path::to_owned);
    let env = |name: &str| std::env::var_os(name);
    let named = named.or_else(|| flux2::environment::path_of(&env, config::places::VARIABLE));
    let usual = || Some(config::places::user_folder(&env)?.join("config.toml"));
    named.filter(|path| path != Path::new("off")).or_else(usual).ok_or_else(|| {
        Failure::usage("nothing says where the file of settings is: HOME is not set", "name it with --config FILE")
    })
}

/// Opens the file in the user's editor, and says whether what comes back can be read.
fn open_editor(path: &Path) -> Result<()> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).ok_or_else(|| {
        let hint = format!("set EDITOR, or edit {}", path.display());
        Failure::usage("neither VISUAL nor EDITOR names an editor", hint)
    })?;
    if let Some(folder) = path.parent() {
        // An editor may not make it. If this fails, saving does too, and says why.
        let _ = std::fs::create_dir_all(folder);
    }
    let mut words = editor.split_whitespace();
    let program = words.next().expect("it is not empty");
    let status = Command::new(program).args(words).arg(path).status();
    let failed = |why: String| Failure::new(code::FAILURE, format!("{editor}: {why}"), "set EDITOR to another editor");
    match status {
        Err(error) => Err(failed(error.to_string())),
        Ok(status) if !status.success() => Err(failed(status.to_string())),
        Ok(_) if path.is_file() => check(path, &file::read_text(path)?),
        Ok(_) => Ok(()),
    }
}
