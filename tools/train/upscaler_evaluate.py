"""Compares the upscaler with bicubic and Lanczos enlargement.

In:  upscaler.safetensors, a folder of sharp pictures by set (DIR/SET/*.png or .webp) that training never saw.
Out: PSNR in dB by set, factor and way of reducing, as a table and as JSON.

Each picture is reduced with Pillow, rounded to bytes, enlarged and compared with the original, all three channels
together. Two times larger is the network's four times larger, rounded to bytes and reduced by Lanczos, as in the
program. `--leaves DIR` instead paints a set of dead leaves.
"""

import argparse
import glob
import io
import json
import os

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import upscaler

REDUCTIONS = {"area": Image.BOX, "bicubic": Image.BICUBIC, "Lanczos": Image.LANCZOS, "bicubic, JPEG 85": Image.BICUBIC}


def psnr(a, b):
    mse = np.square(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean()
    return 10 * np.log10(255**2 / max(mse, 1e-2))


def reduce(picture, by, name):
    low = picture.resize((picture.width // by, picture.height // by), REDUCTIONS[name])
    if "JPEG" in name:
        out = io.BytesIO()
        low.save(out, "JPEG", quality=85, subsampling="4:2:0")
        low = Image.open(out).convert("RGB")
    return low


class Model:
    def __init__(self, path, device):
        self.device = device
        self.network = upscaler.Srvgg().to(device).eval()
        self.network.load_state_dict({k: v.float() for k, v in load_file(path).items()})

    @torch.no_grad()
    def enlarge(self, low, by):
        x = torch.from_numpy(np.array(low)).to(self.device).permute(2, 0, 1)[None].float() / 255
        y = (self.network(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        out = Image.fromarray(y)
        return out if by == upscaler.SCALE else out.resize((low.width * by, low.height * by), Image.LANCZOS)


def pictures_of(folder):
    """Pictures of the folder, cut to multiples of four."""
    for path in sorted(p for kind in ("png", "webp") for p in glob.glob(os.path.join(folder, f"*.{kind}"))):
        image = Image.open(path).convert("RGB")
        yield os.path.basename(path), image.crop((0, 0, image.width // 4 * 4, image.height // 4 * 4))


def compare(model, pictures):
    """Rows {set, factor, reduction, n, bicubic, Lanczos, ours, gain, least, worse} of the sets in a folder."""
    rows = []
    for name in sorted(os.listdir(pictures)):
        images = list(pictures_of(os.path.join(pictures, name)))
        for by in (4, 2):
            for reduction in REDUCTIONS:
                values = []
                for _, image in images:
                    low = reduce(image, by, reduction)
                    plain = [psnr(low.resize(image.size, f), image) for f in (Image.BICUBIC, Image.LANCZOS)]
                    values.append([*plain, psnr(model.enlarge(low, by), image)])
                values = np.array(values)
                gain = values[:, 2] - values[:, 0]
                means = dict(zip(("bicubic", "Lanczos", "ours"), values.mean(0).round(2).tolist()))
                row = {"set": name, "factor": by, "reduction": reduction, "n": len(images)} | means
                row |= {"gain": round(gain.mean().item(), 2), "least": round(gain.min().item(), 2)}
                rows.append(row | {"worse": int((gain < 0).sum())})
    return rows


def table(rows):
    head = ["set", "factor", "reduction", "n", "bicubic", "Lanczos", "ours", "gain", "least", "worse"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(row[column]) for column in head) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def paint_leaves(archive, out, count=24):
    """Dead leaves of another seed than training's."""
    import upscaler_data

    torch.manual_seed(20261201)
    painter = upscaler_data.Painter(archive, None, torch.device("cpu"), 4)
    os.makedirs(out, exist_ok=True)
    for i in range(0, count, 4):
        for j, picture in enumerate(painter.paint("leaves")[1]):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(os.path.join(out, f"{i + j:02}.webp"), lossless=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights")
    parser.add_argument("--pictures", help="folder with a folder for each set")
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--leaves", help="folder to paint dead leaves into; needs --archive")
    parser.add_argument("--archive")
    args = parser.parse_args()
    if args.leaves:
        return paint_leaves(args.archive, args.leaves)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False
    rows = compare(Model(args.weights, device), args.pictures)
    print(table(rows))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
