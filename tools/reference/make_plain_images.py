"""GIF, BMP, TIFF and QOI files in fixtures/images/plain that the image module must read, and their pixels.

In:  nothing; every pixel follows a formula.
Out: fixtures/images/plain/*.{gif,bmp,tif,qoi} and, for each, the pixels that Pillow reads from it: `NAME.expected.png`.

The pixels are decoded as in make_images.py. Needs Pillow 13.0.0 with LittleCMS and libtiff, and numpy.

    python tools/reference/make_plain_images.py
"""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from pictures import Folder, encoded, rough, smooth

folder = Folder(Path(__file__).resolve().parents[2] / "fixtures" / "images" / "plain")
OUT, like, fixture = folder.path, folder.like, folder.fixture

base = rough(16, 12)
gray = base.getchannel(1)
rgba = base.copy()
rgba.putalpha(Image.fromarray((np.mgrid[0:12, 0:16][1] * 17).astype(np.uint8)))
palette = base.quantize(16)

# ---- GIF ----

fixture("palette.gif", encoded(palette, "GIF", interlace=False))
fixture("interlaced.gif", encoded(palette, "GIF", interlace=True))
fixture("transparent.gif", encoded(palette, "GIF", transparency=3))
fixture("grey.gif", encoded(gray, "GIF"))
frames = [palette, rough(16, 12).rotate(180).quantize(16)]
fixture("animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0))

# ---- BMP ----

fixture("rgb.bmp", encoded(base, "BMP"))
fixture("palette.bmp", encoded(palette, "BMP"))
fixture("bilevel.bmp", encoded(gray.convert("1"), "BMP"))
fixture("grey.bmp", encoded(gray, "BMP"))


def bmp(width, height, bits, rows, masks=(), compression=0):
    """A BMP written by hand; rows from the top, so the height is negative."""
    masks = b"".join(struct.pack("<I", mask) for mask in masks)
    pixels = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    offset = 14 + 40 + len(masks)
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, bits, compression, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + masks + pixels


rows565 = []
for y in range(12):
    pixels = [base.getpixel((x, y)) for x in range(16)]
    rows565.append(b"".join(struct.pack("<H", (r >> 3) << 11 | (g >> 2) << 5 | b >> 3) for r, g, b in pixels))
fixture("top_down_565.bmp", bmp(16, 12, 16, rows565, (0xF800, 0x07E0, 0x001F), compression=3))

# ---- TIFF ----

for compression in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]:
    fixture(f"rgb_{compression.removeprefix('tiff_')}.tif", encoded(base, "TIFF", compression=compression))
fixture("rgb_predictor.tif", encoded(base, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
fixture("grey.tif", encoded(gray, "TIFF"))
# Refused: the decoder reads no palettes.
(OUT / "palette.tif").write_bytes(encoded(palette, "TIFF"))
fixture("bilevel.tif", encoded(gray.convert("1"), "TIFF"))
fixture("bilevel_group4.tif", encoded(gray.convert("1"), "TIFF", compression="group4"))
fixture("rgba.tif", encoded(rgba, "TIFF"))
exif = Image.Exif()
exif[0x0112] = 6
fixture("orientation_6.tif", encoded(smooth(24, 16), "TIFF", exif=exif))
fixture("strips.tif", encoded(smooth(48, 32), "TIFF", compression="tiff_lzw", strip_size=48 * 3 * 5))
adobe = Image.open(OUT.parent / "adobe_rgb.png")
fixture("adobe_rgb.tif", encoded(adobe, "TIFF", icc_profile=adobe.info["icc_profile"]))
pages = [base, base.rotate(180)]
fixture("two_pages.tif", encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
# Pillow clips 16-bit gray at 255, which turns a photograph white; viewers show the high byte.
deep = np.array([[(y * 5461 + x * 17) % 65536 for x in range(16)] for y in range(12)], np.uint16)
like("grey16.tif", encoded(Image.fromarray(deep), "TIFF"), Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB"))


def tiff(entries, data, order=">"):
    """A TIFF of one directory, written by hand. Values that do not fit into an entry are bytes."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    start = 8 + 2 + 12 * len(entries) + 4
    directory, tail = struct.pack(order + "H", len(entries)), b""
    for tag, kind, count, value in sorted(entries, key=lambda entry: entry[0]):
        if isinstance(value, bytes):
            directory += struct.pack(order + "HHII", tag, kind, count, start + len(tail))
            tail += value
        elif value is None:  # where the pixels begin
            directory += struct.pack(order + "HHI", tag, kind, count) + b"OFFS"
        elif kind == 3:
            directory += struct.pack(order + "HHIHH", tag, kind, count, value, 0)
        else:
            directory += struct.pack(order + "HHII", tag, kind, count, value)
    directory = directory.replace(b"OFFS", struct.pack(order + "I", start + len(tail)))
    return mark + struct.pack(order + "I", 8) + directory + struct.pack(order + "I", 0) + tail + data


wide = np.array([[(x * 4369 ^ y * 257, y * 5461, (x * y * 331) % 65536) for x in range(16)] for y in range(12)], ">u2")
like(
    "big_endian_rgb16.tif",
    tiff(
        [
            (256, 3, 1, 16), (257, 3, 1, 12), (258, 3, 3, struct.pack(">3H", 16, 16, 16)), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, 1, None), (277, 3, 1, 3), (278, 3, 1, 12), (279, 4, 1, 16 * 12 * 6),
        ],
        wide.tobytes(),
    ),
    Image.fromarray((wide >> 8).astype(np.uint8)),
)  # fmt: skip

# ---- QOI ----

fixture("rgb.qoi", encoded(base, "QOI"))
fixture("rgba.qoi", encoded(rgba, "QOI"))

# Of one color, so that the files are small: their memory is measured.
large = Image.new("RGB", (3000, 2000), (200, 120, 40))
for name, data in [
    ("large.gif", encoded(large.quantize(2), "GIF")),
    ("large.tif", encoded(large, "TIFF", compression="tiff_adobe_deflate")),
    ("large.qoi", encoded(large, "QOI")),
]:
    (OUT / name).write_bytes(data)
