//! A picture that is painted into: a source, a mask of what is repainted, and a larger canvas if that is asked for.
//!
//! In:  the file of the source, the file of a mask, [`SourceOptions`]. Out: [`Source`], part of a request; and later,
//!      from what the model drew, the finished picture.
//!
//! | file | holds |
//! |---|---|
//! | `mask` | the bytes of a mask: from a file or transparency, grown, inverted |
//! | `outpaint` | a larger canvas |
//! | `region` | the part of a canvas that is drawn, and its size |
//! | `tokens` | how much of each token is repainted |
//! | `paste` | the result: what was drawn, put into the canvas |
//! | `distance` | exact distances between pixels |
//! | `record` | what is stored with the picture |
//! | `diffusers` | source and mask as diffusers prepares them |
//!
//! **Every pixel whose mask is 0 keeps its bytes**, in the color space of the source: nothing outside of the mask is
//! drawn, resampled or converted.

mod diffusers;
mod distance;
mod mask;
mod outpaint;
mod paste;
mod record;
mod region;
mod tokens;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use flux2_base::digest::sha256;

use crate::image::codec::{self, Transparency};
use crate::image::resize::{GRID, lanczos_channels, resize_lanczos};
use crate::image::{Attached, Original, RgbImage};
use crate::{Error, Result};

pub use mask::MAX_GROW;
pub use outpaint::{Fill, OVERLAP_PX, Outpaint, ParseSideError, Side};
pub use paste::{FEATHER_PX, MAX_FEATHER};
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

/// How a source is painted into.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceOptions {
    /// Repaint where the source is transparent, instead of a mask from a file.
    pub mask_from_alpha: bool,
    /// Repaint what the mask keeps, and keep the rest.
    pub mask_invert: bool,
    /// Pixels by which the repainted part grows, at most [`MAX_GROW`].
    pub mask_grow: u32,
    /// A larger canvas.
    pub outpaint: Option<Outpaint>,
    /// How far the source is replaced: 1 starts from noise, less from the source with as much less noise; over 0.
    pub strength: f64,
    /// Width in pixels of the transition inside the mask, at most [`MAX_FEATHER`]; by default [`FEATHER_PX`].
    pub feather: Option<u32>,
    /// Whether the model sees the source as its first reference image.
    pub as_reference: bool,
    /// What the model sees where the source is transparent.
    pub transparency: Transparency,
    /// Whose rules are kept.
    pub rule: Rule,
    /// About the most pixels that are drawn at once; by default as many as the model draws well.
    pub area: Option<u64>,
    /// Least width of the surroundings that are drawn with the repainted part of a large canvas, in pixels.
    pub context: u32,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions {
            mask_from_alpha: false,
            mask_invert: false,
            mask_grow: 0,
            outpaint: None,
            strength: 1.0,
            feather: None,
            as_reference: true,
            transparency: Transparency::default(),
            rule: Rule::Own,
            area: None,
            context: CONTEXT_PX,
        }
    }
}

/// Whose rules a source is painted into by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Those of this module.
    #[default]
    Own,
    /// Those of diffusers' `Flux2KleinInpaintPipeline`: the source is squeezed to multiples of 16, a mask has two
    /// values, strength skips steps, and nothing is pasted back.
    Diffusers,
}

impl SourceOptions {
    /// Check what depends on no image.
    ///
    /// # Errors
    /// [`Error::Strength`], [`Error::MaskRange`], [`Error::NotInDiffusers`].
    pub fn check(&self) -> Result<()> {
        if !(self.strength > 0.0 && self.strength <= 1.0) {
            return Err(Error::Strength { strength: self.strength });
        }
        let feather = self.feather.unwrap_or_default();
        for (what, pixels, max) in [("mask growth", self.mask_grow, MAX_GROW), ("feather", feather, MAX_FEATHER)] {
            if pixels > max {
                return Err(Error::MaskRange { what, pixels, max });
            }
        }
        let others = [
            ("mask from transparency", self.mask_from_alpha),
            ("growing of masks", self.mask_grow > 0),
            ("larger canvas", self.outpaint.is_some()),
            ("feather", self.feather.is_some()),
        ];
        match others.into_iter().find(|(_, is_asked)| *is_asked && self.rule == Rule::Diffusers) {
            Some((what, _)) => Err(Error::NotInDiffusers { what }),
            None => Ok(()),
        }
    }
}

/// A source to paint into. Clones share its pixels.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
    /// Whether pixels are left out, for a dry run.
    is_outline: bool,
}

struct Inner {
    canvas: Canvas,
    sha256: String,
    mask_sha256: Option<String>,
    options: SourceOptions,
    /// Pixels added at the left, the top, the right and the bottom.
    outpainted: Option<[u32; 4]>,
    reading_bytes: usize,
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
    /// Decode a source and its mask, PNG, JPEG or WebP files. The names are what errors call them.
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
        let inner = Inner { canvas, sha256: sha256(source), mask_sha256, options, outpainted, reading_bytes };
        Ok(Source { inner: Arc::new(inner), is_outline: false })
    }

    /// Read and decode the files of a source and its mask; see [`from_bytes`](Self::from_bytes).
    ///
    /// # Errors
    /// As there, and those of [`codec::read_file`].
    pub fn open(source: impl AsRef<Path>, mask: Option<&Path>, options: SourceOptions) -> Result<Self> {
        let source = source.as_ref();
        let (bytes, name) = (codec::read_file(source)?, source.display().to_string());
        let mask = mask.map(|path| Ok::<_, Error>((codec::read_file(path)?, path.display().to_string()))).transpose()?;
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

    /// Memory that it took at most to read it, in bytes, with the files.
    pub fn reading_bytes(&self) -> usize {
        self.inner.reading_bytes
    }

    /// Memory that its pixels and its mask take, in bytes.
    pub fn held_bytes(&self) -> usize {
        match &self.inner.canvas {
            Canvas::Own { original, mask } => {
                let alpha = original.attached.alpha.as_ref().map_or(0, Vec::len);
                original.image.pixels().len() + alpha + mask.as_ref().map_or(0, |(mask, _)| mask.bytes.len())
            }
            Canvas::Diffusers { image, mask } => image.pixels().len() + mask.as_ref().map_or(0, Vec::len),
        }
    }

    /// Memory that [`Placed::paste`] takes at most beside the source and what was drawn, in bytes.
    pub fn pasting_bytes(&self) -> usize {
        match &self.inner.canvas {
            // The result, and what was drawn enlarged.
            Canvas::Own { original, .. } => {
                let alpha = original.attached.alpha.as_ref().map_or(0, Vec::len);
                2 * original.image.pixels().len() + alpha
            }
            Canvas::Diffusers { .. } => 0,
        }
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
            &self.inner.canvas;
        [image.width(), image.height()]
    }

    /// Whether the source is transparent anywhere.
    pub fn is_transparent(&self) -> bool {
        matches!(&self.inner.canvas, Canvas::Own { original, .. } if original.attached.alpha.is_some())
    }

    /// Whether there is a mask: without one, all of the source is repainted.
    pub fn has_mask(&self) -> bool {
        matches!(self.inner.canvas, Canvas::Own { mask: Some(_), .. } | Canvas::Diffusers { mask: Some(_), .. })
    }

    /// Whether there is a mask and it keeps nothing.
    pub fn mask_is_full(&self) -> bool {
        let (Canvas::Own { mask: Some((Mask { bytes, .. }, _)), .. } | Canvas::Diffusers { mask: Some(bytes), .. }) =
            &self.inner.canvas
        else {
            return false;
        };
        bytes.iter().all(|&byte| byte == 255)
    }

    /// Whether both share their pixels in memory.
    pub(crate) fn is_clone_of(&self, other: &Source) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
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
        let region = match &self.inner.canvas {
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

/// A source with the region of it that is drawn.
#[derive(Clone, Debug)]
pub struct Placed {
    source: Source,
    region: Region,
}

/// A region as it is drawn.
pub struct Work {
    /// The region in sRGB, without transparency.
    pub image: RgbImage,
    /// How much of each token is repainted.
    pub tokens: TokenMask,
}

impl Placed {
    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The region that is drawn.
    pub fn region(&self) -> Region {
        self.region
    }

    /// What the model sees of the region, and what it repaints.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn work(&self) -> Result<Work> {
        let [width, height] = self.region.drawn;
        let Inner { canvas, options, .. } = &*self.source.inner;
        if self.source.is_outline {
            let image = RgbImage::new(width, height, crate::image::zeroed(3 * width as usize * height as usize)?)?;
            return Ok(Work { image, tokens: TokenMask::outline([width, height], self.source.has_mask()) });
        }
        match canvas {
            Canvas::Diffusers { image, mask } => {
                let tokens = TokenMask::of_centers(mask.as_deref(), [width, height]);
                Ok(Work { image: image.clone(), tokens })
            }
            Canvas::Own { original, mask } => {
                let image = original.cut(self.region.edges, options.transparency)?;
                let mask = mask.as_ref().map(|(mask, _)| self.cut(mask));
                let from = self.region.size();
                let (image, mask) = match self.region.is_reduced {
                    true => (resize_lanczos(&image, width, height)?, mask.map(|m| self.reduced(&m)).transpose()?),
                    false => {
                        let pixels = padded::<3>(image.pixels(), from, [width, height])?;
                        let mask = mask.map(|mask| padded::<1>(&mask, from, [width, height])).transpose()?;
                        (RgbImage::new(width, height, pixels)?, mask)
                    }
                };
                Ok(Work { image, tokens: TokenMask::of_largest(mask.as_deref(), [width, height]) })
            }
        }
    }

    /// The region's part of the mask.
    fn cut(&self, mask: &Mask) -> Vec<u8> {
        let [left, top, right, bottom] = self.region.edges.map(|edge| edge as usize);
        let width = mask.width as usize;
        (top..bottom).flat_map(|y| &mask.bytes[y * width + left..y * width + right]).copied().collect()
    }

    /// Lanczos overshoots at edges, which leaves almost black and almost white.
    fn reduced(&self, mask: &[u8]) -> Result<Vec<u8>> {
        let mut mask = lanczos_channels::<1>(mask, self.region.size(), self.region.drawn)?;
        mask::clean(&mut mask);
        Ok(mask)
    }

    /// The finished picture: what the model drew of the region, put into the source; and what belongs to its pixels.
    ///
    /// # Errors
    /// [`Error::ImageBuffer`] if `drawn` has another size than the region while it is drawn; [`Error::SourceProfile`];
    /// or if memory cannot be allocated.
    pub fn paste(&self, drawn: RgbImage) -> Result<(RgbImage, Attached)> {
        let Region { edges, drawn: expected, is_reduced } = self.region;
        let (width, height) = (drawn.width(), drawn.height());
        if [width, height] != expected {
            return Err(Error::ImageBuffer { width, height, len: drawn.pixels().len() });
        }
        let Inner { canvas: Canvas::Own { original, mask }, options, .. } = &*self.source.inner else {
            return Ok((drawn, Attached::default()));
        };
        if self.source.is_outline {
            return Ok((drawn, Attached::default()));
        }
        let [full_width, full_height] = self.region.size();
        let drawn = match is_reduced {
            true => resize_lanczos(&drawn, full_width, full_height)?,
            false => cropped(&drawn, self.region.size())?,
        };
        let drawn = original.of_srgb(drawn)?;
        let feather = options.feather.unwrap_or(FEATHER_PX);
        match mask {
            Some((mask, _)) => paste::paste(original, mask, &self.region, &drawn, feather),
            // Everything is painted over, and keeps its outline.
            None => {
                debug_assert_eq!(edges[..2], [0, 0], "without a mask the region is all of the canvas");
                Ok((drawn, original.attached.clone()))
            }
        }
    }
}

/// `plane` of `C` channels, enlarged at the right and the bottom by repeating its edges.
fn padded<const C: usize>(plane: &[u8], from: [u32; 2], to: [u32; 2]) -> Result<Vec<u8>> {
    let ([width, height], [to_width, to_height]) = (from.map(|side| side as usize), to.map(|side| side as usize));
    let mut out = crate::image::zeroed(to_width * to_height * C)?;
    for (y, row) in out.chunks_exact_mut(to_width * C).enumerate() {
        let source = &plane[y.min(height - 1) * width * C..][..width * C];
        let (inside, beyond) = row.split_at_mut(width * C);
        inside.copy_from_slice(source);
        beyond.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(&source[(width - 1) * C..]));
    }
    Ok(out)
}

/// The top left part of an image.
fn cropped(image: &RgbImage, [width, height]: [u32; 2]) -> Result<RgbImage> {
    if [width, height] == [image.width(), image.height()] {
        return Ok(image.clone());
    }
    let mut pixels = crate::image::zeroed(3 * width as usize * height as usize)?;
    let rows = image.pixels().chunks_exact(3 * image.width() as usize);
    for (row, source) in pixels.chunks_exact_mut(3 * width as usize).zip(rows) {
        row.copy_from_slice(&source[..3 * width as usize]);
    }
    RgbImage::new(width, height, pixels)
}

/// Side of a token in pixels.
const TOKEN_PX: usize = GRID as usize;
