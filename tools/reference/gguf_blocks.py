"""Blocks of GGML's number formats and their decoded values, by the `gguf` package.

Out: `gguf_blocks.safetensors`. For each format `FORMAT.blocks` (bytes, `[blocks, bytes per block]`) and
`FORMAT.decoded` (f32). For formats that the package can encode, the first blocks encode `values`. All other blocks are
random bytes with scales of a sane size; the last two are all zeros and all ones apart from the scales.

    gguf_blocks.py OUT      only this fixture
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

BLOCKS = 6
# Offsets of a block's f16 numbers.
SCALES = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}  # fmt: skip
MADE = [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]


def write(path: Path) -> None:
    random = np.random.default_rng(2)
    tensors = {"values": (random.standard_normal((BLOCKS, 256)) * 0.05).astype(np.float32)}
    for kind, scales in SCALES.items():
        length, size = gguf.GGML_QUANT_SIZES[kind]
        random_blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        random_blocks[-2], random_blocks[-1] = 0, 255
        for at in scales:
            d = (random.standard_normal(BLOCKS) * 0.01).astype(np.float16)
            d[0] = 3e-6  # below the smallest normal number
            random_blocks[:, at : at + 2] = d.view(np.uint8).reshape(BLOCKS, 2)
        blocks = random_blocks
        if kind in MADE:
            made = gguf.quantize(tensors["values"], kind).reshape(-1, size)
            blocks = np.concatenate([made, random_blocks])
        name = kind.name.lower()
        tensors[f"{name}.blocks"] = np.ascontiguousarray(blocks)
        tensors[f"{name}.decoded"] = gguf.dequantize(blocks, kind).astype(np.float32).reshape(-1, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
