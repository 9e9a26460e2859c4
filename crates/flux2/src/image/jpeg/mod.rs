//! JPEG decoder: every picture has libjpeg-turbo's pixels, to the bit.
//!
//! In:  the bytes of a file, untrusted. Baseline, extended and progressive Huffman coding at 8 bits a sample, scans in
//!      any order, every whole-number sampling ratio; gray, RGB, YCbCr, CMYK and YCCK.
//! Out: gray or RGB, the color profile and the EXIF segments.
//!
//! A picture is all there or an error: each block of each component must have been sent, to its last bit. An end-of-image
//! marker alone proves nothing and is not needed. libjpeg-turbo paints what is missing gray.
//!
//! ```text
//! markers   segments of the file                      -> frame, scans, tables, metadata
//! huffman   bits of a scan                            -> symbols
//! scan      symbols                                   -> coefficients of 8x8 blocks
//! idct      coefficients                              -> samples of a component
//! output    samples of all components                 -> pixels: upsampling, color
//! ```
//!
//! Written here because no crate passes its tests: zune-jpeg 0.5 and jpeg-decoder 0.3 return wrong pixels for valid
//! files, libjpeg-turbo-rs 0.9 panics. Source: ITU-T T.81; libjpeg-turbo 3.1 where pixels depend on the implementation
//! (`jidctint.c`, `jdsample.c`, `jdcolor.c`).

mod huffman;
mod idct;
mod markers;
mod output;
mod scan;

use std::fmt;

use markers::Stop;

/// A decoded picture before its color profile and orientation are applied.
pub(super) struct Jpeg<'a> {
    frame: markers::Frame,
    color: output::Color,
    pub(super) profile: Option<Vec<u8>>,
    /// EXIF segments in order, without their `Exif\0\0`.
    pub(super) exif: Vec<&'a [u8]>,
}

/// Why a JPEG cannot be decoded.
#[derive(Debug)]
pub(super) enum Fault {
    /// Parts of the picture are missing.
    CutShort,
    /// Not a JPEG by its standard.
    Broken(&'static str),
    /// A JPEG of a kind that is not covered.
    Unsupported(&'static str),
    /// An allocation failed.
    OutOfMemory {
        /// Its size.
        bytes: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort => write!(f, "it is cut short"),
            Self::Broken(what) => write!(f, "{what}"),
            Self::Unsupported(kind) => write!(f, "it is of a kind that is not supported: {kind}"),
            Self::OutOfMemory { bytes } => write!(f, "{bytes} bytes cannot be allocated"),
        }
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

impl Jpeg<'_> {
    /// Samples of a pixel: gray or RGB.
    pub(super) fn channels(&self) -> usize {
        if self.color == output::Color::Gray { 1 } else { 3 }
    }

    /// Call `each` with the rows from the top, `[width, channels]` each.
    pub(super) fn rows(self, each: impl FnMut(&[u8])) {
        output::rows(self.frame, self.color, each);
    }
}

/// What the header says of a picture.
pub(super) struct Size {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Memory that it takes to decode, in bytes: all samples, and for a progressive one all coefficients.
    pub(super) memory: usize,
}

/// Read the header. Nothing of the size of the picture is allocated.
pub(super) fn size(bytes: &[u8]) -> Result<Size> {
    let mut reader = markers::Reader::new(bytes);
    // A scan before the frame is an error, so the first stop is the frame.
    reader.next()?;
    let frame = reader.frame.ok_or(Fault::CutShort)?;
    Ok(Size { width: frame.width, height: frame.height, memory: frame.memory() })
}

/// A limit for the length of the color profile, which may follow the frame header.
pub(super) fn most_profile_bytes(bytes: &[u8]) -> usize {
    const LONGEST_SEGMENT: usize = 0xffff;
    let parts = bytes.windows(markers::PROFILE.len()).filter(|window| *window == markers::PROFILE).count();
    bytes.len().min(parts * LONGEST_SEGMENT)
}

/// Decode a file whose [`size`] has been checked.
pub(super) fn decode(bytes: &[u8]) -> Result<Jpeg<'_>> {
    let mut reader = markers::Reader::new(bytes);
    while !reader.frame.as_ref().is_some_and(markers::Frame::is_complete) {
        match reader.next()? {
            // A block takes a bit at least, so a small file cannot ask for a lot of memory.
            Stop::Frame if reader.frame.as_ref().is_some_and(|frame| frame.blocks() / 8 > bytes.len()) => {
                return Err(Fault::CutShort);
            }
            Stop::Frame => {}
            Stop::Scan(header) => reader.scan(&header)?,
            Stop::End => return Err(Fault::CutShort),
        }
    }
    let frame = reader.frame.expect("the loop ends with one");
    let color = reader.colors.of(&frame);
    Ok(Jpeg { frame, color, profile: markers::profile(&reader.profile), exif: reader.exif })
}

/// Zeros, or an error if there is no room: their number comes from a file.
fn zeros<T: Clone + Default>(count: usize) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(count).map_err(|_| Fault::OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) })?;
    zeros.resize(count, T::default());
    Ok(zeros)
}
