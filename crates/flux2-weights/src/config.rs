//! Sizes of the three networks, and the tensors that follow from them.
//!
//! In:  `config.json`, or the shapes of the tensors and the metadata of a GGUF file. Out: a configuration within
//!      limits.
//!
//! A configuration determines which tensors a checkpoint must contain ([`TransformerConfig::expected_tensors`] and its
//! siblings), so a checkpoint that disagrees is refused before anything is computed. Values that this engine does not
//! support are refused here, by key and value. Keys are those of diffusers (`Flux2Transformer2DModel`,
//! `AutoencoderKLFlux2`) and transformers (`Qwen3Config`).

use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::component::Shapes;
use crate::json::{Json, missing, range, unsupported, value};

/// A canonical name and its shape.
pub type ExpectedTensor = (String, Vec<usize>);

/// Largest width accepted. The family's widest layer is 12288, the input of its MLP 24576.
const MAX_WIDTH: usize = 1 << 16;
/// Most blocks or layers of one kind accepted. The family has at most 36.
const MAX_BLOCKS: usize = 256;
/// Taps of the family: hidden states that the transformer reads. The embedding is 0.
const DEFAULT_TAPS: [usize; 3] = [9, 18, 27];
/// RoPE base of the Qwen3 releases of July 2025, which the family was not trained with.
const QWEN3_2507_THETA: f64 = 5e6;
/// Prompt tokens that the family's transformer reads.
const DEFAULT_MAX_LENGTH: usize = 512;

/// A configuration value that tensor shapes cannot reveal and that differs from the default. It would be lost in a file
/// without a configuration.
pub(super) struct LostValue {
    pub key: &'static str,
    pub found: String,
    pub default: String,
}

/// The first of `values`, each with its key, its value and the default, that is not the default.
fn first_lost(values: impl IntoIterator<Item = (&'static str, String, String)>) -> Option<LostValue> {
    let differs = values.into_iter().find(|(_, found, default)| found != default);
    differs.map(|(key, found, default)| LostValue { key, found, default })
}

/// Epsilon of the norms in all published models.
const NORM_EPS: f32 = 1e-6;

// ---- the transformer ----

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

    pub(super) fn from_json(json: &Json) -> Result<Self> {
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

    pub(super) fn infer(shapes: &Shapes) -> Result<Self> {
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
    pub(super) fn lost_without_config(&self) -> Option<LostValue> {
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

// ---- the text encoder ----

/// Sizes of the Qwen3 text encoder, and which of its hidden states are read.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP after its gate.
    pub intermediate: usize,
    /// Layers of the network; only those up to the last tap are loaded and run.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` may differ from the hidden size.
    pub head_dim: usize,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Added to mean squares in every norm.
    pub rms_eps: f32,
    /// Taps: after how many layers the residual stream is read, ascending. The features of all taps are concatenated.
    pub taps: Vec<usize>,
    /// Tokens of a prompt with its template; shorter prompts are padded, longer ones truncated.
    pub max_length: usize,
    /// Rows and columns of an fp8 block that share a scale.
    pub fp8_block: [usize; 2],
}

impl TextConfig {
    /// Value in the first release of Qwen3, with which the family was trained.
    const ROPE_THETA: f64 = 1e6;

    /// Width of the text embedding: the hidden size times the number of taps.
    pub fn embedding_dim(&self) -> usize {
        self.taps.len() * self.hidden
    }

    /// Layers that are loaded and run: up to the last tap.
    pub fn used_layers(&self) -> usize {
        self.taps.last().copied().unwrap_or(0)
    }

    /// Parameters of the layers that are run; the cost of a pass grows with them, not with the vocabulary.
    pub fn layer_parameters(&self) -> u64 {
        let size = |shape: &[usize]| shape.iter().map(|n| *n as u64).product::<u64>();
        self.expected_tensors().iter().filter(|(name, _)| name != "embed").map(|(_, shape)| size(shape)).sum()
    }

    /// Every tensor of the network, by canonical name.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let (d, q, kv, mlp) =
            (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate);
        let mut tensors = vec![("embed".to_owned(), vec![self.vocab, d])];
        for i in 0..self.used_layers() {
            let mut add = |name: &str, shape: &[usize]| tensors.push((format!("layer.{i}.{name}"), shape.to_vec()));
            add("attn_norm", &[d]);
            add("q", &[q, d]);
            add("k", &[kv, d]);
            add("v", &[kv, d]);
            add("q_norm", &[self.head_dim]);
            add("k_norm", &[self.head_dim]);
            add("o", &[d, q]);
            add("mlp_norm", &[d]);
            add("gate", &[mlp, d]);
            add("up", &[mlp, d]);
            add("down", &[d, mlp]);
        }
        tensors
    }

    pub(super) fn from_json(json: &Json, taps: &Taps) -> Result<Self> {
        json.only("model_type", &[json!("qwen3")])?;
        json.only("attention_bias", &[json!(false)])?;
        json.only("hidden_act", &[json!("silu")])?;
        json.only("use_sliding_window", &[json!(false)])?;
        json.only("rope_scaling", &[])?;
        if let Some(types) = json.object.get("layer_types").and_then(Value::as_array)
            && let Some(other) = types.iter().find(|t| **t != json!("full_attention"))
        {
            return Err(unsupported(&json.path, "layer_types", other, "full_attention"));
        }
        let rope = json.child("rope_parameters")?;
        if let Some(rope) = &rope {
            rope.only("rope_type", &[json!("default")])?;
        }
        let rope_theta = match &rope {
            Some(rope) if rope.object.contains_key("rope_theta") => rope.number("rope_theta", 1.0..=1e9, None)?,
            _ => json.number("rope_theta", 1.0..=1e9, None)?,
        };
        let fp8_block = match json.child("quantization_config")? {
            None => [128; 2],
            Some(fp8) => {
                fp8.only("quant_method", &[json!("fp8")])?;
                fp8.only("fmt", &[json!("e4m3")])?;
                let block = fp8.sizes("weight_block_size", MAX_WIDTH, 2)?;
                block.map_or([128; 2], |b| [b[0], b[1]])
            }
        };
        let config = TextConfig {
            vocab: json.size("vocab_size", 1 << 24)?,
            hidden: json.size("hidden_size", MAX_WIDTH)?,
            intermediate: json.size("intermediate_size", MAX_WIDTH)?,
            layers: json.size("num_hidden_layers", MAX_BLOCKS)?,
            heads: json.size("num_attention_heads", 1024)?,
            kv_heads: json.size("num_key_value_heads", 1024)?,
            head_dim: json.size_or("head_dim", 1024, 128)?,
            rope_theta,
            rms_eps: json.number("rms_norm_eps", 1e-12..=1e-2, Some(1e-6))? as f32,
            taps: taps.layers.clone(),
            max_length: taps.max_length,
            fp8_block,
        }
        .checked(&json.path)?;
        // The reference takes the state after the last layer behind the final norm, which is not loaded here.
        if config.used_layers() == config.layers {
            let found = format!("{:?} of {} layers", config.taps, config.layers);
            return Err(value(&json.path, Taps::LAYERS_KEY, found, "taps before the last layer"));
        }
        Ok(config)
    }

    /// From shapes, and from the metadata of a GGUF file; llama.cpp always writes the RoPE base there.
    pub(super) fn infer(shapes: &Shapes, taps: &Taps) -> Result<Self> {
        let head_dim = shapes.axis("layer.0.q_norm", 1, 0)?;
        let (rope_theta, rms_eps) = match shapes.metadata() {
            None => (Self::ROPE_THETA, NORM_EPS),
            Some(metadata) => {
                let (path, architecture) = (shapes.path(), metadata.text("general.architecture"));
                if architecture != Some("qwen3") {
                    let found = json!(architecture);
                    return Err(unsupported(path, "general.architecture", &found, "qwen3"));
                }
                if let Some(scaling) = metadata.text("qwen3.rope.scaling.type").filter(|kind| *kind != "none") {
                    return Err(unsupported(path, "qwen3.rope.scaling.type", &json!(scaling), "none"));
                }
                let number = |key: &str, range: std::ops::RangeInclusive<f64>| match metadata.number(key) {
                    Some(n) if range.contains(&n) => Ok(n),
                    Some(n) => Err(value(path, key, n, format!("a number from {} to {}", range.start(), range.end()))),
                    None => Err(missing(path, key)),
                };
                let eps = number("qwen3.attention.layer_norm_rms_epsilon", 1e-12..=1e-2)?;
                (number("qwen3.rope.freq_base", 1.0..=1e9)?, eps as f32)
            }
        };
        TextConfig {
            vocab: shapes.axis("embed", 2, 0)?,
            hidden: shapes.axis("embed", 2, 1)?,
            intermediate: shapes.axis("layer.0.gate", 2, 0)?,
            layers: shapes.count(|i| format!("layer.{i}.q_norm")),
            heads: shapes.axis("layer.0.q", 2, 0)? / head_dim,
            kv_heads: shapes.axis("layer.0.k", 2, 0)? / head_dim,
            head_dim,
            rope_theta,
            rms_eps,
            taps: taps.layers.clone(),
            max_length: taps.max_length,
            fp8_block: [128; 2],
        }
        .checked(shapes.path())
    }

    /// A value that [`infer`](Self::infer) would get wrong in a safetensors file, if there is one.
    pub(super) fn lost_without_config(&self) -> Option<LostValue> {
        first_lost([
            ("rope_theta", self.rope_theta.to_string(), Self::ROPE_THETA.to_string()),
            ("rms_norm_eps", self.rms_eps.to_string(), NORM_EPS.to_string()),
        ])
    }

    fn checked(self, path: &Path) -> Result<Self> {
        // Other weights with the same names and shapes: nothing else tells the releases apart.
        if self.rope_theta == QWEN3_2507_THETA {
            let found = json!(self.rope_theta);
            return Err(unsupported(
                path,
                "rope_theta",
                &found,
                "1000000, that of the first Qwen3 and not of its 2507 release,",
            ));
        }
        range(path, "num_hidden_layers", self.layers, MAX_BLOCKS)?;
        range(path, "hidden_size", self.hidden, MAX_WIDTH)?;
        range(path, "intermediate_size", self.intermediate, MAX_WIDTH)?;
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let found = format!("{} for {} query heads", self.kv_heads, self.heads);
            return Err(value(path, "num_key_value_heads", found, "a divisor of the query heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(value(path, "head_dim", self.head_dim, "an even number"));
        }
        if self.used_layers() > self.layers {
            let found = format!("{:?} of {} layers", self.taps, self.layers);
            return Err(value(path, Taps::LAYERS_KEY, found, "taps within the network"));
        }
        Ok(self)
    }
}

/// Taps and prompt length that the transformer was trained with; `model_index.json` may state them.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    layers: Vec<usize>,
    max_length: usize,
}

impl Default for Taps {
    fn default() -> Self {
        Taps { layers: DEFAULT_TAPS.to_vec(), max_length: DEFAULT_MAX_LENGTH }
    }
}

impl Taps {
    const LAYERS_KEY: &'static str = "text_encoder_out_layers";
    const MAX_LAYERS: usize = 16;

    pub fn from_json(model_index: &Json) -> Result<Self> {
        let default = Taps::default();
        let layers = match model_index.get(Self::LAYERS_KEY) {
            None => default.layers,
            Some(found) => {
                let layer = |v: &Value| v.as_u64().filter(|n| (1..=MAX_BLOCKS as u64).contains(n)).map(|n| n as usize);
                let layers: Option<Vec<usize>> = found.as_array().and_then(|a| a.iter().map(layer).collect());
                let fits = |l: &Vec<usize>| (1..=Self::MAX_LAYERS).contains(&l.len()) && l.is_sorted_by(|a, b| a < b);
                layers.filter(fits).ok_or_else(|| {
                    let most = Self::MAX_LAYERS;
                    let expected = format!("1 to {most} ascending whole numbers from 1 to {MAX_BLOCKS}");
                    model_index.error(Self::LAYERS_KEY, expected)
                })?
            }
        };
        let max_length = model_index.size_or("max_sequence_length", 1 << 15, default.max_length)?;
        Ok(Taps { layers, max_length })
    }
}

// ---- the VAE ----

/// Sizes of the autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the latents before patchifying, 32.
    pub latent_channels: usize,
    /// Channels of each encoder level, finest first.
    pub encoder_channels: Vec<usize>,
    /// Channels of each decoder level, finest first; the decoder runs them in reverse.
    pub decoder_channels: Vec<usize>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub groups: usize,
    /// Added to the variance in group norms.
    pub group_norm_eps: f32,
    /// Added to the running variance when latents are normalized.
    pub bn_eps: f32,
}

impl VaeConfig {
    /// Value in all published models.
    const BN_EPS: f32 = 1e-4;

    /// Every tensor of the network, by canonical name.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut t = Vec::new();
        let (z, encoder) = (self.latent_channels, &self.encoder_channels);
        let decoder: Vec<usize> = self.decoder_channels.iter().rev().copied().collect();
        let (fine, coarse) = (encoder[0], encoder[encoder.len() - 1]);

        conv(&mut t, "encoder.conv_in", 3, fine, 3);
        let mut c = fine;
        for (i, &out) in encoder.iter().enumerate() {
            for j in 0..self.layers_per_block {
                res(&mut t, &format!("encoder.down.{i}.res.{j}"), c, out);
                c = out;
            }
            if i + 1 < encoder.len() {
                conv(&mut t, &format!("encoder.down.{i}.downsample"), c, c, 3);
            }
        }
        mid(&mut t, "encoder", coarse);
        norm(&mut t, "encoder.norm_out", coarse);
        conv(&mut t, "encoder.conv_out", coarse, 2 * z, 3);
        conv(&mut t, "encoder.quant", 2 * z, 2 * z, 1);

        conv(&mut t, "decoder.post_quant", z, z, 1);
        let mut c = decoder[0];
        conv(&mut t, "decoder.conv_in", z, c, 3);
        mid(&mut t, "decoder", c);
        for (i, &out) in decoder.iter().enumerate() {
            for j in 0..=self.layers_per_block {
                res(&mut t, &format!("decoder.up.{i}.res.{j}"), c, out);
                c = out;
            }
            if i + 1 < decoder.len() {
                conv(&mut t, &format!("decoder.up.{i}.upsample"), c, c, 3);
            }
        }
        norm(&mut t, "decoder.norm_out", c);
        conv(&mut t, "decoder.conv_out", c, 3, 3);
        t.push(("bn.mean".into(), vec![4 * z]));
        t.push(("bn.var".into(), vec![4 * z]));
        t
    }

    pub(super) fn from_json(json: &Json) -> Result<Self> {
        json.only("in_channels", &[json!(3)])?;
        json.only("out_channels", &[json!(3)])?;
        json.only("act_fn", &[json!("silu")])?;
        json.only("use_quant_conv", &[json!(true)])?;
        json.only("use_post_quant_conv", &[json!(true)])?;
        json.only("mid_block_add_attention", &[json!(true)])?;
        json.only("patch_size", &[json!([2, 2])])?;
        for (key, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            if let Some(types) = json.object.get(key).and_then(Value::as_array)
                && let Some(other) = types.iter().find(|t| **t != json!(kind))
            {
                return Err(unsupported(&json.path, key, other, kind));
            }
        }
        let levels = json.object.get("block_out_channels").and_then(Value::as_array).map_or(4, Vec::len);
        let encoder_channels = json.sizes("block_out_channels", MAX_WIDTH, levels)?;
        let encoder_channels = encoder_channels.ok_or_else(|| missing(&json.path, "block_out_channels"))?;
        let decoder_channels = json.sizes("decoder_block_out_channels", MAX_WIDTH, levels)?;
        VaeConfig {
            latent_channels: json.size("latent_channels", MAX_WIDTH / 4)?,
            decoder_channels: decoder_channels.unwrap_or_else(|| encoder_channels.clone()),
            encoder_channels,
            layers_per_block: json.size("layers_per_block", 16)?,
            groups: json.size_or("norm_num_groups", MAX_WIDTH, 32)?,
            group_norm_eps: 1e-6,
            bn_eps: json.number("batch_norm_eps", 1e-12..=1e-1, Some(1e-4))? as f32,
        }
        .checked(&json.path)
    }

    pub(super) fn infer(shapes: &Shapes) -> Result<Self> {
        let levels = shapes.count(|i| format!("encoder.down.{i}.res.0.conv1.weight"));
        let channels = |side: &str| -> Result<Vec<usize>> {
            (0..levels).map(|i| shapes.axis(&format!("{side}.{i}.res.0.conv1.weight"), 4, 0)).collect()
        };
        let mut decoder_channels = channels("decoder.up")?;
        decoder_channels.reverse();
        let encoder_channels = channels("encoder.down")?;
        VaeConfig {
            groups: Self::likely_groups(&encoder_channels, &decoder_channels),
            latent_channels: shapes.axis("decoder.conv_in.weight", 4, 1)?,
            encoder_channels,
            decoder_channels,
            layers_per_block: shapes.count(|j| format!("encoder.down.0.res.{j}.conv1.weight")),
            group_norm_eps: NORM_EPS,
            bn_eps: Self::BN_EPS,
        }
        .checked(shapes.path())
    }

    /// Groups of a VAE without a configuration: 32 as published, or the most that divide all its widths.
    fn likely_groups(encoder_channels: &[usize], decoder_channels: &[usize]) -> usize {
        let fits = |groups: &usize| encoder_channels.iter().chain(decoder_channels).all(|c| c.is_multiple_of(*groups));
        [32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// A value that [`infer`](Self::infer) would get wrong, if there is one.
    pub(super) fn lost_without_config(&self) -> Option<LostValue> {
        let groups = Self::likely_groups(&self.encoder_channels, &self.decoder_channels);
        first_lost([
            ("norm_num_groups", self.groups.to_string(), groups.to_string()),
            ("batch_norm_eps", self.bn_eps.to_string(), Self::BN_EPS.to_string()),
        ])
    }

    fn checked(self, path: &Path) -> Result<Self> {
        let levels = self.encoder_channels.len();
        // A token is 16x16 pixels: the encoder halves three times, then patches are 2x2.
        if levels != 4 {
            return Err(value(path, "block_out_channels", format!("{levels} levels"), "4 levels"));
        }
        range(path, "layers_per_block", self.layers_per_block, 16)?;
        range(path, "latent_channels", self.latent_channels, MAX_WIDTH / 4)?;
        let widths = self.encoder_channels.iter().chain(&self.decoder_channels);
        if let Some(c) = widths.copied().find(|c| *c == 0 || !c.is_multiple_of(self.groups)) {
            return Err(value(path, "norm_num_groups", self.groups, format!("a divisor of {c} channels")));
        }
        Ok(self)
    }
}

fn conv(t: &mut Vec<ExpectedTensor>, name: &str, c_in: usize, c_out: usize, kernel: usize) {
    t.push((format!("{name}.weight"), vec![c_out, c_in, kernel, kernel]));
    t.push((format!("{name}.bias"), vec![c_out]));
}

fn norm(t: &mut Vec<ExpectedTensor>, name: &str, c: usize) {
    t.push((format!("{name}.weight"), vec![c]));
    t.push((format!("{name}.bias"), vec![c]));
}

fn res(t: &mut Vec<ExpectedTensor>, name: &str, c_in: usize, c_out: usize) {
    norm(t, &format!("{name}.norm1"), c_in);
    conv(t, &format!("{name}.conv1"), c_in, c_out, 3);
    norm(t, &format!("{name}.norm2"), c_out);
    conv(t, &format!("{name}.conv2"), c_out, c_out, 3);
    if c_in != c_out {
        conv(t, &format!("{name}.shortcut"), c_in, c_out, 1);
    }
}

fn mid(t: &mut Vec<ExpectedTensor>, side: &str, c: usize) {
    res(t, &format!("{side}.mid.res.0"), c, c);
    norm(t, &format!("{side}.mid.attn.norm"), c);
    for name in ["q", "k", "v", "out"] {
        t.push((format!("{side}.mid.attn.{name}.weight"), vec![c, c]));
        t.push((format!("{side}.mid.attn.{name}.bias"), vec![c]));
    }
    res(t, &format!("{side}.mid.res.1"), c, c);
}
