//! The file of a picture that is enlarged: what it says beside its pixels goes to the larger file.

use crate::Result;
use crate::event::InputMark;
use crate::image::codec::decode_original;
use crate::image::metadata::{self, xmp};
use crate::image::{Attached, Embedded, ImageFormat, Original, Parameters, Quality, RgbImage, encode_attached, resize};
use crate::marks::Found;
use crate::marks::watermark::{self, Watermark};
use crate::upscale::{Upscaler, Upscaling};

/// A picture in a file, before it is enlarged.
#[derive(Clone, Debug)]
pub struct Before {
    original: Original,
    /// What made it, if this program did.
    made: Option<Parameters>,
    marks: Found,
}

impl Before {
    /// Decode a PNG, JPEG, WebP or another [file that is read](crate::image::InputFormat). `name` is what errors call
    /// it.
    ///
    /// # Errors
    /// Any of the image errors; [`Error::ImageParameters`](crate::Error::ImageParameters) for parameters of this
    /// program that are broken.
    pub fn read(file: &[u8], name: &str) -> Result<Self> {
        let original = decode_original(file, name)?;
        let marks = Found::of(file, Some(&original.image));
        Ok(Before { made: metadata::read(file)?, marks, original })
    }

    /// The picture, in the colors of its file.
    pub fn image(&self) -> &RgbImage {
        &self.original.image
    }

    /// What makes the larger picture, if this program made the picture.
    pub fn parameters(&self, how: &Upscaling) -> Option<Parameters> {
        let made = self.made.clone()?;
        Some(Parameters { upscale: Some(how.parameters()), ..made })
    }

    /// The larger picture as the bytes of a file: with the color profile, the alpha channel and the watermark of this
    /// one, and with its parameters and the word that says how it came about if `with_metadata`.
    ///
    /// # Errors
    /// Those of [`encode_attached`], or if memory cannot be allocated.
    pub fn encode(
        &self,
        larger: &RgbImage,
        how: &Upscaling,
        format: ImageFormat,
        with_metadata: bool,
    ) -> Result<Vec<u8>> {
        let size = |image: &RgbImage| [image.width(), image.height()];
        let attached = attached(&self.original.attached, size(self.image()), size(larger))?;
        let parameters = self.parameters(how).filter(|_| with_metadata);
        let embedded = parameters.as_ref().map(Embedded::Picture);
        let is_lost = self.has_our_watermark() && Watermark::find(larger).is_none();
        let marked = is_lost.then(|| watermark::embed(larger)).transpose()?;
        let larger = marked.as_ref().unwrap_or(larger);
        let file = encode_attached(larger, &attached, format, &Quality::default(), embedded)?;
        // With parameters comes the word that belongs to them.
        Ok(match self.source_type(how) {
            Some(word) if with_metadata && parameters.is_none() => xmp::embed(file, format, &xmp::packet(word)),
            _ => file,
        })
    }

    /// That a model drew the picture stays true of the larger one.
    fn source_type(&self, how: &Upscaling) -> Option<xmp::SourceType> {
        let of_file = self.marks.source_type.as_deref().and_then(xmp::SourceType::of);
        of_file.or(matches!(how.upscaler, Upscaler::Network(_)).then_some(xmp::SourceType::Enhanced))
    }

    /// Whether the picture has the watermark of this program. Scaling destroys watermarks, and this is the only one that
    /// can be written again.
    fn has_our_watermark(&self) -> bool {
        self.marks.watermark.is_some_and(|found| found.message == watermark::FLUX)
    }

    /// Marks of the file that the larger one does not carry.
    pub fn marks_not_kept(&self, with_metadata: bool) -> Vec<InputMark> {
        let lost = [
            (InputMark::SourceType, self.marks.says_drawn() && !with_metadata),
            (InputMark::Watermark, self.marks.watermark.is_some() && !self.has_our_watermark()),
            (InputMark::Credentials, self.marks.has_credentials),
        ];
        lost.into_iter().filter(|(_, is_lost)| *is_lost).map(|(mark, _)| mark).collect()
    }
}

/// What belongs to a picture that is enlarged from width and height `from` to `to`: its color profile, and its alpha
/// channel, enlarged by Lanczos.
///
/// # Errors
/// If memory cannot be allocated.
pub fn attached(original: &Attached, from: [u32; 2], to: [u32; 2]) -> Result<Attached> {
    let Attached { alpha, profile } = original;
    let alpha = alpha.as_ref().map(|alpha| resize::lanczos_channels::<1>(alpha, from, to)).transpose()?;
    Ok(Attached { alpha, profile: profile.clone() })
}
