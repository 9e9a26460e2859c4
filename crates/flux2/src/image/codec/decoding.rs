//! Files of each format to rows of pixels.

use std::io::Cursor;

use ::image::ImageDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::metadata::Orientation;

use super::{MAX_PIXELS, MAX_SIDE};
use crate::image::input::{self, Foreign, InputFormat};
use crate::image::jpeg::{self, Fault};
use crate::image::plain::Plain;
use crate::image::rows::{Flattening, Head, Preparation, Rows, Samples};
use crate::image::{self, color, container};
use crate::{Error, Result};

/// The bytes to decode, and their name for errors.
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    what: &'a str,
    pub(super) format: InputFormat,
}

/// Most bytes that chunks of a PNG may inflate to, such as its color profile.
const MAX_PNG_CHUNKS: usize = 64 << 20;
/// Most bytes that a byte of deflate inflates to.
const MAX_INFLATION: usize = 1032;
/// Bytes of memory that the conversion of a color profile takes for each of its own.
const PROFILE_MEMORY: usize = 8;
/// Memory to shrink a reference: sums of a few rows, weights of both axes, the result before and after it is turned and
/// cropped; and rows and tables of the decoders.
const SHRINKING_MEMORY: usize = 16 << 20;

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'a str) -> Result<Self> {
        match InputFormat::of(bytes) {
            Some(format) => Ok(Input { bytes, what, format }),
            None => {
                let Foreign { found, how } = input::foreign(bytes);
                Err(Error::ImageFormat { what: what.into(), found, how })
            }
        }
    }

    /// Decode to an `R`. Returns what `finish` makes of it and of whether the file is transparent anywhere.
    pub(super) fn decode<R: Rows, T>(&self, preparation: &Preparation, finish: impl FnOnce(R, bool) -> T) -> Result<T> {
        let decode = || {
            let rows = self.samples(|head| Flattening::<R>::start(head, preparation))?;
            let (rows, was_transparent) = rows.finish();
            Ok(finish(rows, was_transparent))
        };
        image::caught(decode).unwrap_or_else(|panic| Err(self.broken(panic)))
    }

    /// Decode to what `start` makes of the header. A decoder that panics is the caller's to catch.
    pub(super) fn samples<S: Samples>(&self, start: impl FnOnce(&Head) -> Result<S>) -> Result<S> {
        match self.format {
            InputFormat::Png => self.png(start),
            InputFormat::Jpeg => self.jpeg(start),
            InputFormat::WebP => self.webp(start),
            InputFormat::Gif | InputFormat::Bmp | InputFormat::Tiff | InputFormat::Qoi => self.plain(start),
        }
    }

    /// See [`reference_memory`].
    pub(super) fn reference_memory(&self) -> Result<usize> {
        Ok(self.decoder_memory()?.0 + SHRINKING_MEMORY)
    }

    /// Memory that the decoder takes at most beside the file and the result, and the size in the file.
    pub(super) fn decoder_memory(&self) -> Result<(usize, [u32; 2])> {
        let file = self.bytes.len();
        Ok(match self.format {
            InputFormat::Png => {
                let mut decoder = png::Decoder::new(Cursor::new(self.bytes));
                let header = decoder.read_header_info().map_err(|e| self.broken(e))?;
                let ((width, height), interlaced) = (header.size(), header.interlaced);
                self.check_size(width, height)?;
                // Passes of an interlaced picture cover all of it. A palette or a transparent color adds channels.
                let pixels = if interlaced { 4 * width as usize * height as usize } else { 0 };
                let inflated = MAX_PNG_CHUNKS.min(MAX_INFLATION * container::png_profile_length(self.bytes));
                let copy = if container::png_lacks_end(self.bytes) { file } else { 0 };
                (pixels + PROFILE_MEMORY * inflated + copy, [width, height])
            }
            InputFormat::Jpeg => {
                let size = jpeg::size(self.bytes).map_err(|fault| self.fault(fault))?;
                self.check_size(size.width, size.height)?;
                let memory = size.memory + PROFILE_MEMORY * jpeg::most_profile_bytes(self.bytes);
                (memory, [size.width, size.height])
            }
            InputFormat::WebP => {
                let chunks = container::webp_chunks(self.bytes).ok_or_else(|| self.broken(CUT_SHORT))?;
                let decoder = WebPDecoder::new(Cursor::new(self.bytes)).map_err(|e| self.broken(e))?;
                let (width, height) = decoder.dimensions();
                self.check_size(width, height)?;
                let profile = chunks.iter().find(|(kind, _)| kind == b"ICCP").map_or(0, |(_, data)| data.len());
                let pixel = container::webp_memory_of_pixel(&chunks);
                let pixels = width as usize * height as usize * pixel;
                (pixels + PROFILE_MEMORY * profile + 2 * file, [width, height])
            }
            InputFormat::Gif | InputFormat::Bmp | InputFormat::Tiff | InputFormat::Qoi => {
                let mut plain = self.open_plain()?;
                let profile = plain.profile().map_or(0, |profile| profile.len());
                (plain.memory(self.format) + PROFILE_MEMORY * profile, [plain.width, plain.height])
            }
        })
    }

    pub(super) fn broken(&self, reason: impl ToString) -> Error {
        Error::ImageDecode { what: self.what.into(), format: self.format.name(), reason: reason.to_string() }
    }

    fn animated(&self) -> Error {
        Error::ImageAnimated { what: self.what.into(), format: self.format.name() }
    }

    /// Check the size in the header before anything of that size is allocated.
    fn check_size(&self, width: u32, height: u32) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(self.broken(format_args!("it is {width}x{height} pixels")));
        }
        if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
            let (max_side, max_pixels) = (MAX_SIDE, MAX_PIXELS);
            return Err(Error::ImageTooLarge { what: self.what.into(), width, height, max_side, max_pixels });
        }
        Ok(())
    }

    fn png<S: Samples>(&self, start: impl FnOnce(&Head) -> Result<S>) -> Result<S> {
        // The limit is for decompressed chunks; pixels are bounded by the size of the picture.
        let limits = png::Limits { bytes: MAX_PNG_CHUNKS };
        let bytes = container::png_with_end(self.bytes);
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(&*bytes), limits);
        decoder.set_ignore_text_chunk(true);
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let (width, height) = decoder.read_header_info().map_err(|e| self.broken(e))?.size();
        self.check_size(width, height)?;
        let mut reader = decoder.read_info().map_err(|e| self.broken(e))?;
        let info = reader.info();
        if info.animation_control().is_some_and(|animation| animation.num_frames > 1) {
            return Err(self.animated());
        }
        let of_code_points = info.coding_independent_code_points.and_then(|c| {
            let is_full_range = c.is_video_full_range_image;
            color::profile_of_code_points(c.color_primaries, c.transfer_function, c.matrix_coefficients, is_full_range)
        });
        let profile = of_code_points.or_else(|| info.icc_profile.as_deref().map(Into::into));
        let is_interlaced = info.interlaced;
        let channels = reader.output_color_type().0.samples();
        // The chunk may come after the pixels, so it is looked for before.
        let orientation = orientation(&container::png_exif(self.bytes));
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        if is_interlaced {
            let mut pixels = image::zeroed(width as usize * height as usize * channels)?;
            reader.next_frame(&mut pixels).map_err(|e| self.broken(e))?;
            pixels.chunks_exact(width as usize * channels).for_each(|row| rows.row(row));
        } else {
            while let Some(row) = reader.next_row().map_err(|e| self.broken(e))? {
                rows.row(row.data());
            }
        }
        Ok(rows)
    }

    fn fault(&self, fault: Fault) -> Error {
        match fault {
            Fault::OutOfMemory { bytes } => flux2_backend::Error::OutOfMemory { bytes }.into(),
            fault => self.broken(fault),
        }
    }

    fn jpeg<S: Samples>(&self, start: impl FnOnce(&Head) -> Result<S>) -> Result<S> {
        let fault = |fault| self.fault(fault);
        let jpeg::Size { width, height, .. } = jpeg::size(self.bytes).map_err(fault)?;
        self.check_size(width, height)?;
        let mut jpeg = jpeg::decode(self.bytes).map_err(fault)?;
        let (channels, profile, orientation) = (jpeg.channels(), jpeg.profile.take(), orientation(&jpeg.exif));
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        jpeg.rows(|row| rows.row(row));
        Ok(rows)
    }

    fn webp<S: Samples>(&self, start: impl FnOnce(&Head) -> Result<S>) -> Result<S> {
        // The decoder allocates the declared size of a chunk before it reads it.
        let chunks = |bytes| container::webp_chunks(bytes).ok_or_else(|| self.broken(CUT_SHORT));
        let found = chunks(self.bytes)?;
        if found.iter().filter(|(kind, _)| kind == b"ANMF").count() > 1 {
            return Err(self.animated());
        }
        let bytes = container::webp_repaired(self.bytes, &found);
        chunks(&bytes)?;
        let mut decoder = WebPDecoder::new(Cursor::new(&*bytes)).map_err(|e| self.broken(e))?;
        let (width, height) = decoder.dimensions();
        self.check_size(width, height)?;
        // Broken metadata is ignored.
        let profile = decoder.icc_profile().ok().flatten();
        let orientation = orientation(decoder.exif_metadata().ok().flatten().as_slice());
        let channels = usize::from(decoder.color_type().channel_count());
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        let mut pixels = image::zeroed(width as usize * height as usize * channels)?;
        decoder.read_image(&mut pixels).map_err(|e| self.broken(e))?;
        pixels.chunks_exact(width as usize * channels).for_each(|row| rows.row(row));
        Ok(rows)
    }

    /// A GIF, BMP, TIFF or QOI whose size is allowed.
    fn open_plain(&self) -> Result<Plain<'a>> {
        let plain = Plain::new(self.format, self.bytes).map_err(|e| self.broken(e))?;
        self.check_size(plain.width, plain.height).map(|()| plain)
    }

    fn plain<S: Samples>(&self, start: impl FnOnce(&Head) -> Result<S>) -> Result<S> {
        let mut plain = self.open_plain()?;
        let (width, height, channels) = (plain.width, plain.height, plain.channels);
        let (profile, orientation) = (plain.profile(), plain.orientation());
        let mut rows = start(&Head { width, height, channels, profile, orientation })?;
        plain.rows(|row| rows.row(row))?.map_err(|e| self.broken(e))?;
        Ok(rows)
    }
}

const CUT_SHORT: &str = "it is cut short";

/// The orientation of the first EXIF block that has one; upright if there is none.
///
/// Some programs begin a block with the `Exif\0\0` that belongs to a JPEG segment.
fn orientation(exif: &[impl AsRef<[u8]>]) -> Orientation {
    let tiff = |block: &[u8]| Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block));
    exif.iter().find_map(|block| tiff(block.as_ref())).unwrap_or(Orientation::NoTransforms)
}
