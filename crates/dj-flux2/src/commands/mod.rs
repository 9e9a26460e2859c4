//! One file a subcommand, and what two of them share.

pub mod bench;
pub mod generate;
pub mod info;

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
