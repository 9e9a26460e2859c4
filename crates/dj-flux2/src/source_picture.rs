//! The picture that `--from` makes again: the parameters stored in it, and whether a run can give the same picture.

use std::path::{Path, PathBuf};

use flux2::Reference;
use flux2::image::{Parameters, metadata};
use flux2::weights::Lora;

use crate::failure::{Failure, Result, code};
use crate::report::Report;
use crate::settings::Settings;
use crate::typed_paths::{name_of, read_picture};

/// A picture and the parameters stored in it.
pub struct SourcePicture {
    pub file: PathBuf,
    pub parameters: Parameters,
}

/// Reads the parameters that dj-flux2 stored in the picture `file`.
pub fn read_parameters(file: &Path) -> Result<Parameters> {
    let bytes = read_picture(file)?;
    let parameters = metadata::read(&bytes).map_err(|e| Failure::image(e).of_file(file))?;
    parameters.ok_or_else(|| {
        let message = format!("{} holds no parameters of dj-flux2", name_of(file));
        Failure::new(code::BAD_IMAGE, message, "pass a picture that dj-flux2 made, without --no-metadata")
    })
}

impl SourcePicture {
    pub fn read(file: &Path) -> Result<Self> {
        Ok(SourcePicture { file: file.to_owned(), parameters: read_parameters(file)? })
    }

    /// The references that the picture was made with must be given again, in the same order.
    pub fn check_references(&self, paths: &[PathBuf], references: &[Reference]) -> Result<()> {
        let (file, wanted) = (self.file.display(), &self.parameters.references);
        if wanted.is_empty() {
            return Ok(());
        }
        let hint = "pass the files it was made with, in their order, each with -i";
        if wanted.len() != references.len() {
            let (wanted, given) = (wanted.len(), references.len());
            let images = if wanted == 1 { "image" } else { "images" };
            return Err(Failure::usage(
                format!("{file} was made with {wanted} reference {images}, {given} given"),
                hint,
            ));
        }
        match references.iter().zip(wanted).position(|(reference, wanted)| reference.sha256() != wanted.as_str()) {
            None => Ok(()),
            Some(i) => {
                let (n, given) = (i + 1, paths[i].display());
                Err(Failure::usage(format!("{given} is not reference image {n} of {file}"), hint))
            }
        }
    }

    /// A recorded LoRA must be the file that the picture was made with. One that was typed may be another file of the
    /// same name; that is a warning.
    pub fn check_loras(&self, loras: &[Lora], settings: &Settings, report: &Report) -> Result<()> {
        let file = self.file.display();
        for lora in loras {
            let mut namesakes = self.parameters.loras.iter().filter(|made| made.name == lora.name).peekable();
            if namesakes.peek().is_none() || namesakes.any(|made| made.sha256 == lora.sha256) {
                continue;
            }
            let message = format!("{}.safetensors is not the LoRA of that name that {file} was made with", lora.name);
            if settings.loras_are_recorded {
                let hint = format!("pass the LoRAs it was made with, this one with --lora FILE:{}", lora.scale);
                return Err(Failure::usage(message, hint));
            }
            report.warning(message);
        }
        Ok(())
    }

    /// Warns if the model or the version of the program is another one.
    pub fn warn_of_differences(&self, model: &str, report: &Report) {
        let (file, made, here) = (self.file.display(), &self.parameters, env!("CARGO_PKG_VERSION"));
        if made.model != model {
            report.warning(format_args!("{file} was made with the model {:?}, this is {model:?}", made.model));
        }
        if made.version != here {
            report.warning(format_args!(
                "{file} was made by version {:?}, this is {here:?}; the picture may differ",
                made.version
            ));
        }
    }
}
