//! The hub's list of a repository, checked, and the choice of the files that are needed.
//!
//! In:  the hub's JSON. Out: a [`Plan`]: a commit, and path, length and hash of each file.
//!
//! The JSON is untrusted: its paths become file names on this disk, its hashes names of blobs.

use std::collections::BTreeSet;

use flux2_base::digest::hex;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::http::Client;
use crate::{Error, Hub, RepoId, Result};

/// The files of a model at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Repository on the hub.
    pub repo: RepoId,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The files that are needed, the smallest first.
    pub files: Vec<PlannedFile>,
}

/// A file of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Path in the repository, with `/` between its parts.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    pub(crate) digest: Digest,
    /// Path below the endpoint, if it is not the hub's usual one.
    pub(crate) address: Option<String>,
}

impl Plan {
    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// The hash of a file, in hexadecimal as in the name of its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest(String);

impl Digest {
    /// SHA-256 for files in Git LFS, SHA-1 of the Git blob for others. `None` for any other text.
    pub fn new(hex: &str) -> Option<Self> {
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && matches!(hex.len(), 40 | 64)).then(|| Digest(hex.into()))
    }

    pub fn hex(&self) -> &str {
        &self.0
    }

    /// A hasher for the bytes of a file of this size.
    pub fn hasher(&self, size: u64) -> Hasher {
        match self.0.len() {
            64 => Hasher::Sha256(Sha256::new()),
            _ => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// Computes a hash of either kind.
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::GitBlob(hash) => hash.update(bytes),
        }
    }

    pub fn hex(self) -> String {
        match self {
            Hasher::Sha256(hash) => hex(&hash.finalize()),
            Hasher::GitBlob(hash) => hex(&hash.finalize()),
        }
    }
}

impl Hub {
    /// Lists the files to download for the newest commit of `repo`. Sends one request.
    ///
    /// # Errors
    /// If the hub cannot be reached, does not know the repository, denies access, or gives an invalid answer.
    pub fn plan(&self, repo: &RepoId) -> Result<Plan> {
        let client = Client::new(self, repo)?;
        let text = client.listing()?;
        let wrong = |reason: String| Error::Answer { host: client.host(), reason };
        parse(repo, &text).map_err(wrong)?.ok_or_else(|| Error::NoModel { repo: repo.clone() })
    }
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    // Name of the field in another API of the hub.
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

/// Parses and checks the list; `None` if no file in it is needed.
fn parse(repo: &RepoId, json: &[u8]) -> std::result::Result<Option<Plan>, String> {
    let listing: Listing =
        serde_json::from_slice(json).map_err(|e| format!("its list of files cannot be read: {e}"))?;
    let Listing { sha: commit, siblings } = listing;
    if commit.len() != 40 || Digest::new(&commit).is_none() {
        return Err(format!("{commit:?} is no commit"));
    }
    let needed = needed(siblings.iter().map(|file| file.rfilename.as_str()));
    let mut files = Vec::new();
    for Sibling { rfilename: path, size, blob_id, lfs } in siblings {
        if !needed.contains(&path) {
            continue;
        }
        if !is_safe(&path) {
            return Err(format!("{path:?} is no name of a file"));
        }
        let (size, hash) = match lfs {
            Some(Lfs { sha256, size }) => (Some(size), Some(sha256)),
            None => (size, blob_id),
        };
        let (Some(size), Some(digest)) = (size, hash.as_deref().and_then(Digest::new)) else {
            return Err(format!("{path} has no size or no hash"));
        };
        files.push(PlannedFile { path, size, digest, address: None });
    }
    // Small files first show whether access is granted; large files in parallel end at about the same time.
    files.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    files.dedup_by(|a, b| a.path == b.path);
    Ok((!files.is_empty()).then(|| Plan { repo: repo.clone(), commit, files }))
}

/// Whether a path stays in its folder on every system.
fn is_safe(path: &str) -> bool {
    let is_part = |part: &str| {
        let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        !part.is_empty() && part != "." && !part.contains("..") && !part.contains(odd) && !part.ends_with([' ', '.'])
    };
    path.len() <= 200 && path.split('/').all(is_part)
}

/// Folders of a diffusers model that hold weights.
pub(crate) const NETWORKS: [&str; 3] = ["transformer", "text_encoder", "vae"];

/// The files of a repository that a model consists of.
///
/// Of a diffusers repository: the files of its parts, and the scheduler's for other programs. Otherwise the weights at
/// the top level and the files that describe them. Never pictures, other formats, or a second copy of the same
/// weights.
pub(crate) fn needed<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let paths: Vec<&str> = paths.collect();
    let is_text = |name: &str| name.ends_with(".json") || name.ends_with(".jinja") || name == "merges.txt";
    let is_license = |name: &str| name.to_ascii_uppercase().starts_with("LICENSE");
    let in_folder = |folder: &str| -> Vec<&str> {
        let names = paths.iter().filter_map(|path| match folder {
            "" => Some(*path),
            _ => path.strip_prefix(folder)?.strip_prefix('/'),
        });
        names.filter(|name| !name.contains('/')).collect()
    };
    let mut needed = BTreeSet::new();
    let mut take = |folder: &str, names: Vec<&str>| {
        needed.extend(names.into_iter().map(|name| match folder {
            "" => name.to_owned(),
            _ => format!("{folder}/{name}"),
        }));
    };
    let top = in_folder("");
    if top.contains(&"model_index.json") {
        take("", top.into_iter().filter(|name| *name == "model_index.json" || is_license(name)).collect());
        for folder in ["scheduler", "tokenizer"] {
            take(folder, in_folder(folder).into_iter().filter(|name| is_text(name)).collect());
        }
        for folder in NETWORKS {
            let names = in_folder(folder);
            take(folder, weights(&names));
            take(folder, names.into_iter().filter(|name| is_text(name) && !is_variant(name)).collect());
        }
    } else {
        let weights = weights(&top);
        if !weights.is_empty() {
            take("", weights);
            take("", top.into_iter().filter(|name| (is_text(name) && !is_variant(name)) || is_license(name)).collect());
        }
    }
    needed
}

/// The weights in a folder: the shards of its index, else all safetensors files.
fn weights<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let files = || names.iter().copied().filter(|name| name.ends_with(".safetensors") && !is_variant(name));
    let index = names.iter().filter(|name| !is_variant(name)).find_map(|name| name.strip_suffix(INDEX));
    match index {
        Some(stem) => files().filter(|name| name.strip_prefix(stem).is_some_and(is_shard)).collect(),
        None => files().collect(),
    }
}

pub(crate) const INDEX: &str = ".safetensors.index.json";

/// Whether a name ends like that of a shard: `-00001-of-00002.safetensors`.
pub(crate) fn is_shard(end: &str) -> bool {
    let numbers = end.strip_prefix('-').and_then(|end| end.strip_suffix(".safetensors")?.split_once("-of-"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(number, count)| is_number(number) && is_number(count))
}

/// Whether a name is that of the same weights in another number format, which diffusers puts beside them.
fn is_variant(name: &str) -> bool {
    [".fp16.", ".bf16.", ".fp16-", ".bf16-", ".non_ema.", ".non_ema-"].iter().any(|infix| name.contains(infix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> RepoId {
        "black-forest-labs/FLUX.2-klein-4B".parse().unwrap()
    }

    #[test]
    fn of_a_published_model_the_parts_are_taken_and_nothing_else() {
        let taken = [
            "LICENSE.md",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model-00001-of-00002.safetensors",
            "text_encoder/model-00002-of-00002.safetensors",
            "text_encoder/model.safetensors.index.json",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let left = [
            "README.md",
            ".gitattributes",
            "flux-2-klein-4b.safetensors",
            "teaser.jpg",
            "text_encoder/model.safetensors",
            "text_encoder/model.fp16-00001-of-00002.safetensors",
            "text_encoder/model.safetensors.index.fp16.json",
            "text_encoder/pytorch_model.bin",
            "transformer/diffusion_pytorch_model.fp16.safetensors",
            "safety_checker/model.safetensors",
            "vae/deep/model.safetensors",
        ];
        let found = needed(taken.iter().chain(&left).copied());
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), taken);
    }

    #[test]
    fn of_other_repositories_the_weights_at_the_top() {
        let found = needed(["config.json", "model.safetensors", "README.md", "onnx/model.safetensors"].into_iter());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
        assert!(needed(["config.json", "pytorch_model.bin", "split/a.safetensors"].into_iter()).is_empty());
    }

    fn listing(path: &str, size: &str, hash: &str) -> String {
        let commit = "c".repeat(40);
        format!(
            r#"{{"sha": "{commit}", "siblings": [{{"rfilename": "model_index.json", "size": 2, "blobId": "{}"}},
                {{"rfilename": "{path}", "lfs": {{"sha256": "{hash}", "size": {size}}}}}]}}"#,
            "d".repeat(40)
        )
    }

    #[test]
    fn a_listing_is_not_believed() {
        let vae = "vae/diffusion_pytorch_model.safetensors";
        let good = parse(&repo(), listing(vae, "7", &"e".repeat(64)).as_bytes()).unwrap().unwrap();
        assert_eq!((good.bytes(), good.files[1].path.as_str(), good.files[0].digest.hex().len()), (9, vae, 40));
        let (hash, wrong) = ("e".repeat(64), |json: String| parse(&repo(), json.as_bytes()).unwrap_err());
        for path in ["vae/..safetensors", "vae/a:b.safetensors", r"vae/..\\b.safetensors", r"vae/\u0000.safetensors"] {
            assert!(wrong(listing(path, "7", &hash)).contains("no name of a file"), "{path}");
        }
        for hash in ["../../../etc/passwd", "", &"E".repeat(64), &"e".repeat(63)] {
            assert!(wrong(listing(vae, "7", hash)).contains("no hash"), "{hash}");
        }
        for json in ["", "<html>log in</html>", "{}", "[]", &listing(vae, "-7", &hash)] {
            assert!(wrong(json.to_owned()).contains("cannot be read"), "{json}");
        }
        assert!(wrong(listing(vae, "7", &hash).replace(&"c".repeat(40), "main")).contains("no commit"));
        // Files that are not needed may have any name.
        assert!(parse(&repo(), listing("../x", "7", &hash).as_bytes()).unwrap().is_some());
    }

    #[test]
    fn hashes_are_those_of_git() {
        let hash = |digest: &str, bytes: &[u8]| {
            let mut hasher = Digest::new(digest).unwrap().hasher(bytes.len() as u64);
            hasher.update(bytes);
            hasher.hex()
        };
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`
        assert_eq!(hash(&"0".repeat(40), b"hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
        assert_eq!(hash(&"0".repeat(64), b"hello"), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    }
}
