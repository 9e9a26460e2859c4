//! The files of a LoRA: its weights, perhaps in a folder that PEFT wrote, and the configuration beside them.

use std::io::Read as _;

use super::LoraProblem;
use super::scaling::CONFIG_FILE;
use crate::location::Location;
use crate::tensor_file::MAX_METADATA_TEXT;
use crate::{Error, Result};

/// The file of a LoRA: `location`, or the file of weights in that folder.
pub(crate) fn file_of(location: &Location) -> Result<Location> {
    if !location.is_dir() {
        return Ok(location.clone());
    }
    let refuse = |problem| Err(Error::Lora { path: location.path().to_owned(), problem });
    let named = location.join(ADAPTER_FILE);
    if named.is_file() {
        return Ok(named);
    }
    let mut files = tensor_files(location)?;
    match files.len() {
        0 => refuse(LoraProblem::EmptyFolder),
        1 => Ok(files.swap_remove(0)),
        count => refuse(LoraProblem::SeveralFiles { count }),
    }
}

/// Name of the weights in folders that PEFT writes.
const ADAPTER_FILE: &str = "adapter_model.safetensors";

fn tensor_files(folder: &Location) -> Result<Vec<Location>> {
    let mut files = folder.entries()?;
    files.retain(|file| file.path().extension().is_some_and(|it| it == "safetensors") && file.is_file());
    Ok(files)
}

/// The text of `adapter_config.json` beside a file, if it is that of this file: it is beside no other, or the file has
/// the name that PEFT gives it.
pub(super) fn adapter_config(file: &Location) -> Result<Option<String>> {
    let config = file.parent().join(CONFIG_FILE);
    let is_its_own = || {
        let has_name = file.path().file_name().is_some_and(|name| name == ADAPTER_FILE);
        Ok::<_, Error>(has_name || tensor_files(&file.parent())?.len() == 1)
    };
    if !config.is_file() || !is_its_own()? {
        return Ok(None);
    }
    let mut text = String::new();
    let longest = MAX_METADATA_TEXT as u64 + 1; // one more than is accepted
    config.reader()?.take(longest).read_to_string(&mut text).map_err(|e| config.io(e))?;
    Ok(Some(text))
}
