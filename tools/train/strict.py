"""The strict judge: whether a picture looks right, compared with the true picture of a scene.

In:  pictures [B, 3, H, W] in [-1, 1], and the scenes they should show.
Out: measures of each picture, and whether all of them are within LIMITS.

Each thing may be mirrored. Errors are mean squares over the channels, of values in 0..1.

| measure | of what | catches |
|---|---|---|
| `lost` | error within a thing's box, relative to the error of the bare background there; the worst thing | another or an incomplete subject, wrong color |
| `hole` | largest error of a window of an eighth of the picture's side | smears, holes, second halves |
| `blur` | 1 - similarity of edges within a thing's box; the worst thing | blurred, melted subjects |
| `residue` | share of pixels outside all boxes that differ visibly from the background, and largest window of such | rests of a previous subject |

`fixtures/mini/labels.tsv` holds what an eye said of pictures; LIMITS were chosen on one half of them.
"""

import itertools

import torch
import torch.nn.functional as F

import data

LIMITS = {"lost": 0.12, "hole": 0.02, "blur": 0.3, "residue": 0.02}
VISIBLE = 0.12


def mirrors(scene):
    """Scenes [V, B, SCENE] with each kind of thing mirrored or not."""
    out = []
    for flips in itertools.product((0, 1), repeat=2):
        s = scene.clone()
        things = s[:, 2:].view(len(s), -1, 6)
        first = things[..., 0] == things[:, :1, 0]
        things[..., 4] ^= torch.where(first, flips[0], flips[1])
        out.append(s)
    return torch.stack(out)


def edges(image):
    """Differences of neighboring pixels, [B, 6, H, W]."""
    return torch.cat(
        [F.pad(image[..., 1:] - image[..., :-1], (0, 1)), F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))], 1
    )


@torch.no_grad()
def measure(atlas, images, scene):
    """Returns (measures: a dict of [B], the truth that fits best [B, 3, H, W])."""
    height, width = images.shape[2:]
    variants = torch.stack([data.compose(atlas, s, height, width) for s in mirrors(scene)])
    best = (variants - images).square().flatten(2).mean(2).argmin(0)
    truth = variants[best, torch.arange(len(images), device=images.device)] / 2
    seen = images.clamp(-1, 1) / 2
    bare = data.backgrounds(atlas, scene[:, 0], scene[:, 1], height, width) / 255 - 0.5
    error, contrast = (seen - truth).square().mean(1), (bare - truth).square().mean(1)
    edge, true_edge = edges(seen), edges(truth)
    bare_edge = edges(bare)
    corner, px, there = data.boxes(atlas, scene, height, width)
    y = torch.arange(height, device=images.device)[None, :, None]
    x = torch.arange(width, device=images.device)[None, None, :]
    zeros = torch.zeros(len(images), device=images.device)
    lost, blur, outside = zeros, zeros, torch.ones_like(error, dtype=torch.bool)
    for k in range(there.shape[1]):
        left, top, side = corner[:, k, :1, None], corner[:, k, 1:, None], px[:, k, None, None]
        margin = side // 16

        def within(m):
            return (x >= left - m) & (x < left + side + m) & (y >= top - m) & (y < top + side + m) & there[:, k, None, None]

        inside = within(0).float()
        total = lambda v: (v * inside).sum((1, 2))
        lost = torch.maximum(lost, torch.where(there[:, k], total(error) / total(contrast).clamp(min=1e-4), zeros))
        gap = total((edge - true_edge).square().sum(1))
        own = total((true_edge - bare_edge).square().sum(1)).clamp(min=1e-4)
        blur = torch.maximum(blur, torch.where(there[:, k], gap / own, zeros))
        outside &= ~within(margin)
    window = max(4, min(height, width) // 16)
    pooled = lambda v, w: F.avg_pool2d(v[:, None], w, max(1, w // 4))[:, 0].flatten(1).amax(1)
    stray = ((seen - bare).abs().amax(1) > VISIBLE).float() * outside
    hole = pooled(error, 2 * window)
    residue = stray.flatten(1).mean(1) + 0.25 * pooled(stray, window)
    return {"lost": lost, "hole": hole, "blur": blur, "residue": residue}, truth * 2


def right(measures):
    """Whether all measures are within LIMITS, [B]."""
    return torch.stack([measures[name] <= limit for name, limit in LIMITS.items()]).all(0)
