"""Low-resolution pictures as an upscaler meets them, made of sharp ones on the training device.

In:  pictures [B, 3, H, W] in 0..1.
Out: pictures reduced 2 or 4 times by one of three filters, some with noise, blur, JPEG's losses or the artifacts of
     klein-mini's decoder; all rounded to bytes.
"""

import math

import torch
import torch.nn.functional as F

from upscaler_data import blur

LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
CHROMA = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *[[99] * 8] * 4,
]
YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
RGB = [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]


def area(x):
    return 1.0 if -0.5 <= x < 0.5 else 0.0


def bicubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def lanczos(x):
    sinc = lambda t: 1.0 if t == 0 else math.sin(math.pi * t) / (math.pi * t)
    return sinc(x) * sinc(x / 3) if abs(x) < 3 else 0.0


FILTERS = (area, bicubic, lanczos)
_matrices = {}


def reduction(size, by, index, device):
    """Matrix [size / by, size] of a filter of FILTERS, widened by the factor and cut off at borders, as in Pillow."""
    key = (size, by, index, device)
    if key not in _matrices:
        kernel = FILTERS[index]
        rows = []
        for i in range(size // by):
            center = (i + 0.5) * by
            weights = [kernel((j + 0.5 - center) / by) for j in range(size)]
            total = sum(weights)
            rows.append([w / total for w in weights])
        _matrices[key] = torch.tensor(rows, device=device)
    return _matrices[key]


def reduced(x, by, index):
    m = reduction(x.shape[-1], by, index, x.device)
    n = m if x.shape[-2] == x.shape[-1] else reduction(x.shape[-2], by, index, x.device)
    return n @ x @ m.mT


def rounded(x):
    return (x.clamp(0, 1) * 255).round() / 255


def _dct(device):
    k, n = torch.arange(8.0, device=device)[:, None], torch.arange(8.0, device=device)[None]
    m = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    m[0] /= math.sqrt(2)
    return m


def _lossy(plane, table):
    """A plane [n, h, w] in 0..255, its blocks' coefficients rounded to multiples of `table` [n, 8, 8]."""
    n, h, w = plane.shape
    d = _dct(plane.device)
    blocks = (plane - 128).view(n, h // 8, 8, w // 8, 8).transpose(2, 3)
    table = table[:, None, None]
    blocks = d.mT @ (torch.round(d @ blocks @ d.mT / table) * table) @ d
    return (blocks.transpose(2, 3).reshape(n, h, w) + 128).round().clamp(0, 255)


def jpeg(x, quality):
    """Pictures as JPEG with 4:2:0 keeps them, by the tables of libjpeg; `quality` [n]; sides are multiples of 16."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    table = lambda t: ((torch.tensor(t, device=x.device) * scale + 50) / 100).floor().clamp(1, 255)
    to_ycc = torch.tensor(YCC, device=x.device)
    ycc = torch.einsum("kc,nchw->nkhw", to_ycc, rounded(x) * 255)
    ycc[:, 1:] += 128
    y = _lossy(ycc[:, 0].round(), table(LUMA))
    small = F.avg_pool2d(ycc[:, 1:].round(), 2).round()
    small = torch.stack([_lossy(small[:, i], table(CHROMA)) for i in range(2)], 1)
    chroma = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False) - 128
    to_rgb = torch.tensor(RGB, device=x.device)
    rgb = torch.einsum("ck,nkhw->nchw", to_rgb, torch.cat([y[:, None], chroma], 1))
    return rounded(rgb / 255)


def _on(x, chosen, change):
    """`change` applied to the chosen pictures [n]. The choice lies on the CPU, so that nothing waits for the GPU."""
    rows = chosen.nonzero()[:, 0].to(x.device)
    return x.index_copy(0, rows, change(x[rows])) if len(rows) else x


@torch.no_grad()
def degraded(pictures, by, vae, drawn):
    """Low-resolution versions of pictures, each by its own chain of losses; more than four in ten are only reduced.

    `drawn`: whether the pictures resemble what klein-mini draws, so that its autoencoder applies.
    """
    device, n = pictures.device, len(pictures)
    # Equal counts in every chunk, so that cuDNN's choice of algorithms is made once.
    draw = (torch.randperm(n) + 0.5) / n
    which = torch.randint(3, (n,)).to(device)[:, None, None, None]
    x = _on(pictures, draw > 0.92, lambda p: _softened(p, by))
    options = [reduced(x, by, index) for index in range(len(FILTERS))]
    x = torch.where(which == 0, options[0], torch.where(which == 1, options[1], options[2]))
    x = rounded(x)
    if drawn:
        decoded = (draw > 0.45) & (draw < 0.75)
        x = _on(x, decoded, lambda p: _decoded(p, vae))
    noisy = draw > 0.86
    x = _on(x, noisy, _noisy)
    lossy = (draw > 0.68) & (draw < 0.9)
    return _on(x, lossy, lambda p: jpeg(p, 60 + (36 * torch.rand(len(p), device=device)).floor()))


def _decoded(x, vae):
    """Through the autoencoder, except what it does not know at all: that would teach the upscaler to invent."""
    y = rounded(torch.cat([vae.round_trip(part, 0.06) for part in x.split(64)]))
    known = (x - y).square().mean((1, 2, 3), keepdim=True) < 0.003  # 25 dB
    return torch.where(known, y, x)


def _softened(x, by):
    return blur(x, by * (0.15 + 0.3 * torch.rand(len(x), device=x.device)))


def _noisy(x):
    """Gaussian noise of up to five levels, gray or colored."""
    sigma = 5 / 255 * torch.rand(len(x), 1, 1, 1, device=x.device)
    gray = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    noise = torch.randn_like(x)
    return rounded(x + sigma * torch.where(gray, noise[:, :1], noise))


def main():
    """Compares reductions and JPEG with Pillow's."""
    import io

    import numpy as np
    from PIL import Image

    picture = blur(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)), torch.tensor([1.5]))
    image = Image.fromarray((picture[0] * 255).round().byte().permute(1, 2, 0).numpy())
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255

    def difference(ours, theirs):
        return (ours[0].permute(1, 2, 0) * 255 - torch.from_numpy(np.array(theirs)).float()).abs()

    for index, theirs in enumerate((Image.BOX, Image.BICUBIC, Image.LANCZOS)):
        worst = difference(rounded(reduced(picture, 4, index)), image.resize((32, 32), theirs)).max().item()
        print(f"{FILTERS[index].__name__}: largest difference {worst:.0f} of 255")
        assert worst <= 1
    for quality in (60, 75, 95):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, subsampling="4:2:0")
        loss = difference(picture, Image.open(out)).mean().item()
        mean = difference(jpeg(picture, torch.tensor([float(quality)])), Image.open(out)).mean().item()
        print(f"JPEG {quality}: mean difference {mean:.2f} of 255, where JPEG loses {loss:.2f}")
        assert mean < 0.4 * loss


if __name__ == "__main__":
    main()
