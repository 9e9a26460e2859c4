//! A picture that is painted into: a source, a mask of what is repainted, and a larger canvas if that is asked for.
//!
//! In:  the file of the source, the file of a mask, [`SourceOptions`]. Out: [`Source`], part of a request; and later,
//!      from what the model drew, the finished picture.
//!
//! | file | holds |
//! |---|---|
//! | `options` | how a source is painted into |
//! | `mask` | the bytes of a mask: from a file or transparency, grown, inverted |
//! | `outpaint` | a larger canvas |
//! | `region` | the part of a canvas that is drawn, and its size |
//! | `placed` | that part as the model takes it, and the result |
//! | `tokens` | how much of each token is repainted |
//! | `paste` | what was drawn, put into the canvas |
//! | `distance` | exact distances between pixels |
//! | `record` | what is stored with the picture |
//! | `diffusers` | source and mask as diffusers prepares them |
//!
//! **Every pixel whose mask is 0 keeps its bytes**, in the color space of the source: nothing outside of the mask is
//! drawn, resampled or converted.

mod diffusers;
mod distance;
mod mask;
mod options;
mod outpaint;
mod paste;
mod placed;
mod record;
mod region;
mod tokens;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use flux2_base::digest::sha256;

use crate::image::codec::{self, Transparency};
use crate::image::resize::GRID;
use crate::image::{Original, RgbImage};
use crate::marks::Found;
use crate::{Error, Result};

pub use mask::MAX_GROW;
pub use options::{Rule, SourceOptions};
pub use outpaint::{Fill, OVERLAP_PX, Outpaint, ParseSideError, Side};
pub use paste::{FEATHER_PX, MAX_FEATHER};
pub use placed::{Placed, Work};
pub use region::{CONTEXT_PX, Region};
pub use tokens::TokenMask;
pub(crate) use tokens::start_of;

use mask::Mask;

/// Shortest side of a source in pixels.
pub const MIN_SOURCE_PX: u32 = 16;

/// A mask may have so many times the pixels of its source, or [`MAX_MASK_PX`]: it is decoded before it is scaled.
const MAX_MASK_TIMES: usize = 16;
/// See [`MAX_MASK_TIMES`].
const MAX_MASK_PX: usize = 4 << 20;

/// A source to paint into. Clones share its pixels.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
    /// Whether pixels are left out, for a dry run.
    is_outline: bool,
}

struct Inner {
    /// Shared by sources of other strengths.
    canvas: Arc<Canvas>,
    sha256: String,
    mask_sha256: Option<String>,
    options: SourceOptions,
    /// Pixels added at the left, the top, the right and the bottom.
    outpainted: Option<[u32; 4]>,
    reading_bytes: usize,
    /// Those of the source's file.
    marks: Found,
}

enum Canvas {
    /// All of it, and the mask with the box of what it repaints; without a mask, everything is.
    Own { original: Original, mask: Option<(Mask, [u32; 4])> },
    /// What is drawn, and its mask.
    Diffusers { image: RgbImage, mask: Option<Vec<u8>> },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { sha256, mask_sha256, options, .. } = &*self.inner;
        f.debug_struct("Source")
            .field("size", &self.canvas_px())
            .field("sha256", sha256)
            .field("mask_sha256", mask_sha256)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Decode a source and its mask, of any [format that is read](crate::image::InputFormat). The names are what errors
    /// call them.
    ///
    /// The source is turned upright. A mask has its shape then, or another size of the same shape.
    ///
    /// # Errors
    /// Those of [`SourceOptions::check`]; [`Error::SourceTooSmall`], [`Error::MaskSize`], [`Error::NothingToRepaint`],
    /// [`Error::NoTransparency`], [`Error::CanvasTooLarge`], [`Error::SourceProfile`]; any of the image errors.
    pub fn from_bytes(source: &[u8], name: &str, mask: Option<(&[u8], &str)>, options: SourceOptions) -> Result<Self> {
        options.check()?;
        let reading_bytes = Self::reading_bytes_of(source, name, mask, &options)?;
        let original = codec::decode_original(source, name)?;
        let size = [original.image.width(), original.image.height()];
        check_size(size)?;
        let outpainted = options.outpaint.as_ref().map(|outpaint| outpaint.pixels(size));
        let marks = Found::of(source, Some(&original.image));
        let canvas = match options.rule {
            Rule::Own => own_canvas(original, mask, &options)?,
            Rule::Diffusers => {
                let transparency = Transparency::Dropped;
                let image = diffusers::prepare_source(&original.cut([0, 0, size[0], size[1]], transparency)?)?;
                let drawn = [image.width(), image.height()];
                let prepare = |(file, name)| diffusers::prepare_mask(file, name, drawn, options.mask_invert);
                Canvas::Diffusers { mask: mask.map(prepare).transpose()?, image }
            }
        };
        let mask_sha256 = mask.map(|(mask, _)| sha256(mask));
        let (canvas, sha256) = (Arc::new(canvas), sha256(source));
        let inner = Inner { canvas, sha256, mask_sha256, options, outpainted, reading_bytes, marks };
        Ok(Source { inner: Arc::new(inner), is_outline: false })
    }

    /// Read and decode the files of a source and its mask; see [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    /// As there, and those of [`codec::read_file`].
    pub fn open(source: impl AsRef<Path>, mask: Option<&Path>, options: SourceOptions) -> Result<Self> {
        let source = source.as_ref();
        let (bytes, name) = (codec::read_file(source)?, source.display().to_string());
        let mask =
            mask.map(|path| Ok::<_, Error>((codec::read_file(path)?, path.display().to_string()))).transpose()?;
        Self::from_bytes(&bytes, &name, mask.as_ref().map(|(bytes, name)| (&bytes[..], &name[..])), options)
    }

    /// Memory that [`from_bytes`](Self::from_bytes) takes at most, in bytes, with the files. Only headers are decoded.
    ///
    /// # Errors
    /// Those of `from_bytes` about the headers and the canvas; [`Error::MaskSize`] for a mask of many more pixels than
    /// the source has.
    pub fn reading_bytes_of(
        source: &[u8],
        name: &str,
        mask: Option<(&[u8], &str)>,
        options: &SourceOptions,
    ) -> Result<usize> {
        // Color and alpha, and the colors once more while they are turned upright.
        const PIXEL: usize = 3 + 1 + 3;
        // Up to four channels and their gray, and the channels once more while they are turned upright.
        const MASK_PIXEL: usize = 4 + 1 + 4;
        let area = |size: [u32; 2]| size[0] as usize * size[1] as usize;
        let (decoder, size) = codec::decoder_memory(source, name)?;
        let mut most = decoder + PIXEL * area(size);
        let mut files = source.len();
        if let Some((mask, name)) = mask {
            let (decoder, mask_size) = codec::decoder_memory(mask, name)?;
            if area(mask_size) > MAX_MASK_PX.max(MAX_MASK_TIMES * area(size)) {
                return Err(Error::MaskSize { mask: mask_size, expected: size });
            }
            files += mask.len();
            // Beside the source, and a mask of its size.
            most = most.max(decoder + MASK_PIXEL * area(mask_size) + (4 + 1) * area(size));
        }
        // A grown mask is a copy.
        most = most.max((4 + 2) * area(size));
        if let Some(outpaint) = &options.outpaint {
            // Whether rows will become columns is not known yet, so the larger of both canvases counts.
            let canvas = |size| outpaint.canvas(size).map(area);
            let canvas = canvas(size)?.max(canvas([size[1], size[0]])?);
            most = most.max((4 + 1) * (area(size) + canvas));
        }
        Ok(files + most)
    }

    /// Width and height of the canvas of a source, from its header alone: as the file has them, before the source is
    /// turned upright.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes) about the header and the canvas.
    pub fn canvas_px_of(source: &[u8], name: &str, options: &SourceOptions) -> Result<[u32; 2]> {
        let (_, size) = codec::decoder_memory(source, name)?;
        options.outpaint.as_ref().map_or(Ok(size), |outpaint| outpaint.canvas(size))
    }

    /// The same source, painted into with another strength. It shares the pixels.
    ///
    /// # Errors
    /// [`Error::Strength`].
    pub fn with_strength(&self, strength: f64) -> Result<Self> {
        let Inner { canvas, sha256, mask_sha256, options, outpainted, reading_bytes, marks } = &*self.inner;
        let options = SourceOptions { strength, ..options.clone() };
        options.check()?;
        let inner = Inner {
            canvas: Arc::clone(canvas),
            sha256: sha256.clone(),
            mask_sha256: mask_sha256.clone(),
            options,
            outpainted: *outpainted,
            reading_bytes: *reading_bytes,
            marks: marks.clone(),
        };
        Ok(Source { inner: Arc::new(inner), is_outline: self.is_outline })
    }

    /// Memory that it took at most to read it, in bytes, with the files.
    pub fn reading_bytes(&self) -> usize {
        self.inner.reading_bytes
    }

    /// Memory that its pixels and its mask take, in bytes.
    pub fn held_bytes(&self) -> usize {
        match &*self.inner.canvas {
            Canvas::Own { original, mask } => {
                let alpha = original.attached.alpha.as_ref().map_or(0, Vec::len);
                original.image.pixels().len() + alpha + mask.as_ref().map_or(0, |(mask, _)| mask.bytes.len())
            }
            Canvas::Diffusers { image, mask } => image.pixels().len() + mask.as_ref().map_or(0, Vec::len),
        }
    }

    /// Memory that [`Placed::paste`] takes at most beside the source and what was drawn, in bytes.
    pub fn pasting_bytes(&self) -> usize {
        match &*self.inner.canvas {
            // The result, and what was drawn enlarged.
            Canvas::Own { original, .. } => {
                let alpha = original.attached.alpha.as_ref().map_or(0, Vec::len);
                2 * original.image.pixels().len() + alpha
            }
            Canvas::Diffusers { .. } => 0,
        }
    }

    /// The marks of the source's file.
    pub fn marks(&self) -> &Found {
        &self.inner.marks
    }

    /// SHA-256 of the source's file in lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.inner.sha256
    }

    /// SHA-256 of the mask's file in lower-case hex, if there is one.
    pub fn mask_sha256(&self) -> Option<&str> {
        self.inner.mask_sha256.as_deref()
    }

    /// How it is painted into.
    pub fn options(&self) -> &SourceOptions {
        &self.inner.options
    }

    /// Pixels that are added at the left, the top, the right and the bottom, if the canvas is larger than the source.
    pub fn outpainted(&self) -> Option<[u32; 4]> {
        self.inner.outpainted
    }

    /// Width and height of the finished picture in pixels.
    pub fn canvas_px(&self) -> [u32; 2] {
        let (Canvas::Own { original: Original { image, .. }, .. } | Canvas::Diffusers { image, .. }) =
            &*self.inner.canvas;
        [image.width(), image.height()]
    }

    /// Whether the source is transparent anywhere.
    pub fn is_transparent(&self) -> bool {
        matches!(&*self.inner.canvas, Canvas::Own { original, .. } if original.attached.alpha.is_some())
    }

    /// Whether there is a mask: without one, all of the source is repainted.
    pub fn has_mask(&self) -> bool {
        matches!(*self.inner.canvas, Canvas::Own { mask: Some(_), .. } | Canvas::Diffusers { mask: Some(_), .. })
    }

    /// Whether there is a mask and it keeps nothing.
    pub fn mask_is_full(&self) -> bool {
        let (Canvas::Own { mask: Some((Mask { bytes, .. }, _)), .. } | Canvas::Diffusers { mask: Some(bytes), .. }) =
            &*self.inner.canvas
        else {
            return false;
        };
        bytes.iter().all(|&byte| byte == 255)
    }

    /// Whether both share their pixels in memory.
    pub(crate) fn is_clone_of(&self, other: &Source) -> bool {
        Arc::ptr_eq(&self.inner.canvas, &other.inner.canvas)
    }

    /// The same without its pixels: of the same sizes, for a dry run.
    pub(crate) fn outline(&self) -> Self {
        Source { inner: Arc::clone(&self.inner), is_outline: true }
    }

    /// The region that is drawn, of about `area` pixels unless the options say otherwise.
    pub fn place(&self, area: u64) -> Placed {
        let size = self.canvas_px();
        let all = [0, 0, size[0], size[1]];
        let SourceOptions { area: asked, context, .. } = self.inner.options;
        let region = match &*self.inner.canvas {
            Canvas::Own { mask, .. } => {
                let repainted = mask.as_ref().map_or(all, |(_, bounds)| *bounds);
                Region::new(size, repainted, asked.unwrap_or(area), context)
            }
            Canvas::Diffusers { .. } => Region { edges: all, drawn: size, is_reduced: false },
        };
        Placed { source: self.clone(), region }
    }
}

/// The upright source must have room for a token.
fn check_size([width, height]: [u32; 2]) -> Result<()> {
    match width.min(height) < MIN_SOURCE_PX {
        true => Err(Error::SourceTooSmall { width, height, min: MIN_SOURCE_PX }),
        false => Ok(()),
    }
}

/// The canvas of an upright source, with everything that the options do to its mask.
fn own_canvas(source: Original, file: Option<(&[u8], &str)>, options: &SourceOptions) -> Result<Canvas> {
    let size = [source.image.width(), source.image.height()];
    // What is drawn must be put into its colors.
    source.of_srgb(RgbImage::new(1, 1, vec![0; 3])?)?;
    let mut mask = match (file, options.mask_from_alpha, &source.attached.alpha) {
        (_, true, Some(alpha)) => Some(Mask::of_alpha(alpha, size)),
        (_, true, None) => return Err(Error::NoTransparency),
        (Some((file, name)), false, _) => Some(Mask::of_file(file, name, size)?),
        (None, false, _) => None,
    };
    if let Some(mask) = &mut mask {
        if options.mask_invert {
            mask.invert();
        }
        mask.clean();
        mask.grow(options.mask_grow)?;
    }
    let original = match &options.outpaint {
        None => source,
        Some(outpaint) => {
            let (canvas, extended) = outpaint.extend(&source, mask.as_ref())?;
            mask = Some(extended);
            canvas
        }
    };
    let bounded = |mask: Mask| mask.bounds().map(|bounds| (mask, bounds)).ok_or(Error::NothingToRepaint);
    Ok(Canvas::Own { original, mask: mask.map(bounded).transpose()? })
}

/// Side of a token in pixels.
const TOKEN_PX: usize = GRID as usize;
