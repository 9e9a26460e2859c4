"""Tiny FLUX.2 [klein] checkpoints with random weights: the architecture of the real ones, with smaller sizes.

Out: a diffusers folder (`klein/`), a Qwen3 folder with FP8 weights (`text_encoder_fp8/`), and a VAE whose decoder is
narrower than its encoder (`vae_small_decoder/`).

Every parameter is random, including norm scales and biases: initial ones and zeros would hide a swapped or missing
term. The values of a tensor depend only on its name and size. The gains keep every stage in a sensible range: residual
streams of order 1 to 10, and pictures that use the whole range without clipping.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from files import write_json, write_safetensors
from tiny_tokenizer import write_tokenizer

DIFFUSERS_VERSION = "0.42.1"

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 32,
    "out_channels": None,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "timestep_guidance_channels": 32,
    "mlp_ratio": 3.0,
    "axes_dims_rope": [8, 8, 8, 8],
    "rope_theta": 2000,
    "eps": 1e-6,
    "guidance_embeds": False,
}
# 28 layers because the pipeline taps hidden states 9, 18 and 27, and the last hidden state comes after the final norm.
TEXT_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 28,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
# An MLP so wide that a weight spans two quantization blocks, the second of which is partial.
TEXT_ENCODER_FP8 = TEXT_ENCODER | {"hidden_size": 16, "intermediate_size": 144, "head_dim": 8}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 16, 24, 24],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": 64,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "batch_norm_eps": 1e-4,
    "batch_norm_momentum": 0.1,
    "patch_size": [2, 2],
}
SMALL_DECODER = VAE | {"decoder_block_out_channels": [8, 8, 16, 16]}
FP8_BLOCK = 128

# Standard deviation of a matrix, in units of 1/sqrt(fan in); the first pattern that matches the name applies.
GAINS = [
    (r"time_guidance_embed", 2.0),
    (r"modulation", 1.0),
    (r"norm_out\.linear", 0.7),
    (r"self_attn\.o_proj|mlp\.down_proj", 0.7),
    (r"decoder\.conv_out", 0.8),
    (r"", 1.0),
]


def write_klein(folder: Path) -> dict[str, int]:
    """Writes the diffusers folder: BF16 weights, text encoder in two shards. Returns the tokenizer's ids."""
    ids = write_tokenizer(folder / "tokenizer")
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "Flux2KleinPipeline",
            "_diffusers_version": DIFFUSERS_VERSION,
            "is_distilled": True,
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3ForCausalLM"],
            "tokenizer": ["transformers", "Qwen2TokenizerFast"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
    )
    write_json(
        folder / "scheduler/scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": DIFFUSERS_VERSION,
            "base_image_seq_len": 256,
            "base_shift": 0.5,
            "invert_sigmas": False,
            "max_image_seq_len": 4096,
            "max_shift": 1.15,
            "num_train_timesteps": 1000,
            "shift": 3.0,
            "shift_terminal": None,
            "stochastic_sampling": False,
            "time_shift_type": "exponential",
            "use_beta_sigmas": False,
            "use_dynamic_shifting": True,
            "use_exponential_sigmas": False,
            "use_karras_sigmas": False,
        },
    )
    write_transformer(folder / "transformer")
    write_text_encoder(folder / "text_encoder", ids)
    write_vae(folder / "vae", VAE)
    return ids


def write_transformer(folder: Path) -> None:
    shapes = Flux2Transformer2DModel(**TRANSFORMER).state_dict()
    write_json(folder / "config.json", diffusers_config("Flux2Transformer2DModel", TRANSFORMER))
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", bf16(random_weights("transformer", shapes)))


def write_vae(folder: Path, config: dict) -> None:
    shapes = AutoencoderKLFlux2(**config).state_dict()
    write_json(folder / "config.json", diffusers_config("AutoencoderKLFlux2", config))
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", bf16(random_weights("vae", shapes)))


def diffusers_config(class_name: str, config: dict) -> dict:
    return {"_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION} | config


def write_text_encoder(folder: Path, ids: dict[str, int]) -> None:
    config = text_config(TEXT_ENCODER, ids) | {"rope_theta": 1000000, "rope_scaling": None}
    write_json(folder / "config.json", config)
    weights = bf16(random_weights("text_encoder", text_shapes(config)))

    shards, total = [{}, {}], sum(t.numel() for t in weights.values())
    seen = 0
    for name, tensor in weights.items():
        shards[0 if seen < 0.6 * total else 1][name] = tensor
        seen += tensor.numel()
    files = [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
    for file, shard in zip(files, shards):
        write_safetensors(folder / file, shard)
    write_json(
        folder / "model.safetensors.index.json",
        {
            "metadata": {"total_size": 2 * total},
            "weight_map": {name: file for file, shard in zip(files, shards) for name in shard},
        },
    )


def write_text_encoder_fp8(folder: Path, ids: dict[str, int]) -> None:
    """Block-quantized like Qwen/Qwen3-4B-FP8: E4M3 linears, one multiplier per 128x128 block, the rest BF16."""
    config = text_config(TEXT_ENCODER_FP8, ids) | {
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        },
    }
    write_json(folder / "config.json", config)
    tensors = {}
    for name, weight in random_weights("text_encoder_fp8", text_shapes(config)).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight.to(torch.bfloat16)
            continue
        # Blocks of different magnitude, so that using the scale of the wrong block is detected.
        weight[FP8_BLOCK:] *= 2.0
        weight[:, FP8_BLOCK:] *= 0.5
        tensors[name], tensors[name + "_scale_inv"] = quantize_fp8(weight)
    write_safetensors(folder / "model.safetensors", tensors)


def quantize_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`weight` [out, in] -> E4M3 [out, in] and BF16 multipliers [ceil(out/128), ceil(in/128)]."""
    blocks = [-(-n // FP8_BLOCK) for n in weight.shape]
    scales = torch.empty(blocks, dtype=torch.bfloat16)
    for row in range(blocks[0]):
        for column in range(blocks[1]):
            block = weight[row * FP8_BLOCK : (row + 1) * FP8_BLOCK, column * FP8_BLOCK : (column + 1) * FP8_BLOCK]
            scales[row, column] = block.abs().max() / 448
    quantized = (weight / expand_blocks(scales, weight.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return quantized, scales


def dequantize_fp8(quantized: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Decodes an FP8 weight and rounds it to BF16, as transformers does at load."""
    return (quantized.float() * expand_blocks(scales, quantized.shape)).to(torch.bfloat16)


def expand_blocks(scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """One f32 scale per weight."""
    wide = scales.float().repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
    return wide[: shape[0], : shape[1]]


def text_config(sizes: dict, ids: dict[str, int]) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["pad"],
        "eos_token_id": ids["im_end"],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40960,
        "max_window_layers": sizes["num_hidden_layers"],
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": ids["rows"],
    } | sizes


def text_shapes(config: dict) -> dict[str, torch.Tensor]:
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    shapes = Qwen3ForCausalLM(Qwen3Config(**plain)).state_dict()
    shapes.pop("lm_head.weight")  # tied to the embedding, so published files leave it out
    return shapes


def bf16(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: w.to(torch.bfloat16) if w.is_floating_point() else w for name, w in weights.items()}


def random_weights(part: str, shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """f32 values for every entry of `shapes`; `part` distinguishes equal names in different models."""
    return {name: random_tensor(part, name, tuple(tensor.shape)) for name, tensor in shapes.items()}


def random_tensor(part: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    digest = hashlib.sha256(f"{part}:{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000, dtype=torch.int64)
    if name.endswith("running_mean"):
        values = rng.normal(0.0, 0.5, shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 2.0, shape)
    elif name.endswith(".bias"):
        values = rng.normal(0.0, 0.1, shape)
    elif len(shape) == 1:
        values = rng.uniform(0.8, 1.2, shape)
    elif "embed_tokens" in name:
        values = rng.normal(0.0, 1.0, shape)
    else:
        gain = next(gain for pattern, gain in GAINS if re.search(pattern, name))
        values = rng.normal(0.0, gain / np.sqrt(np.prod(shape[1:])), shape)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
