//! The house rules that a compiler does not keep: which names may not occur in which sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Sources below `crates/PATH`, each with its text up to its unit tests.
fn sources(path: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                found.push((path, code));
            }
        }
    }
    assert!(found.len() > 1, "{path} has too few sources to be the right folder");
    found
}

/// No line of code below `path` holds one of `words`, except in files that end in `except`.
fn check(path: &str, words: &[&str], except: &str) {
    for (file, code) in sources(path).into_iter().filter(|(file, _)| except.is_empty() || !file.ends_with(except)) {
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                panic!("{}:{}: `{word}` does not belong here: {}", file.display(), number + 1, line.trim());
            }
        }
    }
}

#[test]
fn only_the_engine_names_a_backend() {
    for path in ["flux2/src", "dj-flux2/src"] {
        check(path, &["CpuBackend", "CpuOptions", "CudaBackend", "CudaOptions", "cudarc"], "engine.rs");
    }
}

/// Imports name one module a line here: a list in braces could hide a room from the search below.
#[test]
fn models_know_neither_files_nor_watchers() {
    check("flux2/src/models", &["crate::{", "super::super"], "");
    let rooms =
        ["pipeline", "event", "image", "engine", "request", "text", "hub", "weights::layout", "weights::safetensors"];
    let imports: Vec<String> = rooms.iter().map(|room| format!("crate::{room}")).collect();
    check("flux2/src/models", &imports.iter().map(String::as_str).collect::<Vec<_>>(), "");
    check("flux2/src/models", &["std::fs", "std::time", "std::path"], "");
}

#[test]
fn the_hub_knows_files_and_not_what_is_in_them() {
    check("flux2/src/hub", &["crate::weights", "crate::models", "crate::pipeline", "crate::engine"], "");
    check("flux2/src/weights", &["crate::hub"], "");
}

#[test]
fn libraries_read_no_environment_and_do_not_exit() {
    for path in ["flux2/src", "flux2-backend/src"] {
        check(path, &["std::env", "std::{", "env::var", "env::args", "process::exit"], "testing.rs");
    }
}

/// Loops on the host run on the threads the backend was given, not on a pool that `--threads` does not reach.
#[test]
fn the_cuda_backend_uses_neither_the_cpu_backend_nor_other_threads() {
    check("flux2-backend/src/cuda", &["rayon", "crate::cpu", "CpuBackend"], "");
}

#[test]
fn there_is_no_async_runtime() {
    for path in ["flux2/src", "flux2-backend/src", "dj-flux2/src"] {
        check(path, &["async fn", "async move", "tokio", "async_std", "smol", ".await"], "");
    }
    for name in ["Cargo.toml", "crates/flux2/Cargo.toml", "crates/flux2-backend/Cargo.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (number, line) in text.lines().enumerate() {
            for runtime in ["tokio", "async-std", "smol"] {
                assert!(!line.starts_with(runtime), "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_sampler_does_not_know_the_networks() {
    check("flux2/src/sampler", &["crate::models", "crate::weights", "crate::pipeline"], "");
}
