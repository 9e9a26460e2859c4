//! Names of the single files Black Forest Labs publishes (`flux-2-klein-*.safetensors`, `ae.safetensors`). Source:
//! `src/flux2/model.py` and `src/flux2/autoencoder.py` in black-forest-labs/flux2.
//!
//! The transformer is canonical but for its names. The VAE counts decoder levels from the finest, and keeps the
//! matrices of its attention as 1x1 convolutions.

use super::Rule::{self, Flatten, Same};

/// Parts of names, and what other programs write instead: ComfyUI calls the weights of norms `weight` since 0.14.2, and
/// keeps the convolutions beside the latents outside encoder and decoder.
pub(super) const SPELLINGS: [(&str, &str); 4] = [
    (".query_norm.scale", ".query_norm.weight"),
    (".key_norm.scale", ".key_norm.weight"),
    ("encoder.quant_conv.", "quant_conv."),
    ("decoder.post_quant_conv.", "post_quant_conv."),
];

/// Written by ComfyUI beside fp8 matrices with scales.
pub(super) const UNUSED: &[&str] = &["scaled_fp8"];

pub(super) const TRANSFORMER_SIGN: &str = "double_stream_modulation_img.lin.weight";
pub(super) const VAE_SIGN: &str = "encoder.down.0.block.0.conv1.weight";
pub(super) const GUIDANCE: &str = "guidance_in.in_layer.weight";

pub(super) const TRANSFORMER: &[Rule] = &[
    Same("img_in", "img_in.weight"),
    Same("txt_in", "txt_in.weight"),
    Same("time_in.0", "time_in.in_layer.weight"),
    Same("time_in.1", "time_in.out_layer.weight"),
    Same("modulation.img", "double_stream_modulation_img.lin.weight"),
    Same("modulation.txt", "double_stream_modulation_txt.lin.weight"),
    Same("modulation.single", "single_stream_modulation.lin.weight"),
    Same("double.{i}.img.qkv", "double_blocks.{i}.img_attn.qkv.weight"),
    Same("double.{i}.txt.qkv", "double_blocks.{i}.txt_attn.qkv.weight"),
    Same("double.{i}.img.q_norm", "double_blocks.{i}.img_attn.norm.query_norm.scale"),
    Same("double.{i}.img.k_norm", "double_blocks.{i}.img_attn.norm.key_norm.scale"),
    Same("double.{i}.txt.q_norm", "double_blocks.{i}.txt_attn.norm.query_norm.scale"),
    Same("double.{i}.txt.k_norm", "double_blocks.{i}.txt_attn.norm.key_norm.scale"),
    Same("double.{i}.img.proj", "double_blocks.{i}.img_attn.proj.weight"),
    Same("double.{i}.txt.proj", "double_blocks.{i}.txt_attn.proj.weight"),
    Same("double.{i}.img.mlp_in", "double_blocks.{i}.img_mlp.0.weight"),
    Same("double.{i}.img.mlp_out", "double_blocks.{i}.img_mlp.2.weight"),
    Same("double.{i}.txt.mlp_in", "double_blocks.{i}.txt_mlp.0.weight"),
    Same("double.{i}.txt.mlp_out", "double_blocks.{i}.txt_mlp.2.weight"),
    Same("single.{i}.qkv_mlp", "single_blocks.{i}.linear1.weight"),
    Same("single.{i}.q_norm", "single_blocks.{i}.norm.query_norm.scale"),
    Same("single.{i}.k_norm", "single_blocks.{i}.norm.key_norm.scale"),
    Same("single.{i}.out", "single_blocks.{i}.linear2.weight"),
    Same("final.modulation", "final_layer.adaLN_modulation.1.weight"),
    Same("final.proj", "final_layer.linear.weight"),
];

/// `{side}` is encoder or decoder, `{p}` weight or bias. A rule for one part stands before the one for all parts.
pub(super) const VAE: &[Rule] = &[
    Same("encoder.down.{i}.res.{j}.shortcut.{p}", "encoder.down.{i}.block.{j}.nin_shortcut.{p}"),
    Same("encoder.down.{i}.res.{j}.{part}.{p}", "encoder.down.{i}.block.{j}.{part}.{p}"),
    Same("encoder.down.{i}.downsample.{p}", "encoder.down.{i}.downsample.conv.{p}"),
    Same("decoder.up.{i}.res.{j}.shortcut.{p}", "decoder.up.{last-i}.block.{j}.nin_shortcut.{p}"),
    Same("decoder.up.{i}.res.{j}.{part}.{p}", "decoder.up.{last-i}.block.{j}.{part}.{p}"),
    Same("decoder.up.{i}.upsample.{p}", "decoder.up.{last-i}.upsample.conv.{p}"),
    Same("{side}.mid.res.0.{part}.{p}", "{side}.mid.block_1.{part}.{p}"),
    Same("{side}.mid.res.1.{part}.{p}", "{side}.mid.block_2.{part}.{p}"),
    Same("{side}.mid.attn.norm.{p}", "{side}.mid.attn_1.norm.{p}"),
    Flatten("{side}.mid.attn.q.weight", "{side}.mid.attn_1.q.weight"),
    Flatten("{side}.mid.attn.k.weight", "{side}.mid.attn_1.k.weight"),
    Flatten("{side}.mid.attn.v.weight", "{side}.mid.attn_1.v.weight"),
    Flatten("{side}.mid.attn.out.weight", "{side}.mid.attn_1.proj_out.weight"),
    Same("{side}.mid.attn.out.bias", "{side}.mid.attn_1.proj_out.bias"),
    Same("{side}.mid.attn.{qkv}.bias", "{side}.mid.attn_1.{qkv}.bias"),
    Same("encoder.quant.{p}", "encoder.quant_conv.{p}"),
    Same("decoder.post_quant.{p}", "decoder.post_quant_conv.{p}"),
    Same("{side}.norm_out.{p}", "{side}.norm_out.{p}"),
    Same("{side}.conv_in.{p}", "{side}.conv_in.{p}"),
    Same("{side}.conv_out.{p}", "{side}.conv_out.{p}"),
    Same("bn.mean", "bn.running_mean"),
    Same("bn.var", "bn.running_var"),
];

pub(super) const VAE_UNUSED: &[&str] = &["bn.num_batches_tracked"];
