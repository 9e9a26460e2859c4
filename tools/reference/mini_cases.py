#!/usr/bin/env python3
"""Pictures of klein-mini by diffusers' own pipeline: golden cases with trained instead of random weights.

    mini_cases.py               regenerate fixtures/golden/mini_*.safetensors, after every change of assets/mini

In:  assets/mini; taps and prompt length are passed as arguments of the call. Out: token ids and the picture of each
case, f32 throughout, noise from torch's CPU generator; two reference pictures of plain shapes that klein-mini knows.
"""

import json
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline
from PIL import Image, ImageDraw

from files import write_safetensors
from golden_cases import Case, metadata, run

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets/mini"
INDEX = json.loads((MODEL / "model_index.json").read_text())
SIDE = 128


MINI = {"model": "mini", "rows": INDEX["max_sequence_length"]}
CASES = [
    Case("mini_t2i", "a cat on a blue background", 1, SIDE, SIDE, **MINI),
    Case("mini_edit", "make the background blue", 2, None, None, references=("mini_circle.png",), **MINI),
    Case("mini_two_references", "the subject of image 1 on the background of image 2", 3, SIDE, SIDE,
         references=("mini_circle.png", "mini_square.png"), **MINI),
]  # fmt: skip


def write_references(folder: Path) -> None:
    """A red circle on yellow, a blue square on white and gray stripes."""
    circle = Image.new("RGB", (SIDE, SIDE), (250, 215, 50))
    ImageDraw.Draw(circle).ellipse((19, 19, 109, 109), fill=(214, 40, 40))
    square = Image.new("RGB", (SIDE, SIDE), (250, 250, 250))
    draw = ImageDraw.Draw(square)
    for x in range(8, SIDE, 16):
        draw.rectangle((x, 0, x + 7, SIDE), fill=(190, 190, 190))
    draw.rectangle((37, 37, 90, 90), fill=(45, 95, 210))
    folder.mkdir(parents=True, exist_ok=True)
    circle.save(folder / "mini_circle.png", optimize=True)
    square.save(folder / "mini_square.png", optimize=True)


def write(golden: Path) -> None:
    write_references(golden / "references")
    pipe = Flux2KleinPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    taps = tuple(INDEX["text_encoder_out_layers"])
    for case in CASES:
        text = {"text_encoder_out_layers": taps, "max_sequence_length": case.rows}
        tensors = run(case, pipe, golden / "references", **text)
        kept = {name: tensors[name] for name in ("token_ids", "attention_mask", "image")}
        write_safetensors(golden / f"{case.name}.safetensors", kept, metadata(case))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    write(ROOT / "fixtures/golden")
