"""Times upscalers: dj-flux2 beside PyTorch (spandrel), on the same weights and picture.

    upscale.py WEIGHTS... [--size 256 --size 1024] [--dtype f32 --dtype bf16] [--device cpu|cuda] [--rounds 3]
               [--binary target/release/dj-flux2]

WEIGHTS are files of Real-ESRGAN; `tools/reference/upscale_real.py` makes some. PyTorch runs the whole picture at once,
as spandrel returns the network, eager. On a CPU without instructions for bf16 it takes minutes in bf16: use f32 there.
dj-flux2 runs as a process of its own for each round; the seconds are those that it reports for the picture, without
start and loading. The fastest round counts.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from spandrel import ModelLoader

ROOT = Path(__file__).parents[2]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def picture(side):
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    waves = [127.5 + 110 * np.sin(x / (2 + c) + c) * np.cos(y / (3 - c / 2)) for c in range(3)]
    return np.clip(np.rint(np.stack(waves, -1)), 0, 255).astype(np.uint8)


@torch.no_grad()
def with_torch(weights, pixels, device, dtype, rounds):
    model = ModelLoader(device=device).load_from_file(weights).model.eval().to(dtype)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(device, dtype) / 255
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        y = model(x)
        # As bytes on the host, as the program has them.
        (y.clamp(0, 1) * 255).round().byte().cpu()
        best = min(best, time.perf_counter() - start)
    return best


def with_program(binary, weights, path, device, dtype, rounds):
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "upscale", path, "-o", f"{folder}/out.png", "--upscaler", weights, "--json", "--no-metadata"]
        for _ in range(rounds):
            ran = subprocess.run(
                [*map(str, command), "--device", device, "--dtype", dtype], check=True, capture_output=True, text=True
            )
            best = min(best, json.loads(ran.stdout)["seconds"])
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", type=Path)
    parser.add_argument("--size", action="append", type=int)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--binary", default=ROOT / "target/release/dj-flux2")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads of PyTorch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    for side in args.size or [256]:
        pixels = picture(side)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.png"
            Image.fromarray(pixels).save(path)
            for weights in args.weights:
                for name in args.dtype or DTYPES:
                    ours = with_program(args.binary, weights, path, args.device, name, args.rounds)
                    theirs = with_torch(weights, pixels, args.device, DTYPES[name], args.rounds)
                    ratio = f"{theirs / ours:.2f} times"
                    times = f"dj-flux2 {ours:8.3f} s  PyTorch {theirs:8.3f} s  {ratio}"
                    print(f"{weights.stem:28} {side:5} {name:5} {times}")


if __name__ == "__main__":
    main()
