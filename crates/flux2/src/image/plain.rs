//! GIF, BMP, TIFF and QOI, by the decoders of the crate `image`.
//!
//! In:  untrusted bytes, whose size in pixels is checked before anything of that size is allocated.
//! Out: rows as all formats give them. Channels of 16 bits keep their high byte.
//!
//! A GIF of several frames and a TIFF of several pages give the first one. A TIFF whose first page is a thumbnail is a
//! raw photograph: the picture itself is elsewhere in the file, and not developed.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::qoi::QoiDecoder;
use image::codecs::tiff::TiffDecoder;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageResult, Limits};

use super::input::InputFormat;

/// A file before its pixels are decoded.
pub(super) struct Plain<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Of a pixel: 1 and 2 are gray, 2 and 4 have alpha.
    pub(super) channels: usize,
    /// Of a channel: 1 or 2.
    sample_bytes: usize,
}

impl<'a> Plain<'a> {
    /// Reads what comes before the pixels.
    ///
    /// # Errors
    /// The decoder's message.
    pub(super) fn new(format: InputFormat, bytes: &'a [u8]) -> Result<Self, String> {
        if format == InputFormat::Tiff && first_page(bytes).is_some_and(|page| page.is_thumbnail) {
            return Err("its first page is a thumbnail, as in a raw photograph".into());
        }
        let decoder = open(format, bytes).map_err(|e| e.to_string())?;
        let (width, height) = decoder.dimensions();
        let (channels, sample_bytes) = match decoder.color_type() {
            ColorType::L8 => (1, 1),
            ColorType::La8 => (2, 1),
            ColorType::Rgb8 => (3, 1),
            ColorType::Rgba8 => (4, 1),
            ColorType::L16 => (1, 2),
            ColorType::La16 => (2, 2),
            ColorType::Rgb16 => (3, 2),
            ColorType::Rgba16 => (4, 2),
            other => return Err(format!("it has channels of another kind: {other:?}")),
        };
        Ok(Plain { decoder, width, height, channels, sample_bytes })
    }

    /// The embedded color profile; a broken one is ignored.
    pub(super) fn profile(&mut self) -> Option<Vec<u8>> {
        self.decoder.icc_profile().ok().flatten()
    }

    /// How the picture is to be turned.
    pub(super) fn orientation(&mut self) -> Orientation {
        self.decoder.orientation().unwrap_or(Orientation::NoTransforms)
    }

    /// Most bytes that decoding takes.
    pub(super) fn memory(&self, format: InputFormat) -> usize {
        let decoded = self.pixels() * self.channels * self.sample_bytes;
        match format {
            // The frame, and the canvas that it lies on.
            InputFormat::Gif => 2 * decoded + self.pixels(),
            // The decoder's own copy, and a strip that may be as large as the picture.
            InputFormat::Tiff => 3 * decoded,
            _ => decoded + decoded / 2,
        }
    }

    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Decodes all pixels, whose size was checked, and gives their rows, `[width, channels]`.
    ///
    /// # Errors
    /// The decoder's message, or that memory cannot be allocated.
    pub(super) fn rows(self, mut row: impl FnMut(&[u8])) -> crate::Result<Result<(), String>> {
        let (samples, width) = (self.pixels() * self.channels, self.width as usize * self.channels);
        let Plain { mut decoder, sample_bytes, .. } = self;
        let mut pixels = super::zeroed(samples * sample_bytes)?;
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(4 * pixels.len() as u64 + (32 << 20));
        let decoded = decoder.set_limits(limits).and_then(|()| decoder.read_image_boxed(&mut pixels));
        if let Err(error) = decoded {
            return Ok(Err(error.to_string()));
        }
        if sample_bytes == 2 {
            for i in 0..samples {
                pixels[i] = u16::from_ne_bytes([pixels[2 * i], pixels[2 * i + 1]]).to_be_bytes()[0];
            }
        }
        pixels[..samples].chunks_exact(width).for_each(&mut row);
        Ok(Ok(()))
    }
}

fn open<'a>(format: InputFormat, bytes: &'a [u8]) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
    let bytes = Cursor::new(bytes);
    Ok(match format {
        InputFormat::Gif => Box::new(GifDecoder::new(bytes)?),
        InputFormat::Bmp => Box::new(BmpDecoder::new(bytes)?),
        InputFormat::Tiff => Box::new(TiffDecoder::new(bytes)?),
        InputFormat::Qoi => Box::new(QoiDecoder::new(bytes)?),
        InputFormat::Png | InputFormat::Jpeg | InputFormat::WebP => unreachable!("these have decoders of their own"),
    })
}

/// Whether a file holds frames or pages behind the first one.
pub(super) fn has_more_frames(format: InputFormat, bytes: &[u8]) -> bool {
    match format {
        InputFormat::Gif => gif_frames(bytes) > 1,
        InputFormat::Tiff => first_page(bytes).is_some_and(|page| page.has_next),
        _ => false,
    }
}

/// Frames of a GIF, counted up to 2.
fn gif_frames(bytes: &[u8]) -> usize {
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut frames = 0;
    let mut at = match bytes.get(10) {
        Some(flags) => 13 + table(*flags),
        None => return 0,
    };
    // Blocks of data, each with its length before it; one without a length is the last.
    let behind_data = |mut at: usize| loop {
        match bytes.get(at) {
            Some(0) => break Some(at + 1),
            Some(length) => at += 1 + usize::from(*length),
            None => break None,
        }
    };
    while frames < 2 {
        let next = match bytes.get(at) {
            Some(0x21) => behind_data(at + 2),
            Some(0x2c) => {
                frames += 1;
                bytes.get(at + 9).and_then(|flags| behind_data(at + 10 + table(*flags) + 1))
            }
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    frames
}

/// The first directory of a TIFF.
struct FirstPage {
    /// Whether it describes a smaller version of another picture in the file.
    is_thumbnail: bool,
    /// Whether another one follows.
    has_next: bool,
}

fn first_page(bytes: &[u8]) -> Option<FirstPage> {
    let is_little = bytes.first()? == &b'I';
    let short = |at: usize| {
        let bytes = *bytes.get(at..)?.first_chunk::<2>()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = *bytes.get(at..)?.first_chunk::<4>()?;
        Some(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    const NEW_SUBFILE_TYPE: u16 = 254;
    const REDUCED: u32 = 1;
    let start = long(4)? as usize;
    let entries = usize::from(short(start)?);
    let entry = |i: usize| start + 2 + 12 * i;
    let kind = (0..entries).find(|&i| short(entry(i)) == Some(NEW_SUBFILE_TYPE)).and_then(|i| long(entry(i) + 8));
    let is_thumbnail = kind.is_some_and(|kind| kind & REDUCED != 0);
    Some(FirstPage { is_thumbnail, has_next: long(entry(entries)).is_some_and(|next| next != 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_gif_are_counted_without_decoding() {
        let head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff";
        let frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0";
        let comment = b"\x21\xfe\x03abc\0";
        for (parts, frames) in [
            (vec![frame.as_slice(), b";"], 1),
            (vec![comment.as_slice(), frame, comment, frame, b";"], 2),
            (vec![frame.as_slice(), frame, frame], 2),
            (vec![frame.as_slice(), &frame[..12]], 2),
            (vec![b";".as_slice(), frame], 0),
            (vec![&comment[..4]], 0),
            (vec![], 0),
        ] {
            let gif = [head.as_slice(), &parts.concat()].concat();
            assert_eq!(gif_frames(&gif), frames, "{}", gif.escape_ascii());
        }
        assert_eq!(gif_frames(b"GIF89a"), 0);
    }

    #[test]
    fn the_first_directory_of_a_tiff_says_what_it_is() {
        let entry = |tag: u16, value: u32| {
            [&tag.to_be_bytes()[..], &4u16.to_be_bytes(), &1u32.to_be_bytes(), &value.to_be_bytes()].concat()
        };
        let tiff = |entries: &[Vec<u8>], next: u32| {
            let count = (entries.len() as u16).to_be_bytes();
            [b"MM\0*\0\0\0\x08", &count[..], &entries.concat(), &next.to_be_bytes()].concat()
        };
        let read = |bytes: &[u8]| first_page(bytes).map(|page| (page.is_thumbnail, page.has_next));
        assert_eq!(read(&tiff(&[entry(256, 8)], 0)), Some((false, false)));
        assert_eq!(read(&tiff(&[entry(254, 0), entry(256, 8)], 99)), Some((false, true)));
        assert_eq!(read(&tiff(&[entry(254, 1)], 0)), Some((true, false)));
        assert_eq!(read(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(read(b"II"), None);
    }
}
