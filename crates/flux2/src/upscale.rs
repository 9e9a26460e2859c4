//! Pictures enlarged by a network, or by Lanczos resampling.
//!
//! In:  a picture, an [`Upscaling`]: with what, to which size. Out: the larger picture, and how it was made.
//!
//! The network runs over tiles (`tiles`). The tiles of an SRVGGNetCompact overlap by all that it looks at, so its
//! result is the same bytes for tiles of any size. An RRDBNet looks at hundreds of pixels: within [`Tiling::whole`] it
//! sees the whole picture, beyond it tiles overlap by [`RRDB_OVERLAP`] pixels, which is not exact; [`UpscaleReport`]
//! says so. A size other than the network's is made from its result by Lanczos, row by row.
//!
//! | file | holds |
//! |---|---|
//! | `tiles` | which parts of a picture are computed together, and their place in the result |
//! | `published` | upscalers that can be downloaded by name |
//! | `engine` | an upscaler on a device, with its memory planned: [`UpscaleEngine`] |
//! | `file` | what a file says beside its pixels, kept in the larger one: [`Before`] |

mod engine;
mod file;
#[cfg(feature = "hub")]
pub mod published;
mod tiles;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) use engine::{Enlarge, OnDevice, UpscalerSlot, with_events, with_smaller_tiles};
pub use engine::{UpscaleEngine, Upscaled};
pub use file::{Before, attached};
pub use tiles::{RRDB_OVERLAP, Tiling};

use crate::image::codec::{MAX_PIXELS, MAX_SIDE};
use crate::image::resize::LanczosRows;
use crate::image::{RgbImage, UpscaleParameters, resize};
use crate::models::Pulse;
use crate::weights::{Location, UpscalerConfig, UpscalerFile};
use crate::{Error, Result};
use tiles::Tile;

/// Largest factor by which a picture is enlarged.
pub const MAX_FACTOR: f32 = 16.0;
/// Name of the upscaler that is no network.
pub const LANCZOS: &str = "lanczos";
/// Most times that a network runs over its own result.
const MAX_PASSES: usize = 3;

/// What enlarges a picture.
#[derive(Clone, Debug)]
pub enum Upscaler {
    /// Resampling by Lanczos with three lobes.
    Lanczos,
    /// A network.
    Network(Arc<UpscalerFile>),
}

impl Upscaler {
    /// The network in a `.safetensors` or `.pth` file.
    ///
    /// # Errors
    /// Those of [`UpscalerFile::open`].
    pub fn open(location: &Location) -> Result<Self> {
        Ok(Upscaler::Network(Arc::new(UpscalerFile::open(location)?)))
    }

    /// The one that comes with this library; Lanczos in a build without it.
    pub fn builtin() -> Self {
        Location::builtin_upscaler().and_then(|file| Upscaler::open(&file).ok()).unwrap_or(Upscaler::Lanczos)
    }

    /// Its name: that of its file without the extension, or [`LANCZOS`].
    pub fn name(&self) -> &str {
        match self {
            Upscaler::Lanczos => LANCZOS,
            Upscaler::Network(file) => &file.name,
        }
    }

    /// SHA-256 of the network's file in hexadecimal. The file is read for it at the first call.
    pub fn sha256(&self) -> Option<&str> {
        match self {
            Upscaler::Lanczos => None,
            Upscaler::Network(file) => Some(file.sha256()),
        }
    }

    /// The factor of the network.
    pub fn scale(&self) -> Option<usize> {
        match self {
            Upscaler::Lanczos => None,
            Upscaler::Network(file) => Some(file.config.scale()),
        }
    }

    /// Whether both are the same network, or none.
    pub(crate) fn is_same(&self, other: &Upscaler) -> bool {
        match (self, other) {
            (Upscaler::Lanczos, Upscaler::Lanczos) => true,
            (Upscaler::Network(a), Upscaler::Network(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The size of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpscaleSize {
    /// So many times as wide and high, 1 to [`MAX_FACTOR`].
    By(f32),
    /// A width or height in pixels, and the other one in proportion; or both.
    To {
        /// Width in pixels.
        width: Option<u32>,
        /// Height in pixels.
        height: Option<u32>,
    },
}

/// How a picture is enlarged.
#[derive(Clone, Debug)]
pub struct Upscaling {
    /// With what.
    pub upscaler: Upscaler,
    /// To which size.
    pub size: UpscaleSize,
}

impl Upscaling {
    /// As it is recorded in a picture.
    pub fn parameters(&self) -> UpscaleParameters {
        let upscaler = self.upscaler.name().to_owned();
        let (by, width, height) = match self.size {
            UpscaleSize::By(factor) => (Some(factor), None, None),
            UpscaleSize::To { width, height } => (None, width, height),
        };
        let sha256 = self.upscaler.sha256().map(str::to_owned);
        UpscaleParameters { upscaler, sha256, by, width, height }
    }
}

impl UpscaleSize {
    /// Width and height of the result for a picture of `width` and `height`.
    ///
    /// # Errors
    /// [`Error::UpscaleFactor`], [`Error::UpscaleSize`].
    pub fn of(self, [width, height]: [u32; 2]) -> Result<[u32; 2]> {
        let scaled = |side: u32, factor: f64| (f64::from(side) * factor).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        let [to_width, to_height] = match self {
            UpscaleSize::By(factor) => {
                if !(1.0..=MAX_FACTOR).contains(&factor) {
                    return Err(Error::UpscaleFactor { factor, max: MAX_FACTOR });
                }
                [width, height].map(|side| scaled(side, f64::from(factor)))
            }
            UpscaleSize::To { width: None, height: None } => [width, height],
            UpscaleSize::To { width: Some(to), height: None } => [to, scaled(height, f64::from(to) / f64::from(width))],
            UpscaleSize::To { width: None, height: Some(to) } => [scaled(width, f64::from(to) / f64::from(height)), to],
            UpscaleSize::To { width: Some(width), height: Some(height) } => [width, height],
        };
        let is_too_large =
            to_width.max(to_height) > MAX_SIDE || u64::from(to_width) * u64::from(to_height) > MAX_PIXELS;
        if is_too_large || to_width == 0 || to_height == 0 {
            let (max_side, max_pixels) = (MAX_SIDE, MAX_PIXELS);
            return Err(Error::UpscaleSize { width: to_width, height: to_height, max_side, max_pixels });
        }
        Ok([to_width, to_height])
    }
}

/// How a picture was enlarged.
#[derive(Clone, Debug, PartialEq)]
pub struct UpscaleReport {
    /// Name of the upscaler.
    pub upscaler: String,
    /// How often the network ran over the picture; 0 if only Lanczos did.
    pub passes: usize,
    /// Number of tiles of the last pass.
    pub tiles: usize,
    /// Whether the result is that of the network over the whole picture.
    pub is_exact: bool,
    /// Whether Lanczos made the size from the network's result.
    pub is_resampled: bool,
}

/// For people, as part of a sentence.
impl fmt::Display for UpscaleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UpscaleReport { upscaler, passes, tiles, is_exact, is_resampled } = self;
        f.write_str(upscaler)?;
        match (passes, tiles) {
            (0, _) => return Ok(()),
            (1, 1) => f.write_str(", whole")?,
            (_, 1) => write!(f, ", {passes} times, whole")?,
            (1, _) => write!(f, ", {tiles} tiles")?,
            _ => write!(f, ", {passes} times, {tiles} tiles")?,
        }
        if !is_exact {
            write!(f, " that overlap by {RRDB_OVERLAP} pixels, which is not exact at their edges")?;
        }
        if *is_resampled {
            f.write_str(", resized by Lanczos")?;
        }
        Ok(())
    }
}

/// A picture and how it was made from a smaller one.
pub(crate) type Enlarged = (RgbImage, UpscaleReport);

/// How many times a network of `scale` runs over a picture that grows from `from` to `to` pixels.
pub(crate) fn passes(scale: usize, from: [u32; 2], to: [u32; 2]) -> usize {
    let missing = (0..2).map(|axis| f64::from(to[axis]) / f64::from(from[axis])).fold(0.0, f64::max);
    match scale {
        // It repairs a picture of the same size.
        1 => 1,
        _ => (0..MAX_PASSES).find(|n| (scale as f64).powi(*n as i32) >= missing - 1e-6).unwrap_or(MAX_PASSES),
    }
}

/// Enlarge a picture to width and height `to`; `network` is that of `upscaling` on a device. Work on the host runs on
/// at most `threads` threads.
///
/// # Errors
/// What `pulse`, called after every block of the network, returns; [`Error::NotFinite`], or no memory.
pub(crate) fn enlarge(
    image: &RgbImage,
    to: [u32; 2],
    name: &str,
    network: Option<(&dyn Enlarge, Tiling)>,
    threads: NonZeroUsize,
    pulse: &mut Pulse,
) -> Result<Enlarged> {
    let mut report =
        UpscaleReport { upscaler: name.to_owned(), passes: 0, tiles: 0, is_exact: true, is_resampled: false };
    let Some((network, tiling)) = network else { return Ok((resize::resize_lanczos(image, to[0], to[1])?, report)) };
    let config = network.config();
    let all = passes(config.scale(), [image.width(), image.height()], to);
    let mut made: Option<RgbImage> = None;
    for pass in 1..=all {
        let source = made.as_ref().unwrap_or(image);
        let size = [source.width(), source.height()].map(|side| side * config.scale() as u32);
        let plan = tiles::plan(&config, [source.width(), source.height()], tiling);
        (report.tiles, report.passes) = (plan.tiles.len(), pass);
        report.is_exact &= plan.is_exact;
        report.is_resampled = pass == all && size != to;
        let mut rows = match report.is_resampled {
            true => Sink::Lanczos(LanczosRows::new(size, to)?),
            false => Sink::Keep(Vec::with_capacity(0), size),
        };
        run_tiles(source, &config, &plan.tiles, network, threads, &mut rows, pulse)?;
        made = Some(rows.finish()?);
    }
    match made {
        Some(image) => Ok((image, report)),
        // Nothing to enlarge.
        None => Ok((resize::resize_lanczos(image, to[0], to[1])?, report)),
    }
}

/// Takes the rows of the network's result.
enum Sink {
    /// Keeps them; and width and height.
    Keep(Vec<u8>, [u32; 2]),
    /// Resamples them.
    Lanczos(LanczosRows),
}

impl Sink {
    /// Some more rows, `[width, 3]` each.
    fn rows(&mut self, rows: &[u8], width: usize) -> Result<()> {
        match self {
            Sink::Keep(pixels, [w, h]) => {
                if pixels.is_empty() {
                    *pixels = crate::image::zeroed(*w as usize * *h as usize * 3)?;
                    pixels.clear();
                }
                pixels.extend_from_slice(rows);
            }
            Sink::Lanczos(resampling) => rows.chunks_exact(width * 3).for_each(|row| resampling.row(row)),
        }
        Ok(())
    }

    fn finish(self) -> Result<RgbImage> {
        match self {
            Sink::Keep(pixels, [width, height]) => RgbImage::new(width, height, pixels),
            Sink::Lanczos(resampling) => Ok(resampling.finish()),
        }
    }
}

/// Run the network over all tiles, a row of tiles at a time.
fn run_tiles(
    image: &RgbImage,
    config: &UpscalerConfig,
    tiles: &[Tile],
    network: &dyn Enlarge,
    threads: NonZeroUsize,
    sink: &mut Sink,
    pulse: &mut Pulse,
) -> Result<()> {
    let scale = config.scale();
    let width = image.width() as usize * scale;
    for row in tiles.chunk_by(|a, b| a.kept[1] == b.kept[1]) {
        let mut band = crate::image::zeroed(width * row[0].kept[1].len() * scale * 3)?;
        for tile in row {
            let mut emit = |first: usize, values: &[f32]| tile.place(first, values, scale, &mut band, width, threads);
            network.forward(&tile.values(image), tile.size(), &mut emit, pulse)?;
        }
        sink.rows(&band, width)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_a_factor_or_a_side() {
        let to = |width, height| UpscaleSize::To { width, height };
        assert_eq!(UpscaleSize::By(2.0).of([100, 75]).unwrap(), [200, 150]);
        assert_eq!(UpscaleSize::By(1.5).of([101, 75]).unwrap(), [152, 113]);
        assert_eq!(to(Some(4096), None).of([1024, 768]).unwrap(), [4096, 3072]);
        assert_eq!(to(None, Some(96)).of([1024, 768]).unwrap(), [128, 96]);
        assert_eq!(to(Some(5), Some(7)).of([1024, 768]).unwrap(), [5, 7]);
        assert_eq!(to(Some(1), None).of([1000, 1]).unwrap(), [1, 1]);
        for factor in [0.0, 0.5, 16.5, -1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(UpscaleSize::By(factor).of([64, 64]), Err(Error::UpscaleFactor { .. })), "{factor}");
        }
        for size in [UpscaleSize::By(4.0), to(Some(20_000), None), to(Some(0), None), to(Some(16_384), Some(16_384))] {
            assert!(matches!(size.of([8000, 6000]), Err(Error::UpscaleSize { .. })), "{size:?}");
        }
    }

    #[test]
    fn a_network_runs_until_the_size_is_reached() {
        assert_eq!(passes(4, [64, 64], [256, 256]), 1);
        assert_eq!(passes(4, [64, 64], [128, 128]), 1);
        assert_eq!(passes(2, [64, 64], [256, 256]), 2);
        assert_eq!(passes(2, [64, 64], [1024, 1024]), MAX_PASSES);
        assert_eq!(passes(4, [64, 64], [64, 64]), 0);
        assert_eq!(passes(4, [64, 64], [32, 65]), 1);
        assert_eq!(passes(1, [64, 64], [64, 64]), 1);
    }
}
