//! Image files: bytes to sRGB pixels and back, and atomic writing. PNG, JPEG and WebP are read and written; GIF, BMP,
//! TIFF and QOI are read.
//!
//! In:  untrusted bytes. The format is detected by content, never by name; the size is checked before decoding.
//! Out: upright sRGB, 8 bits a channel. The ICC profile is applied first, then transparency, then the EXIF orientation.
//!      As in Pillow's `convert("RGB")`, 16-bit channels keep their high byte.
//!
//! Three differences from Pillow: transparency shows a background, as in a viewer, where Pillow's `convert` lets hidden
//! colors through; 16-bit gray also keeps its high byte, where Pillow clips at 255 and so turns a photograph white; a PNG
//! or WebP of several frames is refused, where Pillow takes its first frame, as it is done here for a GIF.

//!
//! | file | holds |
//! |---|---|
//! | `decoding` | files of each format to rows of pixels |
//! | `encoding` | pictures to the bytes of a file |
//! | `saving` | files written as a whole or not at all |

mod decoding;
mod encoding;
mod saving;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::original::{Keeping, KeepingSamples, Original, Unconverted};
use super::resize::{MAX_AREA, Shrinking};
use super::rows::{Preparation, Whole};
use super::{RgbImage, plain};
use crate::{Error, Result};

pub(super) use encoding::ToWrite;
pub use encoding::{encode, encode_attached, encode_sheet, encode_with};
pub use saving::{IfExists, check_save, save, save_for_now};

use decoding::Input;
use saving::not_a_file;

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Largest number of pixels that are decoded: 128 million, 384 MB of RGB.
pub const MAX_PIXELS: u64 = 128_000_000;
/// Largest image file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// An image format that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lossless; parameters as text chunks.
    Png,
    /// Lossy, quality 95; parameters as EXIF.
    Jpeg,
    /// Written without loss; parameters as EXIF.
    WebP,
}

impl ImageFormat {
    /// The format of a file name's extension, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::UnknownExtension`] unless it is `png`, `jpg`, `jpeg` or `webp`.
    pub fn from_path(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            _ => Err(Error::UnknownExtension { path: path.into() }),
        }
    }

    /// The format of a file's first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// Its usual spelling: `PNG`, `JPEG`, `WebP`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

// ---- reading ----

/// Read and decode an image file.
///
/// # Errors
/// Those of [`read_file`] and [`decode`].
pub fn open(path: &Path) -> Result<RgbImage> {
    decode(&read_file(path)?, &path.display().to_string())
}

/// Read the bytes of an image file, for [`decode`] and [`sha256`](flux2_base::digest::sha256).
///
/// # Errors
/// [`Error::Io`]; [`Error::ImageFileTooLarge`] over [`MAX_FILE_BYTES`].
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.into(), source };
    // Opening a pipe without a writer would block.
    if !path.metadata().map_err(io)?.is_file() {
        return Err(not_a_file(path));
    }
    let file = File::open(path).map_err(io)?;
    let too_large = |bytes| Error::ImageFileTooLarge { path: path.into(), bytes, max: MAX_FILE_BYTES };
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(too_large(bytes));
    }
    // The file may grow while it is read, so the read is bounded too.
    let mut contents = Vec::with_capacity(bytes as usize + 1);
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents).map_err(io)? as u64;
    if read > MAX_FILE_BYTES { Err(too_large(read)) } else { Ok(contents) }
}

/// The background of transparent pictures where none is chosen.
pub const WHITE: [u8; 3] = [255; 3];

/// What happens to the alpha channel of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transparency {
    /// The picture is put over this color, as viewers show it.
    Over([u8; 3]),
    /// The channel is dropped, so that colors hidden under transparency become visible, as diffusers does.
    Dropped,
}

impl Default for Transparency {
    fn default() -> Self {
        Transparency::Over(WHITE)
    }
}

/// Decode `bytes` to an upright picture in sRGB, over white where it is transparent. `what` names it in errors.
///
/// # Errors
/// Those of [`decode_transparent`].
pub fn decode(bytes: &[u8], what: &str) -> Result<RgbImage> {
    decode_transparent(bytes, what, Transparency::default()).map(|flattened| flattened.image)
}

/// A picture without transparency.
#[derive(Clone, Debug)]
pub struct Flattened {
    /// The picture.
    pub image: RgbImage,
    /// Whether the file is transparent anywhere.
    pub was_transparent: bool,
}

/// Decode `bytes` to an upright picture in sRGB without an alpha channel. `what` names it in errors.
///
/// # Errors
/// [`Error::ImageFormat`], [`Error::ImageDecode`], [`Error::ImageAnimated`], [`Error::ImageTooLarge`].
pub fn decode_transparent(bytes: &[u8], what: &str, transparency: Transparency) -> Result<Flattened> {
    Input::new(bytes, what)?.decode(
        &Preparation { transparency, ..Preparation::default() },
        |rows: Whole, was_transparent| Flattened { image: rows.finish(), was_transparent },
    )
}

/// A reference image as the model takes it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The picture, shrunk and cropped.
    pub image: RgbImage,
    /// Width and height of the upright picture before.
    pub source_px: [u32; 2],
    /// Whether the file is transparent anywhere.
    pub was_transparent: bool,
    /// Whether the file holds frames or pages behind this one, the first.
    pub has_more_frames: bool,
}

/// As [`decode_transparent`], followed by [`prepare_reference`](super::prepare_reference), to the byte. A picture of
/// any size is shrunk while it is decoded, row by row as far as its format allows.
///
/// # Errors
/// Those of the two.
pub fn decode_reference(bytes: &[u8], what: &str, transparency: Transparency) -> Result<Prepared> {
    prepare(bytes, what, &Preparation { transparency, ..Preparation::default() })
}

/// As [`decode_reference`], prepared in another way.
///
/// # Errors
/// Those of [`decode_reference`].
pub fn prepare(bytes: &[u8], what: &str, preparation: &Preparation) -> Result<Prepared> {
    let input = Input::new(bytes, what)?;
    let has_more_frames = plain::has_more_frames(input.format, bytes);
    input.decode(preparation, |rows: Shrinking, was_transparent| {
        let source_px = rows.source_px();
        Prepared { image: rows.finish(), source_px, was_transparent, has_more_frames }
    })
}

/// Memory that [`prepare`] takes at most beside `bytes`, from the header alone. `what` names it in errors.
///
/// # Errors
/// Those of [`prepare`] about the header.
pub fn reference_memory(bytes: &[u8], what: &str, preparation: &Preparation) -> Result<usize> {
    let input = Input::new(bytes, what)?;
    // A larger result is there once more while it is turned or cropped.
    let more = 2 * 3 * preparation.max_area.saturating_sub(MAX_AREA) as usize;
    let of_file = super::caught(|| input.reference_memory()).unwrap_or_else(|panic| Err(input.broken(panic)));
    of_file.map(|bytes| bytes + more)
}

/// Decode `bytes` to an upright picture in the colors of its file. `what` names it in errors.
///
/// # Errors
/// Those of [`decode_transparent`].
pub fn decode_original(bytes: &[u8], what: &str) -> Result<Original> {
    let input = Input::new(bytes, what)?;
    let decode = || Ok(input.samples(Keeping::start)?.finish());
    super::caught(decode).unwrap_or_else(|panic| Err(input.broken(panic)))
}

/// Decode `bytes` to upright samples, whatever they mean: no color profile is applied. `what` names them in errors.
///
/// # Errors
/// Those of [`decode_transparent`].
pub(crate) fn decode_unconverted(bytes: &[u8], what: &str) -> Result<Unconverted> {
    let input = Input::new(bytes, what)?;
    let decode = || Ok(input.samples(KeepingSamples::start)?.finish());
    super::caught(decode).unwrap_or_else(|panic| Err(input.broken(panic)))
}

/// Memory that decoding takes at most beside `bytes` and the result, and width and height in the file, from the header
/// alone. `what` names it in errors.
///
/// # Errors
/// Those of [`decode_transparent`] about the header.
pub(crate) fn decoder_memory(bytes: &[u8], what: &str) -> Result<(usize, [u32; 2])> {
    let input = Input::new(bytes, what)?;
    super::caught(|| input.decoder_memory()).unwrap_or_else(|panic| Err(input.broken(panic)))
}
