"""The tiny checkpoint as single files in Black Forest Labs' layout.

In:  a diffusers folder. Out: `transformer.safetensors` (keys under `model.diffusion_model.`, as some tools save them),
`ae.safetensors` (F32, attention as 1x1 convolutions, decoder levels counted from the output),
`text_encoder.safetensors` (one file, HF names). Names follow `src/flux2/model.py` and `src/flux2/autoencoder.py` of
black-forest-labs/flux2. Values are exactly those of the folder: widening BF16 to F32 is exact.
"""

import re
import shutil
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file

from files import write_safetensors

TRANSFORMER_PREFIX = "model.diffusion_model."

# diffusers name -> BFL name, for tensors that are only renamed.
TRANSFORMER_RENAMES = [
    (r"x_embedder\.", "img_in."),
    (r"context_embedder\.", "txt_in."),
    (r"time_guidance_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
    (r"time_guidance_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
    (r"(double_stream_modulation_(?:img|txt)|single_stream_modulation)\.linear\.", r"\1.lin."),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0\.", r"double_blocks.\1.img_attn.proj."),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"double_blocks.\1.txt_attn.proj."),
    (r"transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"double_blocks.\1.img_attn.norm.query_norm.scale"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"double_blocks.\1.img_attn.norm.key_norm.scale"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight", r"double_blocks.\1.txt_attn.norm.query_norm.scale"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight", r"double_blocks.\1.txt_attn.norm.key_norm.scale"),
    (r"transformer_blocks\.(\d+)\.ff\.linear_in\.", r"double_blocks.\1.img_mlp.0."),
    (r"transformer_blocks\.(\d+)\.ff\.linear_out\.", r"double_blocks.\1.img_mlp.2."),
    (r"transformer_blocks\.(\d+)\.ff_context\.linear_in\.", r"double_blocks.\1.txt_mlp.0."),
    (r"transformer_blocks\.(\d+)\.ff_context\.linear_out\.", r"double_blocks.\1.txt_mlp.2."),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"proj_out\.", "final_layer.linear."),
]
VAE_RENAMES = [
    (r"quant_conv\.", "encoder.quant_conv."),
    (r"post_quant_conv\.", "decoder.post_quant_conv."),
    (r"(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.group_norm\.", r"\1.mid.attn_1.norm."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.to_out\.0\.", r"\1.mid.attn_1.proj_out."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.to_([qkv])\.", r"\1.mid.attn_1.\2."),
]


def write_single_files(diffusers: Path, folder: Path) -> None:
    transformer = bfl_transformer(load_file(diffusers / "transformer/diffusion_pytorch_model.safetensors"))
    prefixed = {TRANSFORMER_PREFIX + name: tensor for name, tensor in transformer.items()}
    write_safetensors(folder / "transformer.safetensors", prefixed)

    vae = bfl_autoencoder(load_file(diffusers / "vae/diffusion_pytorch_model.safetensors"))
    write_safetensors(folder / "ae.safetensors", vae)

    text_encoder = {}
    for shard in sorted((diffusers / "text_encoder").glob("*.safetensors")):
        text_encoder |= load_file(shard)
    write_safetensors(folder / "text_encoder.safetensors", text_encoder)
    # Its vocabulary is not Qwen3's, so the tokenizer built into the program does not fit.
    shutil.copytree(diffusers / "tokenizer", folder / "tokenizer")


def bfl_transformer(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result = {}
    for name, tensor in source.items():
        if name == "norm_out.linear.weight":
            # diffusers stores (scale, shift), BFL (shift, scale).
            result["final_layer.adaLN_modulation.1.weight"] = torch.cat(tensor.chunk(2)[::-1])
        elif match := re.fullmatch(r"transformer_blocks\.(\d+)\.attn\.to_q\.weight", name):
            block = f"transformer_blocks.{match[1]}.attn."
            result[f"double_blocks.{match[1]}.img_attn.qkv.weight"] = torch.cat(
                [source[f"{block}to_{x}.weight"] for x in "qkv"]
            )
            result[f"double_blocks.{match[1]}.txt_attn.qkv.weight"] = torch.cat(
                [source[f"{block}add_{x}_proj.weight"] for x in "qkv"]
            )
        elif not re.search(r"attn\.(to_[kv]|add_[qkv]_proj)\.weight$", name):
            result[rename(name, TRANSFORMER_RENAMES, required=True)] = tensor
    check_way_back(convert_flux2_transformer_checkpoint_to_diffusers(dict(result)), source)
    return result


def bfl_autoencoder(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    levels = 1 + max(int(n.split(".")[2]) for n in source if n.startswith("decoder.up_blocks."))
    result = {}
    for name, tensor in source.items():
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", name):
            kind = {"resnets": "block", "upsamplers.0": "upsample"}[match[2]]
            new = f"decoder.up.{levels - 1 - int(match[1])}.{kind}.{name[match.end() :]}"
        else:
            new = rename(name, VAE_RENAMES, required=False)
        new = new.replace(".conv_shortcut.", ".nin_shortcut.")
        if ".attn_1." in new and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        result[new] = tensor.float() if tensor.is_floating_point() else tensor
    # The converter expects older autoencoders: quantization convolutions outside of encoder and decoder, no statistics.
    old_style = {re.sub(r"^(en|de)coder\.(?=(post_)?quant_conv)", "", name): tensor for name, tensor in result.items()}
    sizes = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    statistics = {name: tensor for name, tensor in result.items() if name.startswith("bn.")}
    check_way_back(convert_ldm_vae_checkpoint(old_style, sizes) | statistics, source)
    return result


def check_way_back(back: dict[str, torch.Tensor], source: dict[str, torch.Tensor]) -> None:
    """Checks our tables independently: diffusers' own converter must restore the folder's tensors."""
    assert back.keys() == source.keys(), back.keys() ^ source.keys()
    for name, tensor in source.items():
        assert torch.equal(back[name].reshape(tensor.shape), tensor.to(back[name].dtype)), name


def rename(name: str, rules: list[tuple[str, str]], required: bool) -> str:
    for pattern, replacement in rules:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    if required:
        raise KeyError(f"no BFL name for {name}")
    return name
