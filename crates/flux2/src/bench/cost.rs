//! The floating-point operations of a request, from the sizes of the networks: what its time is compared with.
//!
//! Only products count, a multiply-add as two operations; all other work is under 1 %. Counted is what the recipe asks
//! for, not what a kernel does in addition, such as masked attention or the padding of tiles.

use std::iter::Sum;
use std::ops::{Add, Mul};

use crate::Result;
use crate::request::{GRID_PX, ResolvedRequest};
use crate::text::Tokenizer;
use crate::variant::Procedure;
use crate::weights::{ModelFiles, TextConfig, TransformerConfig, VaeConfig};

/// Floating-point operations by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// Products with the matrices of the flow transformer's blocks.
    pub blocks: f64,
    /// Products with other matrices.
    pub linear: f64,
    /// Attention: queries by keys, and their softmax by values.
    pub attention: f64,
    /// Convolutions, 1x1 and 3x3.
    pub convolution: f64,
}

impl Flops {
    /// The sum of all kinds.
    pub fn total(self) -> f64 {
        self.blocks + self.linear + self.attention + self.convolution
    }

    fn linear(rows: usize, parameters: usize) -> Self {
        Flops { linear: 2.0 * rows as f64 * parameters as f64, ..Flops::default() }
    }

    /// One block: `rows` through its matrices, and `pairs` of a query and a key.
    fn block(c: &TransformerConfig, rows: usize, pairs: usize) -> Self {
        let blocks = 2.0 * rows as f64 * block_parameters(c) as f64;
        Flops { blocks, ..Flops::attention(pairs, c.hidden()) }
    }

    /// `pairs` of a query and a key it attends to, with `width` features in all heads together.
    fn attention(pairs: usize, width: usize) -> Self {
        Flops { attention: 4.0 * pairs as f64 * width as f64, ..Flops::default() }
    }

    /// A convolution with `pixels` output pixels.
    fn convolution(pixels: usize, [c_in, c_out]: [usize; 2], kernel: usize) -> Self {
        Flops { convolution: 2.0 * pixels as f64 * (kernel * kernel * c_in * c_out) as f64, ..Flops::default() }
    }
}

impl Add for Flops {
    type Output = Flops;

    fn add(self, other: Flops) -> Flops {
        Flops {
            blocks: self.blocks + other.blocks,
            linear: self.linear + other.linear,
            attention: self.attention + other.attention,
            convolution: self.convolution + other.convolution,
        }
    }
}

impl Mul<usize> for Flops {
    type Output = Flops;

    fn mul(self, times: usize) -> Flops {
        let times = times as f64;
        Flops {
            blocks: self.blocks * times,
            linear: self.linear * times,
            attention: self.attention * times,
            convolution: self.convolution * times,
        }
    }
}

impl Sum for Flops {
    fn sum<I: Iterator<Item = Flops>>(flops: I) -> Flops {
        flops.fold(Flops::default(), Add::add)
    }
}

/// Floating-point operations of a request, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Prompt to text embedding; with guidance also that of the empty prompt.
    pub text: Flops,
    /// References to tokens, all of them.
    pub references: Flops,
    /// Before the first step: text and reference embedders, modulations, cached keys and values of references.
    pub prepare: Flops,
    /// One denoising step; with guidance both passes.
    pub step: Flops,
    /// Number of denoising steps.
    pub steps: usize,
    /// Latents to pixels.
    pub decode: Flops,
}

impl Cost {
    /// The cost of `request` on the model `files`.
    ///
    /// # Errors
    /// If the model's tokenizer cannot be read: the prompt's token count sets the cost of attention in the text
    /// encoder.
    pub fn of(files: &ModelFiles, request: &ResolvedRequest) -> Result<Self> {
        let text = &files.text_encoder.config;
        let tokenizer = match &files.tokenizer {
            Some(file) => Tokenizer::from_file(file.clone())?,
            None => Tokenizer::builtin(),
        };
        Ok(Self::with_text(files, request, |prompt| {
            let tokens = tokenizer.encode_prompt(prompt, text.max_length);
            text_encoder(text, tokens.ids.len(), tokens.valid)
        }))
    }

    /// As [`of`](Self::of) with prompts that fill the text encoder: needs no tokenizer and is at most a few percent
    /// more.
    pub fn at_most(files: &ModelFiles, request: &ResolvedRequest) -> Self {
        let text = &files.text_encoder.config;
        Self::with_text(files, request, |_| text_encoder(text, text.max_length, text.max_length))
    }

    /// The cost of `request`, where `encode` gives that of a prompt.
    fn with_text(files: &ModelFiles, request: &ResolvedRequest, encode: impl Fn(&str) -> Flops) -> Self {
        let (text, transformer, vae) = (&files.text_encoder.config, &files.transformer.config, &files.vae.config);
        let is_guided = request.guidance.is_some_and(|g| g > 1.0);
        let passes = if is_guided { 2 } else { 1 };
        let is_cached = files.variant.procedure == Procedure::KvCache;

        let grid = |px: [u32; 2]| px.map(|px| (px / GRID_PX) as usize);
        let images: Vec<[usize; 2]> = request.reference_px().map(|[width, height]| grid([height, width])).collect();
        let n_ref = images.iter().map(|[h, w]| h * w).sum();
        let [h, w] = request.grid();
        let tokens = Tokens { text: text.max_length, image: h * w, references: n_ref };
        let steps = request.steps as usize;
        let cache = if is_cached { reference_cache(transformer, n_ref) } else { Flops::default() };
        Cost {
            text: encode(&request.prompt) + if is_guided { encode("") } else { Flops::default() },
            references: images.iter().map(|size| encoder(vae, *size)).sum(),
            prepare: embedders(transformer, tokens, steps, passes) + cache,
            step: step(transformer, tokens, is_cached) * passes,
            steps,
            decode: decoder(vae, [h, w]),
        }
    }

    /// The cost of `pictures` such requests, made together.
    pub fn of_pictures(&self, pictures: usize) -> Self {
        Cost {
            text: self.text * pictures,
            references: self.references * pictures,
            prepare: self.prepare * pictures,
            step: self.step * pictures,
            steps: self.steps,
            decode: self.decode * pictures,
        }
    }

    /// The cost of the whole request.
    pub fn total(&self) -> Flops {
        self.text + self.references + self.prepare + self.step * self.steps + self.decode
    }
}

/// Token counts of the three streams of a step.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    text: usize,
    image: usize,
    references: usize,
}

/// `rows` through the layers up to the last tap; the first `valid` of them have keys and values.
fn text_encoder(c: &TextConfig, rows: usize, valid: usize) -> Flops {
    let (d, q, kv) = (c.hidden, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let pairs = valid * (valid + 1) / 2 + (rows - valid) * valid;
    let layer = Flops::linear(rows, 2 * d * q + 3 * d * c.intermediate)
        + Flops::linear(valid, 2 * d * kv)
        + Flops::attention(pairs, q);
    layer * c.used_layers()
}

/// Parameters that a token meets in a block of either kind: the projections before and after attention, and the MLP. A
/// double block has these matrices once for each stream, and a token meets one set.
fn block_parameters(c: &TransformerConfig) -> usize {
    let d = c.hidden();
    4 * d * d + 3 * d * c.mlp_hidden
}

/// One pass at one noise level. Cached references only contribute keys and values.
fn step(c: &TransformerConfig, tokens: Tokens, is_cached: bool) -> Flops {
    let seen = tokens.text + tokens.image + tokens.references;
    let rows = if is_cached { tokens.text + tokens.image } else { seen };
    let block = Flops::block(c, rows, rows * seen);
    // `img_in` and `final.proj` have the same size.
    block * (c.double_blocks + c.single_blocks) + Flops::linear(tokens.image, 2 * c.hidden() * c.in_channels)
}

/// Work before the first step: text (of each pass) and references through their embedders, the modulations of all
/// steps.
fn embedders(c: &TransformerConfig, tokens: Tokens, steps: usize, passes: usize) -> Flops {
    let d = c.hidden();
    let modulations = d * c.time_channels + d * d + (6 + 6 + 3 + 2) * d * d;
    Flops::linear(tokens.text, d * c.context_dim) * passes
        + Flops::linear(tokens.references, d * c.in_channels)
        + Flops::linear(steps, modulations)
}

/// The pass that fills the reference cache: references alone through all blocks.
fn reference_cache(c: &TransformerConfig, rows: usize) -> Flops {
    let block = Flops::block(c, rows, rows * rows);
    block * (c.double_blocks + c.single_blocks)
}

/// Pixels to tokens, for a token grid `[h, w]`.
fn encoder(c: &VaeConfig, [h, w]: [usize; 2]) -> Flops {
    let mut pixels = 256 * h * w;
    let (widths, z) = (&c.encoder_channels, c.latent_channels);
    let mut width = widths[0];
    let mut flops = Flops::convolution(pixels, [3, width], 3);
    for (i, &next) in widths.iter().enumerate() {
        flops = flops + level(pixels, [width, next], c.layers_per_block);
        width = next;
        if i + 1 < widths.len() {
            pixels /= 4;
            flops = flops + Flops::convolution(pixels, [width, width], 3);
        }
    }
    flops
        + middle(pixels, width)
        + Flops::convolution(pixels, [width, 2 * z], 3)
        + Flops::convolution(pixels, [2 * z, 2 * z], 1)
}

/// Tokens to pixels, for a token grid `[h, w]`.
fn decoder(c: &VaeConfig, [h, w]: [usize; 2]) -> Flops {
    let mut pixels = 4 * h * w;
    let (widths, z) = (&c.decoder_channels, c.latent_channels);
    let mut width = widths[widths.len() - 1];
    let mut flops =
        Flops::convolution(pixels, [z, z], 1) + Flops::convolution(pixels, [z, width], 3) + middle(pixels, width);
    for (i, &next) in widths.iter().enumerate().rev() {
        flops = flops + level(pixels, [width, next], c.layers_per_block + 1);
        width = next;
        if i > 0 {
            pixels *= 4;
            flops = flops + Flops::convolution(pixels, [width, width], 3);
        }
    }
    flops + Flops::convolution(pixels, [width, 3], 3)
}

/// Residual blocks of one resolution; the first may change the width.
fn level(pixels: usize, [before, width]: [usize; 2], blocks: usize) -> Flops {
    let shortcut = if before == width { Flops::default() } else { Flops::convolution(pixels, [before, width], 1) };
    Flops::convolution(pixels, [before, width], 3)
        + Flops::convolution(pixels, [width, width], 3) * (2 * blocks - 1)
        + shortcut
}

/// Residual block, attention of one head, residual block.
fn middle(pixels: usize, width: usize) -> Flops {
    level(pixels, [width, width], 2)
        + Flops::linear(pixels, 4 * width * width)
        + Flops::attention(pixels * pixels, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{GenerateRequest, Reference};
    use crate::variant::Variant;

    fn cost(variant: &str, request: GenerateRequest) -> Cost {
        let files = ModelFiles::synthetic(Variant::by_name(variant).unwrap()).unwrap();
        Cost::of(&files, &ResolvedRequest::new(&request, files.variant).unwrap()).unwrap()
    }

    fn square(side: u32) -> GenerateRequest {
        GenerateRequest { width: Some(side), height: Some(side), ..Default::default() }
    }

    fn assert_tera(what: &str, flops: f64, expected: f64, tolerance: f64) {
        let tera = flops / 1e12;
        assert!((tera / expected - 1.0).abs() < tolerance, "{what}: {tera} TFLOP, expected {expected}");
    }

    /// Counted by hand and by a profiler of the reference implementation, which embeds the text at every step.
    #[test]
    fn klein_4b_costs_what_is_published_of_it() {
        for (side, linear, attention, decode) in
            [(256, 4.74, 0.18, 0.62), (512, 9.45, 0.73, 2.5), (1024, 28.3, 6.5, 10.5)]
        {
            let cost = cost("klein-4b", square(side));
            let products = cost.step + cost.prepare;
            assert_tera("linear", products.blocks + products.linear, linear, 0.005);
            assert_tera("attention", cost.step.attention, attention, 0.01);
            assert_tera("decode", cost.decode.total(), decode, 0.02);
        }
        // A prompt that fills all rows.
        let config = ModelFiles::synthetic(Variant::by_name("klein-4b").unwrap()).unwrap().text_encoder.config;
        assert_tera("text", text_encoder(&config, 512, 512).total(), 2.9, 0.02);
    }

    #[test]
    fn keys_and_values_of_padding_cost_nothing() {
        let config = ModelFiles::synthetic(Variant::by_name("klein-4b").unwrap()).unwrap().text_encoder.config;
        let (short, long) = (text_encoder(&config, 512, 20), text_encoder(&config, 512, 512));
        let each = 2.0 * 2.0 * (2560 * 1024 * 27) as f64;
        assert_eq!(long.linear - short.linear, 492.0 * each);
        assert_eq!(text_encoder(&config, 512, 1).attention, 4.0 * (512 * 4096 * 27) as f64);
    }

    #[test]
    fn a_prompt_that_fills_the_text_encoder_costs_the_most() {
        let files = ModelFiles::synthetic(Variant::by_name("klein-4b").unwrap()).unwrap();
        let request = ResolvedRequest::new(&square(512), files.variant).unwrap();
        let (of, most) = (Cost::of(&files, &request).unwrap(), Cost::at_most(&files, &request));
        assert!(most.text.total() > of.text.total());
        assert_eq!(Cost { text: of.text, ..most }, of);
    }

    #[test]
    fn guidance_takes_two_passes_and_two_texts() {
        let (one, two) = (
            cost("klein-base-4b", GenerateRequest { guidance: Some(1.0), ..square(256) }),
            cost("klein-base-4b", GenerateRequest { guidance: Some(4.0), ..square(256) }),
        );
        assert_eq!(two.step, one.step * 2);
        assert_eq!(two.text, one.text * 2); // both prompts are empty
        assert_eq!((two.steps, two.decode), (50, one.decode));
        let total = two.text.total() + two.prepare.total() + 50.0 * two.step.total() + two.decode.total();
        assert!((two.total().total() / total - 1.0).abs() < 1e-12);
    }

    #[test]
    fn references_pass_in_every_step_or_once() {
        let image = crate::image::RgbImage::new(256, 128, vec![0; 256 * 128 * 3]).unwrap();
        let request = || GenerateRequest { references: vec![Reference::from_image(image.clone())], ..square(256) };
        let (plain, with) = (cost("klein-9b", square(256)), cost("klein-9b", request()));
        let rows = 512f64 + 256.0;
        assert_eq!(plain.references, Flops::default());
        let blocks = |cost: Cost| cost.step.attention;
        assert!((blocks(with) / blocks(plain) - ((rows + 128.0) / rows).powi(2)).abs() < 1e-12);
        // The encoder is the decoder's mirror with fewer blocks.
        assert!(with.references.total() > 0.1 * with.decode.total() && with.references.total() < with.decode.total());

        let cached = cost("klein-9b-kv", request());
        assert_eq!((cached.step.blocks, cached.step.linear), (plain.step.blocks, plain.step.linear));
        assert!((blocks(cached) / blocks(plain) - (rows + 128.0) / rows).abs() < 1e-12);
        assert!(cached.prepare.total() > with.prepare.total());
    }
}
