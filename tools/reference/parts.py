"""Golden tensors of components that no request uses: FP8 text encoder, VAE with a narrow decoder.

Also the conversion between pixels and the transformer's tokens, composed of the pipeline's own functions.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from files import write_safetensors
from golden_cases import CASES, PRODUCED_BY, tokenize
from tiny_models import dequantize_fp8

FP8_TEXT_ROWS = 64


def write_text_encoder_fp8(folder: Path, pipe, path: Path) -> None:
    """The prompt of `t2i` through the FP8 weights: dequantized, rounded to BF16, then computed in f32."""
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.float8_e4m3fn:
            weights[name] = dequantize_fp8(tensor, stored[name + "_scale_inv"]).float()
        elif not name.endswith("_scale_inv"):
            weights[name] = tensor.float()
    model = Qwen3ForCausalLM(Qwen3Config(**config)).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)

    prompt = CASES[0].prompt
    embedding = Flux2KleinPipeline._get_qwen3_prompt_embeds(
        model, pipe.tokenizer, prompt, max_sequence_length=FP8_TEXT_ROWS
    )
    tensors = tokenize(pipe, prompt, FP8_TEXT_ROWS) | {"text_embedding": embedding[0]}
    write_safetensors(path, tensors, {"model": "tiny/text_encoder_fp8", "prompt": prompt, "produced_by": PRODUCED_BY})


def write_vae_small_decoder(folder: Path, path: Path) -> None:
    vae = AutoencoderKLFlux2.from_pretrained(folder, dtype=torch.float32)
    tokens = random_tokens(vae, 2, 3, seed=23)
    tensors = {"tokens": tokens, "decoded": decode_tokens(vae, tokens, 2, 3)}
    write_safetensors(path, tensors, {"model": "tiny/vae_small_decoder", "produced_by": PRODUCED_BY})


def random_tokens(vae, rows: int, columns: int, seed: int) -> torch.Tensor:
    """Normalized latents as the transformer sees them, [rows * columns, 4 * latent channels]."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(rows * columns, 4 * vae.config.latent_channels, generator=generator)


def encode_to_tokens(vae, pixels: torch.Tensor) -> torch.Tensor:
    """`pixels` [3, h, w] in -1..=1 -> [h/16 * w/16, 4 * latent channels]."""
    latents = Flux2KleinPipeline._patchify_latents(vae.encode(pixels[None]).latent_dist.mode())
    mean, std = statistics(vae)
    return Flux2KleinPipeline._pack_latents((latents - mean) / std)[0]


def decode_tokens(vae, tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse: [rows * columns, 4 * latent channels] -> [3, 16 * rows, 16 * columns], not clamped."""
    mean, std = statistics(vae)
    latents = tokens.T.reshape(1, -1, rows, columns) * std + mean
    return vae.decode(Flux2KleinPipeline._unpatchify_latents(latents)).sample[0]


def statistics(vae) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the patchified latents, each [1, 4 * latent channels, 1, 1]."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    return mean, torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
