//! Reads a file of settings: TOML whose keys are long names of flags.
//!
//! In:  the text of a file. Out: its [`File`], every setting with its line.
//!
//! ```toml
//! steps = 4                    # --steps 4, for `generate` and `plan`
//! lora = ["a.safetensors"]     # a flag that may be repeated takes a list
//!
//! [serve]                      # flags of `serve`; those of `mcp` and `session` are in [mcp] and [session]
//! port = 8191
//!
//! [presets.poster]             # --preset poster
//! inherits = "high"
//! aspect = "2:3"
//!
//! [templates]                  # -t ink
//! ink = "{subject}, ink on paper"
//! ```

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::{fs, io};

use clap::Arg;
use flux2::foreign;
use toml_edit::{Document, Item, Table, Value as Toml};

use super::flags::{self, Flags, Place, Setting, TABLES, Value};
use crate::failure::{Failure, Result, code};

/// Most bytes of a file of settings.
const MAX_BYTES: u64 = 1 << 20;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Flags of `generate`.
    pub generate: Vec<Setting>,
    /// Flags of other subcommands, by their names.
    pub tables: BTreeMap<String, SubcommandTable>,
    pub presets: BTreeMap<String, Preset>,
    pub templates: BTreeMap<String, NamedTemplate>,
}

/// The table of a subcommand. A build without the subcommand reads past what is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct SubcommandTable {
    /// Where it begins.
    pub place: Place,
    pub settings: Vec<Setting>,
}

/// Settings that are used together by a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preset {
    /// One line for the list of presets.
    pub about: String,
    /// Presets that it starts from; later ones override earlier ones.
    pub inherits: Vec<(String, Place)>,
    pub settings: Vec<Setting>,
}

impl Preset {
    /// Whether it came with the program, unchanged.
    pub fn is_built_in(&self) -> bool {
        let places = self.settings.iter().map(|setting| &setting.place);
        places.chain(self.inherits.iter().map(|(_, place)| place)).all(|place| place.file == Path::new(BUILT_IN))
    }
}

/// A template of prompts with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTemplate {
    /// One line for the list of templates.
    pub about: String,
    pub text: String,
    pub place: Place,
}

/// Reported as the file of built-in presets.
pub const BUILT_IN: &str = "presets";

/// A source, and what means nothing without one. In a file of settings all but the files wait for a source.
pub const OF_A_SOURCE: [&str; 10] = [
    "source",
    "mask",
    "mask-from-alpha",
    "mask-invert",
    "mask-grow",
    "feather",
    "no-source-reference",
    "outpaint",
    "outpaint-fill",
    "strength",
];

/// Flags that decide what is drawn in this run alone, or where settings come from.
pub const OF_ONE_RUN: [&str; 10] =
    ["prompt", "prompt-file", "from", "cell", "config", "batch", "dry-run", "help", "help-all", "version"];

/// Pictures of a run that is painted into one. A line of a batch can name them, as it is a run of its own.
const SOURCE_FILES: [&str; 2] = ["source", "mask"];

/// Flags of `generate` about its sheet, which are no choices about pictures.
const OF_A_SHEET: [&str; 3] = ["grid", "sheet", "dark"];

/// Whether a flag can be set in a file.
pub fn is_setting(name: &str) -> bool {
    ![&OF_ONE_RUN[..], &SOURCE_FILES, &OF_A_SHEET].concat().contains(&name) && foreign::why(name).is_none()
}

/// Reads the file at `path`.
pub fn read(path: &Path) -> Result<File> {
    parse(&read_text(path)?, path)
}

/// Reads the text of a file of settings.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::usage(format!("{} is not UTF-8", path.display()), "save it as UTF-8"),
        _ => Failure::new(
            code::FAILURE,
            format!("{}: {error}", path.display()),
            "name another file with --config, or use `--config off` for no file",
        ),
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("{} has more than {MAX_BYTES} bytes", path.display()), "shorten it"));
    }
    Ok(text)
}

/// Reads the text of the file at `path`.
pub fn parse(text: &str, path: &Path) -> Result<File> {
    let reader = Reader { text, path };
    let document = reader.document()?;
    let flags = Flags::of_generate();
    let mut file = File::default();
    for (key, item) in document.as_table() {
        let place = reader.place(document.as_table(), key);
        match key {
            _ if TABLES.contains(&key) => {
                let table = reader.table(key, item, &place)?;
                let settings = Flags::of(key).map(|flags| reader.settings(&flags, table)).transpose()?;
                let settings = settings.unwrap_or_default();
                file.tables.insert(key.to_owned(), SubcommandTable { place, settings });
            }
            "presets" => {
                for (name, item) in reader.table(key, item, &place)? {
                    let place = reader.place(item_table(document.as_table(), key), name);
                    let preset = reader.preset(&flags, reader.table(name, item, &place)?)?;
                    file.presets.insert(name.to_owned(), preset);
                }
            }
            "templates" => file.templates = reader.templates(reader.table(key, item, &place)?)?,
            _ => file.generate.push(reader.setting(&flags, key, item, &place)?),
        }
    }
    Ok(file)
}

/// Reads the text of a file that is one preset.
pub fn parse_preset(text: &str, path: &Path) -> Result<Preset> {
    let reader = Reader { text, path };
    let document = reader.document()?;
    reader.preset(&Flags::of_generate(), document.as_table())
}

/// The table that the caller knows to be at `key`.
fn item_table<'a>(table: &'a Table, key: &str) -> &'a Table {
    table.get(key).and_then(Item::as_table).expect("it was read as a table")
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Reader<'_> {
    fn document(&self) -> Result<Document<&str>> {
        Document::parse(self.text).map_err(|error| {
            let place = self.at(error.span().map_or(0, |span| span.start));
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            place.refuse(message, "a line is `name = value`, with texts in quotes")
        })
    }

    /// The place of a byte.
    fn at(&self, byte: usize) -> Place {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place { file: self.path.to_owned(), line }
    }

    /// The place of a key.
    fn place(&self, table: &Table, key: &str) -> Place {
        let span = table.get_key_value(key).and_then(|(key, item)| key.span().or(item.span()));
        self.at(span.map_or(0, |span| span.start))
    }

    fn table<'a>(&self, name: &str, item: &'a Item, place: &Place) -> Result<&'a Table> {
        item.as_table().ok_or_else(|| {
            place.refuse(format_args!("{name} is a table, not a value"), format!("write it below a line [{name}]"))
        })
    }

    /// A setting that belongs into a file.
    fn setting(&self, flags: &Flags, key: &str, item: &Item, place: &Place) -> Result<Setting> {
        if !is_setting(key) && flags.find(key).is_some() && foreign::why(key).is_none() {
            let hint = format!("pass --{key} on the command line");
            return Err(place.refuse(format_args!("{key} belongs to one run and cannot be set in a file"), hint));
        }
        setting(flags, key, item, place)
    }

    fn settings(&self, flags: &Flags, table: &Table) -> Result<Vec<Setting>> {
        table.iter().map(|(key, item)| self.setting(flags, key, item, &self.place(table, key))).collect()
    }

    fn preset(&self, flags: &Flags, table: &Table) -> Result<Preset> {
        let mut preset = Preset::default();
        for (key, item) in table {
            let place = self.place(table, key);
            match key {
                "about" => preset.about = self.text_of(key, item, &place)?,
                "inherits" => {
                    let names = texts(item).filter(|names| !names.is_empty());
                    let names = names.ok_or_else(|| {
                        place.refuse("inherits is not the name of a preset", "write inherits = \"high\", or a list")
                    })?;
                    preset.inherits = names.into_iter().map(|name| (name, place.clone())).collect();
                }
                "preset" => {
                    return Err(place.refuse("a preset cannot choose a preset", "write inherits instead"));
                }
                _ => preset.settings.push(self.setting(flags, key, item, &place)?),
            }
        }
        Ok(preset)
    }

    fn templates(&self, table: &Table) -> Result<BTreeMap<String, NamedTemplate>> {
        let mut templates = BTreeMap::new();
        for (name, item) in table {
            let place = self.place(table, name);
            let template = match item.as_table_like() {
                Some(parts) => {
                    let mut template =
                        NamedTemplate { about: String::new(), text: String::new(), place: place.clone() };
                    for (key, item) in parts.iter() {
                        match key {
                            "about" => template.about = self.text_of(key, item, &place)?,
                            "text" => template.text = self.text_of(key, item, &place)?,
                            _ => {
                                let message = format!("{key} is no part of a template");
                                return Err(place.refuse(message, "write text, and about for the list of templates"));
                            }
                        }
                    }
                    template
                }
                None => {
                    let text = self.text_of(name, item, &place)?;
                    NamedTemplate { about: String::new(), text, place: place.clone() }
                }
            };
            if template.text.is_empty() {
                return Err(place.refuse(format_args!("the template {name} has no text"), "write it in quotes"));
            }
            templates.insert(name.to_owned(), template);
        }
        Ok(templates)
    }

    fn text_of(&self, key: &str, item: &Item, place: &Place) -> Result<String> {
        let text = item.as_str().map(str::to_owned);
        text.ok_or_else(|| place.refuse(format_args!("{key} is not a text"), "put it in quotes"))
    }
}

/// A setting with a value of the kind that its flag takes. What the value means is left to clap.
pub fn setting(flags: &Flags, key: &str, item: &Item, place: &Place) -> Result<Setting> {
    let arg = find(flags, key, is_setting, place)?;
    let name = arg.get_long().expect("it was found by its long name").to_owned();
    let value = match (item.as_bool(), flags::takes_value(arg)) {
        (Some(on), false) => Value::Switch(on),
        (None, false) => {
            return Err(place.refuse(format_args!("{key} is true or false"), format!("write {key} = true")));
        }
        (_, true) => {
            let is_array = item.as_array().is_some();
            let texts = texts(item).ok_or_else(|| {
                place.refuse(format_args!("{key} is not a text or a number"), "put its value in quotes")
            })?;
            if is_array && !flags::is_list(arg) {
                return Err(place.refuse(format_args!("{key} has one value, not a list"), "remove the brackets"));
            }
            Value::Texts(texts)
        }
    };
    Ok(Setting { name, value, place: place.clone() })
}

/// The flag called `key`. The hint of the error is the nearest of those names that `is_offered`.
pub fn find<'a>(flags: &'a Flags, key: &str, is_offered: fn(&str) -> bool, place: &Place) -> Result<&'a Arg> {
    if let Some(why) = foreign::why(key) {
        return Err(place.refuse(why, foreign::HINT));
    }
    flags.find(key).ok_or_else(|| {
        let hint = match Flags::nearest(key, flags.names().filter(|name| is_offered(name))) {
            Some(nearest) => format!("the nearest name is {nearest}"),
            None => {
                let subcommand = flags.subcommand();
                format!("settings have the names of flags: `dj-flux2 {subcommand} --help-all` lists them")
            }
        };
        place.refuse(format_args!("there is no setting {key}"), hint)
    })
}

/// The value as text, or each of a list; `None` for other kinds of values.
fn texts(item: &Item) -> Option<Vec<String>> {
    let text = |value: &Toml| match value {
        Toml::String(text) => Some(text.value().clone()),
        Toml::Integer(number) => Some(number.value().to_string()),
        Toml::Float(number) => Some(number.value().to_string()),
        Toml::Boolean(on) => Some(on.value().to_string()),
        _ => None,
    };
    match item.as_value()? {
        Toml::Array(list) => list.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}
