//! One file a subcommand, and what several of them share; `find` knows what a model's name stands for.

pub mod bench;
pub mod convert;
pub mod doctor;
#[cfg(feature = "hub")]
pub mod download;
mod find;
pub mod generate;
pub mod info;
pub mod inspect;
#[cfg(feature = "hub")]
pub mod models;
pub mod plan;
#[cfg(feature = "hub")]
pub mod remove;
#[cfg(feature = "hub")]
pub mod verify;

use std::path::Path;

use flux2::image::{Parameters, codec, metadata};

use crate::failure::{Failure, Result, code};

/// What made the picture in `file`.
fn read_parameters(file: &Path) -> Result<Parameters> {
    let bytes = codec::read_file(file).map_err(Failure::image)?;
    let parameters = metadata::read(&bytes).map_err(|e| Failure::image(e).of_file(file))?;
    parameters.ok_or_else(|| {
        let message = format!("{} holds no parameters of dj-flux2", file.display());
        Failure::new(code::BAD_IMAGE, message, "pass a picture that dj-flux2 made, without --no-metadata")
    })
}
