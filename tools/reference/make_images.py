"""Pictures in fixtures/images that the image module must read, and their pixels as decoded by Pillow.

In:  nothing; every pixel follows a formula.
Out: fixtures/images/*.{png,jpg,webp} and, for each, the expected pixels: `NAME.expected.png`, 8-bit RGB.
     `prepared.json`: size and sha256 of prepared reference images, which are too large to keep.

Orientation is applied first, then the ICC profile (LittleCMS, relative colorimetric), then white behind transparency,
then `convert("RGB")`. Needs Pillow 13.0.0 with LittleCMS and libwebp, and numpy.

    python tools/reference/make_images.py
"""

import hashlib
import io
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from pictures import Folder, encoded, rough, smooth

folder = Folder(Path(__file__).resolve().parents[2] / "fixtures" / "images")
OUT, keep, expect, fixture = folder.path, folder.keep, folder.expect, folder.fixture

# ---- containers written by hand, where Pillow cannot write them ----


def png(w, h, color_type, depth, rows, chunks=()):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", w, h, depth, color_type, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    idat = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def icc(space, tags):
    """An ICC 2.1 display profile from (signature, data) pairs."""
    tags = [(b"wtpt", xyz(0.9642, 1.0, 0.8249)), (b"desc", desc("made for a test")), *tags]
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for signature, value in tags:
        value += b"\0" * (-len(value) % 4)
        table += signature + struct.pack(">II", offset + len(data), len(value))
        data += value
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4sIQI3I4s",
        offset + len(data), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ", b"\0" * 12, b"acsp", b"\0" * 4,
        0, b"\0" * 4, 0, 0, 1, 0xF6D6, 0x10000, 0xD32D, b"\0" * 4,
    )  # fmt: skip
    return header.ljust(128, b"\0") + table + data


def xyz(x, y, z):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))


def gamma(g):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(g * 256))


def srgb_curve():
    def value(i):
        v = i / 1023
        return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4

    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(value(i) * 65535) for i in range(1024)))


def desc(text):
    ascii_text = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii_text)) + ascii_text + b"\0" * 78


def rgb_profile(primaries, curve):
    """Primaries: D50-adapted XYZ of red, green, blue, as published with the space."""
    names = [b"rXYZ", b"gXYZ", b"bXYZ"]
    tags = [(n, xyz(*p)) for n, p in zip(names, primaries)]
    return icc(b"RGB ", tags + [(n, curve) for n in (b"rTRC", b"gTRC", b"bTRC")])


DISPLAY_P3 = rgb_profile(
    [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)], srgb_curve()
)
ADOBE_RGB = rgb_profile(
    [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], gamma(563 / 256)
)
SRGB = rgb_profile(
    [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)], srgb_curve()
)
GRAY_GAMMA_18 = icc(b"GRAY", [(b"kTRC", gamma(1.8))])
# Its curve gives lightness, not luminance: the connection space is Lab.
GRAY_LAB = icc(b"GRAY", [(b"kTRC", gamma(1.2))]).replace(b"GRAYXYZ ", b"GRAYLab ", 1)


# ---- orientation: all eight show the same picture ----

upright = rough(6, 4)
undo = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
for value, transpose in undo.items():
    exif = Image.Exif()
    exif[0x0112] = value
    stored = upright if transpose is None else upright.transpose(transpose)
    data = encoded(stored, "PNG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).tobytes() == upright.tobytes()
    keep(f"orientation_{value}.png", data)
exif = Image.Exif()
exif[0x0112] = 6
fixture("orientation_6.jpg", encoded(smooth(24, 16), "JPEG", quality=95, subsampling=0, exif=exif))
fixture("orientation_6.webp", encoded(smooth(24, 16), "WEBP", lossless=True, exif=exif))

# ---- color ----

colors = Image.fromarray(
    np.array([[(r, g, b) for r in range(0, 256, 51) for b in range(0, 256, 17)] for g in range(0, 256, 51)], np.uint8)
)
fixture("display_p3.png", encoded(colors, "PNG", icc_profile=DISPLAY_P3))
fixture("adobe_rgb.png", encoded(colors, "PNG", icc_profile=ADOBE_RGB))
fixture("adobe_rgb.webp", encoded(colors, "WEBP", lossless=True, icc_profile=ADOBE_RGB))
fixture("display_p3.jpg", encoded(smooth(48, 32), "JPEG", quality=98, subsampling=0, icc_profile=DISPLAY_P3))
keep("srgb_profile.png", encoded(colors, "PNG", icc_profile=SRGB))
expect("srgb_profile.png", colors)
ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32))
fixture("grey_gamma18.png", encoded(ramp, "PNG", icc_profile=GRAY_GAMMA_18))
fixture("grey_lab.png", encoded(ramp, "PNG", icc_profile=GRAY_LAB))

# ---- kinds of pixels ----

base = rough(16, 12)
alpha = Image.fromarray((np.mgrid[0:12, 0:16][1] * 17).astype(np.uint8))
rgba = base.copy()
rgba.putalpha(alpha)
fixture("rgba.png", encoded(rgba, "PNG"))
fixture("la.png", encoded(Image.merge("LA", [base.getchannel(1), alpha]), "PNG"))
fixture("grey.png", encoded(base.getchannel(1), "PNG"))
fixture("bilevel.png", encoded(base.getchannel(1).convert("1"), "PNG"))
palette = base.quantize(16)
fixture("palette.png", encoded(palette, "PNG"))
fixture("palette_trns.png", encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))))
fixture("rgb_trns.png", encoded(base, "PNG", transparency=base.getpixel((3, 3))))

# Alike on a screen: what differs is hidden where alpha is 0.
y, x = np.mgrid[0:64, 0:64]
disk = Image.fromarray(np.where((x - 32) ** 2 + (y - 32) ** 2 < 600, 255, 0).astype(np.uint8))
for name, hidden in [("hidden_black.png", Image.new("RGB", (64, 64))), ("hidden_colors.png", rough(64, 64))]:
    shown = Image.composite(smooth(64, 64), hidden, disk)
    shown.putalpha(disk)
    fixture(name, encoded(shown, "PNG"))

deep = [[(x * 4369 ^ y * 257, y * 5461, (x * y * 331) % 65536) for x in range(16)] for y in range(12)]
fixture("rgb16.png", png(16, 12, 2, 16, [b"".join(struct.pack(">3H", *p) for p in row) for row in deep]))
# Pillow clips 16-bit gray at 255, which turns a photograph white; viewers show the high byte.
keep("grey16.png", png(16, 12, 0, 16, [b"".join(struct.pack(">H", p[1]) for p in row) for row in deep]))
expect("grey16.png", Image.fromarray((np.array(deep)[..., 1] >> 8).astype(np.uint8)).convert("RGB"))
exif = Image.Exif()
exif[0x0112] = 3
plain = encoded(base, "PNG")
raw_exif = exif.tobytes().removeprefix(b"Exif\0\0")
chunk = struct.pack(">I", len(raw_exif)) + b"eXIf" + raw_exif + struct.pack(">I", zlib.crc32(b"eXIf" + raw_exif))
keep("exif_after_pixels.png", plain[:-12] + chunk + plain[-12:])
expect("exif_after_pixels.png", base.transpose(Image.Transpose.ROTATE_180))

gradient = smooth(48, 32)
faint = gradient.copy()
faint.putalpha(Image.fromarray((np.mgrid[0:32, 0:48][0] * 8 + 7).astype(np.uint8)))
fixture("lossy.webp", encoded(gradient, "WEBP", quality=90))
fixture("lossless.webp", encoded(base, "WEBP", lossless=True))
fixture("alpha.webp", encoded(faint, "WEBP", lossless=True, exact=True))
fixture("colour_444.jpg", encoded(gradient, "JPEG", quality=95, subsampling=0))
fixture("colour_420.jpg", encoded(gradient, "JPEG", quality=95, subsampling=2))
fixture("progressive.jpg", encoded(gradient, "JPEG", quality=95, subsampling=0, progressive=True))
fixture("grey.jpg", encoded(gradient.convert("L"), "JPEG", quality=95))
inks = Image.merge("CMYK", [*gradient.split(), gradient.getchannel(1).rotate(180)])
fixture("cmyk.jpg", encoded(inks, "JPEG", quality=95))

# Of one color, so that the files are small: their memory is measured.
large = Image.new("RGB", (3000, 2000), (200, 120, 40))
keep("large_progressive.jpg", encoded(large, "JPEG", quality=80, progressive=True))
keep("large_lossy.webp", encoded(large, "WEBP", quality=50))
faint_large = large.copy()
faint_large.putalpha(128)
keep("large_alpha.webp", encoded(faint_large, "WEBP", quality=50))

# One frame of an animation, smaller than the canvas in neither direction: a picture.
single = encoded(smooth(16, 16), "WEBP", lossless=True)
frame = struct.pack("<III", 0, 0, 0)[:6] + b"\x0f\0\0\x0f\0\0" + b"\x64\0\0" + b"\0" + single[12:]
vp8x = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\x0f\0\0\x0f\0\0"
anim = b"ANIM" + struct.pack("<I", 6) + b"\0" * 6
body = b"WEBP" + vp8x + anim + b"ANMF" + struct.pack("<I", len(frame)) + frame
fixture("one_frame.webp", b"RIFF" + struct.pack("<I", len(body)) + body)

frames = [smooth(16, 16), rough(16, 16)]
keep("animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
keep("animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))

# ---- files of public bug reports about other decoders ----


def chunks_of(data):
    """(kind, data) of the chunks of a PNG."""
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks, wrong_checksum=None):
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        checksum = zlib.crc32(kind + data) ^ (kind == wrong_checksum)
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return out


def with_chunks(data, *added):
    """A PNG with chunks behind its header."""
    header, *rest = chunks_of(data)
    return png_of([header, *added, *rest])


def like(name, data, same_as):
    """A file that shows the pixels of another picture, which Pillow may read otherwise."""
    keep(name, data)
    expect(name, same_as)


stripes = Image.fromarray((np.mgrid[0:8, 0:16][0] % 2 * 255).astype(np.uint8)).convert("1")
one_bit = with_chunks(encoded(stripes, "PNG"), (b"tRNS", struct.pack(">H", 0)))
like("bilevel_trns.png", one_bit, Image.new("RGB", (16, 8), "white"))
small = rough(16, 12)
plain = encoded(small, "PNG")
CMYK = icc(b"CMYK", [(b"A2B0", b"mft1" + b"\0" * 44)])
iccp = lambda profile: (b"iCCP", b"icc\0\0" + zlib.compress(profile))
srgb, gama = (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))
like("cmyk_profile.png", with_chunks(plain, iccp(CMYK)), small)
like("two_profiles.png", with_chunks(plain, iccp(SRGB), iccp(ADOBE_RGB)), small)
like("srgb_before_gamma.png", with_chunks(plain, srgb, gama, (b"cHRM", b"\0" * 32)), small)
like("profile_and_srgb.png", with_chunks(plain, iccp(SRGB), srgb), small)
like("wrong_checksum.png", png_of(chunks_of(with_chunks(plain, (b"tIME", b"\0" * 7))), b"tIME"), small)
gray = small.getchannel(1)
like("grey_rgb_profile.png", with_chunks(encoded(gray, "PNG"), iccp(SRGB)), gray.convert("RGB"))
indexed = png(4, 1, 3, 8, [bytes([0, 1, 2, 200])], [(b"PLTE", bytes(range(9)))])
like("palette_too_short.png", indexed, Image.frombytes("RGB", (4, 1), bytes(range(9)) + b"\0\0\0"))
# Of an animation whose first picture stands apart, that picture is shown where animations are not.
header, pixels, end = chunks_of(plain)
control = (b"fcTL", struct.pack(">5I2H2B", 0, 16, 12, 0, 0, 1, 10, 0, 0))
frame = (b"fdAT", struct.pack(">I", 1) + pixels[1])
animation = [header, (b"acTL", struct.pack(">2I", 1, 0)), pixels, control, frame, end]
like("animation_apart.png", png_of(animation), small)
animation[4] = (b"fdAT", struct.pack(">I", 7) + b"\xff" * 20)
like("animation_apart_broken.png", png_of(animation), small)
p3 = colors.resize((18, 6))
as_profile = ImageCms.profileToProfile(
    p3,
    ImageCms.ImageCmsProfile(io.BytesIO(DISPLAY_P3)),
    ImageCms.createProfile("sRGB"),
    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
)
like("cicp_p3.png", with_chunks(encoded(p3, "PNG"), (b"cICP", bytes([12, 13, 0, 1]))), as_profile)
like("cicp_srgb.png", with_chunks(plain, iccp(ADOBE_RGB), (b"cICP", bytes([1, 13, 0, 1]))), small)
y, x = np.mgrid[0:30, 0:41]
vivid = np.stack([(x // 5 % 2) * 255, (y // 3 % 2) * 40, (x // 7 % 2) * 200], -1).astype(np.uint8)
vivid = Image.fromarray(vivid)
fixture("vivid.webp", encoded(vivid, "WEBP", quality=60))
vivid.putalpha(Image.fromarray((x * 6 % 256).astype(np.uint8)))
fixture("vivid_alpha.webp", encoded(vivid, "WEBP", quality=60))

# ---- Lanczos, and a reference image from file to model ----

source = rough(61, 47)
for w, h in [(23, 31), (97, 120), (61, 20), (30, 47), (7, 3), (150, 9), (56, 37), (56, 36), (62, 46)]:
    keep(f"lanczos_{w}x{h}.png", encoded(source.resize((w, h), Image.Resampling.LANCZOS), "PNG", optimize=True))

prepared = []
for w, h in [(1500, 1100), (1025, 1024), (3000, 400), (700, 2500), (100, 70)]:
    image = rough(w, h)
    if w * h > 1024 * 1024:
        scale = math.sqrt(1024 * 1024 / (w * h))
        image = image.resize((int(w * scale), int(h * scale)), Image.Resampling.LANCZOS)
    out_w, out_h = image.width // 16 * 16, image.height // 16 * 16
    left, top = (image.width - out_w) // 2, (image.height - out_h) // 2
    image = image.crop((left, top, left + out_w, top + out_h))
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    prepared.append({"from": [w, h], "to": [out_w, out_h], "sha256": digest})
keep("prepared.json", (json.dumps(prepared, indent=1) + "\n").encode())
