//! Marks by which machines can tell that a picture was made by a model: found in files, and put into pictures.
//!
//! In:  the bytes of a file, pixels. Out: what was found ([`Found`]); pixels with a watermark.
//!
//! | mark | where | room |
//! |---|---|---|
//! | XMP | a word in the file's metadata | [`xmp`], part of the parameters |
//! | watermark | the pixels | [`watermark`] |
//! | Content Credentials (C2PA) | a signed manifest in the file | [`credentials`] |

pub mod credentials;
pub mod watermark;

use crate::image::RgbImage;
use crate::image::metadata::xmp;
use watermark::Watermark;

/// The marks of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The word of its XMP packet that says how it came about.
    pub source_type: Option<String>,
    /// The watermark of its pixels.
    pub watermark: Option<Watermark>,
    /// Whether it carries Content Credentials. They are not verified here.
    pub has_credentials: bool,
}

impl Found {
    /// The marks of a file and of the pixels in it. Without pixels, no watermark is looked for; one is found only in
    /// pixels that were neither scaled nor cropped.
    pub fn of(file: &[u8], image: Option<&RgbImage>) -> Self {
        Found {
            source_type: xmp::read(file),
            watermark: image.and_then(Watermark::find),
            has_credentials: credentials::are_in(file),
        }
    }

    /// Whether the XMP packet says that a model drew the picture or a part of it.
    pub fn says_drawn(&self) -> bool {
        let kind = self.source_type.as_deref().and_then(xmp::SourceType::of);
        matches!(kind, Some(xmp::SourceType::Drawn | xmp::SourceType::Composite))
    }
}
