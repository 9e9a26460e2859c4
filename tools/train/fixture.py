"""Stage 6: writes the fixtures of the evaluation in Rust.

In:  the font, the grammar, heldout_captions.txt.
Out: OUT/glyphs.png: subjects and the card as 48x48 premultiplied RGBA, means of 2x2 pixels of the 96 px glyph, COLUMNS
     per row;
     OUT/world.json: names, colors, sizes, places;
     OUT/cases.jsonl: one request per line with the expected picture, of held-out subject x background pairs;
     OUT/scenes.jsonl: requests of the second training with the expected scene, for the strict judge.
     With --pictures DIR only true pictures as PNG, for the autoencoder's signal-to-noise ratio; not committed.

A picture is [color, pattern, subject, size, count, place, mirrored] as in captions.py; if the caption leaves size and
place to the seed, only the first three are listed.
"""

import argparse
import json
import os
import random

import numpy as np
import torch
from PIL import Image

import captions
import data
import evaluate
import scenes
from subjects import CARD, COLOR_NAMES, NAMES, PATTERNS, PLACES, PX_BY_SIDE, PX_LARGEST, SIZE_INSET, SIZE_PX, SIZES
from subjects import held_out, plural, visible

CELLS = 48
COLUMNS = 16
TEXTS = 512
UNPLACED = 128
EDITS = 64
LARGEST_SIDE = 10_000
PICTURES = 192
HERE = os.path.dirname(os.path.abspath(__file__))


def write_glyphs(atlas, path):
    px = SIZE_PX[2]
    step = px // CELLS
    rows = atlas.glyph(px).view(atlas.subjects, CELLS, step, CELLS, step, 4)
    cells = rows.double().mean((2, 4)).round().to(torch.uint8).numpy()
    lines = -(-len(cells) // COLUMNS)
    sheet = np.zeros((lines, COLUMNS, CELLS, CELLS, 4), np.uint8)
    sheet.reshape(-1, CELLS, CELLS, 4)[: len(cells)] = cells
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(lines * CELLS, COLUMNS * CELLS, 4)
    Image.fromarray(sheet, "RGBA").save(path, optimize=True)


def world(atlas):
    first, light = atlas.colors.tolist()
    return {
        "patterns": PATTERNS,
        "places": PLACES,
        "sizes": [{"name": n, "px": p, "inset": i} for n, p, i in zip(SIZES, SIZE_PX, SIZE_INSET)],
        "scales": [{"below": least, "px": px} for least, px in [*PX_BY_SIDE, (LARGEST_SIDE, PX_LARGEST)]],
        "colours": [{"name": n, "rgb": a, "fades_to": b} for n, a, b in zip(COLOR_NAMES, first, light)],
        "subjects": [{"name": n, "plural": plural(n)} for n in NAMES],
    }


def text():
    """Captions that specify everything."""
    rng = random.Random("text")
    for _ in range(TEXTS):
        target = captions.picture(rng, True)
        yield {"kind": "text", "caption": captions.describe(rng, target, everything=True)[0], "target": target}


def unplaced():
    """Captions with subject and background; size and place are left to the seed."""
    rng = random.Random("unplaced")
    for _ in range(UNPLACED):
        target = captions.picture(rng, True)[:3]
        color = COLOR_NAMES[target[0]]
        behind = [f"a {color} background", f"a {color} gradient background", f"{color} stripes"][target[1]]
        behind = behind.replace("a orange", "an orange")
        yield {"kind": "unplaced", "caption": f"{captions.article(NAMES[target[2]])} on {behind}", "target": target}


def told(rng, picture):
    return {"caption": captions.describe(rng, picture, everything=True)[0], "picture": picture}


def edits(kind):
    """Edits with a held-out target. If the edit changes the pair, the source has a training pair, else the same one."""
    rng = random.Random(kind)
    left = EDITS
    while left:
        source = captions.picture(rng, kind not in ("background", "replace"))
        if kind == "move" and source[4] > 1:
            continue  # several subjects have a fixed place
        edit = captions.edit(rng, kind, source, allow=True)
        if edit and held_out(edit[2][2], edit[2][0]):
            _, source, target, caption = edit
            yield {"kind": kind, "caption": caption, "target": target, "sources": [told(rng, source)]}
            left -= 1


def two_references():
    rng = random.Random("two references")
    for _ in range(EDITS):
        first, second, target, caption = captions.two_refs(rng, True)
        yield {
            "kind": "two references",
            "caption": caption,
            "target": target,
            "sources": [told(rng, first), told(rng, second)],
        }


def wordings(path):
    with open(path) as file:
        lines = [[part.strip() for part in line.split("|")] for line in file if line.strip() and line[0] != "#"]
    for caption, subject, color, pattern in lines:
        target = COLOR_NAMES.index(color), PATTERNS.index(pattern), NAMES.index(subject)
        assert visible(target[2], target[0]), caption
        yield {"kind": "wording", "caption": caption, "target": target}


# ---- scenes ----


def full_caption(rng, picture, tint=-1):
    """A caption that says everything but the mirroring of one to four of a thing."""
    if picture[4] < 4 and tint < 0:
        return captions.describe(rng, picture, everything=True)[0]
    color, pattern, subject, size, count, place, _ = picture
    where = " " + rng.choice(captions.PLACE_WORDS[place]) if count == 1 else ""
    phrase, takes_article = captions.background(rng, color, pattern)
    on = captions.article(phrase) if takes_article else phrase
    return f"{scenes.thing(rng, subject, size, tint, count)}{where} on {on}"


def told_scene(rng):
    """A scene and a caption that determines it."""
    if rng.random() < 0.25:
        s, how = scenes.pair(rng, True)
        phrase, takes_article = captions.background(rng, s[0], s[1])
        on = captions.article(phrase) if takes_article else phrase
        return s, f"{scenes.say_pair(rng, s, how)} on {on}"
    while True:
        picture = scenes.random_picture(rng, True)
        tint = scenes.random_tint(rng, picture[2]) if rng.random() < 0.1 else -1
        if tint != picture[0]:
            return scenes.from_picture(picture, tint), full_caption(rng, picture, tint)


def has_held_out(s):
    return any(t[0] != CARD and held_out(t[0], s[0]) for t in scenes.things_of(s))


def edited_scenes(kind):
    def request(rng):
        while True:
            source, told = told_scene(rng)
            made = scenes.edit(rng, scenes.Words(), kind, source, allow=True)
            if made and (kind == "remove" or has_held_out(made[2])):
                return made[3], made[2], [(told, source)]

    return request


def combined_scenes(rng):
    while True:
        first, second = told_scene(rng), told_scene(rng)
        made = scenes.combine(rng, first[0], second[0], allow=True)
        if made and has_held_out(made[2]):
            in_order = [first, second] if made[0] == first[0] else [second, first]
            return made[3], made[2], [(told, s) for s, told in in_order]


def plain_request(request, *more):
    def made(rng):
        caption, target, _ = request(rng, scenes.Words(), *more)
        return caption, target, []

    return made


def scene_rows():
    """(name, (height, width), number of requests, request)."""
    square = (128, 128)
    rows = [
        ("one", (n, n), 64 if 96 < n < 320 else 32, plain_request(evaluate.single)) for n in (96, 128, 192, 256, 320)
    ]
    rows += [("one", size, 48, plain_request(evaluate.single)) for size in ((128, 256), (256, 128))]
    rows += [(f"{n} equal", square, 32, plain_request(evaluate.single, n)) for n in (2, 3, 4)]
    rows += [("two kinds", (n, n), 64 if n == 128 else 32, plain_request(evaluate.two)) for n in (128, 256)]
    rows += [("tinted", square, 32, plain_request(evaluate.tinted))]
    rows += [(f"edit: {kind}", square, 48, edited_scenes(kind)) for kind in evaluate.EDIT_KINDS]
    rows += [(f"edit: {kind}", (256, 256), 24, edited_scenes(kind)) for kind in ("size", "replace", "recolor")]
    return rows + [("two references", square, 48, combined_scenes)]


def scene_cases():
    for name, (height, width), count, request in scene_rows():
        rng = random.Random(f"{name} {height} {width}")
        for _ in range(count):
            caption, target, sources = request(rng)
            case = {"row": name, "size": [width, height], "caption": caption, "target": target}
            if sources:
                case["sources"] = [{"caption": told, "scene": s} for told, s in sources]
            yield case
    for caption, subject, color, pattern in evaluate.wordings("fresh_captions.txt"):
        anywhere = scenes.scene(color, pattern, [(subject, 0, 0, 0, 0, -1)])
        yield {"row": "wordings", "size": [128, 128], "caption": caption, "target": anywhere, "anywhere": True}
    with open(os.path.join(HERE, "unknown_captions.txt")) as file:
        for line in file:
            caption, color = ([part.strip() for part in line.split("|")] + [""])[:2]
            if color in COLOR_NAMES:
                pattern = 2 if "stripes" in caption else 1 if "gradient" in caption else 0
                card = scenes.card(COLOR_NAMES.index(color), pattern)
                yield {"row": "unknown words", "size": [128, 128], "caption": caption, "target": card}


def write_pictures(atlas, folder):
    """Equal numbers of each size and of several subjects; the first word of the name is the class."""
    os.makedirs(folder, exist_ok=True)
    rng = random.Random("pictures")
    left = dict.fromkeys([*SIZES, "several"], PICTURES // 4)
    while any(left.values()):
        spec = captions.picture(rng, True)
        name = SIZES[spec[3]] if spec[4] == 1 else "several"
        if left[name]:
            left[name] -= 1
            pixels = (data.compose(atlas, torch.tensor([spec]))[0] + 1) * 127.5
            image = Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).numpy(), "RGB")
            image.save(os.path.join(folder, f"{name}-{left[name]}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=os.path.join(HERE, "../../fixtures/mini"))
    parser.add_argument("--wordings", default=os.path.join(HERE, "heldout_captions.txt"))
    parser.add_argument("--pictures", help="a folder outside the repository; then nothing else is written")
    args = parser.parse_args()
    atlas = data.Atlas(torch.device("cpu"))
    if args.pictures:
        return write_pictures(atlas, args.pictures)
    os.makedirs(args.out, exist_ok=True)
    write_glyphs(atlas, os.path.join(args.out, "glyphs.png"))
    cases = [*text(), *unplaced()]
    for kind in ("background", "replace", "size", "add", "move"):
        cases += edits(kind)
    cases += [*two_references(), *wordings(args.wordings)]
    with open(os.path.join(args.out, "world.json"), "w") as file:
        # One line per color and subject, for readable diffs.
        lists = [
            f' "{key}": [\n  ' + ",\n  ".join(json.dumps(v, ensure_ascii=False) for v in values) + "\n ]"
            for key, values in world(atlas).items()
        ]
        file.write("{\n" + ",\n".join(lists) + "\n}\n")
    with open(os.path.join(args.out, "cases.jsonl"), "w") as file:
        file.writelines(json.dumps(case, ensure_ascii=False) + "\n" for case in cases)
    with open(os.path.join(args.out, "scenes.jsonl"), "w") as file:
        file.writelines(json.dumps(case, ensure_ascii=False) + "\n" for case in scene_cases())
    print(len(NAMES), "subjects,", len(cases), "cases in", os.path.normpath(args.out))


if __name__ == "__main__":
    main()
