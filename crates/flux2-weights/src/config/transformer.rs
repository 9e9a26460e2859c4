//! Sizes of the flow transformer.

use std::path::Path;

use serde_json::json;

use super::{ExpectedTensor, LostValue, MAX_BLOCKS, MAX_WIDTH, NORM_EPS, first_lost};
use crate::Result;
use crate::component::Shapes;
use crate::json::{Json, range, value};

/// Sizes of the flow transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Features of an image token, 128: four times the latent channels.
    pub in_channels: usize,
    /// Blocks with separate weights for image and text.
    pub double_blocks: usize,
    /// Blocks over the joint sequence.
    pub single_blocks: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the text embedding.
    pub context_dim: usize,
    /// Width of the MLP after its gate.
    pub mlp_hidden: usize,
    /// Features of the timestep's sinusoidal embedding.
    pub time_channels: usize,
    /// Channels of a head for each position axis (t, h, w, l): even numbers that add up to `head_dim`.
    pub rope_axes: Vec<usize>,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Added to variances and mean squares in every norm.
    pub eps: f32,
}

impl TransformerConfig {
    /// Value in all published models.
    const ROPE_THETA: f64 = 2000.0;

    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Every tensor of the network, by canonical name.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let (d, mlp, head) = (self.hidden(), self.mlp_hidden, self.head_dim);
        let mut tensors: Vec<ExpectedTensor> = vec![
            ("img_in".into(), vec![d, self.in_channels]),
            ("txt_in".into(), vec![d, self.context_dim]),
            ("time_in.0".into(), vec![d, self.time_channels]),
            ("time_in.1".into(), vec![d, d]),
            ("modulation.img".into(), vec![6 * d, d]),
            ("modulation.txt".into(), vec![6 * d, d]),
            ("modulation.single".into(), vec![3 * d, d]),
        ];
        for i in 0..self.double_blocks {
            for stream in ["img", "txt"] {
                let mut add = |name: &str, shape: &[usize]| {
                    tensors.push((format!("double.{i}.{stream}.{name}"), shape.to_vec()));
                };
                add("qkv", &[3 * d, d]);
                add("q_norm", &[head]);
                add("k_norm", &[head]);
                add("proj", &[d, d]);
                add("mlp_in", &[2 * mlp, d]);
                add("mlp_out", &[d, mlp]);
            }
        }
        for i in 0..self.single_blocks {
            let mut add = |name: &str, shape: &[usize]| tensors.push((format!("single.{i}.{name}"), shape.to_vec()));
            add("qkv_mlp", &[3 * d + 2 * mlp, d]);
            add("q_norm", &[head]);
            add("k_norm", &[head]);
            add("out", &[d, d + mlp]);
        }
        tensors.push(("final.modulation".into(), vec![2 * d, d]));
        tensors.push(("final.proj".into(), vec![self.in_channels, d]));
        tensors
    }

    pub(crate) fn from_json(json: &Json) -> Result<Self> {
        json.only("guidance_embeds", &[json!(false)])?;
        json.only("patch_size", &[json!(1)])?;
        let in_channels = json.size("in_channels", MAX_WIDTH)?;
        json.only("out_channels", &[json!(in_channels)])?;
        let heads = json.size("num_attention_heads", 1024)?;
        let head_dim = json.size("attention_head_dim", 1024)?;
        let ratio = json.number("mlp_ratio", 1.0 / 64.0..=64.0, Some(3.0))?;
        TransformerConfig {
            in_channels,
            double_blocks: json.size("num_layers", MAX_BLOCKS)?,
            single_blocks: json.size("num_single_layers", MAX_BLOCKS)?,
            heads,
            head_dim,
            context_dim: json.size("joint_attention_dim", MAX_WIDTH)?,
            mlp_hidden: ((heads * head_dim) as f64 * ratio) as usize,
            time_channels: json.size_or("timestep_guidance_channels", MAX_WIDTH, 256)?,
            rope_axes: match json.sizes("axes_dims_rope", 1024, 4)? {
                Some(axes) => axes,
                None => vec![head_dim / 4; 4],
            },
            rope_theta: json.number("rope_theta", 1.0..=1e9, Some(Self::ROPE_THETA))?,
            eps: json.number("eps", 1e-12..=1e-2, Some(1e-6))? as f32,
        }
        .checked(&json.path)
    }

    pub(crate) fn infer(shapes: &Shapes) -> Result<Self> {
        let head_dim = shapes.axis("double.0.img.q_norm", 1, 0)?;
        TransformerConfig {
            in_channels: shapes.axis("img_in", 2, 1)?,
            double_blocks: shapes.count(|i| format!("double.{i}.img.q_norm")),
            single_blocks: shapes.count(|i| format!("single.{i}.q_norm")),
            heads: shapes.axis("img_in", 2, 0)? / head_dim,
            head_dim,
            context_dim: shapes.axis("txt_in", 2, 1)?,
            mlp_hidden: shapes.axis("double.0.img.mlp_out", 2, 1)?,
            time_channels: shapes.axis("time_in.0", 2, 1)?,
            rope_axes: vec![head_dim / 4; 4],
            rope_theta: Self::ROPE_THETA,
            eps: NORM_EPS,
        }
        .checked(shapes.path())
    }

    /// A value that [`infer`](Self::infer) would get wrong, if there is one.
    pub(crate) fn lost_without_config(&self) -> Option<LostValue> {
        let axes = |axes: &[usize]| format!("{axes:?}");
        first_lost([
            ("axes_dims_rope", axes(&self.rope_axes), axes(&[self.head_dim / 4; 4])),
            ("rope_theta", self.rope_theta.to_string(), Self::ROPE_THETA.to_string()),
            ("eps", self.eps.to_string(), NORM_EPS.to_string()),
        ])
    }

    /// Checks limits that hold for both sources.
    fn checked(self, path: &Path) -> Result<Self> {
        let hidden = self.hidden();
        range(path, "num_layers", self.double_blocks, MAX_BLOCKS)?;
        range(path, "num_single_layers", self.single_blocks, MAX_BLOCKS)?;
        range(path, "num_attention_heads x attention_head_dim", hidden, MAX_WIDTH)?;
        range(path, "mlp_ratio x hidden size", self.mlp_hidden, MAX_WIDTH)?;
        // Attention and MLP side by side are the input of a single block's last linear layer.
        range(path, "(mlp_ratio + 1) x hidden size", hidden + self.mlp_hidden, MAX_WIDTH)?;
        let sum: usize = self.rope_axes.iter().sum();
        if self.rope_axes.len() != 4 || sum != self.head_dim || self.rope_axes.iter().any(|a| !a.is_multiple_of(2)) {
            let expected = format!("4 even numbers that add up to the head's width {}", self.head_dim);
            return Err(value(path, "axes_dims_rope", format!("{:?}", self.rope_axes), expected));
        }
        if !self.time_channels.is_multiple_of(2) {
            return Err(value(path, "timestep_guidance_channels", self.time_channels, "an even number"));
        }
        Ok(self)
    }
}
