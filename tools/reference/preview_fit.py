"""How well linear maps from latents to colors fit that are found in different ways, on klein-mini's autoencoder.

    python tools/reference/preview_fit.py

In:  assets/mini/vae, the pictures of docs/images.
Out: R2 of red, green and blue on tiles of the pictures, at an eighth of their size: for a map fitted to other tiles, for
     the constants of the program, and for maps that need no pictures: from random latents, decoded, and from drawn
     shapes, encoded. `preview/fit.rs` does the one called "smooth patches".

Needs torch, diffusers, numpy and Pillow.
"""

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
VAE = AutoencoderKLFlux2.from_pretrained(ROOT / "assets/mini/vae").eval()
MEAN = VAE.bn.running_mean.view(1, -1, 1, 1)
STD = torch.sqrt(VAE.bn.running_var.view(1, -1, 1, 1) + VAE.config.batch_norm_eps)
CHANNELS = MEAN.shape[1]
COUNT, SIDE = 48, 4


def patched(z):
    b, c, h, w = z.shape
    return z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def unpatched(z):
    b, c, h, w = z.shape
    return z.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


@torch.no_grad()
def encoded(pixels):
    return (patched(VAE.encode(pixels).latent_dist.mean) - MEAN) / STD


@torch.no_grad()
def decoded(latents):
    return VAE.decode(unpatched(latents * STD + MEAN)).sample.clamp(-1, 1)


def rows(latents, pixels):
    z = unpatched(latents)
    means = torch.nn.functional.avg_pool2d(pixels, 8)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double().numpy() for x in (z, means)]
    return np.c_[flat[0], np.ones(len(flat[0]))], flat[1]


def fitted(a, colors, ridge=1e-3):
    weight = np.eye(a.shape[1])
    weight[-1, -1] = 0
    return np.linalg.solve(a.T @ a + ridge * len(a) * weight, a.T @ colors)


def tiles():
    found = []
    for path in sorted((ROOT / "docs/images").rglob("*.png")):
        picture = np.asarray(Image.open(path).convert("RGB"))
        for y in range(0, picture.shape[0] - 127, 128):
            found += [picture[y : y + 128, x : x + 128] for x in range(0, picture.shape[1] - 127, 128)]
    found = np.stack(found[:: max(1, len(found) // 80)])
    return torch.tensor(found).permute(0, 3, 1, 2).float() / 127.5 - 1


def noise(scale=1.0):
    return scale * torch.randn(COUNT, CHANNELS, SIDE, SIDE)


def smooth(knots):
    z = torch.randn(COUNT, CHANNELS // 4, knots, knots)
    size = (2 * SIDE, 2 * SIDE)
    return patched(torch.nn.functional.interpolate(z, size=size, mode="bilinear", align_corners=True))


def shapes():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64] / 64
    pictures = []
    for i in range(COUNT):
        a, b = rng.uniform(-1, 1, (2, 3))
        t = np.clip(x * np.cos(i) + y * np.sin(i), 0, 1)[..., None]
        picture = a * (1 - t) + b * t
        for _ in range(8):
            cx, cy, r = rng.uniform(0, 1, 3) * [1, 1, 0.35]
            inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r if rng.random() < 0.5 else abs(x - cx) + abs(y - cy) < r
            picture[inside] = rng.uniform(-1, 1, 3)
        pictures.append(picture)
    return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float()


def constants():
    text = (ROOT / "crates/flux2/src/preview/constants.rs").read_text()
    rows = re.findall(r"\[(-?[\d.]+), (-?[\d.]+), (-?[\d.]+)\]", text.split("const MINI", 1)[1])
    bias = re.findall(r"bias: \[(-?[\d.]+), (-?[\d.]+), (-?[\d.]+)\]", text)[1]
    return np.array([*rows, bias], dtype=float)


def main():
    torch.manual_seed(0)
    pixels = tiles()
    a, colors = rows(encoded(pixels), pixels)
    half = len(a) // 2

    def show(name, found, a=a, colors=colors):
        r2 = 1 - ((a @ found - colors) ** 2).sum(0) / ((colors - colors.mean(0)) ** 2).sum(0)
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in r2) + " |")

    print("| found from | red | green | blue |\n|---|---|---|---|")
    show("other tiles of the pictures", fitted(a[:half], colors[:half]), a[half:], colors[half:])
    show("the constants of the program", constants())
    for name, latents in [
        ("independent noise, decoded", noise()),
        ("half of that noise, decoded", noise(0.5)),
        ("even patches with noise, decoded", smooth(1) + noise(0.5)),
        ("smooth patches with noise, decoded", smooth(3) + noise(0.5)),
    ]:
        show(name, fitted(*rows(latents, decoded(latents))))
    drawn = shapes()
    show("drawn shapes, encoded", fitted(*rows(encoded(drawn), drawn)))


if __name__ == "__main__":
    main()
