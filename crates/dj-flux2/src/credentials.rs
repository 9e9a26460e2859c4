//! Signing with Content Credentials, in a program that was built with them; else one sentence that says how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
