"""Training data, generated on the fly: pictures and token ids.

In:  the font of Debian's fonts-noto-color-emoji, the tokenizer, the grammar of captions.py.
Out: batches of pictures in [-1, 1] composed on the training device, token ids padded to MAX_TOKENS.

Glyphs are rendered once, with Pillow, into a table on the device (the atlas). A picture is then a few gathers, so the
GPU generates its own pictures and the CPU only writes sentences.
"""

import multiprocessing as mp
import os
import random

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import captions
from subjects import COLORS, EMOJI_SUBJECTS, SHAPE_COLORS, SHAPES, SIZE_INSET, SIZE_PX

FONT = os.environ.get("MINI_FONT", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the only bitmap size in the font, in pixels per em
MAX_TOKENS = 48
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
FULL = 128


# ---- glyphs ----


def _glyph(font, text):
    """The glyph of `text`, cropped to its visible part and centered on a square; premultiplied RGBA."""
    canvas = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(canvas).text((20, 20), text, font=font, embedded_color=True)
    canvas = canvas.crop(canvas.getbbox())
    side = max(canvas.size)
    square = Image.new("RGBA", (side, side))
    square.paste(canvas, ((side - canvas.width) // 2, (side - canvas.height) // 2))
    return square.convert("RGBa")


def _shape(shape, color):
    """A plain shape, at 8 times its largest size in pictures; premultiplied RGBA."""
    n = 768
    image = Image.new("L", (n, n))
    d = ImageDraw.Draw(image)
    a, z, h = 24, n - 24, n // 2
    if shape == "circle":
        d.ellipse((a, a, z, z), fill=255)
    elif shape == "square":
        d.rectangle((a + 40, a + 40, z - 40, z - 40), fill=255)
    elif shape == "triangle":
        d.polygon([(h, a + 20), (z, z - 50), (a, z - 50)], fill=255)
    elif shape == "ring":
        d.ellipse((a, a, z, z), fill=255)
        d.ellipse((a + 170, a + 170, z - 170, z - 170), fill=0)
    elif shape == "diamond":
        d.polygon([(h, a), (z, h), (h, z), (a, h)], fill=255)
    else:
        d.rectangle((h - 110, a, h + 110, z), fill=255)
        d.rectangle((a, h - 110, z, h + 110), fill=255)
    rgba = Image.new("RGBA", (n, n), COLORS[color] + (0,))
    rgba.putalpha(image)
    return rgba.convert("RGBa")


class Atlas:
    """All subjects in all sizes, as one table of premultiplied RGBA pixels, 0..255."""

    def __init__(self, device):
        font = ImageFont.truetype(FONT, STRIKE)
        sources = [_glyph(font, g) for _, g in EMOJI_SUBJECTS] + [_shape(s, c) for s in SHAPES for c in SHAPE_COLORS]
        rows, self.bases = [], []
        for px in SIZE_PX:
            self.bases.append(sum(len(r) for r in rows))
            sized = [np.asarray(g.resize((px, px), Image.LANCZOS)) for g in sources]
            rows.append(np.stack(sized).reshape(-1, 4))
        self.rows = torch.from_numpy(np.concatenate(rows)).to(device)
        self.base = torch.tensor(self.bases, device=device)
        self.px = torch.tensor(SIZE_PX, device=device)
        self.inset = torch.tensor(SIZE_INSET, device=device)
        first = np.array(list(COLORS.values()), dtype=np.float32)
        light = np.where(first.min(1, keepdims=True) > 200, np.float32(190), first * 0.5 + 255 * 0.5).astype(np.float32)
        self.colors = torch.from_numpy(np.stack([first, light])).to(
            device
        )  # the color itself, and its second color in gradients and stripes
        # Places of up to three subjects, in halves of the free space: [count, subject, (x, y)]; 9 is none.
        self.several = torch.tensor(
            [[[1, 1], [9, 9], [9, 9]], [[0, 1], [2, 1], [9, 9]], [[1, 0], [0, 2], [2, 2]]], device=device
        )
        self.device = device


def backgrounds(atlas, color, pattern, height, width, origin=None, full=FULL):
    """[B, 3, height, width] in 0..255. `origin` [B, 2]: top left corner within a larger picture of height `full`."""
    y = torch.arange(height, device=atlas.device)[None, :, None]
    x = torch.arange(width, device=atlas.device)[None, None, :]
    oy, ox = (0, 0) if origin is None else (origin[:, :1, None], origin[:, 1:, None])
    fade = ((y + oy) / (full - 1)).expand(-1, height, width)
    stripe = (((x + ox) // 8) % 2).float().expand(-1, height, width)
    p = pattern[:, None, None]
    w = torch.where(p == 1, fade, torch.where(p == 2, stripe, torch.zeros((), device=atlas.device)))[:, None]
    return torch.lerp(atlas.colors[0][color][:, :, None, None], atlas.colors[1][color][:, :, None, None], w)


def places(atlas, specs, height, width):
    """Top left corners of up to three subjects, [B, 3, 2] as (x, y), and which of them exist, [B, 3]."""
    size, count, place = specs[:, 3], specs[:, 4], specs[:, 5]
    steps = atlas.several[count - 1].clone()
    single = torch.stack([place % 3, place // 3], -1)
    steps[:, 0] = torch.where((count == 1)[:, None], single, steps[:, 0])
    px, inset = atlas.px[size], atlas.inset[size]
    free = torch.stack([width - px - 2 * inset, height - px - 2 * inset], -1)[:, None]
    # The middle is rounded down to the 16 px grid of tokens.
    middle = free // 2 // 16 * 16
    at = torch.where(steps == 1, middle, torch.where(steps == 2, free, torch.zeros_like(free)))
    return at + inset[:, None, None], steps[:, :, 0] < 9


def compose(atlas, specs, height=FULL, width=FULL, origin=None, shift=None, full=None):
    """Pictures [B, 3, height, width] in [-1, 1] of specs [B, 7]. `origin` cuts a window out of a `full` px picture."""
    full = full or height
    corner, there = places(atlas, specs, full, full if origin is not None else width)
    if shift is not None:
        corner = corner + shift[:, None]
    image = backgrounds(atlas, specs[:, 0], specs[:, 1], height, width, origin, full)
    y = torch.arange(height, device=atlas.device)[None, :, None]
    x = torch.arange(width, device=atlas.device)[None, None, :]
    if origin is not None:
        y, x = y + origin[:, :1, None], x + origin[:, 1:, None]
    px = atlas.px[specs[:, 3]][:, None, None]
    start = (atlas.base[specs[:, 3]] + specs[:, 2] * atlas.px[specs[:, 3]] ** 2)[:, None, None]
    for k in range(3):
        gx, gy = x - corner[:, k, :1, None], y - corner[:, k, 1:, None]
        inside = (gx >= 0) & (gx < px) & (gy >= 0) & (gy < px) & there[:, k, None, None]
        gx = torch.where(specs[:, 6, None, None] == 1, px - 1 - gx, gx)
        index = torch.where(inside, start + gy * px + gx, 0)
        rgba = atlas.rows[index].float() * inside[..., None]
        image = rgba[..., :3].movedim(-1, 1) + image * (1 - rgba[..., 3] / 255)[:, None]
    return image / 127.5 - 1


# ---- sentences ----


def load_tokenizer(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def encode(tokenizer, texts, length=MAX_TOKENS):
    """Token ids of the texts in the chat template, [N, length] int16, truncated or padded as in the pipeline."""
    pad = tokenizer.token_to_id("<|endoftext|>")
    out = np.full((len(texts), length), pad, dtype=np.int16)
    for row, e in zip(out, tokenizer.encode_batch([TEMPLATE.format(t) for t in texts])):
        ids = e.ids[:length]
        row[: len(ids)] = ids
    return out


def load_words(work):
    """Common words without meaning for a picture, most common first."""
    with open(os.path.join(work, "words.txt")) as f:
        return f.read().split()


class Writer:
    """Writes sentences of one kind and the specs of their pictures."""

    def __init__(self, work):
        self.tokenizer, self.words = load_tokenizer(os.path.join(work, "tokenizer")), load_words(work)

    def __call__(self, seed, kind, count):
        """Returns (specs [count, 1 + references, 7], ids [count, MAX_TOKENS], unsaid [count]), all int16."""
        rng = random.Random(seed)
        pictures, texts, unsaid = zip(*(captions.item(rng, kind, self.words) for _ in range(count)))
        return np.array(pictures, dtype=np.int16), encode(self.tokenizer, texts), np.array(unsaid, dtype=np.int16)


_writer = None


def _start_worker(work):
    global _writer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    _writer = Writer(work)


def _work(job):
    seed, kind, count = job
    return kind, *_writer(seed, kind, count)


def _jobs(seed, shares, chunk):
    n = 0
    while True:
        for kind, share in enumerate(shares):
            for _ in range(share):
                yield seed * 1_000_003 + n, kind, chunk
                n += 1


def _from_pool(pool, jobs, ahead):
    pending = []
    while True:
        # Bounds the number of jobs in flight; imap would not.
        while len(pending) < ahead:
            pending.append(pool.apply_async(_work, (next(jobs),)))
        yield pending.pop(0).get()


def stream(work, seed, shares, chunk, workers):
    """An endless iterator of (kind, specs, ids, unsaid). `shares`: how many chunks of each kind per cycle.

    Workers are forks of this process, so call it before anything uses the GPU. Without workers, this process writes.
    """
    jobs = _jobs(seed, shares, chunk)
    if workers:
        return _from_pool(mp.get_context("fork").Pool(workers, _start_worker, (work,)), jobs, 3 * workers)
    writer = Writer(work)
    return ((kind, *writer(s, kind, count)) for s, kind, count in jobs)


# ---- noise ----

# Channels of the noise whose means over all tokens choose the unsaid fields: (first, one past the last).
PLACE_CHANNELS, SIZE_CHANNELS, COLOR_CHANNELS, PATTERN_CHANNELS = (1, 10), (10, 13), (13, 25), (25, 30)


def couple(noise, specs, unsaid):
    """Couples noise [B, I, C] to pictures [B, 7]: permutes channels and flips signs so that the noise determines the
    unsaid fields.

    A caption that leaves the place unsaid has nine pictures. With independent noise, the first steps would aim at their
    average, and four steps would often end in a blend. So the choice is a function of the noise: the channel with the
    largest mean in a group gives the place, the sign of another channel's mean gives mirroring, and so on. Permutations
    and signs preserve the distribution of independent Gaussian noise, so sampling can use any noise.
    """
    means = noise.mean(1)
    rows = torch.arange(len(noise), device=noise.device)
    order = torch.arange(noise.shape[2], device=noise.device).repeat(len(noise), 1)
    count = specs[:, 4]
    pattern = torch.where(specs[:, 1] == 0, torch.randint(3, rows.shape, device=noise.device), specs[:, 1] + 2)
    groups = [
        (PLACE_CHANNELS, specs[:, 5], (unsaid & captions.PLACE != 0) & (count == 1)),
        (SIZE_CHANNELS, specs[:, 3], unsaid & captions.SIZE != 0),
        (COLOR_CHANNELS, specs[:, 0], unsaid & captions.BACKGROUND != 0),
        (PATTERN_CHANNELS, pattern, unsaid & captions.BACKGROUND != 0),
    ]
    for (first, last), choice, open_ in groups:
        candidates = means[:, first:last]
        if first == SIZE_CHANNELS[0]:
            # Several subjects are small or medium, so the third channel is ignored then.
            alone = torch.stack([torch.zeros_like(means[:, 0])] * 2 + [torch.where(count == 1, 0.0, -torch.inf)], 1)
            candidates = candidates + alone
        largest, wanted = candidates.argmax(1) + first, choice + first
        order[rows, largest] = torch.where(open_, wanted, largest)
        order[rows, wanted] = torch.where(open_, largest, order[rows, wanted])
    sign = torch.where((means[:, 0] > 0) == (specs[:, 6] == 1), 1.0, -1.0)
    sign = torch.where(unsaid & captions.MIRROR != 0, sign, 1.0)
    noise = noise.gather(2, order[:, None].expand_as(noise))
    return torch.cat([noise[..., :1] * sign[:, None, None], noise[..., 1:]], -1)


def random_specs(rng, count, device):
    return torch.tensor([captions.picture(rng) for _ in range(count)], device=device)
