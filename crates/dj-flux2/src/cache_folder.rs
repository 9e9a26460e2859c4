//! Folders that the environment names, and that of cached text embeddings.

use std::ffi::OsString;
use std::path::PathBuf;

use flux2::environment::path_of;

/// The variable that names another folder, or is `off`.
pub const VARIABLE: &str = "DJ_FLUX2_TEXT_CACHE";

/// The folder of text embeddings, from the variables that `env` looks up; `None` if none are kept, or if no variable
/// says where.
pub fn text_cache(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    match path_of(&env, VARIABLE) {
        Some(off) if off.as_os_str() == "off" => None,
        Some(folder) => Some(folder),
        None => Some(user_caches(env)?.join("dj-flux2").join("text")),
    }
}

/// The folder of what previews are made with; `None` if no variable says where.
pub fn previews(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(user_caches(env)?.join("dj-flux2").join("previews"))
}

/// The user's cache folder, by the conventions of the operating system. A relative path is ignored: it would be another
/// folder in every directory the program is started from.
pub fn user_caches(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| path_of(&env, name).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return folder("LOCALAPPDATA");
    }
    let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(below_home)))
}

/// The user's folder of state that outlives a process, by the conventions of the operating system.
#[cfg(any(feature = "serve", feature = "session"))]
pub fn user_state(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return folder("LOCALAPPDATA");
    }
    let below_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/state" };
    folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(below_home)))
}

/// The user's folder of data, by the conventions of the operating system.
#[cfg(feature = "mcp")]
pub fn user_data(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return folder("LOCALAPPDATA");
    }
    let below_home = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(below_home)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn folder(variables: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        text_cache(env).map(|path| path.display().to_string())
    }

    #[test]
    fn the_variable_moves_it_or_turns_it_off() {
        let with = |value| folder(&[("HOME", "/home/a"), (VARIABLE, value)]);
        assert_eq!(with("/fast/texts").as_deref(), Some("/fast/texts"));
        assert_eq!(with("texts").as_deref(), Some("texts"));
        assert_eq!(with("off"), None);
        assert_eq!(with("./off").as_deref(), Some("./off"));
        assert_eq!(with(""), folder(&[("HOME", "/home/a")]));
    }

    #[test]
    fn the_users_folder_and_variables_are_expanded() {
        let with = |value| folder(&[("HOME", "/home/a"), ("DATA", "/data"), (VARIABLE, value)]).unwrap();
        for (value, path) in [
            ("~/texts", "/home/a/texts"),
            ("~", "/home/a/"),
            ("~b/texts", "~b/texts"),
            ("/a/~/b", "/a/~/b"),
            ("$DATA/texts", "/data/texts"),
            ("${DATA}2/$DATA", "/data2//data"),
            ("$HOME/$NONE/${NONE}/$", "/home/a/$NONE/${NONE}/$"),
            ("a${DATA", "a${DATA"),
        ] {
            assert_eq!(with(value), path, "{value}");
        }
        assert_eq!(folder(&[(VARIABLE, "~/texts")]).as_deref(), Some("~/texts"));
        assert_eq!(
            folder(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "~/caches")]).as_deref(),
            Some("/home/a/caches/dj-flux2/text")
        );
    }

    #[test]
    fn else_it_is_among_the_users_caches() {
        let caches = if cfg!(target_os = "macos") { "/home/a/Library/Caches" } else { "/home/a/.cache" };
        assert_eq!(folder(&[("HOME", "/home/a")]), Some(format!("{caches}/dj-flux2/text")));
        let both = |xdg| folder(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", xdg)]);
        assert_eq!(both("/caches").as_deref(), Some("/caches/dj-flux2/text"));
        // As the specification asks, a relative one counts as not set.
        assert_eq!(both("caches"), folder(&[("HOME", "/home/a")]));
        assert_eq!(folder(&[("HOME", "")]), None);
        assert_eq!(folder(&[]), None);
    }
}
