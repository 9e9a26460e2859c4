#!/usr/bin/env python3
"""Compares the pictures of the release binary with those of diffusers, byte by byte, for every golden request.

    cargo build --release && python3 tools/reference/compare_pictures.py

Prints the number of bytes, of differing bytes and the largest difference, per request and in total. Needs numpy, pillow
and safetensors.
"""

import json
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "fixtures/golden"
MODEL = {"tiny/klein": "fixtures/tiny/klein", "mini": "assets/mini"}
VARIANT = {"distilled": "klein", "base": "klein-base", "kv": "klein-kv"}


def command(request, model, pipeline, picture):
    args = [
        ROOT / "target/release/dj-flux2",
        "generate",
        request["prompt"],
        "-m",
        ROOT / MODEL[model],
        "--variant",
        VARIANT[pipeline],
        "--dtype",
        "f32",
        "--noise",
        "torch-cpu",
        "-q",
        "-o",
        picture,
        "-S",
        str(request["seed"]),
        "-s",
        str(request["steps"]),
    ]
    if request["width"]:
        args += ["-W", str(request["width"]), "-H", str(request["height"])]
    if pipeline == "base":
        args += ["-g", str(request["guidance"])]
    for name in request["references"]:
        args += ["-i", GOLDEN / "references" / name]
    return args


def main():
    total = differing = largest = 0
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder) / "picture.png"
        for path in sorted(GOLDEN.glob("*.safetensors")):
            with safe_open(path, "np") as golden:
                metadata = golden.metadata()
                if "request" not in metadata:
                    continue
                expected = golden.get_tensor("image").astype(int)
            run = command(json.loads(metadata["request"]), metadata["model"], metadata["pipeline"], picture)
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
            distance = np.abs(np.asarray(Image.open(picture)).astype(int) - expected)
            print(
                f"{path.stem:28} {distance.size:7} bytes, {(distance > 0).sum():3} differ, by at most {distance.max()}"
            )
            total, differing = total + distance.size, differing + (distance > 0).sum()
            largest = max(largest, distance.max())
    if total == 0:
        raise SystemExit(f"no golden request in {GOLDEN}: nothing was compared")
    print(f"{'all':28} {total:7} bytes, {differing:3} differ, by at most {largest}")


main()
