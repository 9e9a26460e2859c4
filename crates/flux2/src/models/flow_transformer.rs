//! The flow transformer: predicts the velocity that carries noisy latents towards the picture.
//!
//! In:  latents `[n_img, c]`, text embedding `[n_txt, d_text]`, reference tokens `[n_ref, c]`, position ids, the noise
//!      level sigma in 0..=1 (through its [`ModulationRows`]).
//! Out: velocity `[n_img, c]`, noise minus data.
//!
//! Double blocks keep two streams, text and image, with joint attention; single blocks run on `[text | image]`. Text
//! comes first in every concatenation. Reference tokens follow the image tokens in the image stream and are dropped
//! before the head. The noise level modulates each block by a shift, a scale and a gate, the same for all blocks of a
//! kind.
//!
//! In the KV variant references attend only to each other, at noise level 0, so their keys and values are the same at
//! every step. [`FlowTransformer::reference_cache`] computes them once, and each step inserts them between those of the
//! text and of the image.
//!
//! Follows `Flux2Transformer2DModel` in diffusers.

mod modulation;

use std::sync::Arc;

use flux2_backend::{
    AttentionInput, AttentionMask, Backend, ModulatedLayerNorm, Rope, RopeLayout, Tensor, Weight, ops,
};

use super::Pulse;
use super::layers::Loader;
use super::replay::ReplayedPass;
use crate::Result;
use crate::latents::{self, PositionId, rope_tables, timestep_embedding};
use crate::weights::{TransformerConfig, WeightSource};

pub use modulation::ModulationRows;
use modulation::{Modulation, Modulations};

/// The flow transformer with its weights.
pub struct FlowTransformer<B: Backend> {
    be: B,
    replayed: ReplayedPass<B>,
    config: TransformerConfig,
    img_in: Weight<B>,
    txt_in: Weight<B>,
    time_in: [Weight<B>; 2],
    modulation_img: Weight<B>,
    modulation_txt: Weight<B>,
    modulation_single: Weight<B>,
    double_blocks: Vec<DoubleBlock<B>>,
    single_blocks: Vec<SingleBlock<B>>,
    final_modulation: Weight<B>,
    final_proj: Weight<B>,
}

/// Reference images as the transformer takes them; no references are empty `Tokens`.
pub enum References<'a, B: Backend> {
    /// Tokens `[n_ref, c]`, appended to those of the image at every step, and their position ids.
    Tokens(&'a [f32], &'a [PositionId]),
    /// Keys and values computed once, for the KV variant.
    Cached(Arc<ReferenceCache<B>>),
}

/// Inputs that are the same at all steps of one picture, prepared before the first.
pub struct Conditioning<B: Backend> {
    /// The text after its embedder, f32 `[n_txt, hidden]`.
    text: Tensor<B>,
    /// Reference tokens after their embedder, f32 `[n_ref, hidden]`, unless they are in `cache` or there are none.
    references: Option<Tensor<B>>,
    /// Keys and values of the references, for the KV variant.
    cache: Option<Arc<ReferenceCache<B>>>,
    /// Rotary tables of text, image and (without `cache`) reference tokens.
    rope: Rope<B>,
}

/// Keys and values of the reference tokens in every block, normalized and rotated: 2 x `[n_ref, hidden]` for each
/// block, which is 2 GiB for a megapixel in the 9B model.
pub struct ReferenceCache<B: Backend> {
    double: Vec<KeysValues<B>>,
    single: Vec<KeysValues<B>>,
}

/// Keys and values of one block, each `[n_ref, hidden]`.
struct KeysValues<B: Backend> {
    keys: Tensor<B>,
    values: Tensor<B>,
}

impl<B: Backend> FlowTransformer<B> {
    /// Load the weights from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &TransformerConfig, source: &dyn WeightSource) -> Result<Self> {
        let w = Loader::new(be, source);
        let double = |i| DoubleBlock::load(&w.at("double").at(i));
        let single = |i| SingleBlock::load(&w.at("single").at(i));
        Ok(FlowTransformer {
            be: be.clone(),
            replayed: ReplayedPass::new(),
            config: config.clone(),
            img_in: w.matrix("img_in")?,
            txt_in: w.matrix("txt_in")?,
            time_in: [w.matrix("time_in.0")?, w.matrix("time_in.1")?],
            modulation_img: w.matrix("modulation.img")?,
            modulation_txt: w.matrix("modulation.txt")?,
            modulation_single: w.matrix("modulation.single")?,
            double_blocks: (0..config.double_blocks).map(double).collect::<Result<_>>()?,
            single_blocks: (0..config.single_blocks).map(single).collect::<Result<_>>()?,
            final_modulation: w.matrix("final.modulation")?,
            final_proj: w.matrix("final.proj")?,
        })
    }

    /// Free captured passes and their memory.
    pub fn clear_captures(&mut self) {
        self.replayed.clear();
    }

    /// Number of blocks, which is how often a pass calls its pulse.
    pub fn blocks(&self) -> usize {
        self.double_blocks.len() + self.single_blocks.len()
    }

    /// Prepare text, f32 `[n_txt, d_text]`, and references for an image of `grid` rows and columns of tokens.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn condition(
        &self,
        text_embedding: &Tensor<B>,
        [h, w]: [usize; 2],
        references: &References<B>,
    ) -> Result<Conditioning<B>> {
        let text = self.embed(text_embedding, &self.txt_in)?;
        let mut ids = latents::text_ids(text.rows());
        ids.extend(latents::image_ids(h, w));
        let (references, cache) = match references {
            References::Cached(cache) => (None, Some(Arc::clone(cache))),
            References::Tokens([], _) => (None, None),
            References::Tokens(tokens, reference_ids) => {
                ids.extend(*reference_ids);
                (Some(self.embed(&self.upload(tokens)?, &self.img_in)?), None)
            }
        };
        Ok(Conditioning { text, references, cache, rope: self.rope(&ids)? })
    }

    /// The conditioning of the same picture with another text, f32 `[n_txt, d_text]` with as many tokens, such as the
    /// empty prompt of guidance. References and rotary tables are shared with `conditioning`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_text(&self, conditioning: &Conditioning<B>, text_embedding: &Tensor<B>) -> Result<Conditioning<B>> {
        let text = self.embed(text_embedding, &self.txt_in)?;
        text.expect_shape("another text", conditioning.text.shape())?;
        let Conditioning { references, cache, rope, .. } = conditioning;
        Ok(Conditioning { text, references: references.clone(), cache: cache.clone(), rope: rope.clone() })
    }

    /// Run reference tokens `[n_ref, c]` alone through all blocks, at noise level 0, and keep their keys and values.
    ///
    /// # Errors
    /// What `pulse` returns, or if shapes do not fit.
    pub fn reference_cache(&self, tokens: &[f32], ids: &[PositionId], pulse: &mut Pulse) -> Result<ReferenceCache<B>> {
        let rope = self.rope(ids)?;
        let modulations = Modulations::new(&self.modulations(&[0.0])?.remove(0).0);
        let pass = self.pass(&modulations, &rope, 0);
        let mut image = self.embed(&self.upload(tokens)?, &self.img_in)?; // [n_ref, hidden]
        let mut cache = ReferenceCache { double: Vec::new(), single: Vec::new() };
        for block in &self.double_blocks {
            cache.double.push(block.forward_references(&pass, &mut image)?);
            pulse()?;
        }
        for block in &self.single_blocks {
            cache.single.push(block.forward_references(&pass, &mut image)?);
            pulse()?;
        }
        Ok(cache)
    }

    /// The modulations at each of the noise levels `sigmas`.
    ///
    /// # Errors
    /// If the backend has no room.
    pub fn modulations(&self, sigmas: &[f32]) -> Result<Vec<ModulationRows<B>>> {
        let be = &self.be;
        let channels = self.config.time_channels;
        let waves: Vec<f32> = sigmas.iter().flat_map(|sigma| timestep_embedding(*sigma, channels)).collect();
        let waves = ops::cast(be, &be.upload(&[sigmas.len(), channels], &waves)?, be.compute().dtype())?;
        let h = ops::silu(be, &ops::linear_f32(be, &waves, &self.time_in[0], None)?)?; // [steps, hidden]
        let time = ops::silu(be, &ops::linear_f32(be, &h, &self.time_in[1], None)?)?; // [steps, hidden]
        let img = ops::linear_f32(be, &time, &self.modulation_img, None)?; // [steps, 6 * hidden]
        let txt = ops::linear_f32(be, &time, &self.modulation_txt, None)?; // [steps, 6 * hidden]
        let single = ops::linear_f32(be, &time, &self.modulation_single, None)?; // [steps, 3 * hidden]
        let last = ops::linear_f32(be, &time, &self.final_modulation, None)?; // [steps, 2 * hidden]
        let step = |i: usize| ModulationRows([&img, &txt, &single, &last].map(|x| x.slice_rows(i..i + 1)));
        Ok((0..sigmas.len()).map(step).collect())
    }

    /// The velocity of `latents`, f32 `[n_img, c]`, at the noise level of `modulations` -> f32 `[n_img, c]`. A backend
    /// that can replays the pass from its second call on.
    ///
    /// # Errors
    /// What `pulse` returns, or if shapes do not fit.
    pub fn forward(
        &self,
        latents: &Tensor<B>,
        conditioning: &Conditioning<B>,
        modulations: &ModulationRows<B>,
        pulse: &mut Pulse,
    ) -> Result<Tensor<B>> {
        let Conditioning { text, references, cache, rope } = conditioning;
        let ModulationRows(rows) = modulations;
        if let Some(cache) = cache {
            // Not replayed: a capture copies its inputs, and the cache has gigabytes.
            return self.pass_through(latents, [text, &rope.cos, &rope.sin], None, Some(cache), rows, pulse);
        }
        let mut inputs = vec![latents, text, &rope.cos, &rope.sin];
        inputs.extend(rows);
        inputs.extend(references);
        self.replayed.run(&self.be, &inputs, self.blocks(), pulse, |inputs, pulse| {
            let [latents, text, cos, sin, rows @ ..] = inputs else { unreachable!("in the order of above") };
            let (rows, references) = rows.split_at(4);
            let rows = rows.try_into().expect("split after four rows");
            self.pass_through(latents, [text, cos, sin], references.first(), None, rows, pulse)
        })
    }

    /// The pass that [`forward`](Self::forward) replays.
    fn pass_through(
        &self,
        latents: &Tensor<B>,
        [text, cos, sin]: [&Tensor<B>; 3],
        references: Option<&Tensor<B>>,
        cache: Option<&ReferenceCache<B>>,
        modulations: &[Tensor<B>; 4],
        pulse: &mut Pulse,
    ) -> Result<Tensor<B>> {
        let be = &self.be;
        let (n_img, n_txt) = (latents.rows(), text.rows());
        let rope = Rope { cos: cos.clone(), sin: sin.clone(), layout: RopeLayout::Interleaved };
        let modulations = &Modulations::new(modulations);
        let pass = self.pass(modulations, &rope, n_txt);

        let latents = ops::cast(be, latents, be.compute().dtype())?;
        let mut text = text.clone(); // [n_txt, hidden]
        let mut image = ops::linear_f32(be, &latents, &self.img_in, None)?; // [n_img, hidden]
        if let Some(references) = references {
            image = ops::concat_rows(be, &[&image, references])?; // [n_img + n_ref, hidden]
        }
        for (i, block) in self.double_blocks.iter().enumerate() {
            block.forward(&pass, &mut text, &mut image, cache.map(|c| &c.double[i]))?;
            pulse()?;
        }
        let mut joint = ops::concat_rows(be, &[&text, &image])?; // [n_txt + n_img (+ n_ref), hidden]
        for (i, block) in self.single_blocks.iter().enumerate() {
            block.forward(&pass, &mut joint, cache.map(|c| &c.single[i]))?;
            pulse()?;
        }
        self.head(&joint.slice_rows(n_txt..n_txt + n_img), modulations)
    }

    /// Image tokens after the last block -> their velocity, f32 `[n_img, c]`.
    fn head(&self, image: &Tensor<B>, m: &Modulations<B>) -> Result<Tensor<B>> {
        let be = &self.be;
        let (shift, scale, feeds) = (&m.final_shift, &m.final_scale, Some(&self.final_proj));
        let norm = ModulatedLayerNorm { shift, scale, eps: self.config.eps, feeds };
        let image = ops::modulated_layer_norm(be, image, &norm)?;
        Ok(ops::linear_f32(be, &image, &self.final_proj, None)?)
    }

    fn pass<'a>(&'a self, modulations: &'a Modulations<B>, rope: &'a Rope<B>, n_txt: usize) -> Pass<'a, B> {
        let TransformerConfig { head_dim, eps, .. } = self.config;
        Pass { be: &self.be, modulations, rope, n_txt, head_dim, eps }
    }

    /// Tokens `[n, c]` from the host.
    fn upload(&self, tokens: &[f32]) -> Result<Tensor<B>> {
        let c = self.config.in_channels;
        Ok(self.be.upload(&[tokens.len() / c, c], tokens)?)
    }

    /// f32 `[n, d]` through an embedder -> f32 `[n, hidden]`.
    fn embed(&self, rows: &Tensor<B>, embedder: &Weight<B>) -> Result<Tensor<B>> {
        let rows = ops::cast(&self.be, rows, self.be.compute().dtype())?;
        Ok(ops::linear_f32(&self.be, &rows, embedder, None)?)
    }

    fn rope(&self, ids: &[PositionId]) -> Result<Rope<B>> {
        let (cos, sin) = rope_tables(ids, &self.config.rope_axes, self.config.rope_theta);
        let shape = [ids.len(), self.config.head_dim / 2];
        let (cos, sin) = (self.be.upload(&shape, &cos)?, self.be.upload(&shape, &sin)?);
        Ok(Rope { cos, sin, layout: RopeLayout::Interleaved })
    }
}

/// Arguments that all blocks of a pass share.
struct Pass<'a, B: Backend> {
    be: &'a B,
    modulations: &'a Modulations<B>,
    /// For all tokens, text first.
    rope: &'a Rope<B>,
    n_txt: usize,
    head_dim: usize,
    eps: f32,
}

impl<B: Backend> Pass<'_, B> {
    /// Split `qkv`, `[n, 3 * hidden]` for the tokens from `first` on; normalize and rotate its queries and keys.
    fn project(&self, qkv: &Tensor<B>, q_norm: &Tensor<B>, k_norm: &Tensor<B>, first: usize) -> Result<Projected<B>> {
        let [q, k, v] = qkv.chunk_cols(); // 3 x [n, hidden]
        let rope = self.rope.slice_rows(first..first + qkv.rows());
        let q = ops::norm_rope(self.be, &q, q_norm, &rope, self.eps)?;
        let k = ops::norm_rope(self.be, &k, k_norm, &rope, self.eps)?;
        Ok(Projected { q, k, v })
    }

    /// The modulated norm of `x` `[n, hidden]`, whose result `feeds` multiplies.
    fn norm(&self, x: &Tensor<B>, m: &Modulation<B>, feeds: &Weight<B>) -> Result<Tensor<B>> {
        let norm = ModulatedLayerNorm { shift: &m.shift, scale: &m.scale, eps: self.eps, feeds: Some(feeds) };
        Ok(ops::modulated_layer_norm(self.be, x, &norm)?)
    }

    /// Concatenate the rows of text, cached references (if any) and image.
    fn joint(&self, text: &Tensor<B>, cached: Option<&Tensor<B>>, image: &Tensor<B>) -> Result<Tensor<B>> {
        let parts: &[&Tensor<B>] = if let Some(cached) = cached { &[text, cached, image] } else { &[text, image] };
        Ok(ops::concat_rows(self.be, parts)?)
    }

    fn attention(&self, q: &Tensor<B>, k: &Tensor<B>, v: &Tensor<B>) -> Result<Tensor<B>> {
        Ok(ops::attention(self.be, &AttentionInput { q, k, v, head_dim: self.head_dim, mask: AttentionMask::None })?)
    }
}

/// Queries, keys and values of a block, each `[n, hidden]`; queries and keys are normalized and rotated.
struct Projected<B: Backend> {
    q: Tensor<B>,
    k: Tensor<B>,
    v: Tensor<B>,
}

impl<B: Backend> Projected<B> {
    /// Keys and values for the cache. The values are copied, since they are a view that would keep all of `qkv` alive.
    fn keep(&self, be: &B) -> Result<KeysValues<B>> {
        Ok(KeysValues { keys: self.k.clone(), values: ops::concat_rows(be, &[&self.v])? })
    }
}

/// A block with separate weights for the text and the image stream.
struct DoubleBlock<B: Backend> {
    img: Stream<B>,
    txt: Stream<B>,
}

impl<B: Backend> DoubleBlock<B> {
    fn load(w: &Loader<B>) -> Result<Self> {
        Ok(DoubleBlock { img: Stream::load(&w.at("img"))?, txt: Stream::load(&w.at("txt"))? })
    }

    /// Joint attention, then each stream's MLP. `text` is `[n_txt, hidden]`, `image` `[n_img (+ n_ref), hidden]`.
    fn forward(
        &self,
        pass: &Pass<B>,
        text: &mut Tensor<B>,
        image: &mut Tensor<B>,
        cached: Option<&KeysValues<B>>,
    ) -> Result<()> {
        // A scope, so that queries, keys and values are freed before the MLPs allocate.
        let attention = {
            let t = self.txt.qkv(pass, text, &pass.modulations.txt[0], 0)?;
            let x = self.img.qkv(pass, image, &pass.modulations.img[0], pass.n_txt)?;
            let q = pass.joint(&t.q, None, &x.q)?;
            let k = pass.joint(&t.k, cached.map(|c| &c.keys), &x.k)?;
            let v = pass.joint(&t.v, cached.map(|c| &c.values), &x.v)?;
            pass.attention(&q, &k, &v)? // [n_txt + n_img (+ n_ref), hidden]
        };
        self.txt.finish(pass, text, &attention.slice_rows(0..pass.n_txt), &pass.modulations.txt)?;
        self.img.finish(pass, image, &attention.slice_rows(pass.n_txt..attention.rows()), &pass.modulations.img)
    }

    /// The image stream alone, on reference tokens `[n_ref, hidden]` that attend only to each other.
    fn forward_references(&self, pass: &Pass<B>, image: &mut Tensor<B>) -> Result<KeysValues<B>> {
        let x = self.img.qkv(pass, image, &pass.modulations.img[0], 0)?;
        let attention = pass.attention(&x.q, &x.k, &x.v)?;
        self.img.finish(pass, image, &attention, &pass.modulations.img)?;
        x.keep(pass.be)
    }
}

/// One stream of a double block.
struct Stream<B: Backend> {
    qkv: Weight<B>,
    q_norm: Tensor<B>,
    k_norm: Tensor<B>,
    proj: Weight<B>,
    mlp_gate: Weight<B>,
    mlp_up: Weight<B>,
    mlp_out: Weight<B>,
}

impl<B: Backend> Stream<B> {
    fn load(w: &Loader<B>) -> Result<Self> {
        let [mlp_gate, mlp_up] = w.matrix_rows("mlp_in", |[rows, _]| [rows / 2; 2])?;
        Ok(Stream {
            qkv: w.matrix("qkv")?,
            q_norm: w.vector("q_norm")?,
            k_norm: w.vector("k_norm")?,
            proj: w.matrix("proj")?,
            mlp_gate,
            mlp_up,
            mlp_out: w.matrix("mlp_out")?,
        })
    }

    /// Inputs of the attention. `x` is `[n, hidden]`, the tokens from `first` on.
    fn qkv(&self, pass: &Pass<B>, x: &Tensor<B>, m: &Modulation<B>, first: usize) -> Result<Projected<B>> {
        let h = pass.norm(x, m, &self.qkv)?; // [n, hidden]
        let qkv = ops::linear(pass.be, &h, &self.qkv, None)?; // [n, 3 * hidden]
        pass.project(&qkv, &self.q_norm, &self.k_norm, first)
    }

    /// Add the result of the attention, `[n, hidden]`, then the MLP.
    fn finish(&self, pass: &Pass<B>, x: &mut Tensor<B>, attention: &Tensor<B>, m: &[Modulation<B>; 2]) -> Result<()> {
        let be = pass.be;
        ops::linear_add(be, x, Some(&m[0].gate), attention, &self.proj)?;
        let h = pass.norm(x, &m[1], &self.mlp_gate)?; // [n, hidden]
        let h = ops::linear_swiglu(be, &h, &self.mlp_gate, &self.mlp_up)?; // [n, mlp]
        Ok(ops::linear_add(be, x, Some(&m[1].gate), &h, &self.mlp_out)?)
    }
}

/// A block with attention and MLP in parallel: from one input, and into one product.
struct SingleBlock<B: Backend> {
    qkv: Weight<B>,
    mlp_gate: Weight<B>,
    mlp_up: Weight<B>,
    q_norm: Tensor<B>,
    k_norm: Tensor<B>,
    out: Weight<B>,
}

impl<B: Backend> SingleBlock<B> {
    fn load(w: &Loader<B>) -> Result<Self> {
        // Rows of q, k, v, as many each as the matrix has columns, then those of the MLP's gate and up.
        let split = |[rows, hidden]: [usize; 2]| [3 * hidden, (rows - 3 * hidden) / 2, (rows - 3 * hidden) / 2];
        let [qkv, mlp_gate, mlp_up] = w.matrix_rows("qkv_mlp", split)?;
        Ok(SingleBlock {
            qkv,
            mlp_gate,
            mlp_up,
            q_norm: w.vector("q_norm")?,
            k_norm: w.vector("k_norm")?,
            out: w.matrix("out")?,
        })
    }

    /// `x` is `[n, hidden]`, text tokens first. Cached keys and values are inserted between those of text and image.
    fn forward(&self, pass: &Pass<B>, x: &mut Tensor<B>, cached: Option<&KeysValues<B>>) -> Result<()> {
        let (attention, mlp) = {
            let (own, mlp) = self.project(pass, x)?;
            let attention = match cached {
                None => pass.attention(&own.q, &own.k, &own.v)?,
                Some(cached) => {
                    let around = |own: &Tensor<B>, cached| {
                        let (text, image) = (own.slice_rows(0..pass.n_txt), own.slice_rows(pass.n_txt..own.rows()));
                        pass.joint(&text, Some(cached), &image)
                    };
                    pass.attention(&own.q, &around(&own.k, &cached.keys)?, &around(&own.v, &cached.values)?)?
                }
            };
            (attention, mlp) // [n, hidden], [n, mlp]
        };
        self.finish(pass, x, &attention, &mlp)
    }

    /// On reference tokens `[n_ref, hidden]` that attend only to each other.
    fn forward_references(&self, pass: &Pass<B>, x: &mut Tensor<B>) -> Result<KeysValues<B>> {
        let (own, mlp) = self.project(pass, x)?;
        let attention = pass.attention(&own.q, &own.k, &own.v)?;
        self.finish(pass, x, &attention, &mlp)?;
        own.keep(pass.be)
    }

    /// Inputs of the attention, and the hidden layer of the MLP, `[n, mlp]`.
    fn project(&self, pass: &Pass<B>, x: &Tensor<B>) -> Result<(Projected<B>, Tensor<B>)> {
        let (be, m) = (pass.be, &pass.modulations.single);
        let h = pass.norm(x, m, &self.qkv)?; // [n, hidden]
        let qkv = ops::linear(be, &h, &self.qkv, None)?; // [n, 3 * hidden]
        let mlp = ops::linear_swiglu(be, &h, &self.mlp_gate, &self.mlp_up)?; // [n, mlp]
        Ok((pass.project(&qkv, &self.q_norm, &self.k_norm, 0)?, mlp))
    }

    /// Add attention and MLP, through one product of `[attention | mlp]`.
    fn finish(&self, pass: &Pass<B>, x: &mut Tensor<B>, attention: &Tensor<B>, mlp: &Tensor<B>) -> Result<()> {
        let gate = &pass.modulations.single.gate;
        Ok(ops::linear_pair_add(pass.be, x, Some(gate), [attention, mlp], &self.out)?)
    }
}

#[cfg(test)]
mod tests;
