//! Settings from files: the user's, that of the project that the current folder is in, and presets.
//!
//! In:  `--config`, `--preset`, the environment, the files. Out: [`Choices`] that flags, environment and `--from`
//! override, each value with its file.
//!
//! ```text
//! places   where the files are        file     TOML to settings with their lines
//! flags    settings as flags          paths    what paths are relative to, what a project may not say
//! presets  presets by name            edit     changes a file and keeps its comments
//! json_lines  runs of --batch
//! tables   settings of `serve`, `mcp` and `session`
//! ```

pub mod edit;
pub mod file;
pub mod flags;
pub mod json_lines;
mod paths;
pub mod places;
mod presets;
pub mod tables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flux2::environment::path_of;

use crate::choices::{Choices, Origin};
use crate::failure::Result;
use file::{File, NamedTemplate};
use flags::{Setting, Value, generate_args};
use paths::Folders;
use places::Places;
pub use presets::Presets;

/// All that files say.
#[derive(Clone, Debug)]
pub struct Config {
    pub places: Places,
    user: File,
    project: File,
    pub presets: Presets,
    /// Templates of prompts in files, by name.
    pub templates: BTreeMap<String, NamedTemplate>,
}

/// Settings of one origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub origin: Origin,
    pub settings: Vec<Setting>,
}

/// Reads the files that this process finds. `typed` is the value of `--config`.
pub fn load(typed: Option<&Path>) -> Result<Config> {
    let current = std::env::current_dir().ok();
    load_from(typed, |name| std::env::var_os(name), current.as_deref())
}

/// The same with the environment passed in.
pub fn load_from(
    typed: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
    current: Option<&Path>,
) -> Result<Config> {
    let places = places::find(typed, &env, current)?;
    let read = |path: &Path| if path.is_file() { file::read(path) } else { Ok(File::default()) };
    let user = places.user.as_deref().map(read).transpose()?.unwrap_or_default();
    assemble(places, user, env, current)
}

/// What the user's file at `path` would say with another text, where no file of a project is read.
pub fn with_text(path: &Path, text: &str) -> Result<Config> {
    let places = Places { user: Some(path.to_owned()), ..Places::default() };
    let current = std::env::current_dir().ok();
    assemble(places, file::parse(text, path)?, |name| std::env::var_os(name), current.as_deref())
}

/// Puts what the user's file says together with the other files.
fn assemble(
    places: Places,
    mut user: File,
    env: impl Fn(&str) -> Option<OsString>,
    current: Option<&Path>,
) -> Result<Config> {
    let home = path_of(&env, "HOME");
    let folders = Folders { current: current.unwrap_or(Path::new(".")), home: home.as_deref() };
    paths::of_user(&mut user, folders);
    let mut project = File::default();
    if let Some(path) = &places.project {
        project = file::read(path)?;
        paths::of_project(&mut project, folders)?;
    }
    let mut presets = Presets::built_in();
    presets.add(preset_files(&places, folders)?);
    presets.add(user.presets.clone());
    presets.add(project.presets.clone());
    let mut templates = user.templates.clone();
    templates.extend(project.templates.clone());
    Ok(Config { places, user, project, presets, templates })
}

/// Presets in files of their own, `presets/NAME.toml` beside the user's file.
fn preset_files(places: &Places, folders: Folders) -> Result<BTreeMap<String, file::Preset>> {
    let Some(entries) = places.user_folder().and_then(|folder| folder.join("presets").read_dir().ok()) else {
        return Ok(BTreeMap::new());
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut preset = file::parse_preset(&file::read_text(&path)?, &path)?;
        paths::of_preset(&mut preset, folders);
        Ok((name, preset))
    };
    files.into_iter().map(read).collect()
}

impl Config {
    /// What the files say about a run, the highest layer first. `typed` are presets of the command line; without them,
    /// those that a file chooses count as part of that file.
    pub fn layers(&self, typed: &[String]) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        let mut add = |origin, settings: Vec<Setting>| {
            let higher = |setting: &Setting| {
                layers.iter().any(|layer: &Layer| layer.settings.iter().any(|other| other.name == setting.name))
            };
            // A switch that is off in a higher layer hides one that is on in a lower one.
            let settings: Vec<Setting> = settings.into_iter().filter(|setting| !higher(setting)).collect();
            layers.push(Layer { origin, settings });
        };
        let mut chosen = !typed.is_empty();
        if chosen {
            add(Origin::Preset(typed.join(",")), self.presets.settings(typed)?);
        }
        let files = [(&self.project, &self.places.project, true), (&self.user, &self.places.user, false)];
        for (file, path, is_project) in files {
            let Some(path) = path.clone() else { continue };
            let (preset, own): (Vec<_>, Vec<_>) =
                file.generate.iter().cloned().partition(|setting| setting.name == "preset");
            add(if is_project { Origin::Project(path) } else { Origin::User(path) }, own);
            if let Some(Value::Texts(names)) = preset.first().map(|setting| &setting.value).filter(|_| !chosen) {
                chosen = true;
                let names: Vec<String> = names.iter().flat_map(|name| name.split(',')).map(str::to_owned).collect();
                add(Origin::Preset(names.join(",")), self.presets.settings(&names)?);
            }
        }
        Ok(layers)
    }

    /// The same as choices.
    pub fn choices(&self, typed: &[String], is_file: fn(&Path) -> bool) -> Result<Choices> {
        let mut choices = Choices::default();
        for Layer { origin, settings } in self.layers(typed)? {
            settings.iter().try_for_each(|setting| check_effect(setting, is_file))?;
            let args = generate_args(&settings)?;
            choices = choices.or(Choices::from_args_of(origin, &args, vec![], is_file));
        }
        Ok(choices)
    }

    /// Flags of a subcommand, from the user's file.
    pub fn table(&self, subcommand: &str) -> &[Setting] {
        self.user.tables.get(subcommand).map_or(&[], |table| &table.settings)
    }

    /// The user's own file.
    pub fn user(&self) -> &File {
        &self.user
    }

    /// The folder of wildcards beside the user's file.
    pub fn wildcards(&self) -> Option<PathBuf> {
        Some(self.places.user_folder()?.join("wildcards"))
    }
}

/// Refuses a flag that is no choice about pictures, so that it would be read and do nothing.
fn check_effect(setting: &Setting, is_file: fn(&Path) -> bool) -> Result<()> {
    if setting.value == Value::Switch(false) {
        return Ok(());
    }
    // Errors are reported with the whole layer.
    let Ok(args) = generate_args(std::slice::from_ref(setting)) else { return Ok(()) };
    let chosen = Choices::from_args_of(Origin::Default, &args, vec![], is_file);
    match format!("{chosen:?}") == format!("{:?}", Choices::default()) {
        false => Ok(()),
        true => {
            let Setting { name, place, .. } = setting;
            let message = format!("{name} belongs to one run and cannot be set in a file");
            Err(place.refuse(message, format!("pass --{name} on the command line")))
        }
    }
}

#[cfg(test)]
mod tests;
