"""Tensors that diffusers computes at every stage of a request, for requests that each exercise another feature.

In:  the tiny checkpoint, reference pictures. Out: one safetensors file per case, f32 throughout, noise from torch's CPU
generator. README.md lists the tensors.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinKVPipeline, Flux2KleinPipeline
from PIL import Image

from files import write_safetensors

PRODUCED_BY = "diffusers 0.42.1, transformers 5.23.0, torch 2.15.0, CPU, f32"


@dataclass(frozen=True)
class Case:
    name: str
    prompt: str
    seed: int
    width: int | None
    height: int | None
    steps: int = 4
    guidance: float = 1.0
    references: tuple[str, ...] = ()
    pipeline: str = "distilled"  # or "base" (two passes a step), "kv" (keys and values of references cached)
    keep_text_embedding: bool = False
    model: str = "tiny/klein"
    rows: int = 512  # of text


LONG_PROMPT = "a quiet lake in the morning light, a red fox in the snow and an old lighthouse above the sea; " * 24
CASES = [
    Case("t2i", "a red fox in the snow", 42, 96, 64, keep_text_embedding=True),
    Case("t2i_empty_prompt", "", 7, 64, 64),
    Case("t2i_long_prompt", LONG_PROMPT, 1, 64, 80, keep_text_embedding=True),
    Case("t2i_8_steps", "a blue boat on a quiet lake", 1234567890123, 80, 112, steps=8),
    Case("edit_one_reference", "turn the snow into sand", 3, 96, 64, references=("wide.png",)),
    Case("edit_two_references", "the fox of image 1 in image 2", 4, 80, 64, references=("wide.png", "tall.png")),
    Case("edit_size_from_reference", "replace the sky with stars", 5, None, None, references=("tall.png",)),
    Case("base_guidance", "an old lighthouse", 6, 64, 64, steps=6, guidance=4.0, pipeline="base"),
    Case("base_guidance_edit", "an old lighthouse at night", 8, 64, 80, steps=6, guidance=4.0,
         references=("wide.png",), pipeline="base"),
    Case("kv_one_reference", "turn the snow into sand", 9, 96, 64, references=("wide.png",), pipeline="kv"),
    Case("kv_two_references", "the fox of image 1 in image 2", 10, 64, 80, references=("tall.png", "wide.png"),
         pipeline="kv"),
]  # fmt: skip


def load_pipelines(klein: Path) -> dict:
    """The three pipelines over one set of weights. The KV one has its own transformer, whose attention it replaces."""
    distilled = Flux2KleinPipeline.from_pretrained(klein, dtype=torch.float32)
    base = Flux2KleinPipeline(**distilled.components, is_distilled=False)
    kv = Flux2KleinKVPipeline.from_pretrained(klein, dtype=torch.float32)
    pipelines = {"distilled": distilled, "base": base, "kv": kv}
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def write_references(folder: Path) -> None:
    """Pictures whose sides are not multiples of 16, so that the center crop matters; textured up to the borders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, height, phase in [("wide.png", 100, 75, 0.0), ("tall.png", 69, 123, 1.7)]:
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        channels = [
            127.5 + 100 * np.sin(x / (5 + 2 * c) + phase * c) * np.cos(y / (7 - c) - phase) + 0.2 * (x - y)
            for c in range(3)
        ]
        pixels = np.stack(channels, -1)
        pixels[height // 4 : height // 2, width // 3 : width // 2] = [250, 20, 60]
        image = Image.fromarray(np.clip(np.rint(pixels / 4) * 4, 0, 255).astype(np.uint8), "RGB")
        image.save(folder / name, optimize=True)


def write_case(case: Case, pipelines: dict, references: Path, path: Path) -> None:
    tensors = run(case, pipelines[case.pipeline], references)
    if not case.keep_text_embedding:
        del tensors["text_embedding"]
    write_safetensors(path, tensors, metadata(case))


def metadata(case: Case) -> dict[str, str]:
    request = {
        "prompt": case.prompt,
        "seed": case.seed,
        "width": case.width,
        "height": case.height,
        "steps": case.steps,
        "guidance": case.guidance,
        "references": list(case.references),
        "reproducible": True,
    }
    return {
        "request": json.dumps(request, ensure_ascii=False),
        "model": case.model,
        "pipeline": case.pipeline,
        "noise": "torch-cpu",
        "produced_by": PRODUCED_BY,
    }


def run(case: Case, pipe, references: Path, **arguments) -> dict[str, torch.Tensor]:
    """Runs the unmodified pipeline, with extra `arguments`, and records the calls between its stages."""
    tensors = tokenize(pipe, case.prompt, case.rows)
    velocities = []

    def listen(owner, method: str, hear):
        original = getattr(owner, method)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            hear(kwargs, result)
            return result

        setattr(owner, method, wrapped)
        return lambda: delattr(owner, method)

    def heard_transformer(kwargs, result):
        tensors.setdefault("text_embedding", kwargs["encoder_hidden_states"][0])
        velocities.append(result[0][0])

    def heard_latents(_, result):
        tensors["noise"] = result[0][0]

    def heard_references(_, result):
        tensors["reference_tokens"], tensors["reference_ids"] = result[0][0], result[1][0]

    def heard_decode(_, result):
        tensors["decoded"] = result[0][0]

    def step_done(_, step, __, kwargs):
        latents = kwargs["latents"][0]
        tensors[f"velocity_{step}"] = velocities[0][: len(latents)]
        if len(velocities) == 2:
            tensors[f"velocity_uncond_{step}"] = velocities[1][: len(latents)]
        velocities.clear()
        tensors[f"latents_{step}"] = latents
        return kwargs

    undo = [
        listen(pipe.transformer, "forward", heard_transformer),
        listen(pipe, "prepare_latents", heard_latents),
        listen(pipe, "prepare_image_latents", heard_references),
        listen(pipe.vae, "decode", heard_decode),
    ]
    if case.pipeline != "kv":
        arguments["guidance_scale"] = case.guidance
    output = pipe(
        image=[Image.open(references / name).convert("RGB") for name in case.references] or None,
        prompt=case.prompt,
        width=case.width,
        height=case.height,
        num_inference_steps=case.steps,
        generator=torch.Generator("cpu").manual_seed(case.seed),
        callback_on_step_end=step_done,
        **arguments,
    )
    for restore in undo:
        restore()
    tensors["sigmas"] = pipe.scheduler.sigmas
    tensors["image"] = torch.from_numpy(np.asarray(output.images[0]).copy())
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def tokenize(pipe, prompt: str, rows: int = 512) -> dict[str, torch.Tensor]:
    """Token ids of a prompt, padded or truncated to `rows`, computed as the pipeline does internally."""
    text = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    tokens = pipe.tokenizer(text, return_tensors="pt", padding="max_length", truncation=True, max_length=rows)
    return {"token_ids": tokens["input_ids"][0], "attention_mask": tokens["attention_mask"][0]}
