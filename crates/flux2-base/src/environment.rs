//! Paths in variables of the environment.
//!
//! In:  a function that returns the value of a variable: the environment itself is read by the caller. Out: a path.

use std::ffi::OsString;
use std::path::PathBuf;

/// The path that a variable holds, if it is set and not empty. As in huggingface_hub, `~` at its beginning is the
/// user's folder, and `$NAME` and `${NAME}` are other variables. A shell expands these, but systemd and Docker do not.
pub fn path_of(env: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let value = env(name).filter(|value| !value.is_empty())?;
    // Bytes that are not UTF-8 are taken as they are.
    let Some(text) = value.to_str() else { return Some(value.into()) };
    let text = expanded(env, text);
    let home = || env(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).filter(|home| !home.is_empty());
    let below =
        text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with(['/', std::path::MAIN_SEPARATOR]));
    Some(match below.zip(home()) {
        Some((below, home)) => PathBuf::from(home).join(below.trim_start_matches(['/', std::path::MAIN_SEPARATOR])),
        None => text.into(),
    })
}

/// A text with the values of the variables it names. A variable that is not set stays as it is written.
fn expanded(env: &impl Fn(&str) -> Option<OsString>, text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, end) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, end)) => (name, end),
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match Some(name).filter(|name| !name.is_empty()).and_then(env).and_then(|value| value.into_string().ok()) {
            Some(value) => (expanded, rest) = (expanded + &value, end),
            None => (expanded, rest) = (expanded + "$", after),
        }
    }
    expanded + rest
}
