//! Where NVIDIA's libraries and compiled kernels are, according to the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flux2::GpuOptions;

use crate::cache_folder;

/// The variable that lists folders with NVIDIA's libraries, separated as in `PATH`.
pub const VARIABLE: &str = "DJ_FLUX2_CUDA_LIBRARIES";

/// Options from the environment of this process.
pub fn gpu_options() -> GpuOptions {
    options(|name| std::env::var_os(name))
}

fn options(env: impl Fn(&str) -> Option<OsString>) -> GpuOptions {
    let paths = |name: &str| env(name).map_or_else(Vec::new, |value| std::env::split_paths(&value).collect());
    let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut library_folders = paths(VARIABLE);
    library_folders.extend(folder("CUDA_HOME").or_else(|| folder("CUDA_PATH")).map(|toolkit| toolkit.join("lib64")));
    let mut python_prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder).collect();
    // The first Python in PATH. In a virtual environment it is a link, and the libraries are beside the link.
    let python = paths("PATH").into_iter().find(|folder| folder.join("python3").exists());
    python_prefixes.extend(python.as_deref().and_then(Path::parent).map(Path::to_owned));
    python_prefixes.extend(folder("HOME").map(|home| home.join(".local")));
    let kernel_cache = cache_folder::user_caches(&env).map(|caches| caches.join("dj-flux2").join("kernels"));
    GpuOptions { library_folders, python_prefixes, kernel_cache }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_comes_first() {
        let env = |name: &str| {
            let value = match name {
                VARIABLE => "/a:/b",
                "CUDA_HOME" => "/toolkit",
                "VIRTUAL_ENV" => "/venv",
                "HOME" => "/home/a",
                _ => return None,
            };
            Some(OsString::from(value))
        };
        let options = options(env);
        assert_eq!(options.library_folders, ["/a", "/b", "/toolkit/lib64"].map(PathBuf::from));
        assert_eq!(options.python_prefixes, ["/venv", "/home/a/.local"].map(PathBuf::from));
        let caches = if cfg!(target_os = "macos") { "/home/a/Library/Caches" } else { "/home/a/.cache" };
        assert_eq!(options.kernel_cache, Some(Path::new(caches).join("dj-flux2/kernels")));
    }

    #[test]
    fn nothing_is_needed() {
        let options = options(|_| None);
        assert!(
            options.library_folders.is_empty() && options.python_prefixes.is_empty() && options.kernel_cache.is_none()
        );
    }
}
