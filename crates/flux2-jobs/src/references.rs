//! Decoded reference images by their digest, bounded in bytes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use flux2::Reference;

use crate::failure::{FailureClass, JobFailure};
use crate::store::Store;
use crate::submission::Refused;

/// Most bytes of decoded images that are remembered.
const MAX_BYTES: usize = 256 << 20;

/// Decoded reference images.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Images that no upload holds; they stay.
    pinned: Mutex<HashMap<String, Reference>>,
    /// Decoded uploads, the least recently used first.
    recent: Mutex<Vec<Reference>>,
}

impl References {
    /// Keep an image for good.
    pub fn pin(&self, reference: Reference) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.insert(reference.sha256().to_owned(), reference);
    }

    /// Whether an image is kept for good.
    pub fn is_pinned(&self, digest: &str) -> bool {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest)
    }

    /// The images of a job in order: kept, remembered, or decoded from `uploads`.
    ///
    /// # Errors
    /// [`Refused::UnknownBlob`]; [`Refused::Invalid`] if an upload is no image; [`Refused::Storage`].
    pub fn all(&self, digests: &[String], uploads: &Store) -> Result<Vec<Reference>, Refused> {
        digests.iter().zip(1..).map(|(digest, number)| self.one(digest, number, uploads)).collect()
    }

    fn one(&self, digest: &str, number: usize, uploads: &Store) -> Result<Reference, Refused> {
        if let Some(pinned) = self.pinned.lock().unwrap_or_else(PoisonError::into_inner).get(digest) {
            return Ok(pinned.clone());
        }
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = recent.iter().position(|known| known.sha256() == digest) {
                recent[at..].rotate_left(1);
                return Ok(recent.last().expect("one was found").clone());
            }
        }
        let failed = |error| Refused::Storage(JobFailure::new(FailureClass::Storage, format!("upload: {error}")));
        let bytes = uploads.get(digest).map_err(failed)?;
        let bytes = bytes.ok_or_else(|| Refused::UnknownBlob { digest: digest.to_owned() })?;
        let reference = Reference::from_bytes(&bytes, &format!("reference image {number}"))?;
        self.remember(&reference);
        Ok(reference)
    }

    fn remember(&self, reference: &Reference) {
        let bytes = |reference: &Reference| reference.image().pixels().len();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push(reference.clone());
        while recent.iter().map(bytes).sum::<usize>() > MAX_BYTES {
            recent.remove(0);
        }
    }
}
