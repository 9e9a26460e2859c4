"""The strict judge's table, on scenes of held-out subject x background pairs.

In:  WORK with tokenizer, word lists, glyphs.npz, vae.pt and flow_ema.pt; or an exported model.
Out: a table on standard output; with --sheet a contact sheet, with wrong pictures framed in red.

References are true pictures. Every field is said, except mirroring. The evaluation in Rust has references drawn by the
model itself, and captions that leave things open.
"""

import argparse
import json
import os
import random
import time

import torch
from PIL import Image

import captions
import data
import models
import scenes
import strict
import transformer as stage
from subjects import CARD, COLOR_NAMES, NAMES, PATTERNS

HERE = os.path.dirname(os.path.abspath(__file__))
SQUARES = [(96, 96), (128, 128), (192, 192), (256, 256), (320, 320)]
OBLONG = [(128, 256), (256, 128), (96, 192), (144, 256), (256, 192)]
EDIT_KINDS = ["background", "replace", "size", "same", "other", "move", "recolor", "remove", "caption"]


class Model:
    """The networks of a training run, or of an exported folder."""

    def __init__(self, work, device, weights="ema", exported=None):
        self.device = device
        self.tokenizer = data.load_tokenizer(os.path.join(work, "tokenizer"))
        self.pad = self.tokenizer.token_to_id("<|endoftext|>")
        self.vae = stage.load_vae(work, device, exported)
        self.transformer, self.encoder = models.make_transformer(), models.make_text_encoder()
        if exported:
            stage.start_from(exported, self.transformer, self.encoder, self.tokenizer)
        else:
            load_flow(torch.load(os.path.join(work, f"flow_{weights}.pt")), weights, self.transformer, self.encoder)
        self.transformer, self.encoder = self.transformer.to(device), self.encoder.to(device)
        self.generator = torch.Generator(device).manual_seed(7)

    @torch.no_grad()
    def draw(self, texts, references=(), steps=4, size=(128, 128), hold=None):
        """Draws pictures [B, 3, H, W]; `references`: a list of batches; `hold`: (picture, mask of tokens to redraw)."""
        height, width = size
        ids = torch.from_numpy(data.encode(self.tokenizer, texts)).long().to(self.device)
        refs = torch.cat([models.encode_tokens(self.vae, r) for r in references], 1) if references else None
        tokens = height * width // 256
        noise = torch.randn(len(texts), tokens, 64, device=self.device, generator=self.generator)
        where = models.position_ids(height, width, len(references), self.device, data.MAX_TOKENS)
        kept = None if hold is None else (models.encode_tokens(self.vae, hold[0]), hold[1])
        context = models.text_states(self.encoder, ids, self.pad)
        x = models.sample(self.transformer, context, noise, refs, where, steps, kept)
        return models.decode_tokens(self.vae, x, height, width).clamp(-1, 1)


def load_flow(state, key, transformer, encoder):
    """Loads a checkpoint's parameters into the networks, rounded to bf16 as shipped."""
    own = {
        **{f"transformer.{n}": p for n, p in transformer.named_parameters()},
        **{f"text_encoder.{n}": p for n, p in encoder.named_parameters()},
    }
    with torch.no_grad():
        for name, value in zip(state["names"], state[key]):
            own[name].copy_(value.bfloat16())


# ---- requests: (caption, target scene, reference scenes) ----


def single(rng, words, count=None):
    while True:
        p = scenes.random_picture(rng, True)
        if captions.held_out(p[2], p[0]) and (p[4] == count if count else p[4] == 1):
            break
    color, pattern, subject, size, number, place, _ = p
    if number < 4:
        return captions.describe(rng, p, words.common, everything=True)[0], scenes.from_picture(p), ()
    what = scenes.thing(rng, subject, size, -1, number)
    return scenes.with_background(rng, words, what, color, pattern, True), scenes.from_picture(p), ()


def two(rng, words):
    while True:
        s, how = scenes.pair(rng, True)
        if any(captions.held_out(t[0], s[0]) for t in scenes.things_of(s)):
            break
    text = scenes.with_background(rng, words, scenes.say_pair(rng, s, how), s[0], s[1], True)
    return text, s, ()


def tinted(rng, words):
    while True:
        p = scenes.random_picture(rng, True)
        tint = scenes.random_tint(rng, p[2])
        if p[4] == 1 and tint >= 0 and tint != p[0]:
            break
    what = scenes.thing(rng, p[2], p[3], tint) + " " + rng.choice(captions.PLACE_WORDS[p[5]])
    return scenes.with_background(rng, words, what, p[0], p[1], True), scenes.from_picture(p, tint), ()


def unknown(rng, words):
    color, pattern = rng.randrange(len(COLOR_NAMES)), scenes.random_pattern(rng)
    noun = rng.choice(words.tested)
    return (
        scenes.with_background(rng, words, captions.article(noun), color, pattern, True),
        scenes.card(color, pattern),
        (),
    )


def edited(kind):
    def request(rng, words):
        while True:
            made = scenes.edit(rng, words, kind, allow=True)
            if made and any(captions.held_out(t[0], made[2][0]) for t in scenes.things_of(made[2])) | (
                kind == "remove"
            ):
                return made[3], made[2], (made[1],)

    return request


def combined(rng, words):
    while True:
        first, second, target, text = scenes.two_references(rng, True)
        if any(captions.held_out(t[0], target[0]) for t in scenes.things_of(target)):
            return text, target, (first, second)


def masked(rng, words):
    """A thing drawn over another, described without the rest of the picture."""
    while True:
        made = scenes.edit(rng, scenes.Words(), "replace", allow=True)
        source, target = made[1:3] if made else ((), ())
        if made and len(scenes.things_of(source)) == 1 and scenes.things_of(target)[0][0] != CARD:
            return captions.article(NAMES[scenes.things_of(target)[0][0]]), target, (source,)


def rows():
    """(name, size, request, mode) of the table."""
    out = [("one", size, single, "") for size in SQUARES + OBLONG]
    out += [(f"{n}", (128, 128), lambda rng, words, n=n: single(rng, words, n), "") for n in (2, 3, 4)]
    out += [("two kinds", size, two, "") for size in ((128, 128), (256, 256), (128, 256))]
    out += [
        ("tinted", (128, 128), tinted, ""),
        ("unknown", (128, 128), unknown, ""),
        ("unknown", (256, 256), unknown, ""),
    ]
    out += [(f"edit {kind}", (128, 128), edited(kind), "") for kind in EDIT_KINDS]
    out += [(f"edit {kind}", (256, 256), edited(kind), "") for kind in ("size", "replace", "recolor")]
    out += [("two references", (128, 128), combined, "")]
    out += [("masked, with reference", (128, 128), masked, "reference"), ("masked", (128, 128), masked, "held")]
    return out


def token_mask(atlas, scene, size):
    """1 for tokens of the first thing's box and those around it, [B, I, 1]."""
    height, width = size
    corner, px, _ = data.boxes(atlas, scene, height, width)
    y = torch.arange(height // 16, device=scene.device)[None, :, None] * 16
    x = torch.arange(width // 16, device=scene.device)[None, None, :] * 16
    left, top, side = corner[:, 0, :1, None], corner[:, 0, 1:, None], px[:, 0, None, None]
    inside = (x > left - 16) & (x < left + side) & (y > top - 16) & (y < top + side)
    return inside.flatten(1)[..., None].float()


@torch.no_grad()
def draw_row(model, atlas, words, row, count, steps):
    """Returns (pictures, scenes, captions, measures, references) of a row of the table."""
    name, size, request, mode = row
    rng = random.Random(f"{name} {size}")
    made = [request(rng, words) for _ in range(count)]
    tensor = lambda values: torch.tensor(values, device=model.device)
    targets = tensor([s for _, s, _ in made])
    pictures, measures, sources = [], [], []
    batch = max(8, 512 * 128**2 // (size[0] * size[1]))
    for at in range(0, count, batch):
        part, target = made[at : at + batch], targets[at : at + batch]
        scene = [tensor([m[2][k] for m in part]) for k in range(len(part[0][2]))]
        refs = [data.compose(atlas, s, *size) for s in scene]
        hold = (refs[0], token_mask(atlas, scene[0], size)) if mode else None
        image = model.draw([m[0] for m in part], [] if mode == "held" else refs, steps, size, hold)
        pictures.append(image)
        sources.append(refs[0] if refs else None)
        measures.append(strict.measure(atlas, image, target))
    joined = {k: torch.cat([m[k] for m in measures]) for k in measures[0]}
    refs = torch.cat(sources) if sources[0] is not None else None
    return torch.cat(pictures), targets, [m[0] for m in made], joined, refs


def to_image(pixels):
    return Image.fromarray(((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def tile(pixels, good, side=96):
    image = to_image(pixels)
    image.thumbnail((side, side), Image.LANCZOS)
    framed = Image.new("RGB", (side + 4, side + 4), (255, 255, 255) if good else (255, 0, 0))
    framed.paste(image, (2, 2))
    return framed


def contact_sheet(lines, path):
    """Rows of tiles; references beside what was made of them."""
    width = max(len(line) for line in lines)
    side = lines[0][0].width
    sheet = Image.new("RGB", (width * side, len(lines) * side), "white")
    for y, line in enumerate(lines):
        for x, image in enumerate(line):
            sheet.paste(image, (x * side, y * side))
    sheet.save(path, optimize=True)


def wordings(name):
    """Lines `caption | subject | color | pattern` of a file, as (caption, three indices)."""
    with open(os.path.join(HERE, name)) as f:
        lines = [[part.strip() for part in line.split("|")] for line in f if line.strip() and line[0] != "#"]
    return [(t, NAMES.index(s), COLOR_NAMES.index(c), PATTERNS.index(p)) for t, s, c, p in lines]


@torch.no_grad()
def judge_wordings(model, atlas, name, steps, seeds=4):
    """Share of captions whose picture is right for some size, place and mirroring."""
    lines = wordings(name)
    image = torch.cat([model.draw([line[0] for line in lines], steps=steps) for _ in range(seeds)])
    good = torch.zeros(len(image), dtype=torch.bool, device=model.device)
    for size in range(3):
        for place in range(9):
            specs = [scenes.from_picture((c, p, s, size, 1, place, 0)) for _, s, c, p in lines] * seeds
            good |= strict.right(strict.measure(atlas, image, torch.tensor(specs, device=model.device)))
    return image, good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--model", help="exported folder to evaluate instead of WORK's checkpoint")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--weights", default="ema", choices=["ema", "params"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", help="only rows that begin with this")
    parser.add_argument("--sheet", help="contact sheet of the first pictures of each row")
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--tiles", type=int, default=96, help="side of a picture in the sheet")
    parser.add_argument("--json", help="also write all measures to this file")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.time()
    atlas = data.Atlas(device, os.path.join(args.work, "glyphs.npz"))
    model = Model(args.work, device, args.weights, args.model)
    words = data.load_words(args.work)
    words.tested = unknown_words()
    lines, record = [], {}
    for row in rows():
        name = f"{row[0]} {row[1][1]}x{row[1][0]}"
        if args.rows and not name.startswith(args.rows):
            continue
        pictures, targets, texts, measures, refs = draw_row(model, atlas, words, row, args.count, args.steps)
        good = strict.right(measures)
        within = " ".join(f"{k} {100 * (v <= strict.LIMITS[k]).float().mean().item():.0f}" for k, v in measures.items())
        print(f"{name:30} {100 * good.float().mean().item():5.1f}   ({within})", flush=True)
        record[name] = {k: [round(x, 4) for x in v.tolist()] for k, v in measures.items()}
        record[name]["captions"] = texts
        shown = range(min(args.columns // (2 if refs is not None else 1), len(pictures)))
        line = []
        for i in shown:
            line += [] if refs is None else [tile(refs[i], True, args.tiles)]
            line.append(tile(pictures[i], bool(good[i]), args.tiles))
        lines.append(line)
    for name in () if args.rows else ("heldout_captions.txt", "tuning_captions.txt", "fresh_captions.txt"):
        image, good = judge_wordings(model, atlas, name, args.steps)
        print(f"{name:30} {100 * good.float().mean().item():5.1f}", flush=True)
        lines.append([tile(image[i], bool(good[i]), args.tiles) for i in range(args.columns)])
    if args.sheet:
        contact_sheet(lines, args.sheet)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(record, f)
    print(f"{time.time() - start:.0f} s")


def unknown_words():
    """The nouns of unknown_captions.txt without articles and backgrounds, which training never sees."""
    with open(os.path.join(HERE, "unknown_captions.txt")) as f:
        lines = [line.split("|")[0].strip() for line in f if line.strip() and line[0] != "#"]
    first = [line.split(",")[0].split(" on ")[0] for line in lines]
    return [line.split(" ", 1)[1] for line in first if line.startswith(("a ", "an ")) and line.count(" ") == 1]


if __name__ == "__main__":
    main()
