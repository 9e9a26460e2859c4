//! An upscaler on a device, and the memory that it takes.
//!
//! Memory is planned as that of pictures is: the same code runs on a backend that allocates and computes nothing. Of
//! the sides of tiles, the largest that keeps to the limit is taken; a device that runs out of memory takes the next.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux2_backend::{Backend, MemoryUse};

use super::tiles::{self, Tile};
use super::{Enlarged, Tiling, UpscaleReport, UpscaleSize, Upscaler, Upscaling, passes};
use crate::device::Device;
use crate::engine::{EngineOptions, NoGpu, open_device};
use crate::event::{CancelToken, Event, Observer, Phase};
use crate::image::RgbImage;
use crate::models::Pulse;
use crate::models::upscaler::{self, Emit};
use crate::pipeline::phase;
use crate::plan::upscaler_peak;
use crate::weights::{UpscalerConfig, UpscalerFile};
use crate::{Error, Result};

/// Sides of tiles that are tried, the fastest first.
const SIDES: [usize; 4] = [512, 256, 128, 64];

/// A network with its device's type erased.
pub(crate) trait Enlarge: Send {
    /// Its sizes.
    fn config(&self) -> UpscalerConfig;
    /// See [`upscaler::Upscaler::blocks`].
    fn blocks(&self, size: [usize; 2]) -> usize;
    /// See [`upscaler::Upscaler::forward`].
    fn forward(&self, pixels: &[f32], size: [usize; 2], emit: &mut Emit, pulse: &mut Pulse) -> Result<()>;
    /// Give unused memory back to the system.
    fn trim(&self);
}

/// A network on a backend.
pub(crate) struct OnDevice<B: Backend> {
    be: B,
    config: UpscalerConfig,
    network: upscaler::Upscaler<B>,
}

impl<B: Backend> OnDevice<B> {
    /// Load the network of a file.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub(crate) fn load(be: &B, file: &UpscalerFile) -> Result<Self> {
        let network = upscaler::Upscaler::load(be, &file.config, file)?;
        Ok(OnDevice { be: be.clone(), config: file.config, network })
    }

    /// The most memory that a tile of `[h, w]` pixels takes on this backend, the weights included.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub(crate) fn peak(&self, [h, w]: [usize; 2]) -> Result<MemoryUse> {
        self.forward(&vec![0.0; h * w * 3], [h, w], &mut |_, _| Ok(()), &mut || Ok(()))?;
        Ok(self.be.take_memory_peak())
    }
}

impl<B: Backend> Enlarge for OnDevice<B> {
    fn config(&self) -> UpscalerConfig {
        self.config
    }

    fn blocks(&self, size: [usize; 2]) -> usize {
        self.network.blocks(size)
    }

    fn forward(&self, pixels: &[f32], size: [usize; 2], emit: &mut Emit, pulse: &mut Pulse) -> Result<()> {
        self.network.forward(pixels, size, emit, pulse)
    }

    fn trim(&self) {
        self.be.trim();
    }
}

/// An upscaler that is ready to enlarge pictures.
pub struct UpscaleEngine {
    upscaler: Upscaler,
    network: Option<Box<dyn Enlarge>>,
    options: EngineOptions,
    device: String,
    place: Device,
    no_gpu: Option<NoGpu>,
    tiling: Tiling,
}

/// A picture, larger than before.
#[derive(Clone, Debug)]
pub struct Upscaled {
    /// The picture.
    pub image: RgbImage,
    /// How it was made.
    pub report: UpscaleReport,
    /// How long it took.
    pub elapsed: Duration,
}

impl UpscaleEngine {
    /// Open the device of `options` and load the network, if it is one.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no such device, or a tensor cannot be read.
    pub fn open(upscaler: Upscaler, options: &EngineOptions) -> Result<Self> {
        let none = (None, "Lanczos on the processor".to_owned(), Device::Cpu, None);
        let (network, device, place, no_gpu) = match &upscaler {
            Upscaler::Lanczos => none,
            Upscaler::Network(file) => {
                let device = open_device(options)?;
                let (label, place, no_gpu) = (device.describe(options.precision), device.place(), device.why_no_gpu());
                (Some(device.into_upscaler(file)?), label, place, no_gpu)
            }
        };
        let tiling = Tiling::usual(place);
        Ok(UpscaleEngine { upscaler, network, options: options.clone(), device, place, no_gpu, tiling })
    }

    /// The device, for people.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device as an option would name it; the processor for Lanczos.
    pub fn place(&self) -> Device {
        self.place
    }

    /// Why it runs on the CPU, if a GPU was looked for.
    pub fn why_no_gpu(&self) -> Option<&NoGpu> {
        self.no_gpu.as_ref()
    }

    /// The same with tiles of another size, for tests and benchmarks.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        UpscaleEngine { tiling, ..self }
    }

    /// The memory that enlarging a picture of `from` pixels takes at most, in bytes, with tiles of `tiling`.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    fn memory(&self, from: [u32; 2], size: UpscaleSize, tiling: Tiling) -> Result<usize> {
        let upscaling = Upscaling { upscaler: self.upscaler.clone(), size };
        let on_device = match (&self.upscaler, upscaling.largest_tile(from, tiling)?) {
            (Upscaler::Network(file), Some(tile)) => upscaler_peak(file, &self.options, tile)?,
            _ => 0,
        };
        Ok(on_device + if self.place == Device::Cpu { upscaling.host_bytes(from, tiling)? } else { 0 })
    }

    /// The largest tiles with which a picture keeps to the limit of the options.
    fn tiling_within(&self, from: [u32; 2], size: UpscaleSize) -> Result<Tiling> {
        let Some(limit) = self.options.max_memory else { return Ok(self.tiling) };
        let mut least = usize::MAX;
        for tiling in self.tiling.and_smaller() {
            let bytes = self.memory(from, size, tiling)?;
            if bytes <= limit {
                return Ok(tiling);
            }
            least = least.min(bytes);
        }
        Err(Error::MemoryLimit { limit, least, stage: Phase::Upscale, formats: vec![] })
    }

    /// Enlarge a picture.
    ///
    /// # Errors
    /// Those of [`UpscaleSize::of`]; [`Error::MemoryLimit`] if even the smallest tiles take more than the limit;
    /// [`Error::Cancelled`] once `cancel` is cancelled.
    pub fn upscale(
        &self,
        image: &RgbImage,
        size: UpscaleSize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Upscaled> {
        let from = [image.width(), image.height()];
        let to = size.of(from)?;
        let tiling = self.tiling_within(from, size)?;
        let (begun, threads) = (Instant::now(), self.options.usable_threads());
        let name = self.upscaler.name();
        let (image, report) = with_smaller_tiles(self.network.as_deref(), tiling, |network| {
            with_events(image, to, name, network, threads, observer, cancel)
        })?;
        observer.on_event(&Event::Upscaled(report.clone()));
        Ok(Upscaled { image, report, elapsed: begun.elapsed() })
    }
}

/// Run `work` with `network` and these tiles, and again with smaller ones as long as the device has no memory for them.
///
/// # Errors
/// Those of `work`.
pub(crate) fn with_smaller_tiles(
    network: Option<&dyn Enlarge>,
    tiling: Tiling,
    mut work: impl FnMut(Option<(&dyn Enlarge, Tiling)>) -> Result<Enlarged>,
) -> Result<Enlarged> {
    let Some(network) = network else { return work(None) };
    let mut tilings = tiling.and_smaller().peekable();
    loop {
        let tiling = tilings.next().expect("there is a next one");
        match work(Some((network, tiling))) {
            Err(Error::Backend(flux2_backend::Error::OutOfMemory { .. })) if tilings.peek().is_some() => network.trim(),
            result => return result,
        }
    }
}

/// [`enlarge`](super::enlarge) between the events of its phase.
pub(crate) fn with_events(
    image: &RgbImage,
    to: [u32; 2],
    name: &str,
    network: Option<(&dyn Enlarge, Tiling)>,
    threads: NonZeroUsize,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Enlarged> {
    let units = network.map_or(0, |(network, tiling)| {
        let scale = network.config().scale();
        let from = [image.width(), image.height()];
        let of_pass = |pass: usize| {
            let plan = tiles::plan(&network.config(), from.map(|side| side * scale.pow(pass as u32) as u32), tiling);
            plan.tiles.iter().map(|tile| network.blocks(tile.size())).sum::<usize>()
        };
        (0..passes(scale, from, to)).map(of_pass).sum()
    });
    phase(observer, cancel, Phase::Upscale, units, |pulse| super::enlarge(image, to, name, network, threads, pulse))
}

impl Tiling {
    /// Tiles that a device takes if memory is not limited: on a processor, maps that stay near the caches; on a GPU,
    /// enough work to fill it. An RRDBNet takes about 1.2 kB of memory for each pixel that it sees in bf16.
    pub fn usual(place: Device) -> Self {
        match place {
            Device::Cpu => Tiling { whole: 768 * 768, side: SIDES[1] },
            _ => Tiling { whole: 2048 * 2048, side: 1024 },
        }
    }

    /// Tiles that take little memory.
    pub(crate) fn small() -> Self {
        Tiling { whole: 0, side: SIDES[2] }
    }

    /// These tiles and smaller ones, in falling order.
    pub(crate) fn and_smaller(self) -> impl Iterator<Item = Tiling> {
        let smaller = SIDES.into_iter().filter(move |side| *side < self.side || self.whole > 0);
        let smaller = smaller.filter(move |side| *side <= self.side).map(|side| Tiling { whole: 0, side });
        std::iter::once(self).chain(smaller)
    }
}

impl Upscaling {
    /// The picture that the last pass of the network starts from, and its tiles; `None` for Lanczos.
    fn last_pass(&self, from: [u32; 2], tiling: Tiling) -> Result<Option<([u32; 2], tiles::Plan)>> {
        let Upscaler::Network(file) = &self.upscaler else { return Ok(None) };
        let scale = file.config.scale() as u32;
        let last = passes(scale as usize, from, self.size.of(from)?).saturating_sub(1) as u32;
        let source = from.map(|side| side * scale.pow(last));
        Ok(Some((source, tiles::plan(&file.config, source, tiling))))
    }

    /// Height and width of the largest part of a picture that the network sees at a time; `None` for Lanczos.
    pub(crate) fn largest_tile(&self, from: [u32; 2], tiling: Tiling) -> Result<Option<[usize; 2]>> {
        let sizes = |plan: tiles::Plan| plan.tiles.iter().map(Tile::size).max_by_key(|[h, w]| h * w);
        Ok(self.last_pass(from, tiling)?.and_then(|(_, plan)| sizes(plan)))
    }

    /// Memory of the host that enlarging a picture of `from` pixels takes, in bytes, besides what a backend allocates:
    /// the pictures, the values of a tile and of its result, and a row of tiles of the result.
    pub(crate) fn host_bytes(&self, from: [u32; 2], tiling: Tiling) -> Result<usize> {
        let pixels = |[w, h]: [u32; 2]| w as usize * h as usize * 3;
        let pictures = pixels(from) + pixels(self.size.of(from)?);
        let Some((source, plan)) = self.last_pass(from, tiling)? else { return Ok(pictures) };
        let scale = self.upscaler.scale().expect("a network");
        let of_tile = |tile: &Tile| {
            let [h, w] = tile.size();
            let band = source[0] as usize * tile.kept[1].len() * scale * scale * 3;
            // Values are f32; those of the result become bytes.
            h * w * 3 * (4 + scale * scale * (4 + 1)) + band
        };
        Ok(pictures + pixels(source) + plan.tiles.iter().map(of_tile).max().unwrap_or_default())
    }
}

/// Kept from picture to picture: the network of the last one.
pub(crate) struct UpscalerSlot<B: Backend>(Option<(Arc<UpscalerFile>, OnDevice<B>)>);

impl<B: Backend> UpscalerSlot<B> {
    pub(crate) fn new() -> Self {
        UpscalerSlot(None)
    }

    /// The network of a file, loaded if it is another one than the last.
    ///
    /// # Errors
    /// Those of [`OnDevice::load`].
    pub(crate) fn get(&mut self, be: &B, file: &Arc<UpscalerFile>) -> Result<&OnDevice<B>> {
        if self.0.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, file)) {
            self.0 = None;
            self.0 = Some((Arc::clone(file), OnDevice::load(be, file)?));
        }
        Ok(&self.0.as_ref().expect("loaded above").1)
    }

    /// Drop the network.
    pub(crate) fn release(&mut self) {
        self.0 = None;
    }
}
