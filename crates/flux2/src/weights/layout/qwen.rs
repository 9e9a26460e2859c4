//! Names of the text encoder, the same in a folder and in a single file. Source: `models/qwen3/` in transformers.
//!
//! Only the layers up to the last tapped hidden state are read; which layers lie beyond it is the configuration's to say.

use super::Rule::{self, Same};

pub(super) const SIGN: &str = "model.layers.0.self_attn.q_norm.weight";

pub(super) const RULES: &[Rule] = &[
    Same("embed", "model.embed_tokens.weight"),
    Same("layer.{i}.attn_norm", "model.layers.{i}.input_layernorm.weight"),
    Same("layer.{i}.q", "model.layers.{i}.self_attn.q_proj.weight"),
    Same("layer.{i}.k", "model.layers.{i}.self_attn.k_proj.weight"),
    Same("layer.{i}.v", "model.layers.{i}.self_attn.v_proj.weight"),
    Same("layer.{i}.q_norm", "model.layers.{i}.self_attn.q_norm.weight"),
    Same("layer.{i}.k_norm", "model.layers.{i}.self_attn.k_norm.weight"),
    Same("layer.{i}.o", "model.layers.{i}.self_attn.o_proj.weight"),
    Same("layer.{i}.mlp_norm", "model.layers.{i}.post_attention_layernorm.weight"),
    Same("layer.{i}.gate", "model.layers.{i}.mlp.gate_proj.weight"),
    Same("layer.{i}.up", "model.layers.{i}.mlp.up_proj.weight"),
    Same("layer.{i}.down", "model.layers.{i}.mlp.down_proj.weight"),
];

/// The final norm and the output head; `{p}` is weight or the scale of an 8-bit weight.
pub(super) const UNUSED: &[&str] = &["model.norm.{p}", "lm_head.{p}"];
