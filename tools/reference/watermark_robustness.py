"""How often the decoder of `invisible-watermark` reads the watermark after common changes of a picture.

    python tools/reference/watermark_robustness.py PROGRAM PICTURE...

In:  a program `dj-flux2`, which draws klein-mini's pictures and marks them, and photographs or other pictures, which are
     marked by `embed` of make_marks.py: the same bytes (a test compares them).
Out: a table: bits of 46 that are read, mean and least, for pictures of the program and for the others; and those of the
     package's own encoder.

Needs the packages of make_marks.py.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from imwatermark import WatermarkEncoder
from PIL import Image

from make_marks import MESSAGE, embed, read_by_package

PROMPTS = ["a cat on a blue background", "two apples, yellow gradient", "small owl, pink stripes", "a red heart",
           "a dog on a green background", "a fox, white dots"]
SIDE = 512


def jpeg(pixels, quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file).convert("RGB"))


def scaled(pixels, factor):
    size = [round(side * factor) for side in pixels.shape[1::-1]]
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def brighter(pixels):
    return np.clip(pixels.astype(int) + 12, 0, 255).astype(np.uint8)


CHANGES = [
    ("none", lambda pixels: pixels),
    ("JPEG, quality 95, 4:4:4", lambda pixels: jpeg(pixels, 95, 0)),
    ("JPEG, quality 90, 4:4:4", lambda pixels: jpeg(pixels, 90, 0)),
    ("JPEG, quality 80, 4:2:0", lambda pixels: jpeg(pixels, 80, 2)),
    ("12 levels brighter", brighter),
    ("8 rows cut off at the top", lambda pixels: pixels[8:]),
    ("4 columns cut off at the left", lambda pixels: pixels[:, 4:]),
    ("scaled to 90 %", lambda pixels: scaled(pixels, 0.9)),
    ("scaled to 50 %", lambda pixels: scaled(pixels, 0.5)),
]


def package(pixels):
    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", MESSAGE)
    return np.ascontiguousarray(encoder.encode(np.ascontiguousarray(pixels[..., ::-1]), "dwtDct")[..., ::-1])


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def right(pixels):
    return sum(read == bit for read, bit in zip(read_by_package(pixels), MESSAGE))


def drawn(program, side):
    """Pictures of klein-mini with and without the watermark."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, prompt in enumerate(PROMPTS):
            pair = []
            for flags in ([], ["--watermark"]):
                name = str(Path(folder) / "x.png")
                command = [program, prompt, "-q", "-m", "klein-mini", "-S", str(seed), "--size", f"{side}x{side}"]
                subprocess.run([*command, "-o", name, *flags], check=True, capture_output=True)
                pair.append(np.asarray(Image.open(name).convert("RGB")))
            pictures.append(pair)
    return pictures


def cuts(path):
    picture = Image.open(path).convert("RGB")
    if min(picture.size) < SIDE:
        picture = picture.resize([max(SIDE, round(side * SIDE / min(picture.size))) for side in picture.size])
    left, top = [(side - SIDE) // 2 for side in picture.size]
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def row(name, change, marked):
    counts = [right(np.ascontiguousarray(change(pixels))) for pixels in marked]
    return f"| {name} | {np.mean(counts):.1f} ({min(counts)}) "


def main():
    program, paths = sys.argv[1], sys.argv[2:]
    mini = drawn(program, 256)
    for plain, marked in mini:
        assert (embed(plain, MESSAGE) == marked).all(), "the program and this script mark alike"
    others = [cuts(path) for path in paths]
    columns = [
        [marked for _, marked in mini],
        [embed(pixels, MESSAGE) for pixels in others],
        [package(pixels) for pixels in others],
    ]
    print(f"| change | {len(mini)} of klein-mini, 256x256 | {len(others)} photographs, {SIDE}x{SIDE} | the same by the package's encoder |")
    print("|---|---|---|---|")
    for name, change in CHANGES:
        cells = [row(name, change, marked).split("|")[2] for marked in columns]
        print(f"| {name} |" + "|".join(cells) + "|")
    unmarked = [row("", lambda pixels: pixels, pictures).split("|")[2] for pictures in ([p for p, _ in mini], others)]
    print("| not marked at all |" + "|".join(unmarked) + "| |")
    changed = [np.mean([psnr(*pair) for pair in mini])]
    changed += [np.mean([psnr(a, b) for a, b in zip(others, marked)]) for marked in columns[1:]]
    print("| PSNR of the mark |" + "|".join(f" {value:.1f} dB " for value in changed) + "|")


if __name__ == "__main__":
    main()
