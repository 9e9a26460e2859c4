//! Content Credentials: a manifest of the C2PA in a file, which says by whom and how a picture was made, and is signed.
//!
//! In:  the bytes of a file. Out: whether there are any; with the feature `c2pa`, whether they are valid, and files that
//!      are signed.

#[cfg(feature = "c2pa")]
mod sign;
#[cfg(feature = "c2pa")]
mod verify;

use std::fmt;

use crate::image::{ImageFormat, container};

#[cfg(feature = "c2pa")]
pub use sign::{Ingredient, Signer};

/// What is known of the Content Credentials of a file.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Credentials {
    /// Whether they were verified, and what came of it.
    pub state: State,
    /// Who signed them, as the certificate says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// The program that made them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// What was done to the picture, by names of the C2PA, as in `c2pa.created`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Number of files that the picture was made from.
    pub ingredients: usize,
    /// What is wrong with them, by names of the C2PA.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What came of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// This library was built without the feature that verifies them.
    #[default]
    NotVerified,
    /// The file was changed since it was signed, or the credentials are damaged.
    Invalid,
    /// The file is as it was signed. Who signed it is not known to be who it says.
    Valid,
    /// The same, and the certificate is on the list of those that are trusted.
    Trusted,
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content Credentials (C2PA), ")?;
        match self.state {
            State::NotVerified => f.write_str("not verified: this build cannot")?,
            State::Invalid => f.write_str("not valid")?,
            State::Valid => f.write_str("valid, by a certificate that is not known to be trusted")?,
            State::Trusted => f.write_str("valid and trusted")?,
        }
        if let Some(signer) = &self.signer {
            write!(f, "; signed by {signer}")?;
        }
        if let Some(program) = &self.program {
            write!(f, "; made by {program}")?;
        }
        if !self.actions.is_empty() {
            write!(f, "; {}", self.actions.join(", "))?;
        }
        if self.ingredients > 0 {
            write!(f, "; ingredients: {}", self.ingredients)?;
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => write!(f, "; {}", self.problems.join(", ")),
        }
    }
}

/// What is known of the Content Credentials in a file that [carries some](are_in).
pub fn read(file: &[u8]) -> Credentials {
    #[cfg(feature = "c2pa")]
    let credentials = verify::verify(file);
    #[cfg(not(feature = "c2pa"))]
    let credentials = {
        let _ = file;
        Credentials::default()
    };
    credentials
}

/// Whether a PNG, JPEG or WebP carries Content Credentials, valid or not.
pub fn are_in(file: &[u8]) -> bool {
    match ImageFormat::of(file) {
        Some(ImageFormat::Png) => container::png_chunks(file).any(|(_, kind, _)| &kind == b"caBX"),
        // A JUMBF box of any name; other standards that use the segment begin otherwise.
        Some(ImageFormat::Jpeg) => {
            let is_manifest = |data: &[u8]| data.starts_with(b"JP") && holds(data, b"c2pa");
            container::jpeg_segments(file).any(|(marker, data)| marker == 0xeb && is_manifest(data))
        }
        Some(ImageFormat::WebP) => {
            container::webp_chunks(file).unwrap_or_default().iter().any(|(kind, _)| kind == b"C2PA")
        }
        None => false,
    }
}

fn holds(data: &[u8], word: &[u8]) -> bool {
    data.windows(word.len()).any(|window| window == word)
}
