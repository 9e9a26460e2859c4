//! The text encoder: the first layers of Qwen3, tapped at three depths.
//!
//! In:  token ids `[n_txt]`, padded on the right, and how many of them are real.
//! Out: text embedding `[n_txt, taps * hidden]`: for each token the residual stream after 9, 18 and 27 layers, in this
//!      order.
//!
//! Padding tokens attend to the real ones and their rows are part of the result, as in the reference. No token attends
//! to them, so they have queries and an MLP in every layer, but no keys and values.
//!
//! Layers after the last tap, the final norm and the language head are never loaded.
//! Follows `Qwen3Model` in transformers and `Flux2KleinPipeline._get_qwen3_prompt_embeds` in diffusers.

use flux2_backend::{AttentionInput, AttentionMask, Backend, Rope, RopeLayout, Tensor, Weight, ops};

use super::Pulse;
use super::layers::Loader;
use crate::Result;
use crate::latents::rope_tables_1d;
use crate::weights::{TextConfig, WeightSource};

/// The text encoder with its weights.
pub struct Qwen3<B: Backend> {
    be: B,
    config: TextConfig,
    embed: Weight<B>,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    attn_norm: Tensor<B>,
    q: Weight<B>,
    k: Weight<B>,
    v: Weight<B>,
    q_norm: Tensor<B>,
    k_norm: Tensor<B>,
    o: Weight<B>,
    mlp_norm: Tensor<B>,
    gate: Weight<B>,
    up: Weight<B>,
    down: Weight<B>,
}

impl<B: Backend> Qwen3<B> {
    /// Load the weights up to the last tap from `source`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the backend has no room.
    pub fn load(be: &B, config: &TextConfig, source: &dyn WeightSource) -> Result<Self> {
        let w = Loader::new(be, source);
        let layers = (0..config.used_layers()).map(|i| Layer::load(&w.at("layer").at(i))).collect::<Result<_>>()?;
        Ok(Qwen3 { be: be.clone(), config: config.clone(), embed: w.table("embed")?, layers })
    }

    /// Number of layers, which is how often a pass calls its pulse.
    pub fn blocks(&self) -> usize {
        self.layers.len()
    }

    /// `ids` `[n_txt]`, of which the first `valid` are real -> f32 `[n_txt, taps * hidden]`.
    ///
    /// # Errors
    /// What `pulse` returns, or an id outside the vocabulary.
    pub fn forward(&self, ids: &[u32], valid: usize, pulse: &mut Pulse) -> Result<Tensor<B>> {
        Ok(self.forward_all(&[(ids, valid)], pulse)?.swap_remove(0))
    }

    /// As [`forward`](Self::forward) for `b` prompts of as many ids, in one pass: each gets the bytes it gets alone.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there are no prompts, or they differ in the number of ids.
    pub fn forward_all(&self, prompts: &[(&[u32], usize)], pulse: &mut Pulse) -> Result<Vec<Tensor<B>>> {
        let (be, c) = (&self.be, &self.config);
        let (b, n) = (prompts.len(), prompts[0].0.len());
        assert!(prompts.iter().all(|(ids, _)| ids.len() == n), "prompts of equally many ids");
        let (cos, sin) = rope_tables_1d(n, c.head_dim, c.rope_theta);
        let table = |angles: &[f32], b: usize| be.upload(&[b * n, c.head_dim / 2], &angles.repeat(b));
        let rope =
            |b| Ok::<_, crate::Error>(Rope { cos: table(&cos, b)?, sin: table(&sin, b)?, layout: RopeLayout::Halves });
        let of_one = rope(1)?;
        let of_all = if b == 1 { of_one.clone() } else { rope(b)? };
        let valid: Vec<usize> = prompts.iter().map(|(_, valid)| *valid).collect();
        let pass = Pass { be, config: c, n, valid: &valid, ropes: [&of_one, &of_all] };

        let mut taps = vec![None; c.taps.len()];
        let ids: Vec<u32> = prompts.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
        let mut hidden_states = ops::embedding(be, &self.embed, &ids)?; // [b * n, hidden]
        for (i, layer) in self.layers.iter().enumerate() {
            layer.forward(&pass, &mut hidden_states)?;
            // Tap k is the residual stream after k layers; the embedding itself would be tap 0.
            if let Some(tap) = c.taps.iter().position(|tap| *tap == i + 1) {
                taps[tap] = Some(hidden_states.clone());
            }
            pulse()?;
        }
        let taps: Vec<_> = taps.iter().map(|tap| tap.as_ref().expect("the layers go to the last tap")).collect();
        // Each in memory of its own, as it may be kept longer than the others.
        let of_prompt = |i: usize| {
            let taps: Vec<_> = taps.iter().map(|tap| tap.slice_rows(i * n..(i + 1) * n)).collect();
            Ok(ops::concat_cols(be, &taps.iter().collect::<Vec<_>>())?)
        };
        (0..b).map(of_prompt).collect()
    }
}

/// Arguments that all layers of a pass share.
struct Pass<'a, B: Backend> {
    be: &'a B,
    config: &'a TextConfig,
    /// Tokens of a prompt. The rows of `b` prompts lie one prompt behind the other.
    n: usize,
    /// Of each prompt, the number of tokens that are attended to.
    valid: &'a [usize],
    /// Rotary tables of the tokens of one prompt, and of all.
    ropes: [&'a Rope<B>; 2],
}

impl<B: Backend> Pass<'_, B> {
    /// `x` `[b * n, d]` as the left operand of a product: `[b, n, d]`, so that a prompt gets the bytes it gets alone.
    fn left(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        match self.valid.len() {
            1 => Ok(x.clone()),
            b => Ok(x.reshape("rows of prompts", [b, self.n, x.cols()])?),
        }
    }
}

impl<B: Backend> Layer<B> {
    fn load(w: &Loader<B>) -> Result<Self> {
        Ok(Layer {
            attn_norm: w.vector("attn_norm")?,
            q: w.matrix("q")?,
            k: w.matrix("k")?,
            v: w.matrix("v")?,
            q_norm: w.vector("q_norm")?,
            k_norm: w.vector("k_norm")?,
            o: w.matrix("o")?,
            mlp_norm: w.vector("mlp_norm")?,
            gate: w.matrix("gate")?,
            up: w.matrix("up")?,
            down: w.matrix("down")?,
        })
    }

    /// One layer on `[b * n, hidden]`.
    fn forward(&self, pass: &Pass<B>, hidden_states: &mut Tensor<B>) -> Result<()> {
        let &Pass { be, config: c, .. } = pass;
        let a = ops::rms_norm(be, hidden_states, &self.attn_norm, c.rms_eps)?; // [b * n, hidden]
        ops::linear_add(be, hidden_states, None, &pass.left(&self.attention(pass, &a)?)?, &self.o)?;

        let m = ops::rms_norm(be, hidden_states, &self.mlp_norm, c.rms_eps)?; // [b * n, hidden]
        let m = ops::linear_swiglu(be, &pass.left(&m)?, &self.gate, &self.up)?; // [b * n, intermediate]
        Ok(ops::linear_add(be, hidden_states, None, &m, &self.down)?)
    }

    /// Each prompt attends to its own tokens before the padding: `[b * n, hidden]` -> `[b * n, heads * head_dim]`.
    fn attention(&self, pass: &Pass<B>, a: &Tensor<B>) -> Result<Tensor<B>> {
        let &Pass { be, config: c, n, valid, ropes: [of_one, of_all] } = pass;
        let q = ops::linear(be, &pass.left(a)?, &self.q, None)?;
        let q = q.reshape("queries of prompts", [a.rows(), q.cols()])?; // [b * n, heads * head_dim]
        let q = ops::norm_rope(be, &q, &self.q_norm, of_all, c.rms_eps)?;
        let attend = |(i, &valid): (usize, &usize)| -> Result<Tensor<B>> {
            let seen = a.slice_rows(i * n..i * n + valid); // [valid, hidden]
            let k = ops::linear(be, &seen, &self.k, None)?; // [valid, kv_heads * head_dim]
            let v = ops::linear(be, &seen, &self.v, None)?; // [valid, kv_heads * head_dim]
            let k = ops::norm_rope(be, &k, &self.k_norm, &of_one.slice_rows(0..valid), c.rms_eps)?;
            let (q, mask) = (q.slice_rows(i * n..(i + 1) * n), AttentionMask::Causal { valid });
            let operands = AttentionInput { q: &q, k: &k, v: &v, head_dim: c.head_dim, mask };
            Ok(ops::attention(be, &operands)?) // [n, heads * head_dim]
        };
        let mut each = valid.iter().enumerate().map(attend).collect::<Result<Vec<_>>>()?;
        match each.len() {
            1 => Ok(each.swap_remove(0)),
            _ => Ok(ops::concat_rows(be, &each.iter().collect::<Vec<_>>())?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use flux2_backend::{HostTensor, Runtime as _};

    use super::*;
    use crate::golden::{Golden, assert_relative, f32_backend, fixture};
    use crate::weights::{Component, MappedWeights};

    /// A golden file's ids through the first layers of an encoder.
    fn forward(golden: &Golden, config: &TextConfig, weights: &dyn WeightSource) -> Vec<f32> {
        let model = Qwen3::load(&f32_backend(), config, weights).unwrap();
        let ids: Vec<u32> = golden.values("token_ids").iter().map(|id| *id as u32).collect();
        let valid = golden.values("attention_mask").iter().filter(|m| **m == 1.0).count();
        model.be.download(&model.forward(&ids, valid, &mut || Ok(())).unwrap()).unwrap()
    }

    fn open(path: &str) -> Component<TextConfig> {
        Component::<TextConfig>::open(Path::new(&fixture(path))).unwrap()
    }

    #[test]
    fn embedding_matches_the_reference() {
        let (golden, part) = (Golden::open("seams"), open("tiny/klein/text_encoder"));
        let got = forward(&golden, &part.config, &part.map().unwrap());
        assert_relative("text embedding", &got, &golden.values("text_embedding"), 3e-6);
    }

    #[test]
    fn a_prompt_is_the_same_bytes_beside_others() {
        let part = open("tiny/klein/text_encoder");
        let model = Qwen3::load(&f32_backend(), &part.config, &part.map().unwrap()).unwrap();
        let prompts: [(&[u32], usize); 3] =
            [(&[5, 6, 7, 3, 3, 3], 3), (&[8, 3, 3, 3, 3, 3], 1), (&[9, 8, 7, 6, 5, 4], 6)];
        let together = model.forward_all(&prompts, &mut || Ok(())).unwrap();
        for ((ids, valid), together) in prompts.into_iter().zip(&together) {
            let alone = model.forward(ids, valid, &mut || Ok(())).unwrap();
            assert_eq!(together.shape(), alone.shape());
            assert!(model.be.download(together).unwrap() == model.be.download(&alone).unwrap(), "{ids:?}");
        }
    }

    #[test]
    fn first_layer_matches_the_reference() {
        let (golden, part) = (Golden::open("seams"), open("tiny/klein/text_encoder"));
        // A tap after layer 1 exposes its output.
        let config = TextConfig { taps: vec![1], ..part.config.clone() };
        let got = forward(&golden, &config, &part.map().unwrap());
        assert_relative("stream", &got, &golden.values("qwen3.layer_0.out"), 1e-6);
    }

    /// Rounds block-scaled weights to bf16, as the reference does on devices without fp8.
    struct Rounded(MappedWeights);

    impl WeightSource for Rounded {
        fn tensor(&self, name: &str) -> crate::weights::Result<HostTensor> {
            let stored = self.0.tensor(name)?;
            if stored.scales().is_none() {
                return Ok(stored);
            }
            let values: Vec<f32> = stored.to_f32().iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
            Ok(HostTensor::from_f32(stored.shape(), &values))
        }
    }

    #[test]
    fn fp8_weights_are_multiplied_by_their_block_scales() {
        let (golden, part) = (Golden::open("text_encoder_fp8"), open("tiny/text_encoder_fp8"));
        let got = forward(&golden, &part.config, &Rounded(part.map().unwrap()));
        assert_relative("rounded", &got, &golden.values("text_embedding"), 3e-6);
        // Unrounded the weights differ by up to 2^-9 each, which 27 random layers turn into about 9e-3.
        let got = forward(&golden, &part.config, &part.map().unwrap());
        assert_relative("exact", &got, &golden.values("text_embedding"), 2e-2);
    }

    #[test]
    fn taps_are_the_streams_after_9_18_and_27_layers_without_the_final_norm() {
        let (golden, part) = (Golden::open("seams"), open("tiny/klein/text_encoder"));
        let all = golden.values("text_embedding");
        let width = all.len() / golden.shape("token_ids")[0];
        for (i, tap) in [9, 18, 27].into_iter().enumerate() {
            let config = TextConfig { taps: vec![tap], ..part.config.clone() };
            let got = forward(&golden, &config, &part.map().unwrap());
            let third: Vec<f32> =
                all.chunks_exact(width).flat_map(|row| row.chunks_exact(width / 3).nth(i).unwrap()).copied().collect();
            assert_relative("one tap", &got, &third, 3e-6);
        }
    }

    #[test]
    fn query_width_and_head_dim_do_not_follow_from_the_hidden_size() {
        let config = open("tiny/klein/text_encoder").config;
        assert_ne!(config.heads * config.head_dim, config.hidden);
        assert_ne!(config.head_dim, config.hidden / config.heads);
    }

    /// The embedding of `ids`, of which `valid` are real.
    fn embed(ids: &[u32], valid: usize) -> (Vec<f32>, usize) {
        let part = open("tiny/klein/text_encoder");
        let model = Qwen3::load(&f32_backend(), &part.config, &part.map().unwrap()).unwrap();
        let rows = model.forward(ids, valid, &mut || Ok(())).unwrap();
        (model.be.download(&rows).unwrap(), part.config.embedding_dim())
    }

    #[test]
    fn pad_rows_are_kept_and_differ() {
        let (embedding, width) = embed(&[5, 6, 7, 3, 3, 3], 3);
        let row = |i: usize| &embedding[i * width..][..width];
        assert_eq!(embedding.len(), 6 * width);
        assert!(row(3).iter().any(|v| *v != 0.0));
        // Each has its own position.
        assert_ne!(row(3), row(4));
    }

    #[test]
    fn no_row_sees_a_pad_token() {
        let ((a, width), (b, _)) = (embed(&[5, 6, 7, 3, 3, 3], 3), embed(&[5, 6, 7, 9, 3, 3], 3));
        let row = |embedding: &[f32], i: usize| embedding[i * width..][..width].to_vec();
        for i in [0, 1, 2, 4, 5] {
            assert_eq!(row(&a, i), row(&b, i), "row {i} saw the first pad token");
        }
        assert_ne!(row(&a, 3), row(&b, 3), "it has a residual stream of its own");
    }
}
