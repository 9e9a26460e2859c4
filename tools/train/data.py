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
import scenes
from subjects import ALL_PX, COLORS, EMOJI_SUBJECTS, SHAPE_COLORS, SHAPES, inset, sides

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


def _card():
    """The card with a question mark that is drawn for unknown words; premultiplied RGBA."""
    n = 768
    image = Image.new("RGBA", (n, n))
    d = ImageDraw.Draw(image)
    d.rounded_rectangle((84, 24, n - 84, n - 24), 72, fill=(240, 240, 235, 255), outline=(90, 90, 95, 255), width=32)
    ink, h = (90, 90, 95, 255), n // 2
    d.arc((h - 130, 150, h + 130, 410), 180, 450, fill=ink, width=72)
    d.rectangle((h - 36, 338, h + 36, 500), fill=ink)
    d.ellipse((h - 46, 545, h + 46, 637), fill=ink)
    return image.convert("RGBa")


def glyphs(cache=None):
    """Every subject and the card as images of premultiplied RGBA; from the file `cache` if it exists."""
    if cache and os.path.exists(cache):
        with np.load(cache) as arrays:
            pixels = [arrays[str(i)] for i in range(len(arrays))]
        return [Image.frombytes("RGBa", (len(a), len(a)), a.tobytes()) for a in pixels]
    font = ImageFont.truetype(FONT, STRIKE)
    emoji = [_glyph(font, g) for _, g in EMOJI_SUBJECTS]
    return emoji + [_shape(s, c) for s in SHAPES for c in SHAPE_COLORS] + [_card()]


def save_glyphs(path):
    """Writes the cache of `glyphs`, for a machine without the font; shapes and the card at 256 px."""
    small = [g if g.width <= 256 else g.resize((256, 256), Image.LANCZOS) for g in glyphs()]
    np.savez_compressed(path, **{str(i): np.asarray(g) for i, g in enumerate(small)})


class Atlas:
    """All subjects in all sizes, as one table of premultiplied RGBA pixels, 0..255."""

    def __init__(self, device, cache=None):
        sources = glyphs(cache)
        rows, self.base_of = [], {}
        for px in ALL_PX:
            self.base_of[px] = sum(len(r) for r in rows)
            sized = [np.asarray(g.resize((px, px), Image.LANCZOS)) for g in sources]
            rows.append(np.stack(sized).reshape(-1, 4))
        self.rows = torch.from_numpy(np.concatenate(rows)).to(device)
        self.subjects = len(sources)
        first = np.array(list(COLORS.values()), dtype=np.float32)
        light = np.where(first.min(1, keepdims=True) > 200, np.float32(190), first * 0.5 + 255 * 0.5).astype(np.float32)
        self.colors = torch.from_numpy(np.stack([first, light])).to(
            device
        )  # the color itself, and its second color in gradients and stripes
        # Places of up to four equal subjects, in halves of the free space: [count, subject, (x, y)]; 9 is none.
        several = [[[1, 1]], *scenes.SEVERAL.values()]
        self.several = torch.tensor([[*places, *[[9, 9]] * (4 - len(places))] for places in several], device=device)
        self.device = device

    def glyph(self, px):
        """Glyphs of a size, [subjects, px, px, 4], premultiplied, 0..255."""
        count = self.subjects * px * px
        return self.rows[self.base_of[px] : self.base_of[px] + count].view(-1, px, px, 4)


def backgrounds(atlas, color, pattern, height, width, origin=None, full=None):
    """[B, 3, height, width] in 0..255. `origin` [B, 2]: top left corner within a larger picture of height `full`."""
    y = torch.arange(height, device=atlas.device)[None, :, None]
    x = torch.arange(width, device=atlas.device)[None, None, :]
    oy, ox = (0, 0) if origin is None else (origin[:, :1, None], origin[:, 1:, None])
    fade = ((y + oy) / ((full or height) - 1)).expand(-1, height, width)
    stripe = (((x + ox) // 8) % 2).float().expand(-1, height, width)
    p = pattern[:, None, None]
    w = torch.where(p == 1, fade, torch.where(p == 2, stripe, torch.zeros((), device=atlas.device)))[:, None]
    return torch.lerp(atlas.colors[0][color][:, :, None, None], atlas.colors[1][color][:, :, None, None], w)


def from_pictures(atlas, pictures):
    """Scenes [B, SCENE] of pictures [B, 7] as in captions.py."""
    color, pattern, subject, size, count, place, mirror = pictures.unbind(1)
    steps = atlas.several[count - 1].clone()
    single = torch.stack([place % 3, place // 3], -1)
    steps[:, 0] = torch.where((count == 1)[:, None], single, steps[:, 0])
    there = steps[..., 0] < 9
    wide = lambda v: v[:, None].expand(-1, 4)
    subject = torch.where(there, wide(subject), -1)
    things = torch.stack([subject, wide(size), *steps.unbind(-1), wide(mirror), torch.full_like(subject, -1)], -1)
    return torch.cat([color[:, None], pattern[:, None], things.flatten(1)], 1)


def boxes(atlas, scene, height, width):
    """(corners [B, THINGS, 2] as (x, y), sides [B, THINGS] in pixels, whether the thing exists [B, THINGS])."""
    things = scene[:, 2:].view(len(scene), -1, 6)
    px_of = torch.tensor(sides(height, width), device=atlas.device)
    inset_of = torch.tensor([inset(px, height, width) for px in sides(height, width)], device=atlas.device)
    px, edge = px_of[things[..., 1]], inset_of[things[..., 1]]
    free = torch.stack([width - px - 2 * edge, height - px - 2 * edge], -1)
    # The middle is rounded down to the 16 px grid of tokens.
    middle = free // 2 // 16 * 16
    step = things[..., 2:4]
    at = torch.where(step == 1, middle, torch.where(step == 2, free, torch.zeros_like(free)))
    return at + edge[..., None], px, things[..., 0] >= 0


def tinted(rgba, color):
    """Premultiplied pixels [..., 4] in shades of a color [..., 3]: dark stays dark, the brightest becomes pale."""
    alpha = rgba[..., 3:]
    light = (rgba[..., :3] * rgba.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True) / alpha.clamp(min=1)
    shade = torch.lerp(0.15 * color, color, (light / 0.65).clamp(max=1))
    pale = torch.lerp(shade, torch.full_like(shade, 255), 0.7 * ((light - 0.65) / 0.35).clamp(0, 1))
    return torch.cat([pale * alpha / 255, alpha], -1)


def compose(atlas, scene, height=FULL, width=FULL, origin=None, shift=None, full=None):
    """Pictures [B, 3, height, width] in [-1, 1] of scenes [B, SCENE], or of pictures [B, 7] as in captions.py.

    `origin` cuts a window out of a square picture of `full` px.
    """
    if scene.shape[1] == 7:
        scene = from_pictures(atlas, scene)
    full = full or height
    corner, sizes, there = boxes(atlas, scene, full, full if origin is not None else width)
    if shift is not None:
        corner = corner + shift[:, None]
    image = backgrounds(atlas, scene[:, 0], scene[:, 1], height, width, origin, full)
    y = torch.arange(height, device=atlas.device)[None, :, None]
    x = torch.arange(width, device=atlas.device)[None, None, :]
    if origin is not None:
        y, x = y + origin[:, :1, None], x + origin[:, 1:, None]
    base_of = torch.tensor([atlas.base_of[px] for px in sides(full, full if origin is not None else width)])
    base_of = base_of.to(atlas.device)
    for k, (subject, size, _, _, mirror, tint) in enumerate(
        t.unbind(1) for t in scene[:, 2:].view(len(scene), -1, 6).unbind(1)
    ):
        px = sizes[:, k, None, None]
        start = base_of[size][:, None, None] + subject[:, None, None] * px**2
        gx, gy = x - corner[:, k, :1, None], y - corner[:, k, 1:, None]
        inside = (gx >= 0) & (gx < px) & (gy >= 0) & (gy < px) & there[:, k, None, None]
        gx = torch.where(mirror[:, None, None] == 1, px - 1 - gx, gx)
        rgba = atlas.rows[torch.where(inside, start + gy * px + gx, 0)].float() * inside[..., None]
        color = atlas.colors[0][tint.clamp(min=0)][:, None, None]
        rgba = torch.where((tint >= 0)[:, None, None, None], tinted(rgba, color), rgba)
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
    """The word lists of WORK: common words, most common first, and words that the model does not know."""
    read = lambda name: open(os.path.join(work, name)).read().split()
    return scenes.Words(read("words.txt"), read("unknown.txt"))


class Writer:
    """Writes sentences of one kind and the scenes of their pictures."""

    def __init__(self, work):
        self.tokenizer, self.words = load_tokenizer(os.path.join(work, "tokenizer")), load_words(work)

    def __call__(self, seed, kind, count):
        """Returns (scenes [N, 1 + references, SCENE], token ids [N, MAX_TOKENS], choices [N, 7], unsaid [N])."""
        rng = random.Random(seed)
        pictures, texts, choices, unsaid = zip(*(scenes.item(rng, kind, self.words) for _ in range(count)))
        array = lambda values: np.array(values, dtype=np.int16)
        return array(pictures), encode(self.tokenizer, texts), array(choices), array(unsaid)


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
    """An endless iterator of (kind, scenes, ids, choices, unsaid). `shares`: how many chunks of each kind per cycle.

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
