//! Paths in files of settings, and what the file of a project may not say.
//!
//! `./` and `../` are relative to the folder of the file, `~/` is the user's home, and everything else is what it is on
//! the command line: a name, or a path from the current folder.
//!
//! The file of a project may come from a stranger, with a repository that was cloned. Its paths must lead to places
//! inside the project, links followed, and it can neither replace protected files, nor start programs, nor set up a
//! server, tools for agents or a session.

use std::path::{Component, Path, PathBuf};

use super::file::{File, Preset};
use super::flags::{self, Flags, Setting, Value};
use crate::failure::Result;

/// Flags that the file of a project cannot set.
const NOT_IN_PROJECTS: [&str; 2] = ["force", "open"];

/// Folders that paths are relative to.
#[derive(Clone, Copy)]
pub struct Folders<'a> {
    /// The current one.
    pub current: &'a Path,
    /// The user's.
    pub home: Option<&'a Path>,
}

/// Makes the paths in the user's file independent of the current folder.
pub fn of_user(file: &mut File, folders: Folders) {
    let flags = Flags::of_generate();
    all_settings(file).for_each(|setting| expand(&flags, setting, folders));
    for (name, table) in &mut file.tables {
        let Some(flags) = Flags::of(name) else { continue };
        table.settings.iter_mut().for_each(|setting| expand(&flags, setting, folders));
    }
}

/// The same for a preset in a file of its own.
pub fn of_preset(preset: &mut Preset, folders: Folders) {
    let flags = Flags::of_generate();
    preset.settings.iter_mut().for_each(|setting| expand(&flags, setting, folders));
}

/// The same for the file of a project, which is refused if it says what only the user may say.
pub fn of_project(file: &mut File, folders: Folders) -> Result<()> {
    if let Some((name, table)) = file.tables.first_key_value() {
        let hint = "put the table into your own file; `dj-flux2 config path` names it";
        return Err(table.place.refuse(format_args!("the file of a project cannot have a table [{name}]"), hint));
    }
    let flags = Flags::of_generate();
    all_settings(file).try_for_each(|setting| {
        let Setting { name, place, .. } = &*setting;
        if NOT_IN_PROJECTS.contains(&name.as_str()) {
            let hint = format!("pass --{name} on the command line, or set it in your own file");
            return Err(place.refuse(format_args!("the file of a project cannot set {name}"), hint));
        }
        expand(&flags, setting, folders);
        check(&flags, setting, folders)
    })
}

fn all_settings(file: &mut File) -> impl Iterator<Item = &mut Setting> {
    file.generate.iter_mut().chain(file.presets.values_mut().flat_map(|preset| &mut preset.settings))
}

/// The texts of a setting, if they are paths.
fn paths<'a>(flags: &Flags, setting: &'a mut Setting) -> &'a mut [String] {
    let is_path = flags.find(&setting.name).is_some_and(flags::is_path);
    match &mut setting.value {
        Value::Texts(texts) if is_path => texts,
        _ => &mut [],
    }
}

fn expand(flags: &Flags, setting: &mut Setting, folders: Folders) {
    let folder = setting.place.file.parent().unwrap_or(Path::new("")).to_owned();
    for path in paths(flags, setting) {
        let base = match (path.split_once(std::path::is_separator), folders.home) {
            (Some((".", below)), _) => folder.join(below),
            (Some(("..", _)), _) => folder.join(&*path),
            (Some(("~", below)), Some(home)) => home.join(below),
            _ => continue,
        };
        *path = base.to_string_lossy().into_owned();
    }
}

/// Refuses paths that lead out of the folder of the file.
fn check(flags: &Flags, setting: &mut Setting, folders: Folders) -> Result<()> {
    let (name, place) = (setting.name.clone(), setting.place.clone());
    let root = place.file.parent().unwrap_or(Path::new(""));
    for path in paths(flags, setting) {
        // A LoRA may have its scale behind a colon.
        let file =
            path.rsplit_once(':').filter(|(_, scale)| scale.parse::<f32>().is_ok()).map_or(&**path, |(file, _)| file);
        if !is_inside(&folders.current.join(file), root) {
            let message = format!("the file of a project cannot set {name} to {path}, which is outside of its folder");
            return Err(place.refuse(message, "use a path inside the project, or put it into your own file"));
        }
    }
    Ok(())
}

/// Whether `path` is below `root` once links are followed. What is not there yet has none.
fn is_inside(path: &Path, root: &Path) -> bool {
    let Ok(root) = (if root.as_os_str().is_empty() { Path::new(".") } else { root }).canonicalize() else {
        return false;
    };
    let mut missing = PathBuf::new();
    for above in path.ancestors() {
        if above.symlink_metadata().is_ok() {
            let goes_up = missing.components().any(|part| matches!(part, Component::ParentDir));
            return !goes_up && above.canonicalize().is_ok_and(|found| found.starts_with(&root));
        }
        match (above.file_name(), above.components().next_back()) {
            (Some(name), _) => missing = Path::new(name).join(missing),
            // `..` has no name.
            _ => return false,
        }
    }
    false
}
