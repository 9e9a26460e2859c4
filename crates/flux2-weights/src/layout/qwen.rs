//! Names of the text encoder: those of transformers, in folders and single files, and those of llama.cpp in GGUF files.
//!
//! Sources: `models/qwen3/` in transformers; `gguf-py/gguf/tensor_mapping.py` in ggml-org/llama.cpp, whose converter
//! keeps the order of rows of Qwen3's q and k.
//!
//! Layers behind the last tap are not read; the configuration says which these are.

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
pub(super) const UNUSED: &[&str] = &["model.norm.{p}", "lm_head.{p}", "scaled_fp8"];
/// Written by ComfyUI beside a text encoder; stands outside the prefix of the other names.
pub(super) const UNUSED_OUTSIDE: &str = "logit_scale";
/// Stands before the number of a layer.
pub(super) const LAYERS: &str = "model.layers.";

pub(super) const LLAMA_SIGN: &str = "blk.0.attn_q_norm.weight";

pub(super) const LLAMA_RULES: &[Rule] = &[
    Same("embed", "token_embd.weight"),
    Same("layer.{i}.attn_norm", "blk.{i}.attn_norm.weight"),
    Same("layer.{i}.q", "blk.{i}.attn_q.weight"),
    Same("layer.{i}.k", "blk.{i}.attn_k.weight"),
    Same("layer.{i}.v", "blk.{i}.attn_v.weight"),
    Same("layer.{i}.q_norm", "blk.{i}.attn_q_norm.weight"),
    Same("layer.{i}.k_norm", "blk.{i}.attn_k_norm.weight"),
    Same("layer.{i}.o", "blk.{i}.attn_output.weight"),
    Same("layer.{i}.mlp_norm", "blk.{i}.ffn_norm.weight"),
    Same("layer.{i}.gate", "blk.{i}.ffn_gate.weight"),
    Same("layer.{i}.up", "blk.{i}.ffn_up.weight"),
    Same("layer.{i}.down", "blk.{i}.ffn_down.weight"),
];

pub(super) const LLAMA_UNUSED: &[&str] = &["output_norm.weight", "output.weight"];
pub(super) const LLAMA_LAYERS: &str = "blk.";
