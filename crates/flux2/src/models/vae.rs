//! The autoencoder: pictures to latents and back.
//!
//! Encode: picture `[h, w, 3]` in -1..=1 -> tokens `[h/16 * w/16, c]`, the space the flow transformer works in.
//! Decode: tokens -> picture, nominally in -1..=1.
//!
//! Maps are `[h, w, channels]`. Between the latent map and the tokens lie the 2x2 patchify and a normalization with
//! fixed statistics for each of the patchified channels; the latter has its own epsilon. Sizes are read from the
//! configuration, so the slimmer published decoder is the same code.
//!
//! Maps dominate memory (2 GiB for 256 channels of 2048x2048). Norms and SiLU are applied while the next convolution
//! reads its input, residuals are added in place, and the largest maps are not kept: see [`Decoder::forward`].
//!
//! Follows `AutoencoderKLFlux2` in diffusers; encoding takes the mean, nothing is sampled.

use flux2_backend::{AttentionInput, AttentionMask, Backend, ConvInput, ConvShape, Tensor, ops};

use super::Pulse;
use super::layers::{Conv, GroupNorm, Linear, Loader};
use super::replay::ReplayedPass;
use crate::Result;
use crate::weights::{VaeConfig, WeightSource};

/// Maps larger than this are recomputed in bands where they are read, if that lowers the peak of memory.
///
/// A picture of 1024x1024 has no map that large, so nothing is computed twice for it.
const KEPT_BYTES: usize = 1 << 30;

/// Pictures to tokens.
pub struct Encoder<B: Backend> {
    be: B,
    latent_channels: usize,
    conv_in: Conv<B>,
    levels: Vec<Level<B>>,
    mid: Middle<B>,
    norm_out: GroupNorm<B>,
    conv_out: Conv<B>,
    quant: Conv<B>,
    statistics: Statistics<B>,
}

/// Tokens to pictures.
pub struct Decoder<B: Backend> {
    be: B,
    replayed: ReplayedPass<B>,
    statistics: Statistics<B>,
    post_quant: Conv<B>,
    conv_in: Conv<B>,
    mid: Middle<B>,
    levels: Vec<Level<B>>,
    norm_out: GroupNorm<B>,
    conv_out: Conv<B>,
    kept_bytes: usize,
}

/// Mean and standard deviation of each patchified channel, f32 `[4 * latent_channels]`.
struct Statistics<B: Backend> {
    mean: Tensor<B>,
    std: Tensor<B>,
}

/// Residual blocks of one resolution, then a change of resolution.
struct Level<B: Backend> {
    blocks: Vec<ResidualBlock<B>>,
    resample: Option<Conv<B>>,
}

/// The lowest resolution: residual block, attention over all positions, residual block.
struct Middle<B: Backend> {
    first: ResidualBlock<B>,
    attention: Attention<B>,
    second: ResidualBlock<B>,
}

struct ResidualBlock<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv<B>,
    norm2: GroupNorm<B>,
    conv2: Conv<B>,
    /// 1x1, where the number of channels changes.
    shortcut: Option<Conv<B>>,
}

/// Self-attention with one head as wide as the map.
struct Attention<B: Backend> {
    norm: GroupNorm<B>,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    out: Linear<B>,
}

impl<B: Backend> Encoder<B> {
    /// Load the encoder's weights from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &VaeConfig, source: &dyn WeightSource) -> Result<Self> {
        let all = Loader::new(be, source);
        let w = all.at("encoder");
        let widths = &config.encoder_channels;
        let levels = (0..widths.len()).map(|i| {
            let before = widths[i.saturating_sub(1)];
            let resample = (i + 1 < widths.len()).then_some(("downsample", ConvShape::Downsample));
            Level::load(&w.at("down").at(i), [before, widths[i]], config.layers_per_block, resample, config)
        });
        Ok(Encoder {
            be: be.clone(),
            latent_channels: config.latent_channels,
            conv_in: Conv::load(&w.at("conv_in"), ConvShape::Same)?,
            levels: levels.collect::<Result<_>>()?,
            mid: Middle::load(&w.at("mid"), config)?,
            norm_out: GroupNorm::load(&w.at("norm_out"), config)?,
            conv_out: Conv::load(&w.at("conv_out"), ConvShape::Same)?,
            quant: Conv::load(&w.at("quant"), ConvShape::Pointwise)?,
            statistics: Statistics::load(&all, config)?,
        })
    }

    /// `pixels` `[h, w, 3]` in -1..=1, with sides that are multiples of 16 -> tokens `[h/16 * w/16, c]`, row-major.
    ///
    /// # Errors
    /// What `pulse`, called after every block, returns.
    pub fn forward(&self, pixels: &[f32], [h, w]: [usize; 2], pulse: &mut Pulse) -> Result<Vec<f32>> {
        let be = &self.be;
        let x = ops::cast(be, &be.upload(&[h, w, 3], pixels)?, be.compute().dtype())?;
        let mut x = self.conv_in.forward(be, &x)?;
        for level in &self.levels {
            x = level.forward(be, x, pulse)?;
        }
        x = self.mid.forward(be, x, pulse)?;
        x = self.conv_out.forward(be, self.norm_out.silu(be, &x)?)?;
        let moments = self.quant.forward_f32(be, &x)?; // [h/8, w/8, mean | log-variance]
        let mean = moments.slice_cols(0..self.latent_channels);
        let tokens = ops::patchify(be, &mean, &self.statistics.mean, &self.statistics.std)?;
        Ok(be.download(&tokens)?)
    }
}

impl<B: Backend> Decoder<B> {
    /// Load the decoder's weights from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &VaeConfig, source: &dyn WeightSource) -> Result<Self> {
        let all = Loader::new(be, source);
        let w = all.at("decoder");
        let widths: Vec<usize> = config.decoder_channels.iter().rev().copied().collect();
        let levels = (0..widths.len()).map(|i| {
            let before = widths[i.saturating_sub(1)];
            let resample = (i + 1 < widths.len()).then_some(("upsample", ConvShape::Upsample));
            Level::load(&w.at("up").at(i), [before, widths[i]], config.layers_per_block + 1, resample, config)
        });
        Ok(Decoder {
            be: be.clone(),
            replayed: ReplayedPass::new(),
            statistics: Statistics::load(&all, config)?,
            post_quant: Conv::load(&w.at("post_quant"), ConvShape::Pointwise)?,
            conv_in: Conv::load(&w.at("conv_in"), ConvShape::Same)?,
            mid: Middle::load(&w.at("mid"), config)?,
            levels: levels.collect::<Result<_>>()?,
            norm_out: GroupNorm::load(&w.at("norm_out"), config)?,
            conv_out: Conv::load(&w.at("conv_out"), ConvShape::Same)?,
            kept_bytes: KEPT_BYTES,
        })
    }

    /// From now on, recompute maps of any size in bands where that lowers the peak of memory.
    pub fn keep_no_large_map(&mut self) {
        self.kept_bytes = 0;
    }

    /// Free captured passes and their memory.
    pub fn clear_captures(&mut self) {
        self.replayed.clear();
    }

    /// Number of blocks, which is how often a pass calls its pulse.
    pub fn blocks(&self) -> usize {
        2 + self.levels.iter().map(|level| level.blocks.len()).sum::<usize>()
    }

    /// `tokens`, f32 `[h * w, c]`, of a token grid `[h, w]` -> pixels `[16 * h, 16 * w, 3]`, row-major.
    ///
    /// Memory peaks in the last level's first block, which halves the channels: its upsampled input is twice as large
    /// as any other map. If that exceeds `KEPT_BYTES`, the block computes it in bands, three times (for the statistics
    /// of its norm, its convolution and its shortcut), to the same bits.
    ///
    /// # Errors
    /// What `pulse`, called after every block, returns.
    pub fn forward(&self, tokens: &Tensor<B>, grid: [usize; 2], pulse: &mut Pulse) -> Result<Vec<f32>> {
        // A capture is found by its input shapes: as rows, tokens of `[h, w]` and `[w, h]` would look the same.
        let map = tokens.reshape("tokens", [grid[0], grid[1], tokens.cols()])?;
        let pixels = self.replayed.run(&self.be, &[&map], self.blocks(), pulse, |inputs, pulse| {
            self.pixels(&inputs[0].reshape("tokens", tokens.shape().to_vec())?, grid, pulse)
        })?;
        Ok(self.be.download(&pixels)?)
    }

    /// The pass that [`forward`](Self::forward) replays.
    fn pixels(&self, tokens: &Tensor<B>, grid: [usize; 2], pulse: &mut Pulse) -> Result<Tensor<B>> {
        let be = &self.be;
        let x = ops::unpatchify(be, tokens, grid, &self.statistics.mean, &self.statistics.std)?;
        let mut x = self.conv_in.forward(be, &self.post_quant.forward(be, &x)?)?;
        x = self.mid.forward(be, x, pulse)?;
        let mut upsample: Option<&Conv<B>> = None; // of the previous level, if its result is not kept
        for level in &self.levels {
            if let Some(conv) = upsample
                && conv.result_bytes(be, &x) <= self.kept_bytes
            {
                x = conv.forward(be, &x)?;
                upsample = None;
            }
            for block in &level.blocks {
                x = block.forward(be, x, upsample.take())?;
                pulse()?;
            }
            upsample = level.resample.as_ref();
        }
        self.conv_out.forward_f32(be, self.norm_out.silu(be, &x)?)
    }
}

impl<B: Backend> Statistics<B> {
    fn load(w: &Loader<B>, config: &VaeConfig) -> Result<Self> {
        let (be, bn) = (w.backend(), w.at("bn"));
        let std: Vec<f32> = bn.values("var")?.iter().map(|var| (var + config.bn_eps).sqrt()).collect();
        Ok(Statistics { mean: bn.vector("mean")?, std: be.upload(&[std.len()], &std)? })
    }
}

impl<B: Backend> Level<B> {
    fn load(
        w: &Loader<B>,
        [before, width]: [usize; 2],
        blocks: usize,
        resample: Option<(&str, ConvShape)>,
        config: &VaeConfig,
    ) -> Result<Self> {
        let block = |j| ResidualBlock::load(&w.at("res").at(j), j == 0 && before != width, config);
        Ok(Level {
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
            resample: resample.map(|(name, shape)| Conv::load(&w.at(name), shape)).transpose()?,
        })
    }

    fn forward(&self, be: &B, mut x: Tensor<B>, pulse: &mut Pulse) -> Result<Tensor<B>> {
        for block in &self.blocks {
            x = block.forward(be, x, None)?;
            pulse()?;
        }
        match &self.resample {
            Some(conv) => conv.forward(be, &x),
            None => Ok(x),
        }
    }
}

impl<B: Backend> Middle<B> {
    fn load(w: &Loader<B>, config: &VaeConfig) -> Result<Self> {
        Ok(Middle {
            first: ResidualBlock::load(&w.at("res.0"), false, config)?,
            attention: Attention::load(&w.at("attn"), config)?,
            second: ResidualBlock::load(&w.at("res.1"), false, config)?,
        })
    }

    fn forward(&self, be: &B, x: Tensor<B>, pulse: &mut Pulse) -> Result<Tensor<B>> {
        let x = self.first.forward(be, x, None)?;
        pulse()?;
        let x = self.second.forward(be, self.attention.forward(be, x)?, None)?;
        pulse()?;
        Ok(x)
    }
}

impl<B: Backend> ResidualBlock<B> {
    fn load(w: &Loader<B>, widens: bool, config: &VaeConfig) -> Result<Self> {
        Ok(ResidualBlock {
            norm1: GroupNorm::load(&w.at("norm1"), config)?,
            conv1: Conv::load(&w.at("conv1"), ConvShape::Same)?,
            norm2: GroupNorm::load(&w.at("norm2"), config)?,
            conv2: Conv::load(&w.at("conv2"), ConvShape::Same)?,
            shortcut: widens.then(|| Conv::load(&w.at("shortcut"), ConvShape::Pointwise)).transpose()?,
        })
    }

    /// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, with `x` through the shortcut if the width changes.
    ///
    /// With `upsample`, the block's input is the upsampled `x`, which is computed in bands and never stored.
    fn forward(&self, be: &B, x: Tensor<B>, upsample: Option<&Conv<B>>) -> Result<Tensor<B>> {
        let input = || upsample.map_or(ConvInput::from(&x), |conv| conv.streamed(&x));
        let h = self.conv1.forward(be, self.norm1.silu(be, input())?)?;
        let mut y = match (&self.shortcut, upsample) {
            (Some(shortcut), _) => shortcut.forward(be, input())?,
            (None, Some(conv)) => conv.forward(be, &x)?,
            (None, None) => x.clone(),
        };
        drop(x); // one map fewer, and `y` is not shared, so that it can be changed in place
        self.conv2.add_to(be, &mut y, self.norm2.silu(be, &h)?)?;
        Ok(y)
    }
}

impl<B: Backend> Attention<B> {
    fn load(w: &Loader<B>, config: &VaeConfig) -> Result<Self> {
        Ok(Attention {
            norm: GroupNorm::load(&w.at("norm"), config)?,
            q: Linear::load(&w.at("q"))?,
            k: Linear::load(&w.at("k"))?,
            v: Linear::load(&w.at("v"))?,
            out: Linear::load(&w.at("out"))?,
        })
    }

    fn forward(&self, be: &B, mut x: Tensor<B>) -> Result<Tensor<B>> {
        let [h, w, c] = x.dims("attention: x")?;
        let n = self.norm.forward(be, &x)?.reshape("attention: x", [h * w, c])?;
        let (q, k, v) = (self.q.forward(be, &n)?, self.k.forward(be, &n)?, self.v.forward(be, &n)?);
        let operands = AttentionInput { q: &q, k: &k, v: &v, head_dim: c, mask: AttentionMask::None };
        let attention = ops::attention(be, &operands)?; // [h * w, c]
        self.out.add_to(be, &mut x, &attention.reshape("attention: out", [h, w, c])?)?;
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flux2_backend::testing::random;
    use flux2_backend::{Compute, CpuBackend, CpuOptions, Runtime as _};

    use super::*;
    use crate::golden::{Golden, assert_relative, f32_backend, fixture};
    use crate::weights::Component;

    /// Compare one part of the networks with the golden tensors `NAME.in` and `NAME.out`.
    fn check(
        name: &str,
        run: impl Fn(&Encoder<CpuBackend>, &Decoder<CpuBackend>, Tensor<CpuBackend>) -> Tensor<CpuBackend>,
    ) {
        let golden = Golden::open("seams");
        let be = f32_backend();
        let part = Component::<VaeConfig>::open(Path::new(&fixture("tiny/klein/vae"))).unwrap();
        let weights = part.map().unwrap();
        let encoder = Encoder::load(&be, &part.config, &weights).unwrap();
        let decoder = Decoder::load(&be, &part.config, &weights).unwrap();
        let (input, expected) = (format!("{name}.in"), format!("{name}.out"));
        let &[c, h, w] = &golden.shape(&input)[..] else { panic!("{input} is no map") };
        let x = be.upload(&[h, w, c], &golden.channels_last(&input)).unwrap();
        let y = be.download(&run(&encoder, &decoder, x)).unwrap();
        assert_relative(name, &y, &golden.channels_last(&expected), 1e-6);
    }

    #[test]
    fn residual_block_with_shortcut_matches_the_reference() {
        check("vae.resnet", |encoder, _, x| encoder.levels[2].blocks[0].forward(&encoder.be, x, None).unwrap());
    }

    #[test]
    fn downsample_pads_bottom_and_right_only() {
        check("vae.downsample", |encoder, _, x| {
            encoder.levels[2].resample.as_ref().unwrap().forward(&encoder.be, &x).unwrap()
        });
    }

    #[test]
    fn attention_matches_the_reference() {
        check("vae.mid_attention", |encoder, _, x| encoder.mid.attention.forward(&encoder.be, x).unwrap());
    }

    #[test]
    fn upsample_doubles_and_convolves() {
        check("vae.upsample", |_, decoder, x| {
            decoder.levels[0].resample.as_ref().unwrap().forward(&decoder.be, &x).unwrap()
        });
    }

    /// The tiny decoder for a grid of `side` x `side` tokens: pixels, and the peak of memory in bytes.
    fn decode(compute: Compute, side: usize, kept_bytes: usize) -> (Vec<f32>, usize) {
        let be = CpuBackend::new(CpuOptions { compute, ..Default::default() }).unwrap();
        let part = Component::<VaeConfig>::open(Path::new(&fixture("tiny/klein/vae"))).unwrap();
        let mut decoder = Decoder::load(&be, &part.config, &part.map().unwrap()).unwrap();
        decoder.kept_bytes = kept_bytes;
        let shape = [side * side, 4 * part.config.latent_channels];
        let tokens = be.upload(&shape, &random("tokens", &shape)).unwrap();
        let pixels = decoder.forward(&tokens, [side, side], &mut || Ok(())).unwrap();
        (pixels, be.peak_bytes())
    }

    #[test]
    fn streaming_changes_no_bit() {
        for compute in [Compute::F32, Compute::Bf16] {
            assert!(decode(compute, 5, 0).0 == decode(compute, 5, usize::MAX).0, "{compute}");
        }
    }

    /// At the peak, in the last level's first block, the upsampled map (16 channels here, 256 in klein's autoencoder)
    /// and two of half as many live. For klein, that is 1 GiB at 1024x1024.
    #[test]
    fn maps_live_once() {
        let (side, [wide, narrow]) = (96, [16, 8]);
        let pixels = (16 * side) * (16 * side);
        let (_, kept) = decode(Compute::Bf16, side, usize::MAX);
        // The allowance is less than another map: scratch, and where products are in f32 a band of 16 MiB.
        assert!(kept <= 2 * pixels * (wide + 2 * narrow) + (24 << 20), "{kept} bytes");
        let (_, streamed) = decode(Compute::Bf16, side, 0);
        assert!(streamed < kept, "{streamed} and {kept} bytes");
    }

    #[test]
    fn group_norms_and_statistics_have_epsilons_of_their_own() {
        let config = Component::<VaeConfig>::open(Path::new(&fixture("tiny/klein/vae"))).unwrap().config;
        assert_eq!((config.group_norm_eps, config.bn_eps), (1e-6, 1e-4));
    }
}
