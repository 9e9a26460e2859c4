//! Sizes of the Qwen3 text encoder, and its taps.

use std::path::Path;

use serde_json::{Value, json};

use super::{ExpectedTensor, LostValue, MAX_BLOCKS, MAX_WIDTH, NORM_EPS, first_lost};
use crate::Result;
use crate::component::Shapes;
use crate::json::{Json, missing, range, unsupported, value};

/// Taps of the family: hidden states that the transformer reads. The embedding is 0.
const DEFAULT_TAPS: [usize; 3] = [9, 18, 27];
/// RoPE base of the Qwen3 releases of July 2025, which the family was not trained with.
const QWEN3_2507_THETA: f64 = 5e6;
/// Prompt tokens that the family's transformer reads.
const DEFAULT_MAX_LENGTH: usize = 512;

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

    pub(crate) fn from_json(json: &Json, taps: &Taps) -> Result<Self> {
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
    pub(crate) fn infer(shapes: &Shapes, taps: &Taps) -> Result<Self> {
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
    pub(crate) fn lost_without_config(&self) -> Option<LostValue> {
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
pub(crate) struct Taps {
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
