"""A LoRA for the tiny transformer, and a request drawn with it by diffusers and PEFT.

Out: `tiny/lora.safetensors`, with diffusers' names, on every matrix of the transformer. Its metadata has the adapter's
configuration; some modules have another rank or alpha. Also `golden/lora.safetensors`, as in golden_cases.py. PEFT
computes `W x + s B (A x)`, which sums in another order than merged weights.
"""

import json
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline

from files import write_safetensors
from golden_cases import Case, metadata, run
from tiny_models import bf16, random_tensor

RANK, ALPHA = 4, 6
# Keyed by suffixes of names, as PEFT matches patterns.
RANKS = {"attn.to_k": 2, "ff.linear_out": 3}
ALPHAS = {"attn.to_k": 5, "proj_out": 1}
SCALE = 0.7
# Large enough to change the picture, small enough to keep it a picture.
UP = 0.3
CASE = Case("lora", "a red fox in the snow", 11, 96, 64, steps=2)


def write(klein: Path, lora: Path, golden: Path) -> None:
    pipe = Flux2KleinPipeline.from_pretrained(klein, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    write_lora(pipe.transformer, lora)
    pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="tiny")
    pipe.set_adapters("tiny", SCALE)
    tensors = run(CASE, pipe, golden.parent / "references")
    del tensors["text_embedding"]
    write_safetensors(golden, tensors, metadata(CASE) | {"lora": lora.name, "lora_scale": str(SCALE)})


def write_lora(transformer, path: Path) -> None:
    tensors, modules = {}, []
    for module, layer in transformer.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        rank = next((rank for end, rank in RANKS.items() if module.endswith(end)), RANK)
        modules.append(module)
        for factor, shape in [("lora_A", (rank, layer.in_features)), ("lora_B", (layer.out_features, rank))]:
            name = f"transformer.{module}.{factor}.weight"
            tensors[name] = random_tensor("lora", name, shape)
        tensors[name] *= UP
    configuration = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "rank_pattern": RANKS,
        "alpha_pattern": ALPHAS,
        "target_modules": modules,
    }
    text = json.dumps({f"transformer.{key}": value for key, value in configuration.items()})
    write_safetensors(path, bf16(tensors), {"format": "pt", "lora_adapter_metadata": text})
