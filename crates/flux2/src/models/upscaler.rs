//! Upscalers: pictures to larger pictures.
//!
//! Picture `[h, w, 3]` in 0..=1 -> picture `[scale * h, scale * w, 3]`, nominally in 0..=1.
//!
//! | network | from |
//! |---|---|
//! | [`Rrdb`] | ESRGAN (Wang 2018), Real-ESRGAN (Wang 2021): residual-in-residual dense blocks |
//! | [`Srvgg`] | Real-ESRGAN's compact models: a row of convolutions, which predict a residual |
//!
//! All convolutions are 3x3 with one zero pixel around, maps are `[h, w, channels]`, and no layer looks further than
//! its kernel. So a tile with enough of its surroundings gives the same bytes as the whole picture:
//! [`UpscalerConfig::radius`].

use flux2_backend::{Backend, ConvShape, Tensor, ops};

use super::Pulse;
use super::layers::{Conv, Loader};
use crate::Result;
use crate::weights::RrdbConfig;
use crate::weights::SrvggConfig;
use crate::weights::UpscalerConfig;
use crate::weights::WeightSource;

/// Slope of the leaky ReLU in an RRDBNet.
const SLOPE: f32 = 0.2;
/// Factor of the residual in dense blocks, and in the residual over three of them.
const RESIDUAL: f32 = 0.2;
/// Approximate size of the largest map behind the blocks of an RRDBNet, which is computed in bands of rows.
const BAND_BYTES: usize = 128 << 20;
/// Rows of its input that a band needs above and below: the upsampling convolutions and the two behind them reach less
/// than two pixels of the input.
const BAND_BORDER: usize = 2;

/// Takes some rows of the result: the number of the first row, and rows of `[width, 3]`.
pub type Emit<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

/// An upscaler of either kind.
pub enum Upscaler<B: Backend> {
    /// See [`Rrdb`].
    Rrdb(Box<Rrdb<B>>),
    /// See [`Srvgg`].
    Srvgg(Srvgg<B>),
}

impl<B: Backend> Upscaler<B> {
    /// Load the weights from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &UpscalerConfig, source: &dyn WeightSource) -> Result<Self> {
        let w = Loader::new(be, source);
        Ok(match config {
            UpscalerConfig::Rrdb(config) => Upscaler::Rrdb(Box::new(Rrdb::load(&w, config)?)),
            UpscalerConfig::Srvgg(config) => Upscaler::Srvgg(Srvgg::load(&w, config)?),
        })
    }

    /// How often a pass over `[h, w]` pixels calls its pulse.
    pub fn blocks(&self, [h, w]: [usize; 2]) -> usize {
        match self {
            Upscaler::Rrdb(net) => net.body.len() + net.bands([h, w]).count(),
            Upscaler::Srvgg(net) => net.layers.len() + 1,
        }
    }

    /// `pixels` `[h, w, 3]` in 0..=1 -> rows of `[scale * h, scale * w, 3]`, which `emit` takes in order. Sides must be
    /// multiples of [`UpscalerConfig::unshuffle`].
    ///
    /// # Errors
    /// What `pulse`, called after every block, or `emit` returns.
    pub fn forward(&self, pixels: &[f32], size: [usize; 2], emit: &mut Emit, pulse: &mut Pulse) -> Result<()> {
        match self {
            Upscaler::Rrdb(net) => net.forward(pixels, size, emit, pulse),
            Upscaler::Srvgg(net) => net.forward(pixels, size, emit, pulse),
        }
    }
}

// ---- SRVGGNetCompact ----

/// A row of convolutions with PReLU. The result is a residual to the picture with repeated pixels.
pub struct Srvgg<B: Backend> {
    be: B,
    layers: Vec<Layer<B>>,
    last: Conv<B>,
}

/// A convolution, and a slope for each of its channels.
struct Layer<B: Backend> {
    conv: Conv<B>,
    slope: Tensor<B>,
}

impl<B: Backend> Srvgg<B> {
    fn load(w: &Loader<B>, config: &SrvggConfig) -> Result<Self> {
        let body = w.at("body");
        let layer = |i: usize| -> Result<Layer<B>> {
            let conv = Conv::load(&body.at(2 * i), ConvShape::Same)?;
            Ok(Layer { conv, slope: body.at(2 * i + 1).vector("weight")? })
        };
        Ok(Srvgg {
            be: w.backend().clone(),
            layers: (0..=config.convolutions).map(layer).collect::<Result<_>>()?,
            last: Conv::load(&body.at(2 * config.convolutions + 2), ConvShape::Same)?,
        })
    }

    fn forward(&self, pixels: &[f32], [h, w]: [usize; 2], emit: &mut Emit, pulse: &mut Pulse) -> Result<()> {
        let be = &self.be;
        let picture = be.upload(&[h, w, 3], pixels)?;
        let mut x = ops::cast(be, &picture, be.compute().dtype())?;
        for Layer { conv, slope } in &self.layers {
            x = conv.forward(be, &x)?; // [h, w, features]
            ops::prelu(be, &mut x, slope)?;
            pulse()?;
        }
        let residual = self.last.forward_f32(be, &x)?; // [h, w, 3 * scale * scale]
        drop(x);
        let result = ops::pixel_shuffle(be, &residual, &picture)?; // [scale * h, scale * w, 3]
        emit(0, &be.download(&result)?)?;
        pulse()
    }
}

// ---- RRDBNet ----

/// Residual-in-residual dense blocks at the size of the input, then upsampling.
pub struct Rrdb<B: Backend> {
    be: B,
    config: RrdbConfig,
    first: Conv<B>,
    body: Vec<[DenseBlock<B>; 3]>,
    after_body: Conv<B>,
    stages: Vec<Conv<B>>,
    hr: Conv<B>,
    last: Conv<B>,
    /// [`SLOPE`] for each channel of a map.
    slope: Tensor<B>,
}

/// Four convolutions that each read the maps of all before them, and one that joins their maps.
struct DenseBlock<B: Backend> {
    grow: Vec<Conv<B>>,
    join: Conv<B>,
    /// [`SLOPE`] for each channel that is added.
    slope: Tensor<B>,
}

impl<B: Backend> Rrdb<B> {
    fn load(w: &Loader<B>, config: &RrdbConfig) -> Result<Self> {
        let conv = |name: &str| Conv::load(&w.at(name), ConvShape::Same);
        let slope = |channels| w.backend().upload(&[channels], &vec![SLOPE; channels]);
        let of_growth = slope(config.growth)?;
        let block = |b: usize| -> Result<[DenseBlock<B>; 3]> {
            let w = w.at("body").at(b);
            let load = |r| DenseBlock::load(&w.at(format_args!("rdb{r}")), of_growth.clone());
            Ok([load(1)?, load(2)?, load(3)?])
        };
        let stage = |s: usize| Conv::load(&w.at(format_args!("conv_up{s}")), ConvShape::Upsample);
        Ok(Rrdb {
            be: w.backend().clone(),
            config: *config,
            first: conv("conv_first")?,
            body: (0..config.blocks).map(block).collect::<Result<_>>()?,
            after_body: conv("conv_body")?,
            stages: (1..=config.stages).map(stage).collect::<Result<_>>()?,
            hr: conv("conv_hr")?,
            last: conv("conv_last")?,
            slope: slope(config.features)?,
        })
    }

    fn forward(&self, pixels: &[f32], [h, w]: [usize; 2], emit: &mut Emit, pulse: &mut Pulse) -> Result<()> {
        let be = &self.be;
        let x = be.upload(&self.shape([h, w]), &self.unshuffled(pixels, [h, w]))?;
        let mut y = self.first.forward(be, &ops::cast(be, &x, be.compute().dtype())?)?; // [h, w, features]
        let mut x = y.clone();
        for [first, second, third] in &self.body {
            let inner = third.forward(be, second.forward(be, first.forward(be, x.clone())?)?)?;
            ops::add_scaled(be, &mut x, &inner, RESIDUAL)?;
            pulse()?;
        }
        self.after_body.add_to(be, &mut y, &x)?;
        drop(x);
        // What follows is larger and reaches little: bands of rows.
        let [h, w, c] = y.dims("upscaler")?;
        let rows = y.reshape("upscaler", [h, w * c])?;
        for band in self.bands([h * self.config.unshuffle, w * self.config.unshuffle]) {
            let (from, to) = (band.start.saturating_sub(BAND_BORDER), (band.end + BAND_BORDER).min(h));
            let part = rows.slice_rows(from..to).reshape("upscaler", [to - from, w, c])?;
            let scale = 1 << self.config.stages;
            let values = be.download(&self.upsampled(part)?)?;
            let row = 3 * w * scale;
            let kept = (band.start - from) * scale * row..(band.end - from) * scale * row;
            emit(band.start * scale, &values[kept])?;
            pulse()?;
        }
        Ok(())
    }

    /// Upsampling, and the two convolutions at the size of the result: `[h, w, features]` to f32 `[2^stages * h, ..,
    /// 3]`.
    fn upsampled(&self, mut x: Tensor<B>) -> Result<Tensor<B>> {
        let be = &self.be;
        for conv in self.stages.iter().chain([&self.hr]) {
            x = conv.forward(be, &x)?;
            ops::prelu(be, &mut x, &self.slope)?;
        }
        self.last.forward_f32(be, &x)
    }

    /// Bands of rows behind the body, for a picture of `[h, w]` pixels.
    fn bands(&self, [h, w]: [usize; 2]) -> impl Iterator<Item = std::ops::Range<usize>> + use<B> {
        let RrdbConfig { unshuffle, stages, features, .. } = self.config;
        let (h, w) = (h / unshuffle, w / unshuffle);
        let row = self.be.compute().dtype().bytes((w << (2 * stages)) * features);
        let rows = (BAND_BYTES / row.max(1)).max(2 * BAND_BORDER);
        (0..h).step_by(rows).map(move |start| start..(start + rows).min(h))
    }

    /// Shape of the input of the first convolution.
    fn shape(&self, [h, w]: [usize; 2]) -> [usize; 3] {
        let s = self.config.unshuffle;
        [h / s, w / s, 3 * s * s]
    }

    /// Squares of pixels as channels: channel `c * s * s + dy * s + dx` is channel `c` of pixel `[dy, dx]` of a square.
    fn unshuffled(&self, pixels: &[f32], size: [usize; 2]) -> Vec<f32> {
        let (s, [h, w, channels]) = (self.config.unshuffle, self.shape(size));
        let mut values = Vec::with_capacity(pixels.len());
        for i in 0..h * w * channels {
            let (pixel, channel) = (i / channels, i % channels);
            let (c, dy, dx) = (channel / (s * s), channel % (s * s) / s, channel % s);
            let (row, column) = (pixel / w * s + dy, pixel % w * s + dx);
            values.push(pixels[(row * size[1] + column) * 3 + c]);
        }
        values
    }
}

impl<B: Backend> DenseBlock<B> {
    fn load(w: &Loader<B>, slope: Tensor<B>) -> Result<Self> {
        let conv = |c: usize| Conv::load(&w.at(format_args!("conv{c}")), ConvShape::Same);
        Ok(DenseBlock { grow: (1..=4).map(conv).collect::<Result<_>>()?, join: conv(5)?, slope })
    }

    /// `x + 0.2 * join([x, c1, c2, c3, c4])`, where `ci = leaky_relu(grow_i([x, c1, .. up to the one before]))`.
    fn forward(&self, be: &B, mut x: Tensor<B>) -> Result<Tensor<B>> {
        let mut all = x.clone();
        for conv in &self.grow {
            let mut grown = conv.forward(be, &all)?; // [h, w, growth]
            ops::prelu(be, &mut grown, &self.slope)?;
            all = side_by_side(be, &all, &grown)?;
        }
        let joined = self.join.forward(be, &all)?; // [h, w, features]
        drop(all);
        ops::add_scaled(be, &mut x, &joined, RESIDUAL)?;
        Ok(x)
    }
}

/// The channels of both maps.
fn side_by_side<B: Backend>(be: &B, a: &Tensor<B>, b: &Tensor<B>) -> Result<Tensor<B>> {
    let [h, w, _] = a.dims("upscaler")?;
    let pixels = |map: &Tensor<B>| map.reshape("upscaler", [h * w, map.cols()]);
    let both = ops::concat_cols(be, &[&pixels(a)?, &pixels(b)?])?;
    Ok(both.reshape("upscaler", [h, w, both.cols()])?)
}
