"""Golden cases of upscalers: tiny random weights, computed by spandrel and compared with the formulas written out.

    upscale_cases.py [OUT_DIR]

Each case is a file of weights under the names of Real-ESRGAN, with `input` [3, h, w] f32 in 0..1, `output` [3, H, W]
f32 not clamped, `input_u8` [h, w, 3] and `output_u8` [H, W, 3] = round(255 * clamp(output)). The weights of two cases
are written a second time as `.pth`: under their own names inside `params`, and under those of the first ESRGAN.
"""

import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.__arch_helpers import block

OUT = Path(__file__).parents[2] / "fixtures/golden/upscale"
SIZE = (13, 18)  # an odd height, so that unshuffled models pad


def values(name, shape, kind):
    """Uniform values by name: weights of standard deviation 1 / sqrt(fan-in), biases, slopes around 0.25."""
    n = int(np.prod(shape))
    i = np.arange(n, dtype=np.uint64)
    h = (np.uint64(zlib.crc32(name.encode())) + i * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x7FEB352D)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0x846CA68B)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    s = 2 * (h.astype(np.float64) + 0.5) / 2**32 - 1
    s = {"w": lambda: s * math.sqrt(3 / np.prod(shape[1:])), "p": lambda: 0.25 + 0.2 * s, "b": lambda: 0.1 * s}[kind]()
    return torch.from_numpy(s.reshape(shape).astype(np.float32))


def conv(t, name, inputs, outputs):
    t[f"{name}.weight"] = values(f"{name}.weight", (outputs, inputs, 3, 3), "w")
    t[f"{name}.bias"] = values(f"{name}.bias", (outputs,), "b")


def rrdb(blocks, features, growth, inputs):
    t = {}
    conv(t, "conv_first", inputs, features)
    for b in range(blocks):
        for r in (1, 2, 3):
            for c in range(5):
                conv(t, f"body.{b}.rdb{r}.conv{c + 1}", features + c * growth, growth if c < 4 else features)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(t, name, features, features)
    conv(t, "conv_last", features, 3)
    return t


def srvgg(features, convolutions, scale):
    t = {}
    conv(t, "body.0", 3, features)
    for i in range(convolutions + 1):
        t[f"body.{2 * i + 1}.weight"] = values(f"body.{2 * i + 1}.weight", (features,), "p")
        conv(t, f"body.{2 * i + 2}", features, features if i < convolutions else 3 * scale * scale)
    return t


def first_names(t):
    """The names of the first ESRGAN, with two upsampling stages."""
    layers = {"conv_first": 0, "conv_up1": 3, "conv_up2": 6, "conv_hr": 8, "conv_last": 10}
    blocks = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("body."))
    renamed = {}
    for name, value in t.items():
        layer, kind = name.rsplit(".", 1)
        if layer in layers:
            renamed[f"model.{layers[layer]}.{kind}"] = value
        elif layer == "conv_body":
            renamed[f"model.1.sub.{blocks}.{kind}"] = value
        else:
            _, b, r, c = layer.split(".")
            renamed[f"model.1.sub.{b}.{r.upper()}.{c}.0.{kind}"] = value
    return renamed


def formulas(t, x):
    """Both networks, written out."""
    apply = lambda name, x: F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], padding=1)
    if "conv_first.weight" not in t:
        last = max(int(name.split(".")[1]) for name in t)
        y = x
        for i in range(0, last, 2):
            y = F.prelu(apply(f"body.{i}", y), t[f"body.{i + 1}.weight"])
        y = apply(f"body.{last}", y)
        s = math.isqrt(y.shape[1] // 3)
        return F.pixel_shuffle(y, s) + F.interpolate(x, scale_factor=s, mode="nearest")
    blocks = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("body."))
    s = math.isqrt(t["conv_first.weight"].shape[1] // 3)
    h, w = x.shape[-2:]
    if s > 1:
        x = F.pixel_unshuffle(F.pad(x, (0, -w % s, 0, -h % s), mode="reflect"), s)
    leaky = lambda x: F.leaky_relu(x, 0.2)
    double = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
    first = apply("conv_first", x)
    y = first
    for b in range(blocks):
        z = y
        for r in (1, 2, 3):
            maps = [z]
            for c in range(1, 5):
                maps.append(leaky(apply(f"body.{b}.rdb{r}.conv{c}", torch.cat(maps, 1))))
            z = apply(f"body.{b}.rdb{r}.conv5", torch.cat(maps, 1)) * 0.2 + z
        y = z * 0.2 + y
    y = first + apply("conv_body", y)
    y = leaky(apply("conv_up2", double(leaky(apply("conv_up1", double(y))))))
    return apply("conv_last", leaky(apply("conv_hr", y)))[:, :, : h * 4 // s, : w * 4 // s]


def picture(height, width):
    """Waves, and a rectangle with hard edges."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    p = np.stack([127.5 + 110 * np.sin(x / (2 + c) + c) * np.cos(y / (3 - c / 2)) for c in range(3)], -1)
    p[height // 3 : height // 2, width // 4 : width // 2] = [250, 20, 60]
    return np.clip(np.rint(p), 0, 255).astype(np.uint8)


@torch.no_grad()
def main(out):
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    original = block.RRDB.__init__
    cases = [
        ("rrdb_x4", rrdb(2, 8, 4, 3), 4, SIZE),
        ("rrdb_x2_unshuffle", rrdb(2, 8, 4, 12), 4, SIZE),
        ("srvgg_x4", srvgg(8, 3, 4), None, SIZE),
        ("srvgg_x2", srvgg(8, 2, 2), None, (10, 7)),
    ]
    for name, t, growth, size in cases:
        if growth:
            # spandrel takes a growth of 32 for granted; here it is what the weights say.
            init = lambda self, nf, *args, **kwargs: original(self, nf, *args, **{**kwargs, "gc": growth})
            block.RRDB.__init__ = init
        u8 = picture(*size)
        x = torch.from_numpy(u8.copy()).permute(2, 0, 1)[None].float() / 255
        model = ModelLoader().load_from_state_dict(dict(t)).eval()
        y = model.model(x)
        block.RRDB.__init__ = original
        assert torch.allclose(y, formulas(t, x), atol=1e-6), name
        bytes_ = (y.clamp(0, 1) * 255).round().byte()[0].permute(1, 2, 0).contiguous()
        results = {
            "input": x[0].contiguous(),
            "output": y[0].contiguous(),
            "input_u8": torch.from_numpy(u8),
            "output_u8": bytes_,
        }
        oracle = f"spandrel 0.4.2, torch {torch.__version__.split('+')[0]} CPU f32"
        save_file({**t, **results}, out / f"{name}.safetensors", {"scale": str(model.scale), "oracle": oracle})
        print(name, "mean", round(float(y.mean()), 6))
        if name == "srvgg_x4":
            torch.save({"params": t}, out / "srvgg_x4.pth")
        if name == "rrdb_x4":
            torch.save(first_names(t), out / "rrdb_x4_first_names.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
