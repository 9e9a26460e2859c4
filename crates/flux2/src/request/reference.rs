//! An image to edit or combine.

use std::path::Path;
use std::sync::Arc;

use flux2_base::digest::sha256;

use crate::Result;
use crate::image::codec::{self, Prepared, Transparency};
use crate::image::{Preparation, RgbImage, resize};
use crate::marks::Found;
use crate::marks::watermark::Watermark;

/// An image to edit or combine, as the model takes it, and the digest that identifies it.
///
/// It is decoded and shrunk once. Clones share its pixels, so many requests can have it.
#[derive(Clone, Debug)]
pub struct Reference {
    /// At most a megapixel, cropped to the grid; unless it cannot be a reference, which its request refuses.
    pub(super) image: Arc<RgbImage>,
    sha256: String,
    /// Width and height before it was prepared.
    pub(super) source_px: [u32; 2],
    /// What happened to its alpha channel, if it was transparent anywhere.
    transparency: Option<Transparency>,
    /// How it was prepared.
    preparation: Preparation,
    /// Whether its file holds frames or pages behind the one that is taken.
    pub(super) has_more_frames: bool,
    /// Memory that it took at most to read it, in bytes: its file and what decoding needs.
    reading_bytes: usize,
    /// What its file says about where it comes from.
    marks: Found,
}

/// Identifies the pixels of a prepared reference.
///
/// The digest of an image that comes from no file covers its pixels but not its shape: hence the size before
/// preparation. That of a file does not cover the color that it was put over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceKey {
    sha256: String,
    transparency: Option<Transparency>,
    /// Without its transparency, which counts only where the file has some.
    preparation: Preparation,
    source_px: [u32; 2],
    prepared_px: [u32; 2],
}

impl Reference {
    /// A reference from pixels in memory. Its SHA-256 is that of the pixels, as there is no file.
    pub fn from_image(image: RgbImage) -> Self {
        let (sha256, source_px, reading_bytes) =
            (sha256(image.pixels()), [image.width(), image.height()], image.pixels().len());
        let image = Arc::new(resize::prepare_reference(&image).unwrap_or(image));
        let (preparation, has_more_frames) = (Preparation::default(), false);
        let marks = Found { watermark: Watermark::find(&image), ..Found::default() };
        Reference { image, sha256, source_px, transparency: None, preparation, has_more_frames, reading_bytes, marks }
    }

    /// An image that needs no preparation: of any size on the grid.
    pub(crate) fn on_grid(image: RgbImage) -> Self {
        let (sha256, source_px) = (sha256(image.pixels()), [image.width(), image.height()]);
        let (preparation, marks) = (Preparation::default(), Found::default());
        let (transparency, has_more_frames, reading_bytes) = (None, false, 0);
        let image = Arc::new(image);
        Reference { image, sha256, source_px, transparency, preparation, has_more_frames, reading_bytes, marks }
    }

    /// Decode an image file of any [format that is read](crate::image::InputFormat), over white where it is transparent.
    /// `name` is what errors call it.
    ///
    /// # Errors
    /// Any of the image errors, all of kind [`ErrorKind::BadImage`](crate::ErrorKind::BadImage).
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::from_transparent(bytes, name, Transparency::default())
    }

    /// As [`from_bytes`](Self::from_bytes), with a choice of what happens to the alpha channel.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn from_transparent(bytes: &[u8], name: &str, transparency: Transparency) -> Result<Self> {
        Self::prepared(bytes, name, &Preparation { transparency, ..Preparation::default() })
    }

    /// As [`from_bytes`](Self::from_bytes), prepared in another way, as
    /// [another program](crate::Compat::preparation) does.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn prepared(bytes: &[u8], name: &str, preparation: &Preparation) -> Result<Self> {
        let reading_bytes = Self::reading_bytes_to(preparation, bytes, name)?;
        let Prepared { image, source_px, was_transparent, has_more_frames } = codec::prepare(bytes, name, preparation)?;
        let transparency = was_transparent.then_some(preparation.transparency);
        // A watermark is lost in an image that is shrunk.
        let is_whole = [image.width(), image.height()] == source_px;
        let marks = Found::of(bytes, Some(&image).filter(|_| is_whole));
        let (image, sha256, preparation) = (Arc::new(image), sha256(bytes), *preparation);
        Ok(Reference { image, sha256, source_px, transparency, preparation, has_more_frames, reading_bytes, marks })
    }

    /// Read and decode an image file; see [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    /// Those of [`codec::read_file`], and any of the image errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&codec::read_file(path)?, &path.display().to_string())
    }

    /// Memory that [`from_bytes`](Self::from_bytes) takes at most, in bytes, with the file itself. Only the header is
    /// decoded for it.
    ///
    /// # Errors
    /// Those of `from_bytes` about the header.
    pub fn reading_bytes_of(bytes: &[u8], name: &str) -> Result<usize> {
        Self::reading_bytes_to(&Preparation::default(), bytes, name)
    }

    /// The same for [`prepared`](Self::prepared).
    ///
    /// # Errors
    /// As [`reading_bytes_of`](Self::reading_bytes_of).
    pub fn reading_bytes_to(preparation: &Preparation, bytes: &[u8], name: &str) -> Result<usize> {
        Ok(bytes.len() + codec::reference_memory(bytes, name, preparation)?)
    }

    /// Memory that it took at most to read this reference, in bytes, its file included.
    pub fn reading_bytes(&self) -> usize {
        self.reading_bytes
    }

    /// Whether both share their pixels in memory.
    pub(crate) fn is_clone_of(&self, other: &Reference) -> bool {
        Arc::ptr_eq(&self.image, &other.image)
    }

    /// The key that its tokens are remembered by, once it is prepared.
    pub(crate) fn key(&self) -> ReferenceKey {
        let Reference { image, sha256, transparency, preparation, source_px, .. } = self;
        let prepared_px = [image.width(), image.height()];
        let preparation = Preparation { transparency: Transparency::default(), ..*preparation };
        ReferenceKey {
            sha256: sha256.clone(),
            transparency: *transparency,
            preparation,
            source_px: *source_px,
            prepared_px,
        }
    }

    /// The image as the model takes it.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// Width and height before it was prepared.
    pub fn source_px(&self) -> [u32; 2] {
        self.source_px
    }

    /// What happened to its alpha channel, if its file is transparent anywhere.
    pub fn transparency(&self) -> Option<Transparency> {
        self.transparency
    }

    /// The marks of its file, as far as they are found in the image that the model takes.
    pub fn marks(&self) -> &Found {
        &self.marks
    }

    /// SHA-256 in lower-case hex: of the file it came from, or of its pixels if it came from none.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_another_background_is_another_reference() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/images/hidden_colors.png");
        let bytes = std::fs::read(file).unwrap();
        let [white, red, dropped] = [Transparency::default(), Transparency::Over([255, 0, 0]), Transparency::Dropped]
            .map(|transparency| Reference::from_transparent(&bytes, "hidden_colors.png", transparency).unwrap());
        assert_eq!(white.sha256(), red.sha256(), "it is the digest of the file");
        assert!(white.key() != red.key() && white.key() != dropped.key());
        assert_eq!(white.key(), Reference::from_bytes(&bytes, "again").unwrap().key());
    }
}
