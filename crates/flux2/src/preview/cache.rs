//! Fitted projections on disk: one small JSON file for each autoencoder, named by its fingerprint.
//!
//! The folder is not trusted: a file that is too long, no JSON, of another size or not finite is passed over and
//! written again.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use flux2_base::digest::hex;

use super::Projection;

/// Increment when the fit changes.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes. One of 32 channels has 2 kB.
const MAX_BYTES: u64 = 64 << 10;

/// The file of one autoencoder's projection, which may not exist.
pub(crate) struct Cache {
    path: PathBuf,
}

/// What a file holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    version: u32,
    factors: Vec<[f32; 3]>,
    bias: [f32; 3],
}

impl Cache {
    /// The file in `folder` of the autoencoder with this fingerprint.
    pub(crate) fn new(folder: &Path, fingerprint: &[u8; 32]) -> Self {
        Cache { path: folder.join(hex(fingerprint) + ".preview.json") }
    }

    /// The projection, if a valid one of so many channels is stored.
    pub(crate) fn load(&self, channels: usize) -> Option<Projection> {
        let mut text = Vec::new();
        File::open(&self.path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        let Stored { version, factors, bias } = serde_json::from_slice(&text).ok()?;
        let found = Projection::new(factors, bias).filter(|found| found.channels() == channels)?;
        (version == VERSION).then_some(found)
    }

    /// Store a projection. That it cannot be is no failure: it is fitted again by the next process.
    pub(crate) fn store(&self, projection: &Projection) {
        let Projection { factors, bias } = projection.clone();
        let stored = Stored { version: VERSION, factors, bias };
        let Some(folder) = self.path.parent() else { return };
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix(".dj-flux2-preview-").tempfile_in(folder)?;
            file.write_all(&serde_json::to_vec(&stored)?)?;
            file.persist(&self.path)?;
            Ok(())
        };
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_stored_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("new"), &[7; 32]);
        let projection = Projection::new(vec![[0.1, 0.2, 0.3]; 4], [0.0, 0.5, -0.5]).unwrap();
        assert_eq!(cache.load(4), None);
        cache.store(&projection);
        assert_eq!(cache.load(4), Some(projection));
        assert_eq!(cache.load(5), None);
        for text in ["", "{}", r#"{"version":0,"factors":[[0,0,0]],"bias":[0,0,0]}"#, &"[".repeat(100_000)] {
            fs::write(&cache.path, text).unwrap();
            assert_eq!(cache.load(1), None, "{}", &text[..text.len().min(60)]);
        }
    }
}
