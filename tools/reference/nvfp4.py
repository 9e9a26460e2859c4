"""NVFP4 matrices and their decoded values, by comfy-kitchen, which ComfyUI uses to read the official files.

Out: `nvfp4.safetensors`. For two sizes, one of which does not fill a tile of scales: `NAME.weight`,
`NAME.weight_scale`, `NAME.weight_scale_2` as stored, and `NAME.values` (f32).

    nvfp4.py OUT      only this fixture
"""

import sys
from pathlib import Path

import comfy_kitchen
import torch
from safetensors.torch import save_file

SIZES = {"small": (64, 256), "ragged": (144, 96)}


def write(path: Path) -> None:
    random = torch.Generator().manual_seed(3)
    tensors = {}
    for name, size in SIZES.items():
        values = torch.randn(size, generator=random) * 0.05
        whole = values.abs().max() / (448.0 * 6.0)
        packed, scales = comfy_kitchen.quantize_nvfp4(values, whole)
        decoded = comfy_kitchen.dequantize_nvfp4(packed, whole, scales, torch.float32)
        assert (decoded - values).abs().max() < 0.25 * values.abs().max()
        tensors |= {
            f"{name}.weight": packed,
            f"{name}.weight_scale": scales.view(torch.float8_e4m3fn),
            f"{name}.weight_scale_2": whole,
            f"{name}.values": decoded,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
