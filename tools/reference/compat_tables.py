"""What other programs compute before any weights: noise levels, sizes and pixels of reference images, bytes.

Out: fixtures/golden/compat.json. Numbers are exact: every f32 is printed as its bits.

`get_schedule`, `encode_image_refs` and the last lines of `cli.py` of black-forest-labs/flux2 (8550d206), the node
Flux2Scheduler of ComfyUI, and `denoiser.hpp` and `util.cpp` of stable-diffusion.cpp (97d29908) are followed with the
operations that they use: torch tensors in f32, Pillow, C's expf and roundf. djkunkel/dj-flux2 imports the first.

    python tools/reference/compat_tables.py
"""

import ctypes
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "compat.json"
IMAGE_TOKENS = [16, 256, 1024, 4080, 4096, 4300, 4301, 9216, 16384]
STEPS = [1, 2, 3, 4, 8, 20, 50]
SIZES = [(2600, 1700), (1920, 1080), (2030, 2030), (205, 103), (1200, 1200), (3100, 1400)]


def bits(values):
    return [int(value) for value in np.asarray(values, np.float32).view(np.uint32)]


def mu_of(tokens, steps):
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    slope = (at_200 - (8.73809524e-05 * tokens + 1.89833333)) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)


def linspace_levels(tokens, steps):
    """black-forest-labs/flux2 and ComfyUI."""
    mu = mu_of(tokens, steps)
    levels = torch.linspace(1, 0, steps + 1)
    return (math.exp(mu) / (math.exp(mu) + (1 / levels - 1) ** 1.0)).tolist()


libm = ctypes.CDLL("libm.so.6")
libm.expf.restype, libm.expf.argtypes = ctypes.c_float, [ctypes.c_float]
libm.roundf.restype, libm.roundf.argtypes = ctypes.c_float, [ctypes.c_float]


def discrete_levels(tokens, steps):
    """stable-diffusion.cpp: its scheduler `discrete`, every operation in f32."""
    f = np.float32
    at_200 = f(0.00016927) * f(tokens) + f(0.45666666)
    mu = at_200
    if tokens <= 4300:
        at_10 = f(8.73809524e-05) * f(tokens) + f(1.89833333)
        slope = (at_200 - at_10) / f(190.0)
        mu = slope * f(steps) + (at_200 - f(200.0) * slope)
    by = f(libm.expf(mu))
    if steps == 1:
        timesteps = [f(999)]
    else:
        step = f(999) / f(steps - 1)
        timesteps = [f(999) - step * f(i) for i in range(steps)]
    levels = [by / (by + (f(1.0) / ((t + f(1)) / f(1000)) - f(1.0))) for t in timesteps]
    return [*levels, f(0)]


def within(size, most):
    """The size that a picture is shrunk to, and the one that it is cropped to."""
    w, h = size
    if w * h > most:
        scale = math.sqrt(most / (w * h))
        w, h = int(w * scale), int(h * scale)
    return (w, h), (w // 16 * 16, h // 16 * 16)


def prepared(image, most):
    (w, h), (cropped_w, cropped_h) = within(image.size, most)
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.LANCZOS)
    left, top = (w - cropped_w) // 2, (h - cropped_h) // 2
    return image.crop((left, top, left + cropped_w, top + cropped_h))


def rough(w, h):
    """The same formula as in the Rust tests."""
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    return Image.fromarray(np.stack([x ^ y, x * 3 + y * 5, (x * y) >> 4], -1).astype(np.uint8))


def bytes_of(values):
    """Values of the decoder as bytes, by each program."""
    x = torch.tensor(values, dtype=torch.float32)
    half = (x / 2 + 0.5).clamp(0, 1)
    unit = torch.clamp((x + 1.0) / 2.0, 0, 1).numpy()
    away = np.array([libm.roundf(value) for value in unit * np.float32(255)])
    return {
        "diffusers": (half.numpy() * 255).round().astype("uint8").tolist(),
        "bfl": (127.5 * (x.clamp(-1, 1) + 1.0)).byte().tolist(),
        "comfy": np.clip(np.float32(255) * unit, 0, 255).astype(np.uint8).tolist(),
        "sdcpp": away.astype(np.uint8).tolist(),
    }


def main():
    levels = [
        {
            "image_tokens": tokens,
            "steps": steps,
            "linspace": bits(linspace_levels(tokens, steps)),
            "discrete": bits(discrete_levels(tokens, steps)),
        }
        for tokens in IMAGE_TOKENS
        for steps in STEPS
    ]
    sizes = [
        {"from": size, "alone": within(size, 2024**2)[1], "several": within(size, 1024**2)[1],
         "whole": within(size, 4096**2)[1]}
        for size in SIZES
    ]  # fmt: skip
    pixels = []
    for size in [(2100, 2050), (1500, 900), (205, 103)]:
        image = rough(*size)
        row = {"from": size}
        for name, most in [("alone", 2024**2), ("several", 1024**2), ("whole", 4096**2)]:
            row[name] = hashlib.sha256(prepared(image, most).tobytes()).hexdigest()
        pixels.append(row)
    # Around every border between two bytes, and beyond both ends.
    values = sorted({np.float32(k / 255 * 2 - 1 + d) for k in range(256) for d in (-3e-3, -1e-7, 0, 1e-7, 3e-3)})
    values += [np.float32((k + 0.5) / 255 * 2 - 1) for k in range(255)] + [-1.5, 1.5, -0.0]
    values = [float(value) for value in values]
    rows = {
        "levels": levels,
        "sizes": sizes,
        "pixels": pixels,
        "bytes": {"values": bits(values), **bytes_of(values)},
    }
    OUT.write_text(json.dumps(rows, separators=(",", ":")).replace("},{", "},\n{") + "\n")


main()
