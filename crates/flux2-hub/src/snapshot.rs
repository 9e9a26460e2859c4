//! What a folder of the cache holds, and what a model in it lacks.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use crate::listing::{INDEX, NETWORKS, is_shard, needed};
use crate::{Error, Result};

/// Paths of the files and links in a folder, in alphabetical order; none if there is no such folder.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(folder, "", &mut files)?;
    Ok(files)
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        match fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            true => collect(&path, &format!("{prefix}{name}/"), found)?,
            false => found.push(format!("{prefix}{name}")),
        }
    }
    Ok(())
}

/// Names in a folder, in alphabetical order; none if there is no such folder.
pub fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(|e| Error::io(folder, e))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        names.extend(entry.map_err(|e| Error::io(folder, e))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Whether the model in this folder is one of the family.
pub fn is_klein(snapshot: &Path) -> bool {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class: String,
    }
    let index: Option<Index> = read_json(&snapshot.join("model_index.json"));
    index.is_some_and(|index| index.class.starts_with("Flux2Klein"))
}

/// Parses a JSON file of limited size; `None` if it cannot be read.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    const MAX_BYTES: u64 = 64 << 20;
    let meta = fs::metadata(path).ok()?;
    let is_small = meta.is_file() && meta.len() <= MAX_BYTES;
    serde_json::from_slice(&is_small.then(|| fs::read(path).ok()).flatten()?).ok()
}

/// Files that a model in this folder lacks. The contents of the others are the loader's to check.
pub fn missing(snapshot: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let is_file = |path: &str| snapshot.join(path).is_file();
    if !is_file("model_index.json") {
        return missing_weights(snapshot, "");
    }
    let files = files_below(snapshot)?;
    // Links to blobs that are gone.
    missing.extend(needed(files.iter().map(String::as_str)).into_iter().filter(|path| !is_file(path)));
    for folder in NETWORKS {
        let config = format!("{folder}/config.json");
        if !is_file(&config) {
            missing.push(config);
        }
        missing.extend(missing_weights(snapshot, folder)?);
    }
    missing.sort();
    missing.dedup();
    Ok(missing)
}

/// Weights that a folder of a snapshot lacks.
fn missing_weights(snapshot: &Path, folder: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let place = snapshot.join(folder);
    let path = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let names = names(&place)?;
    let weights = || names.iter().filter(|name| name.ends_with(".safetensors"));
    if let Some(index) = names.iter().find(|name| name.ends_with(INDEX)) {
        return Ok(match read_json::<Index>(&place.join(index)) {
            Some(Index { weight_map }) => {
                let shards: BTreeSet<String> = weight_map.into_values().collect();
                shards.iter().filter(|name| !place.join(name).is_file()).map(|name| path(name)).collect()
            }
            None => vec![path(index)],
        });
    }
    if folder.is_empty() && names.iter().any(|name| name.ends_with(".gguf") && place.join(name).is_file()) {
        return Ok(vec![]);
    }
    if weights().next().is_none() {
        return Ok(vec![path("*.safetensors")]);
    }
    let dangling = weights().filter(|name| !place.join(name).is_file()).map(|name| path(name));
    // Shards without an index: the index is missing.
    let of_shards = weights().find_map(|name| {
        let stem = &name[..name.len() - ".safetensors".len()];
        stem.match_indices('-').map(|(at, _)| name.split_at(at)).find(|(_, end)| is_shard(end))
    });
    Ok(dangling.chain(of_shards.map(|(stem, _)| path(&format!("{stem}{INDEX}")))).collect())
}
