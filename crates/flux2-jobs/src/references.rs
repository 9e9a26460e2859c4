//! Decoded reference images by their digest, and sources by their digest and what is done with them: bounded in bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flux2::{Reference, Source};

use crate::canvas::SourceSpec;
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
    /// Sources that no upload holds; they stay.
    pinned_sources: Mutex<Vec<Source>>,
    /// Decoded sources, the least recently used first. Locked while one is decoded: they are kept at full size, so only
    /// one at a time takes the memory of that.
    recent_sources: Mutex<Vec<(SourceSpec, Source)>>,
}

impl References {
    /// Keep an image for good.
    pub fn pin(&self, reference: Reference) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.insert(reference.sha256().to_owned(), reference);
    }

    /// Keep a source for good.
    pub fn pin_source(&self, source: Source) {
        self.pinned_sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Whether an image is kept for good, or belongs to a source that is.
    pub fn is_pinned(&self, digest: &str) -> bool {
        let sources = self.pinned_sources.lock().unwrap_or_else(PoisonError::into_inner);
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest)
            || sources.iter().any(|source| source.sha256() == digest || source.mask_sha256() == Some(digest))
    }

    /// The source of a job: kept, remembered, or decoded from `uploads`.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn source(&self, spec: &SourceSpec, uploads: &Store) -> Result<Source, Refused> {
        {
            let pinned = self.pinned_sources.lock().unwrap_or_else(PoisonError::into_inner);
            let is_meant = |one: &&Source| one.sha256() == spec.source && one.mask_sha256() == spec.mask.as_deref();
            let has_strength = |one: &&Source| is_meant(one) && one.options().strength == spec.painting.strength;
            if let Some(found) = pinned.iter().find(has_strength).or_else(|| pinned.iter().find(is_meant)) {
                return Ok(found.clone());
            }
        }
        let mut recent = self.recent_sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = recent.iter().position(|(known, _)| known == spec) {
            recent[at..].rotate_left(1);
            return Ok(recent.last().expect("one was found").1.clone());
        }
        let bytes = upload(&spec.source, uploads)?;
        let mask = spec.mask.as_ref().map(|mask| upload(mask, uploads)).transpose()?;
        let mask = mask.as_deref().map(|mask| (mask, "the mask"));
        let source = Source::from_bytes(&bytes, "the source", mask, spec.painting.options())?;
        recent.push((spec.clone(), source.clone()));
        let bytes = |recent: &[(SourceSpec, Source)]| recent.iter().map(|(_, one)| one.held_bytes()).sum::<usize>();
        while recent.len() > 1 && bytes(&recent) > MAX_BYTES {
            recent.remove(0);
        }
        Ok(source)
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
        let bytes = upload(digest, uploads)?;
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

/// The bytes of an upload.
fn upload(digest: &str, uploads: &Store) -> Result<Arc<[u8]>, Refused> {
    let failed = |error| Refused::Storage(JobFailure::new(FailureClass::Storage, format!("upload: {error}")));
    uploads.get(digest).map_err(failed)?.ok_or_else(|| Refused::UnknownBlob { digest: digest.to_owned() })
}
