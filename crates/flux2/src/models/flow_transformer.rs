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
//! Several pictures of equal token counts go through one pass, each attending to itself: [`FlowTransformer::join`].
//!
//! Follows `Flux2Transformer2DModel` in diffusers.

mod conditioning;
mod modulation;
mod pass;

use std::cell::RefCell;

use flux2_backend::{AttentionInput, Backend, ModulatedLayerNorm, Rope, RopeLayout, Tensor, Weight, ops};

use super::Pulse;
use super::layers::Loader;
use super::replay::ReplayedPass;
use crate::Result;
use crate::latents::timestep_embedding;
use crate::weights::{TransformerConfig, WeightSource};

use conditioning::KeysValues;
pub use conditioning::{Conditioning, ReferenceCache, References};
pub use modulation::ModulationRows;
use modulation::{Modulation, Modulations};
pub use pass::Batching;
use pass::{Pass, Projected, Watch};

/// Called with the number of each block, double blocks first, and the operands of its attention.
pub type WatchAttention<'a, B> = dyn FnMut(usize, &AttentionInput<B>) -> Result<()> + 'a;

/// The flow transformer with its weights.
pub struct FlowTransformer<B: Backend> {
    be: B,
    /// For [`Batching::SameBytes`], and for [`Batching::Fast`].
    replayed: [ReplayedPass<B>; 2],
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
            replayed: [ReplayedPass::new(), ReplayedPass::new()],
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
        self.replayed.iter_mut().for_each(ReplayedPass::clear);
    }

    /// Number of blocks, which is how often a pass calls its pulse.
    pub fn blocks(&self) -> usize {
        self.double_blocks.len() + self.single_blocks.len()
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

    /// The velocity of `latents`, f32 `[b * n_img, c]` of the pictures of `conditioning`, at the noise level of
    /// `modulations` -> f32 `[b * n_img, c]`. A backend that can replays the pass from its second call on.
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
        let Conditioning { pictures, batching, text, references, caches, rope } = conditioning;
        let ModulationRows(rows) = modulations;
        // Captures are found by the shapes of their inputs: hence an axis for the pictures.
        let latents = latents.reshape("latents", [*pictures, latents.rows() / pictures, latents.cols()])?;
        let caches: Vec<_> = caches.iter().map(|cache| &**cache).collect();
        if !caches.is_empty() {
            // Not replayed: a capture copies its inputs, and the caches have gigabytes.
            let (latents, references, batching) = (&latents, None, *batching);
            let (cos, sin, modulations, caches) = (&rope.cos, &rope.sin, rows, &caches);
            let inputs = Inputs { latents, text, references, cos, sin, modulations, caches, batching };
            return self.pass_through(&inputs, None, pulse);
        }
        let mut inputs = vec![&latents, text, &rope.cos, &rope.sin];
        inputs.extend(rows);
        inputs.extend(references);
        let replayed = &self.replayed[usize::from(*batching == Batching::Fast)];
        replayed.run(&self.be, &inputs, self.blocks(), pulse, |inputs, pulse| {
            let [latents, text, cos, sin, rows @ ..] = inputs else { unreachable!("in the order of above") };
            let (rows, references) = rows.split_at(4);
            let (modulations, references) = (rows.try_into().expect("split after four rows"), references.first());
            let (caches, batching) = (&[][..], *batching);
            let inputs = Inputs { latents, text, references, cos, sin, modulations, caches, batching };
            self.pass_through(&inputs, None, pulse)
        })
    }

    /// As [`forward`](Self::forward) of one picture, never replayed. `watch` sees the operands of each attention before
    /// it is computed, and changes nothing.
    ///
    /// # Errors
    /// As there, and what `watch` returns.
    pub fn forward_watched(
        &self,
        latents: &Tensor<B>,
        conditioning: &Conditioning<B>,
        ModulationRows(modulations): &ModulationRows<B>,
        watch: &mut WatchAttention<B>,
        pulse: &mut Pulse,
    ) -> Result<Tensor<B>> {
        let Conditioning { pictures, batching, text, references, caches, rope } = conditioning;
        assert_eq!(*pictures, 1, "the attention of one picture is watched");
        let latents = &latents.reshape("latents", [1, latents.rows(), latents.cols()])?;
        let (references, cos, sin, batching) = (references.as_ref(), &rope.cos, &rope.sin, *batching);
        let caches: &Vec<_> = &caches.iter().map(|cache| &**cache).collect();
        let inputs = Inputs { latents, text, references, cos, sin, modulations, caches, batching };
        let watched = RefCell::new((0, watch));
        let see = |operands: &AttentionInput<B>| {
            let (block, watch) = &mut *watched.borrow_mut();
            *block += 1;
            watch(*block - 1, operands)
        };
        self.pass_through(&inputs, Some(&see), pulse)
    }

    /// The pass that [`forward`](Self::forward) replays.
    fn pass_through(&self, inputs: &Inputs<B>, watch: Option<&Watch<B>>, pulse: &mut Pulse) -> Result<Tensor<B>> {
        let &Inputs { latents, text, references, cos, sin, modulations, caches, batching } = inputs;
        let be = &self.be;
        let [pictures, n_img, _] = latents.batch_dims("latents")?;
        let n_txt = text.rows() / pictures;
        let modulations = &Modulations::new(modulations);
        let pass = Pass { watch, ..self.pass(modulations, pictures, batching) };
        let rope = Ropes::new(&pass, cos, sin, n_txt)?;

        let latents = ops::cast(be, latents, be.compute().dtype())?;
        let mut text = text.clone(); // [b * n_txt, hidden]
        let mut image = pass.linear_f32(&latents, &self.img_in)?; // [b * n_img, hidden]
        if let Some(references) = references {
            image = pass.joint(&image, &[], references)?; // [b * (n_img + n_ref), hidden]
        }
        for (i, block) in self.double_blocks.iter().enumerate() {
            let cached: Vec<_> = caches.iter().map(|cache| &cache.double[i]).collect();
            block.forward(&pass, &rope, [&mut text, &mut image], &cached)?;
            pulse()?;
        }
        let mut joint = pass.joint(&text, &[], &image)?; // [b * (n_txt + n_img (+ n_ref)), hidden]
        for (i, block) in self.single_blocks.iter().enumerate() {
            let cached: Vec<_> = caches.iter().map(|cache| &cache.single[i]).collect();
            block.forward(&pass, &rope, &mut joint, &cached)?;
            pulse()?;
        }
        self.head(&pass, &pass.tokens(&joint, n_txt..n_txt + n_img)?)
    }

    /// Image tokens after the last block -> their velocity, f32 `[b * n_img, c]`.
    fn head(&self, pass: &Pass<B>, image: &Tensor<B>) -> Result<Tensor<B>> {
        let (m, feeds) = (pass.modulations, Some(&self.final_proj));
        let norm = ModulatedLayerNorm { shift: &m.final_shift, scale: &m.final_scale, eps: pass.eps, feeds };
        pass.linear_f32(&ops::modulated_layer_norm(pass.be, image, &norm)?, &self.final_proj)
    }

    fn pass<'a>(&'a self, modulations: &'a Modulations<B>, pictures: usize, batching: Batching) -> Pass<'a, B> {
        let TransformerConfig { head_dim, eps, .. } = self.config;
        Pass { be: &self.be, pictures, batching, modulations, head_dim, eps, watch: None }
    }
}

/// What a pass depends on besides the weights, for `b` pictures: see [`Conditioning`].
struct Inputs<'a, B: Backend> {
    /// f32 `[b, n_img, c]`.
    latents: &'a Tensor<B>,
    text: &'a Tensor<B>,
    references: Option<&'a Tensor<B>>,
    cos: &'a Tensor<B>,
    sin: &'a Tensor<B>,
    modulations: &'a [Tensor<B>; 4],
    caches: &'a [&'a ReferenceCache<B>],
    batching: Batching,
}

/// Rotary tables of a pass, of all pictures.
struct Ropes<B: Backend> {
    text: Rope<B>,
    image: Rope<B>,
    /// Of each picture, text first.
    joint: Rope<B>,
    n_txt: usize,
}

impl<B: Backend> Ropes<B> {
    /// Split the tables of each picture's tokens, of which the first `n_txt` are text.
    fn new(pass: &Pass<B>, cos: &Tensor<B>, sin: &Tensor<B>, n_txt: usize) -> Result<Self> {
        let ([text_cos, image_cos], [text_sin, image_sin]) = (pass.split(cos, n_txt)?, pass.split(sin, n_txt)?);
        let rope = |cos, sin| Rope { cos, sin, layout: RopeLayout::Interleaved };
        let (text, image) = (rope(text_cos, text_sin), rope(image_cos, image_sin));
        Ok(Ropes { text, image, joint: rope(cos.clone(), sin.clone()), n_txt })
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

    /// Joint attention, then each stream's MLP. The streams are text `[b * n_txt, hidden]` and image
    /// `[b * (n_img (+ n_ref)), hidden]`; keys and values are `cached` for each picture, or there are none.
    fn forward(
        &self,
        pass: &Pass<B>,
        rope: &Ropes<B>,
        [text, image]: [&mut Tensor<B>; 2],
        cached: &[&KeysValues<B>],
    ) -> Result<()> {
        // A scope, so that queries, keys and values are freed before the MLPs allocate.
        let attention = {
            let t = self.txt.qkv(pass, text, &pass.modulations.txt[0], &rope.text)?;
            let x = self.img.qkv(pass, image, &pass.modulations.img[0], &rope.image)?;
            let (keys, values) = KeysValues::of_all(cached);
            let q = pass.joint(&t.q, &[], &x.q)?;
            let k = pass.joint(&t.k, &keys, &x.k)?;
            let v = pass.joint(&t.v, &values, &x.v)?;
            pass.attention(&q, &k, &v)? // [b * (n_txt + n_img (+ n_ref)), hidden]
        };
        let [of_text, of_image] = pass.split(&attention, rope.n_txt)?;
        self.txt.finish(pass, text, &of_text, &pass.modulations.txt)?;
        self.img.finish(pass, image, &of_image, &pass.modulations.img)
    }

    /// The image stream alone, on reference tokens `[n_ref, hidden]` that attend only to each other.
    fn forward_references(&self, pass: &Pass<B>, rope: &Rope<B>, image: &mut Tensor<B>) -> Result<KeysValues<B>> {
        let x = self.img.qkv(pass, image, &pass.modulations.img[0], rope)?;
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

    /// Inputs of the attention. `x` is `[b * n, hidden]`.
    fn qkv(&self, pass: &Pass<B>, x: &Tensor<B>, m: &Modulation<B>, rope: &Rope<B>) -> Result<Projected<B>> {
        let h = pass.norm(x, m, &self.qkv)?; // [b * n, hidden]
        let qkv = pass.linear(&h, &self.qkv)?; // [b * n, 3 * hidden]
        pass.project(&qkv, &self.q_norm, &self.k_norm, rope)
    }

    /// Add the result of the attention, `[b * n, hidden]`, then the MLP.
    fn finish(&self, pass: &Pass<B>, x: &mut Tensor<B>, attention: &Tensor<B>, m: &[Modulation<B>; 2]) -> Result<()> {
        let be = pass.be;
        ops::linear_add(be, x, Some(&m[0].gate), &pass.left(attention)?, &self.proj)?;
        let h = pass.norm(x, &m[1], &self.mlp_gate)?; // [b * n, hidden]
        let h = pass.swiglu(&h, &self.mlp_gate, &self.mlp_up)?; // [b * n, mlp]
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

    /// `x` is `[b * n, hidden]`, of each picture text tokens first. The cached keys and values of each picture are
    /// inserted between those of its text and image.
    fn forward(&self, pass: &Pass<B>, rope: &Ropes<B>, x: &mut Tensor<B>, cached: &[&KeysValues<B>]) -> Result<()> {
        let (attention, mlp) = {
            let (own, mlp) = self.project(pass, &rope.joint, x)?;
            let attention = if cached.is_empty() {
                pass.attention(&own.q, &own.k, &own.v)?
            } else {
                let (keys, values) = KeysValues::of_all(cached);
                let k = pass.around(&own.k, rope.n_txt, &keys)?;
                pass.attention(&own.q, &k, &pass.around(&own.v, rope.n_txt, &values)?)?
            };
            (attention, mlp) // [b * n, hidden], [b * n, mlp]
        };
        self.finish(pass, x, &attention, &mlp)
    }

    /// On reference tokens `[n_ref, hidden]` that attend only to each other.
    fn forward_references(&self, pass: &Pass<B>, rope: &Rope<B>, x: &mut Tensor<B>) -> Result<KeysValues<B>> {
        let (own, mlp) = self.project(pass, rope, x)?;
        let attention = pass.attention(&own.q, &own.k, &own.v)?;
        self.finish(pass, x, &attention, &mlp)?;
        own.keep(pass.be)
    }

    /// Inputs of the attention, and the hidden layer of the MLP, `[b * n, mlp]`.
    fn project(&self, pass: &Pass<B>, rope: &Rope<B>, x: &Tensor<B>) -> Result<(Projected<B>, Tensor<B>)> {
        let h = pass.norm(x, &pass.modulations.single, &self.qkv)?; // [b * n, hidden]
        let qkv = pass.linear(&h, &self.qkv)?; // [b * n, 3 * hidden]
        let mlp = pass.swiglu(&h, &self.mlp_gate, &self.mlp_up)?; // [b * n, mlp]
        Ok((pass.project(&qkv, &self.q_norm, &self.k_norm, rope)?, mlp))
    }

    /// Add attention and MLP, through one product of `[attention | mlp]`.
    fn finish(&self, pass: &Pass<B>, x: &mut Tensor<B>, attention: &Tensor<B>, mlp: &Tensor<B>) -> Result<()> {
        let gate = &pass.modulations.single.gate;
        Ok(ops::linear_pair_add(pass.be, x, Some(gate), [&pass.left(attention)?, mlp], &self.out)?)
    }
}

#[cfg(test)]
mod tests;
