//! klein-mini: all files of its diffusers folder, embedded in the program.
//!
//! This folder is both the model, as diffusers and `dj-flux2 -m` open it, and the crate that embeds it. The README
//! beside it documents the origin and the licenses of the model.

#![forbid(unsafe_code)]

/// Path relative to the folder, separated by `/`, and contents of a file.
pub type File = (&'static str, &'static [u8]);

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../", $path)))),*]
    };
}

/// All files of the model.
pub static FILES: &[File] = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vocabulary.json",
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Limit on the size of the folder: crates.io accepts packages of up to 10 MB.
    const MAX_BYTES: u64 = 9_000_000;

    /// Files that belong to the crate and not to the model.
    const CRATE: [&str; 7] =
        ["Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json", "LICENSE", "LICENSE-OFL", "README.md"];

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn on_disk() -> Vec<PathBuf> {
        let (mut files, mut folders) = (vec![], vec![root().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    #[test]
    fn the_table_is_the_folder() {
        let inside = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let mut model: Vec<String> = on_disk().iter().map(inside).collect();
        model.retain(|path| !path.starts_with("src/") && !CRATE.contains(&path.as_str()));
        model.sort();
        assert_eq!(FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>(), model);
        for (path, bytes) in FILES {
            assert!(fs::read(root().join(path)).unwrap() == *bytes, "{path}");
        }
    }

    #[test]
    fn the_folder_can_be_published() {
        let bytes: u64 = on_disk().iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(bytes <= MAX_BYTES, "{bytes} bytes");
    }
}
