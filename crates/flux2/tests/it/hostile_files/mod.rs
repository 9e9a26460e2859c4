//! Invalid files: each is refused with an error that names the file and the offending values; none causes a panic.

mod configurations;
mod file;
mod folders;
mod tensors;

use std::path::Path;

use flux2::ErrorKind;
use flux2::variant::Variant;
use flux2::weights::{
    Component, ConfigProblem, Error, FileProblem, ModelFiles, ModelPaths, Part, TextConfig, TransformerConfig,
    VaeConfig,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::layouts::{File, copy_of_tiny, edit_json, f32_bytes, join, single_files, tiny};

/// The error for the tiny folder after `change`.
fn changed_folder(change: impl FnOnce(&Path)) -> Error {
    let temp = tempfile::tempdir().unwrap();
    let model = copy_of_tiny(temp.path());
    change(&model);
    ModelFiles::open(&ModelPaths { model: model.into(), ..ModelPaths::default() }).unwrap_err()
}
