//! Names of a diffusers folder. Source: `Flux2Transformer2DModel` and `AutoencoderKLFlux2` in diffusers, and its
//! `scripts/convert_flux2_to_diffusers.py`.
//!
//! Two forms differ from the canonical ones: q, k, v are three matrices, and the final modulation is (scale, shift).

use super::Rule::{self, ConcatRows, Same, SwapHalves};

pub(super) const TRANSFORMER_SIGN: &str = "double_stream_modulation_img.linear.weight";
pub(super) const VAE_SIGN: &str = "encoder.down_blocks.0.resnets.0.conv1.weight";
pub(super) const GUIDANCE: &str = "time_guidance_embed.guidance_embedder.linear_1.weight";

pub(super) const TRANSFORMER: &[Rule] = &[
    Same("img_in", "x_embedder.weight"),
    Same("txt_in", "context_embedder.weight"),
    Same("time_in.0", "time_guidance_embed.timestep_embedder.linear_1.weight"),
    Same("time_in.1", "time_guidance_embed.timestep_embedder.linear_2.weight"),
    Same("modulation.img", "double_stream_modulation_img.linear.weight"),
    Same("modulation.txt", "double_stream_modulation_txt.linear.weight"),
    Same("modulation.single", "single_stream_modulation.linear.weight"),
    ConcatRows(
        "double.{i}.img.qkv",
        [
            "transformer_blocks.{i}.attn.to_q.weight",
            "transformer_blocks.{i}.attn.to_k.weight",
            "transformer_blocks.{i}.attn.to_v.weight",
        ],
    ),
    ConcatRows(
        "double.{i}.txt.qkv",
        [
            "transformer_blocks.{i}.attn.add_q_proj.weight",
            "transformer_blocks.{i}.attn.add_k_proj.weight",
            "transformer_blocks.{i}.attn.add_v_proj.weight",
        ],
    ),
    Same("double.{i}.img.q_norm", "transformer_blocks.{i}.attn.norm_q.weight"),
    Same("double.{i}.img.k_norm", "transformer_blocks.{i}.attn.norm_k.weight"),
    Same("double.{i}.txt.q_norm", "transformer_blocks.{i}.attn.norm_added_q.weight"),
    Same("double.{i}.txt.k_norm", "transformer_blocks.{i}.attn.norm_added_k.weight"),
    Same("double.{i}.img.proj", "transformer_blocks.{i}.attn.to_out.0.weight"),
    Same("double.{i}.txt.proj", "transformer_blocks.{i}.attn.to_add_out.weight"),
    Same("double.{i}.img.mlp_in", "transformer_blocks.{i}.ff.linear_in.weight"),
    Same("double.{i}.img.mlp_out", "transformer_blocks.{i}.ff.linear_out.weight"),
    Same("double.{i}.txt.mlp_in", "transformer_blocks.{i}.ff_context.linear_in.weight"),
    Same("double.{i}.txt.mlp_out", "transformer_blocks.{i}.ff_context.linear_out.weight"),
    Same("single.{i}.qkv_mlp", "single_transformer_blocks.{i}.attn.to_qkv_mlp_proj.weight"),
    Same("single.{i}.q_norm", "single_transformer_blocks.{i}.attn.norm_q.weight"),
    Same("single.{i}.k_norm", "single_transformer_blocks.{i}.attn.norm_k.weight"),
    Same("single.{i}.out", "single_transformer_blocks.{i}.attn.to_out.weight"),
    SwapHalves("final.modulation", "norm_out.linear.weight"),
    Same("final.proj", "proj_out.weight"),
];

/// `{side}` is encoder or decoder, `{p}` weight or bias. A rule for one part stands before the one for all parts.
pub(super) const VAE: &[Rule] = &[
    Same("encoder.down.{i}.res.{j}.shortcut.{p}", "encoder.down_blocks.{i}.resnets.{j}.conv_shortcut.{p}"),
    Same("encoder.down.{i}.res.{j}.{part}.{p}", "encoder.down_blocks.{i}.resnets.{j}.{part}.{p}"),
    Same("encoder.down.{i}.downsample.{p}", "encoder.down_blocks.{i}.downsamplers.0.conv.{p}"),
    Same("decoder.up.{i}.res.{j}.shortcut.{p}", "decoder.up_blocks.{i}.resnets.{j}.conv_shortcut.{p}"),
    Same("decoder.up.{i}.res.{j}.{part}.{p}", "decoder.up_blocks.{i}.resnets.{j}.{part}.{p}"),
    Same("decoder.up.{i}.upsample.{p}", "decoder.up_blocks.{i}.upsamplers.0.conv.{p}"),
    Same("{side}.mid.res.{j}.{part}.{p}", "{side}.mid_block.resnets.{j}.{part}.{p}"),
    Same("{side}.mid.attn.norm.{p}", "{side}.mid_block.attentions.0.group_norm.{p}"),
    Same("{side}.mid.attn.q.{p}", "{side}.mid_block.attentions.0.to_q.{p}"),
    Same("{side}.mid.attn.k.{p}", "{side}.mid_block.attentions.0.to_k.{p}"),
    Same("{side}.mid.attn.v.{p}", "{side}.mid_block.attentions.0.to_v.{p}"),
    Same("{side}.mid.attn.out.{p}", "{side}.mid_block.attentions.0.to_out.0.{p}"),
    Same("encoder.quant.{p}", "quant_conv.{p}"),
    Same("decoder.post_quant.{p}", "post_quant_conv.{p}"),
    Same("{side}.norm_out.{p}", "{side}.conv_norm_out.{p}"),
    Same("{side}.conv_in.{p}", "{side}.conv_in.{p}"),
    Same("{side}.conv_out.{p}", "{side}.conv_out.{p}"),
    Same("bn.mean", "bn.running_mean"),
    Same("bn.var", "bn.running_var"),
];

pub(super) const VAE_UNUSED: &[&str] = &["bn.num_batches_tracked"];
