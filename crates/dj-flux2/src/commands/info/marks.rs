//! Marks of a picture, for people and as JSON.

use flux2::image::decode;
use flux2::marks::Found;
use flux2::marks::credentials::Credentials;
use flux2::marks::watermark::{self, FLUX, Watermark};
use serde::Serialize;

use crate::credentials;

/// The marks of a picture, and what was looked for in vain.
pub struct Marks {
    found: Found,
    /// The bits that are right by chance, or why none were looked for.
    no_watermark: Result<Watermark, String>,
    credentials: Option<Credentials>,
}

/// What `--json` prints.
#[derive(Serialize)]
pub struct MarksRecord<'a> {
    source_type: Option<&'a str>,
    watermark: Option<WatermarkRecord>,
    credentials: Option<&'a Credentials>,
}

#[derive(Serialize)]
struct WatermarkRecord {
    message: &'static str,
    bits: u32,
    right: u32,
    chance: f64,
}

impl Marks {
    /// The marks of a file; `name` is what errors call it.
    pub fn of(bytes: &[u8], name: &str) -> Self {
        let image = decode(bytes, name);
        let found = Found::of(bytes, image.as_ref().ok());
        let no_watermark = match &image {
            Ok(image) => watermark::read(image, FLUX).ok_or_else(|| "the picture is too small for one".to_owned()),
            Err(error) => Err(format!("not looked for: {error}")),
        };
        Marks { credentials: found.has_credentials.then(|| credentials::read(bytes)), found, no_watermark }
    }

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.found == Found::default()
    }

    /// Names and values, those that are missing too.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let origin = match &self.found.source_type {
            Some(word) => format!("{word}, by its metadata (XMP)"),
            None => "not said by its metadata (XMP)".to_owned(),
        };
        let watermark = match (&self.found.watermark, &self.no_watermark) {
            (Some(Watermark { message, right, chance }), _) => {
                format!(
                    "{}, {right} of {} bits; by chance in one of {:.0e}",
                    message.name,
                    message.length,
                    1.0 / chance
                )
            }
            (None, Ok(Watermark { message, right, .. })) => {
                format!("none found: {right} of {} bits of {} are right", message.length, message.name)
            }
            (None, Err(reason)) => format!("none found: {reason}"),
        };
        let credentials = match &self.credentials {
            Some(credentials) => credentials.to_string(),
            None => "no Content Credentials (C2PA)".to_owned(),
        };
        vec![("origin", origin), ("watermark", watermark), ("signed", credentials)]
    }

    /// The same for `--json`.
    pub fn record(&self) -> MarksRecord<'_> {
        let record = |found: &Watermark| WatermarkRecord {
            message: found.message.name,
            bits: found.message.length,
            right: found.right,
            chance: found.chance,
        };
        MarksRecord {
            source_type: self.found.source_type.as_deref(),
            watermark: self.found.watermark.as_ref().map(record),
            credentials: self.credentials.as_ref(),
        }
    }
}
