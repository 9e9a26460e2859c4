//! Changes a file of settings and keeps its comments and its order.

use std::fs;
use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, Value as Toml};

use super::file;
use super::flags::{self, Flags, TABLES};
use crate::failure::{Failure, Result, code};

/// Sets `name` to `values` in the file at `path`, which need not exist. The name is that of a flag; those of a
/// subcommand are `serve.NAME`, and `presets.PRESET.NAME` and `templates.NAME` are in tables of these names. `check`
/// refuses a text of the file with which nothing could be drawn.
pub fn set(path: &Path, name: &str, values: &[String], check: impl Fn(&str) -> Result<()>) -> Result<()> {
    change(path, check, |document| {
        let (table, key) = table_of(document.as_table_mut(), name)?;
        let mut item = toml_edit::value(typed(name, values));
        // A comment behind the value stays.
        if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), item.as_value_mut()) {
            *new.decor_mut() = old.decor().clone();
        }
        match table.get_mut(key) {
            // In its place, with the comments before it.
            Some(old) => *old = item,
            None => drop(table.insert(key, item)),
        }
        Ok(())
    })
}

/// Removes `name` from the file at `path`.
pub fn unset(path: &Path, name: &str) -> Result<()> {
    change(
        path,
        |_| Ok(()),
        |document| {
            let (table, key) = table_of(document.as_table_mut(), name)?;
            match table.remove(key) {
                Some(_) => Ok(()),
                None => {
                    let message = format!("{} does not set {name}", path.display());
                    Err(Failure::usage(message, "`dj-flux2 config show` lists what is set"))
                }
            }
        },
    )
}

/// Changes the file, if the result can be read.
fn change(
    path: &Path,
    check: impl Fn(&str) -> Result<()>,
    change: impl FnOnce(&mut DocumentMut) -> Result<()>,
) -> Result<()> {
    let before = if path.exists() { file::read_text(path)? } else { String::new() };
    file::parse(&before, path)?;
    let mut document: DocumentMut = before.parse().expect("it was read above");
    change(&mut document)?;
    let text = document.to_string();
    let read = file::parse(&text, path)?;
    flags::generate_args(&read.generate)?;
    read.presets.values().try_for_each(|preset| flags::generate_args(&preset.settings).map(drop))?;
    if let Err(failure) = check(&text) {
        // A file that had this error before may be changed all the same.
        let is_old = check(&before).is_err_and(|old| old.message == failure.message);
        if !is_old {
            return Err(failure);
        }
    }
    save(path, &text).map_err(|error| {
        Failure::new(code::FAILURE, format!("{}: {error}", path.display()), "name another file with --config")
    })
}

/// Writes a file whole or not at all. A link stays one.
fn save(path: &Path, text: &str) -> std::io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("toml.{}.tmp", std::process::id()));
    let written = fs::write(&temporary, text)
        .and_then(|()| match fs::metadata(&path) {
            Ok(old) => fs::set_permissions(&temporary, old.permissions()),
            Err(_) => Ok(()),
        })
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The table of a name with dots, made where it is missing, and the last part of the name.
fn table_of<'a, 'b>(root: &'a mut Table, name: &'b str) -> Result<(&'a mut Table, &'b str)> {
    let parts: Vec<&str> = name.split('.').collect();
    let is_known = match parts[..] {
        [_] | ["templates", _] | ["presets", _, _] => true,
        [table, _] => TABLES.contains(&table),
        _ => false,
    };
    let (key, tables) = parts.split_last().filter(|_| is_known && !parts.contains(&"")).ok_or_else(|| {
        let hint = "use the name of a flag, serve.NAME, mcp.NAME, session.NAME, presets.PRESET.NAME or templates.NAME";
        Failure::usage(format!("there is no setting {name}"), hint)
    })?;
    let mut table = root;
    for part in tables {
        let item = table.entry(part).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        table = item.as_table_mut().ok_or_else(|| Failure::usage(format!("{part} is no table"), "edit the file"))?;
    }
    Ok((table, key))
}

/// The values as TOML: a switch, a list where the flag takes one, a number or a text.
fn typed(name: &str, values: &[String]) -> Toml {
    let table = name.split_once('.').map(|(table, _)| table).filter(|table| TABLES.contains(table));
    let flags = table.and_then(Flags::of).unwrap_or_else(Flags::of_generate);
    let arg = flags.find(name.rsplit('.').next().unwrap_or(name)).filter(|_| !name.starts_with("templates."));
    let plain = |text: &String| -> Toml {
        let is_switch = arg.is_some_and(|arg| !flags::takes_value(arg));
        match (is_switch, text.as_str(), text.parse::<i64>()) {
            (true, "true", _) => true.into(),
            (true, "false", _) => false.into(),
            // A number with a plus or leading zeros would not come back as it was typed.
            (_, _, Ok(number)) if number.to_string() == *text => number.into(),
            _ => text.as_str().into(),
        }
    };
    match values {
        [value] if !arg.is_some_and(flags::is_list) => plain(value),
        _ => Toml::Array(values.iter().map(plain).collect::<Array>()),
    }
}
