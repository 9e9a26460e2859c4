//! Tiny decoders: latents to pictures at a twentieth of the autoencoder's work, for previews.
//!
//! Normalized tokens `[h * w, 4 * c]` -> picture `[16 * h, 16 * w, 3]`, nominally in 0..=1.
//!
//! Follows the decoders of TAESD's family (Bohan 2023), of which TAEF2 is the one for FLUX.2: residual blocks of three
//! convolutions at four resolutions, ReLU, and in the first blocks a pool, whose group norm sees the whole picture.
//! Latents are bounded softly before the first convolution.

use flux2_backend::{Backend, ConvShape, Tensor, ops};

use super::Pulse;
use super::layers::{Conv, GroupNorm, Loader};
use crate::Result;
use crate::weights::{PreviewDecoderConfig, WeightSource};

/// Latents are bounded to -3..=3.
const BOUND: f32 = 3.0;
/// Added to the variance in the pools' norms.
const EPS: f32 = 1e-5;

/// Tokens to pictures.
pub struct TinyDecoder<B: Backend> {
    be: B,
    latent_channels: usize,
    first: Conv<B>,
    levels: Vec<Level<B>>,
    last: Conv<B>,
    relu: Relu<B>,
}

/// Blocks of one resolution, after the convolution that enlarges the map of the level before.
struct Level<B: Backend> {
    enlarge: Option<Conv<B>>,
    blocks: Vec<Block<B>>,
}

/// `relu(x + conv4(relu(conv2(relu(conv0(x))))))`, with the pool added to `x` first.
struct Block<B: Backend> {
    pool: Option<Pool<B>>,
    convs: [Conv<B>; 3],
}

/// Two products at each pixel, with a group norm between them.
struct Pool<B: Backend> {
    widen: Conv<B>,
    norm: GroupNorm<B>,
    narrow: Conv<B>,
    relu: Relu<B>,
}

/// ReLU, as a PReLU with slopes of 0 for each channel.
struct Relu<B: Backend>(Tensor<B>);

impl<B: Backend> TinyDecoder<B> {
    /// Load the weights from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &PreviewDecoderConfig, source: &dyn WeightSource) -> Result<Self> {
        let w = Loader::new(be, source);
        let relu = Relu::load(be, config.features)?;
        let level = |(i, numbers): (usize, &[usize])| -> Result<Level<B>> {
            let conv = |before: usize| {
                Conv::load_without_bias(&w.at(PreviewDecoderConfig::ENLARGED[before]), ConvShape::Upsample)
            };
            let pool = config.pool.filter(|_| i == 0);
            let block = |number: &usize| Block::load(&w.at(number), pool);
            let blocks = numbers.iter().map(block).collect::<Result<_>>()?;
            Ok(Level { enlarge: i.checked_sub(1).map(conv).transpose()?, blocks })
        };
        Ok(TinyDecoder {
            be: be.clone(),
            latent_channels: config.latent_channels,
            first: Conv::load(&w.at(PreviewDecoderConfig::FIRST), ConvShape::Same)?,
            levels: PreviewDecoderConfig::BLOCKS.into_iter().enumerate().map(level).collect::<Result<_>>()?,
            last: Conv::load(&w.at(PreviewDecoderConfig::LAST), ConvShape::Same)?,
            relu,
        })
    }

    /// `tokens`, normalized latents `[h * w, 4 * c]` of a grid `[h, w]` on the host -> f32 `[16 * h, 16 * w, 3]`. On an
    /// asynchronous device the work is only queued.
    ///
    /// # Errors
    /// What `pulse`, called after every block, returns; no memory.
    pub fn forward(&self, tokens: &[f32], grid: [usize; 2], pulse: &mut Pulse) -> Result<Tensor<B>> {
        let be = &self.be;
        let [h, w] = grid.map(|side| 2 * side);
        let latents = be.upload(&[h, w, self.latent_channels], &bounded(tokens, grid, self.latent_channels))?;
        let mut x = self.first.forward(be, &ops::cast(be, &latents, be.compute().dtype())?)?; // [2h, 2w, features]
        drop(latents);
        self.relu.apply(be, &mut x)?;
        for Level { enlarge, blocks } in &self.levels {
            if let Some(conv) = enlarge {
                x = conv.forward(be, &x)?; // doubled
            }
            for block in blocks {
                x = block.forward(be, x, &self.relu)?;
                pulse()?;
            }
        }
        self.last.forward_f32(be, &x) // [16h, 16w, 3]
    }
}

impl<B: Backend> Block<B> {
    fn load(w: &Loader<B>, pool: Option<usize>) -> Result<Self> {
        let conv = |i: usize| Conv::load(&w.at("conv").at(i), ConvShape::Same);
        Ok(Block {
            pool: pool.map(|channels| Pool::load(&w.at("pool"), channels)).transpose()?,
            convs: [conv(0)?, conv(2)?, conv(4)?],
        })
    }

    fn forward(&self, be: &B, mut x: Tensor<B>, relu: &Relu<B>) -> Result<Tensor<B>> {
        if let Some(pool) = &self.pool {
            pool.add_to(be, &mut x)?;
        }
        let [first, second, third] = &self.convs;
        let mut inner = first.forward(be, &x)?;
        relu.apply(be, &mut inner)?;
        inner = second.forward(be, &inner)?;
        relu.apply(be, &mut inner)?;
        third.add_to(be, &mut x, &inner)?;
        relu.apply(be, &mut x)?;
        Ok(x)
    }
}

impl<B: Backend> Pool<B> {
    fn load(w: &Loader<B>, channels: usize) -> Result<Self> {
        Ok(Pool {
            widen: Conv::load_without_bias(&w.at(0), ConvShape::Pointwise)?,
            norm: GroupNorm::load_of(&w.at(1), PreviewDecoderConfig::GROUPS, EPS)?,
            narrow: Conv::load_without_bias(&w.at(3), ConvShape::Pointwise)?,
            relu: Relu::load(w.backend(), channels)?,
        })
    }

    /// `x += narrow(relu(norm(widen(x))))`.
    fn add_to(&self, be: &B, x: &mut Tensor<B>) -> Result<()> {
        let mut inner = self.norm.forward(be, &self.widen.forward(be, &*x)?)?;
        self.relu.apply(be, &mut inner)?;
        self.narrow.add_to(be, x, &inner)
    }
}

impl<B: Backend> Relu<B> {
    fn load(be: &B, channels: usize) -> Result<Self> {
        Ok(Relu(be.upload(&[channels], &vec![0.0; channels])?))
    }

    fn apply(&self, be: &B, x: &mut Tensor<B>) -> Result<()> {
        Ok(ops::prelu(be, x, &self.0)?)
    }
}

/// Latents `[2 * h, 2 * w, c]` of tokens `[h * w, 4 * c]`, softly bounded. A channel of a token holds its four pixels
/// one after the other, by rows.
fn bounded(tokens: &[f32], [h, w]: [usize; 2], channels: usize) -> Vec<f32> {
    let mut map = vec![0.0; h * w * 4 * channels];
    for (at, token) in tokens.chunks_exact(4 * channels).enumerate() {
        let (top, left) = (2 * (at / w), 2 * (at % w));
        for (channel, pixels) in token.as_chunks::<4>().0.iter().enumerate() {
            for (i, value) in pixels.iter().enumerate() {
                let pixel = (top + i / 2) * 2 * w + left + i % 2;
                map[pixel * channels + channel] = BOUND * (value / BOUND).tanh();
            }
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use flux2_backend::Runtime as _;

    use super::*;
    use crate::golden::{Golden, assert_absolute, f32_backend, fixture};
    use crate::weights::{Location, PreviewDecoderFile};

    #[test]
    fn pixels_of_a_token_are_bounded_and_placed_by_rows() {
        // Two tokens side by side, two channels.
        let tokens: Vec<f32> = (0..16).map(|i| i as f32 / 100.0).collect();
        let map = bounded(&tokens, [1, 2], 2);
        let soft = |value: f32| 3.0 * (value / 3.0).tanh();
        assert_eq!(map[..4], [0.0, 0.04, 0.01, 0.05].map(soft));
        assert_eq!(map[8..12], [0.02, 0.06, 0.03, 0.07].map(soft));
        assert_eq!(bounded(&[1e9; 4], [1, 1], 1), [3.0; 4]);
    }

    /// Both containers and both layouts of names, without pools and with them.
    #[test]
    fn values_are_those_of_the_reference() {
        let golden = Golden::open("preview/values");
        for (case, name) in [("taesd", "taesd.safetensors"), ("taef2", "taef2_decoder.pth")] {
            let location = Location::from(fixture("golden/preview").join(name));
            let file = PreviewDecoderFile::open(&location).unwrap();
            assert_eq!(file.config.pool.is_some(), case == "taef2");
            let be = f32_backend();
            let decoder = TinyDecoder::load(&be, &file.config, &file).unwrap();
            let [_, h, w] = golden.shape(&format!("{case}.output"))[..] else { panic!("{case}") };
            let mut blocks = 0;
            let mut pulse = || {
                blocks += 1;
                Ok(())
            };
            let tokens = golden.values(&format!("{case}.tokens"));
            let pixels = decoder.forward(&tokens, [h / 16, w / 16], &mut pulse).unwrap();
            assert_eq!((pixels.shape(), blocks), (&[h, w, 3][..], 10), "{case}");
            let pixels = be.download(&pixels).unwrap();
            assert_absolute(case, &pixels, &golden.channels_last(&format!("{case}.output")), 2e-5);
        }
    }
}
