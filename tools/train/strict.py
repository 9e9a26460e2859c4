"""The strict judge: whether a picture looks right, compared with the true picture of a scene.

In:  pictures [B, 3, H, W] in [-1, 1], and the scenes they should show.
Out: measures of each picture, and whether all of them are within LIMITS.

A thing is compared in its box, resampled to cells of two pixels, at most GRID a side: about what an eye resolves.
Things of one kind may be mirrored. Values are in 0..1, squares are means over the channels.

| measure | of what | catches |
|---|---|---|
| `lost` | squared error of a thing, relative to that of the bare background | another, paler, incomplete subject |
| `hole` | largest mean squared error of 4x4 cells of a thing | smears, a missing part |
| `blur` | squared error of differences of neighboring cells, relative to their squares | blur, melting |
| `residue` | share of 4x4 px cells outside the boxes that differ visibly | rests of an old subject, a second one |

`crates/flux2/tests/it/evaluation/strict.rs` measures the same with thumbnails of 48x48. The worst thing
counts. LIMITS agree with what an eye said: the labels in `fixtures/mini/labels.tsv`.
"""

import torch
import torch.nn.functional as F

import data
from subjects import sides

LIMITS = {"lost": 0.12, "hole": 0.15, "blur": 0.31, "residue": 0.004}
GRID = 32
VISIBLE = 0.1
# Least contrast and least edges per cell, so that little is not asked of what can hardly be seen.
LEAST_CONTRAST, LEAST_EDGES = 0.004, 0.002


def resampling(px, device):
    """[cells, px]: means over equal shares of `px` pixels."""
    cells = min(GRID, px // 2)
    low = torch.arange(cells, device=device)[:, None] * px / cells
    pixel = torch.arange(px, device=device)[None]
    overlap = torch.minimum(low + px / cells, pixel + 1.0) - torch.maximum(low, pixel.float())
    return overlap.clamp(min=0) * cells / px


def edges(cells):
    """Differences of neighboring cells, [..., 2 * C, n - 1, n - 1]."""
    return torch.cat([cells[..., :-1, 1:] - cells[..., :-1, :-1], cells[..., 1:, :-1] - cells[..., :-1, :-1]], -3)


def cells_of(images, corner, px):
    """The box at `corner` [B, 2] of side `px` of pictures [B, 3, H, W], as cells [B, 3, n, n]."""
    y = (corner[:, 1, None] + torch.arange(px, device=images.device))[:, None, :, None]
    x = (corner[:, 0, None] + torch.arange(px, device=images.device))[:, None, None, :]
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    box = images[batch, torch.arange(3, device=images.device)[None, :, None, None], y, x]
    w = resampling(px, images.device)
    return w @ box @ w.T


def measure_things(seen, true, bare):
    """(lost, hole, blur) [B] of things, as cells [B, 3, n, n]."""
    error, contrast = (seen - true).square().mean(1), (bare - true).square().mean(1)
    total = contrast.mean((1, 2)).clamp(min=LEAST_CONTRAST)
    lost = error.mean((1, 2)) / total
    hole = F.avg_pool2d(error[:, None], 4, 1).flatten(1).amax(1)
    gap = (edges(seen) - edges(true)).square().mean((1, 2, 3))
    own = (edges(true) - edges(bare)).square().mean((1, 2, 3))
    return lost, hole, gap / own.clamp(min=LEAST_EDGES)


@torch.no_grad()
def measure(atlas, images, scene):
    """Measures of pictures: a dict of [B]."""
    batch, _, height, width = images.shape
    device = images.device
    plain = scene.clone()
    plain[:, 2:].view(batch, -1, 6)[..., 4] = 0
    flipped = plain.clone()
    flipped[:, 2:].view(batch, -1, 6)[..., 4] = 1
    truths = [data.compose(atlas, s, height, width) / 2 + 0.5 for s in (plain, flipped)]
    seen = images.clamp(-1, 1) / 2 + 0.5
    bare = data.backgrounds(atlas, scene[:, 0], scene[:, 1], height, width) / 255
    corner, px, there = data.boxes(atlas, scene, height, width)
    things = scene[:, 2:].view(batch, -1, 6)
    # [mirrored, thing, measure, B]
    values = torch.zeros(2, there.shape[1], 3, batch, device=device)
    for k in range(there.shape[1]):
        for side in sides(height, width):
            at = (there[:, k] & (px[:, k] == side)).nonzero()[:, 0]
            if len(at):
                box = lambda source: cells_of(source[at], corner[at, k], side)
                for m, truth in enumerate(truths):
                    values[m, k][:, at] = torch.stack(measure_things(box(seen), box(truth), box(bare)))
    # All things of a kind are mirrored alike.
    kind = (things[:, :, None, 0] == things[:, None, :, 0]).float().permute(1, 2, 0)  # [thing, thing, B]
    cost = torch.einsum("klb,mlb->mkb", kind, values[:, :, 0])
    best = torch.where(cost[0] <= cost[1], 0, 1)[None, :, None].expand(1, -1, 3, -1)
    lost, hole, blur = values.gather(0, best)[0].amax(0)
    outside = torch.ones(batch, height, width, dtype=torch.bool, device=device)
    y = torch.arange(height, device=device)[None, :, None]
    x = torch.arange(width, device=device)[None, None, :]
    for k in range(there.shape[1]):
        left, top, side = corner[:, k, :1, None], corner[:, k, 1:, None], px[:, k, None, None]
        inside = (x >= left - 4) & (x < left + side + 4) & (y >= top - 4) & (y < top + side + 4)
        outside &= ~(inside & there[:, k, None, None])
    gap = F.avg_pool2d(seen - bare, 4).abs().amax(1)
    free = F.avg_pool2d(outside[:, None].float(), 4)[:, 0] == 1
    residue = ((gap > VISIBLE) & free).float().flatten(1).mean(1)
    return {"lost": lost, "hole": hole, "blur": blur, "residue": residue}


def right(measures):
    """Whether all measures are within LIMITS, [B]."""
    return torch.stack([measures[name] <= limit for name, limit in LIMITS.items()]).all(0)
