"""Renders what the upscaler's training pictures are made of, on a machine with fonts.

In:  the Noto Emoji drawings as SVG (npm package @iconify-json/noto), fonts, pictures drawn by klein-mini.
Out: an archive of lossless WebP files: `emoji/*` with alpha, `text/*` in gray (255: ink), `mini/*`.

The emoji are vector drawings, since the 109 px bitmaps of the font are too coarse as the sharp side of a training pair.
"""

import argparse
import glob
import io
import json
import os
import random
import tarfile
import zipfile

import resvg_py
from PIL import Image, ImageDraw, ImageFont

SIDE = 384
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzäöüßéèñçåøÆ"
DIGITS = "0123456789"
MARKS = ".,:;!?()[]{}<>+-=*/%&@#$€£\"'_~|^°"


def webp(image):
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, quality=70, method=4, exact=False)
    return out.getvalue()


def drawings(path, count, rng):
    """(name, picture) of `count` emoji, without variants of skin tone and flags of countries."""
    with tarfile.open(path) as package:
        icons = json.load(package.extractfile("package/icons.json"))
    names = sorted(n for n in icons["icons"] if "skin-tone" not in n and not n.startswith(("flag-for", "keycap")))
    rng.shuffle(names)
    width, height = icons.get("width", 128), icons.get("height", 128)
    for name in names[:count]:
        icon = icons["icons"][name]
        w, h = icon.get("width", width), icon.get("height", height)
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        svg = f'<svg {spaces} viewBox="0 0 {w} {h}">{icon["body"]}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
        yield name, Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def words(rng):
    """A line of made-up words, numbers and marks."""
    parts = []
    for _ in range(rng.randint(1, 5)):
        kind = rng.random()
        if kind < 0.75:
            word = "".join(rng.choice(LETTERS[26:]) for _ in range(rng.randint(1, 9)))
            parts.append(rng.choice([word, word.capitalize(), word.upper()]))
        elif kind < 0.9:
            parts.append("".join(rng.choice(DIGITS + ".") for _ in range(rng.randint(1, 6))))
        else:
            parts.append("".join(rng.choice(MARKS) for _ in range(rng.randint(1, 3))))
    return " ".join(parts)


def text_block(rng, fonts):
    """Lines of text in one font, from headlines to small print, cut off at the edges."""
    px = round(14 * (200 / 14) ** rng.random())
    font = ImageFont.truetype(rng.choice(fonts), px)
    image = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    y = rng.randint(-px // 4, px // 4)
    while y < SIDE:
        draw.text((rng.randint(-px // 2, px // 2), y), words(rng), font=font, fill=255)
        y += int(px * rng.uniform(1.0, 1.5))
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", required=True, help="iconify-json-noto-VERSION.tgz")
    parser.add_argument("--fonts", required=True, nargs="+", help="folders with .ttf and .otf files")
    parser.add_argument("--pictures", help="folder with klein-mini's pictures of 128x128 and 256x256")
    parser.add_argument("--out", required=True)
    parser.add_argument("--emoji", type=int, default=950)
    parser.add_argument("--text", type=int, default=500)
    args = parser.parse_args()
    rng = random.Random(1)
    fonts = [
        f
        for folder in args.fonts
        for kind in ("ttf", "otf")
        for f in sorted(glob.glob(os.path.join(folder, "**", f"*.{kind}"), recursive=True))
        if "Emoji" not in f and "Math" not in f
    ]
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        for name, image in drawings(args.drawings, args.emoji, rng):
            archive.writestr(f"emoji/{name}.webp", webp(image))
        for i in range(args.text):
            archive.writestr(f"text/{i:04}.webp", webp(text_block(rng, fonts)))
        for path in sorted(glob.glob(os.path.join(args.pictures, "*.png"))) if args.pictures else []:
            name = os.path.splitext(os.path.basename(path))[0]
            archive.writestr(f"mini/{name}.webp", webp(Image.open(path).convert("RGB")))
    print(f"{len(fonts)} fonts, {os.path.getsize(args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
