"""JPEG files of every kind in fixtures/images/jpeg, and the digests of their pixels as decoded by libjpeg-turbo.

In:  nothing; every pixel follows a formula.
Out: fixtures/images/jpeg/*.jpg and `digests.json`: name -> width, height, sha256 of the 8-bit RGB pixels.

Needs Pillow 13.0.0, numpy, and `cjpeg` of libjpeg-turbo 2.1 or later (Debian: libjpeg-turbo-progs), which writes what
Pillow cannot: any sampling, any order of scans. The digests depend on Pillow alone.

    python tools/reference/make_jpegs.py
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

if PIL.__version__ != "13.0.0":
    sys.exit(f"Pillow {PIL.__version__}: the fixtures are made with 13.0.0")

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "images" / "jpeg"
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)

digests = {}


def picture(w, h):
    """Gradients with a ripple: all coefficients occur, and neighbors differ at every edge."""
    y, x = np.mgrid[0:h, 0:w]
    ripple = 25 * np.sin(x * 1.3 + y * 0.7)
    channels = [x * 255 / max(w - 1, 1) + ripple, y * 255 / max(h - 1, 1) - ripple, 128 + 110 * np.sin((x + 2 * y) / 9)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def keep(name, data):
    pixels = Image.open(io.BytesIO(data)).convert("RGB")
    (OUT / f"{name}.jpg").write_bytes(data)
    digests[name] = [pixels.width, pixels.height, hashlib.sha256(pixels.tobytes()).hexdigest()]


def cjpeg(name, size, *args, scans=None):
    ppm = io.BytesIO()
    picture(*size).save(ppm, "PPM")
    with tempfile.NamedTemporaryFile("w") as script:
        if scans:
            script.write(scans)
            script.flush()
            args = [*args, "-scans", script.name]
        done = subprocess.run(["cjpeg", "-quality", "75", *args], input=ppm.getvalue(), capture_output=True)
    if done.returncode:
        return  # cjpeg refuses more than ten blocks in a unit
    try:
        keep(name, done.stdout)
    except OSError:
        pass  # libjpeg-turbo refuses fractional sampling


def pillow(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75, **options)
    return out.getvalue()


PROGRESSIVE = """
0: 0-0, 0, 1; 1: 0-0, 0, 1; 2: 0-0, 0, 0; 0: 1-63, 0, 2; 0: 1-63, 2, 1;
0: 0-0, 1, 0; 1: 0-0, 1, 0; 0: 1-63, 1, 0; 1: 1-5, 0, 0; 1: 6-63, 0, 0; 2: 1-63, 0, 0;
"""
WAYS = {
    "plain": {},
    "three_scans": {"scans": "0;1;2;"},
    "two_scans": {"scans": "0;1 2;"},
    "restart": {"args": ["-restart", "3B"]},
    "progressive": {"args": ["-progressive"]},
    "backwards_restart": {"scans": "2;1;0;", "args": ["-restart", "1"]},
    "progressive_restart": {"scans": PROGRESSIVE, "args": ["-restart", "2B"]},
}
ways = list(WAYS.items())


def next_way():
    ways.append(ways.pop(0))
    return ways[-1]


# ---- sampling: luma finer and coarser than chroma, one chroma finer than the other ----

factors = [(h, v) for h in (1, 2, 4) for v in (1, 2, 4)] + [(3, 1), (1, 3)]
samplings = [(y, c, c) for y in factors for c in factors]
samplings += [((2, 2), (2, 1), (1, 2)), ((2, 1), (1, 1), (2, 1)), ((1, 1), (2, 2), (1, 1)), ((4, 1), (2, 1), (1, 1))]
for sampling in samplings:
    text = ",".join(f"{h}x{v}" for h, v in sampling)
    common = sampling in [((2, 2), (1, 1), (1, 1)), ((1, 1), (2, 2), (2, 2)), ((2, 1), (1, 1), (1, 1))]
    for _ in range(7 if common else 2):
        way, how = next_way()
        cjpeg(f"{text}_{way}", (37, 29), "-sample", text, *how.get("args", []), scans=how.get("scans"))

# ---- sizes: around the edges of blocks and units ----

for size in [*range(1, 19), 31, 32, 33, 47, 63, 64, 65, 100]:
    for text in ("1x1", "2x1", "1x2", "2x2"):
        way, how = next_way()
        w, h = (size, 21) if size % 2 else (size, size)
        cjpeg(f"{text}_{w}x{h}_{way}", (w, h), "-sample", text, *how.get("args", []), scans=how.get("scans"))
    way, how = next_way()
    cjpeg(f"2x2_13x{size}", (13, size), "-sample", "2x2")

# ---- gray, RGB, CMYK, YCCK, markers that decide which ----

for i, size in enumerate((1, 8, 9, 30)):
    cjpeg(f"gray_{size}", (size, 11), "-grayscale", *[[], ["-progressive"], ["-restart", "1B"], ["-sample", "2x2"]][i])
cjpeg("rgb", (20, 15), "-rgb")
cjpeg("rgb_progressive", (20, 15), "-rgb", "-progressive")
cjpeg("coarse", (40, 30), "-quality", "1")
cjpeg("wide_steps", (40, 30), "-quality", "2", "-baseline")


def adobe(transform):
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


for w, h in ((24, 16), (37, 29), (7, 9)):
    inks = Image.merge("CMYK", [*picture(w, h).split(), picture(w, h).getchannel(1).rotate(180)])
    for sampling in (0, 1, 2):
        progressive = sampling == 1
        data = pillow(inks, subsampling=sampling, progressive=progressive, restart_marker_blocks=3 * (w == 37))
        at = data.index(b"Adobe")
        keep(f"cmyk_{w}_{sampling}", data)
        keep(f"ycck_{w}_{sampling}", data[: at + 11] + b"\2" + data[at + 12 :])
        keep(f"cmyk_unmarked_{w}_{sampling}", data[: at - 4] + data[at + 12 :])

data = pillow(picture(20, 15), subsampling=2)
bare = data[:2] + data[20:]
assert data[6:11] == b"JFIF\0"
for transform in (0, 1, 2):
    keep(f"adobe_{transform}", bare[:2] + adobe(transform) + bare[2:])
    keep(f"adobe_{transform}_jfif", data[:20] + adobe(transform) + data[20:])
keep("bare", bare)


def numbered(data, ids):
    data = bytearray(data)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for i, number in enumerate(ids):
        data[frame + 10 + 3 * i] = number
        data[scan + 5 + 2 * i] = number
    return bytes(data)


keep("ids_rgb", numbered(bare, b"RGB"))
keep("ids_rgb_jfif", numbered(data, b"RGB"))
keep("ids_lower_rgb", numbered(bare, b"rgb"))
keep("ids_012", numbered(data, (0, 1, 2)))

# ---- odd but valid bytes ----

tables = b""
while (at := data.find(b"\xff\xc4")) >= 0:  # frames of Motion JPEG leave the standard tables out
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    tables, data = tables + data[at:end], data[:at] + data[end:]
keep("standard_tables_left_out", data)
data = pillow(picture(20, 15), subsampling=2)
keep("fill_bytes", data.replace(b"\xff\xda", b"\xff\xff\xff\xda")[:-2] + b"\xff\xff\xff\xd9")
keep("trailer", data + b"\0\1trailer\xff\xd8\xff")

lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in digests.items())
(OUT / "digests.json").write_text(f"{{\n{lines}\n}}\n")
print(len(digests), "files,", sum(path.stat().st_size for path in OUT.iterdir()), "bytes")
