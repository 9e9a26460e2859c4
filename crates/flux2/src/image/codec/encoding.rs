//! Pictures to the bytes of a file.

use super::ImageFormat;
use crate::image::metadata::{PngText, PngTextKind, SheetParameters, xmp};
use crate::image::original::Attached;
use crate::image::quality::{Embedded, Quality};
use crate::image::{Parameters, RgbImage};
use crate::{Error, Result};

/// Encode a picture as the bytes of a file, with its parameters, at the usual quality.
///
/// # Errors
/// Those of [`encode_with`].
pub fn encode(image: &RgbImage, format: ImageFormat, parameters: Option<&Parameters>) -> Result<Vec<u8>> {
    encode_with(image, format, &Quality::default(), parameters.map(Embedded::Picture))
}

/// Encode a picture as the bytes of a file, with parameters in it.
///
/// PNG is compressed at the middle setting. With parameters, the file also has the XMP packet that says how the picture
/// came about.
///
/// # Errors
/// [`Error::ImageEncode`]; [`Error::ImageParametersTooLong`] for parameters over 64 kB in a JPEG, over 16 MB in others.
pub fn encode_with(
    image: &RgbImage,
    format: ImageFormat,
    quality: &Quality,
    embedded: Option<Embedded>,
) -> Result<Vec<u8>> {
    encode_attached(image, &Attached::default(), format, quality, embedded)
}

/// As [`encode_with`], with the alpha channel and the color profile that belong to the picture. A JPEG has no alpha
/// channel: there the picture is put over white.
///
/// # Errors
/// As [`encode_with`].
pub fn encode_attached(
    image: &RgbImage,
    attached: &Attached,
    format: ImageFormat,
    quality: &Quality,
    embedded: Option<Embedded>,
) -> Result<Vec<u8>> {
    let (pixels, has_alpha) = attached.samples(image, format)?;
    let file = ToWrite { image, pixels: &pixels, has_alpha, profile: attached.profile.as_deref() };
    let failed = |reason: String| Error::ImageEncode { format: format.name(), reason };
    let mut out = Vec::new();
    match format {
        ImageFormat::Png => {
            let texts = embedded.map(Embedded::png_texts).transpose()?.unwrap_or_default();
            encode_png(&file, texts.into_iter(), &mut out).map_err(|e| failed(e.to_string()))?;
        }
        ImageFormat::Jpeg => {
            let exif = embedded.map(|it| it.exif(format)).transpose()?;
            out = quality.jpeg(&file, exif).map_err(failed)?;
        }
        ImageFormat::WebP => {
            let exif = embedded.map(|it| it.exif(format)).transpose()?;
            out = quality.webp(&file, exif).map_err(failed)?;
        }
    }
    Ok(match embedded {
        Some(embedded) => xmp::embed(out, format, &xmp::packet(embedded.source_type())),
        None => out,
    })
}

/// Encode a sheet as the bytes of a file, with the parameters of its pictures.
///
/// # Errors
/// Those of [`encode_with`].
pub fn encode_sheet(image: &RgbImage, format: ImageFormat, parameters: Option<&SheetParameters>) -> Result<Vec<u8>> {
    encode_with(image, format, &Quality::default(), parameters.map(Embedded::Sheet))
}

/// What is written to a file besides its parameters.
pub(in crate::image) struct ToWrite<'a> {
    pub(in crate::image) image: &'a RgbImage,
    /// `[height, width, 3]`, or `[height, width, 4]` with alpha.
    pub(in crate::image) pixels: &'a [u8],
    pub(in crate::image) has_alpha: bool,
    pub(in crate::image) profile: Option<&'a [u8]>,
}

fn encode_png(
    file: &ToWrite,
    texts: impl Iterator<Item = PngText>,
    out: &mut Vec<u8>,
) -> Result<(), png::EncodingError> {
    let mut info = png::Info::with_size(file.image.width, file.image.height);
    info.icc_profile = file.profile.map(Into::into);
    let mut encoder = png::Encoder::with_info(out, info)?;
    encoder.set_color(if file.has_alpha { png::ColorType::Rgba } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    // Of images as models draw them, the files are no larger than at higher levels, which take thirty times as long.
    encoder.set_compression(png::Compression::Fast);
    if file.profile.is_none() {
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    }
    for text in texts {
        match text.kind {
            PngTextKind::Latin1 => encoder.add_text_chunk(text.keyword.into(), text.text)?,
            PngTextKind::Utf8 => encoder.add_itxt_chunk(text.keyword.into(), text.text)?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(file.pixels)?;
    writer.finish()
}
