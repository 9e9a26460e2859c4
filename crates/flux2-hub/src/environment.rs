//! Where all clients of the hub keep their files: the variables that say so.
//!
//! In:  a function that returns the value of an environment variable. Out: a folder, which need not exist.
//!
//! The environment itself is read by the caller.

use std::ffi::OsString;
use std::path::PathBuf;

use flux2_base::environment::path_of;

/// The cache folder of models; `None` if no variable says where it is.
pub fn cache_folder(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| path_of(&env, name);
    set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(home(&env)?.join("hub")))
}

/// The folder that all clients of the hub share, with the cache and the access token; `None` as for [`cache_folder`].
pub fn home(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| path_of(&env, name);
    let user = || set(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(|home| home.join(".cache"));
    set("HF_HOME").or_else(|| Some(set("XDG_CACHE_HOME").or_else(user)?.join("huggingface")))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_other_programs_have_it() {
        let folder = |variables: &[(&str, &str)]| {
            let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            cache_folder(env).map(|path| path.display().to_string())
        };
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")];
        assert_eq!(folder(&all).as_deref(), Some("/a"));
        assert_eq!(folder(&all[1..]).as_deref(), Some("/b/hub"));
        assert_eq!(folder(&all[2..]).as_deref(), Some("/c/huggingface/hub"));
        assert_eq!(folder(&all[3..]).as_deref(), Some("/d/.cache/huggingface/hub"));
        assert_eq!(folder(&[("HF_HUB_CACHE", ""), ("HOME", "")]), None);
        for (name, path) in [
            ("HF_HUB_CACHE", "/d/e"),
            ("HUGGINGFACE_HUB_CACHE", "/d/e"),
            ("HF_HOME", "/d/e/hub"),
            ("XDG_CACHE_HOME", "/d/e/huggingface/hub"),
        ] {
            assert_eq!(folder(&[(name, "~/e"), ("HOME", "/d")]).as_deref(), Some(path));
            assert_eq!(folder(&[(name, "$HOME/e"), ("HOME", "/d")]).as_deref(), Some(path));
        }
    }
}
