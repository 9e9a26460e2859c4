//! Signing with Content Credentials, in a program that was built with them; else one sentence that says how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "c2pa")]
use flux2::image::{Parameters, codec};
#[cfg(feature = "c2pa")]
use flux2::marks::credentials;
#[cfg(feature = "c2pa")]
use flux2_jobs::JobSpec;
use flux2_jobs::Signer;

use crate::failure::{Failure, Result};

/// That this program cannot sign.
pub fn not_built() -> Failure {
    Failure::usage(
        "this program was built without Content Credentials (C2PA)",
        "build it with them: cargo build --release -p dj-flux2 --features c2pa",
    )
}

/// What signs with a key and certificates, if they are given. `references` are files by their digests.
#[cfg(not(feature = "c2pa"))]
pub fn signer(files: Option<(&Path, &Path)>, _: HashMap<String, PathBuf>) -> Result<Option<Arc<dyn Signer>>> {
    match files {
        Some(_) => Err(not_built()),
        None => Ok(None),
    }
}

/// What signs with a key and certificates, if they are given. `references` are files by their digests.
#[cfg(feature = "c2pa")]
pub fn signer(
    files: Option<(&Path, &Path)>,
    references: HashMap<String, PathBuf>,
) -> Result<Option<Arc<dyn Signer>>> {
    let Some((key, certificates)) = files else { return Ok(None) };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| Failure::from(flux2::Error::Io { path: path.to_owned(), source }))
    };
    let signer = credentials::Signer::new(read(key)?, read(certificates)?)?;
    Ok(Some(Arc::new(WithFiles { signer, references })))
}

/// A key, and where the references of a run are.
#[cfg(feature = "c2pa")]
#[derive(Debug)]
struct WithFiles {
    signer: credentials::Signer,
    references: HashMap<String, PathBuf>,
}

#[cfg(feature = "c2pa")]
impl Signer for WithFiles {
    fn sign(
        &self,
        file: Vec<u8>,
        spec: &JobSpec,
        made: &Parameters,
        reference: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> flux2::Result<Vec<u8>> {
        let ingredient = |digest: &String| {
            let read = || codec::read_file(self.references.get(digest)?).ok();
            let file = reference(digest).or_else(read).filter(|file| flux2::digest::sha256(file) == *digest);
            let reason = || format!("the file of reference image {digest} is not there any more");
            let file = file.ok_or_else(|| flux2::Error::Credentials { reason: reason() })?;
            Ok(credentials::Ingredient { file, is_parent: false })
        };
        let ingredients = made.references.iter().map(ingredient).collect::<flux2::Result<Vec<_>>>()?;
        self.signer.sign(&file, spec.format, made, &ingredients)
    }
}
