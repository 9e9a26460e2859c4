//! Pictures as content of an answer: whole if they are small, else a smaller JPEG.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flux2::image::codec::{self, encode_with};
use flux2::image::{Chroma, Embedded, ImageFormat, Percent, Quality, RgbImage, metadata, resize};
use rmcp::model::ContentBlock;

use crate::desk::Result;

/// Bytes of all pictures of an answer, before base64 adds a third. Clients refuse answers of over a megabyte.
const MOST: usize = 512 << 10;
/// Longest side of a picture that is made smaller: models see no more.
const LONGEST_PX: u32 = 1568;
/// Shortest side that a picture is made smaller to.
const SHORTEST_PX: f64 = 32.0;

/// A picture in an answer.
#[derive(Debug)]
pub struct Shown {
    /// The content.
    pub block: ContentBlock,
    /// What of the picture it is, in words.
    pub note: String,
}

/// The media type of a format.
pub fn media_type(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::WebP => "image/webp",
    }
}

/// The file of a picture as content, one of `count` in the same answer.
///
/// # Errors
/// If it is no picture.
pub fn show(bytes: &[u8], format: ImageFormat, count: usize) -> Result<Shown> {
    show_within(bytes, format, MOST / count.max(1))
}

fn show_within(bytes: &[u8], format: ImageFormat, most: usize) -> Result<Shown> {
    if bytes.len() <= most {
        let note = format!("the file itself, {}", format.name());
        return Ok(Shown { block: block(bytes, format), note });
    }
    let image = codec::decode(bytes, "the picture")?;
    let parameters = metadata::read(bytes)?;
    // A long prompt would not fit beside a small picture.
    let parameters = parameters.filter(|parameters| parameters.line().len() < most / 8);
    let quality = Quality { jpeg: percent(85), chroma: Chroma::Quarter, webp: None };
    let encoded =
        |image: &RgbImage| encode_with(image, ImageFormat::Jpeg, &quality, parameters.as_ref().map(Embedded::Picture));
    let sides = [image.width(), image.height()].map(f64::from);
    let mut scale = (f64::from(LONGEST_PX) / sides[0].max(sides[1])).min(1.0);
    loop {
        let [width, height] = sides.map(|side| (side * scale).round().max(1.0) as u32);
        let file = match scale < 1.0 {
            true => encoded(&resize::resize_lanczos(&image, width, height)?)?,
            false => encoded(&image)?,
        };
        let is_least = sides[0].min(sides[1]) * scale <= SHORTEST_PX;
        if file.len() <= most || is_least {
            let note = format!("a JPEG of {width}x{height}; the file has {}x{}", image.width(), image.height());
            return Ok(Shown { block: block(&file, ImageFormat::Jpeg), note });
        }
        scale *= (most as f64 / file.len() as f64).sqrt().min(0.9) * 0.97;
    }
}

fn percent(percent: u8) -> Percent {
    Percent::new(percent).unwrap_or(Quality::default().jpeg)
}

fn block(bytes: &[u8], format: ImageFormat) -> ContentBlock {
    ContentBlock::image(BASE64_STANDARD.encode(bytes), media_type(format))
}

#[cfg(test)]
mod tests {
    use flux2::image::encode;

    use super::*;

    fn noise(width: u32, height: u32) -> Vec<u8> {
        let mut state = 1_u32;
        let pixels = (0..3 * width * height).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        encode(&RgbImage::new(width, height, pixels.collect()).unwrap(), ImageFormat::Png, None).unwrap()
    }

    fn decoded(shown: &Shown) -> (String, Vec<u8>) {
        let image = shown.block.as_image().unwrap();
        (image.mime_type.clone(), BASE64_STANDARD.decode(&image.data).unwrap())
    }

    #[test]
    fn a_small_file_is_shown_as_it_is() {
        let file = noise(16, 16);
        let shown = show(&file, ImageFormat::Png, 1).unwrap();
        assert_eq!(decoded(&shown), ("image/png".into(), file));
        assert_eq!(shown.note, "the file itself, PNG");
    }

    #[test]
    fn a_large_file_is_shown_as_a_smaller_jpeg() {
        let file = noise(640, 320);
        for most in [200_000, 20_000, 4000] {
            let shown = show_within(&file, ImageFormat::Png, most).unwrap();
            let (kind, bytes) = decoded(&shown);
            assert_eq!(kind, "image/jpeg");
            assert!(bytes.len() <= most, "{} of {most}", bytes.len());
            let image = codec::decode(&bytes, "it").unwrap();
            assert!((1.9..2.1).contains(&(f64::from(image.width()) / f64::from(image.height()))));
            assert!(shown.note.ends_with("the file has 640x320"), "{}", shown.note);
        }
        assert!(show_within(b"no picture", ImageFormat::Png, 3).is_err());
    }
}
