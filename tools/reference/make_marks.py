"""Watermarked pictures and pictures with XMP packets in fixtures/marks, by the programs that define them.

In:  nothing.
Out: fixtures/marks/before.png and after.png: a picture, and the same with the watermark of `crates/flux2/src/marks/
     watermark.rs`, whose bits the package's own decoder must read; fixtures/marks/KIND.{png,jpg,webp}: the packet of
     `image/metadata/xmp.rs`, which exiftool must read and find valid.

Needs Pillow 13.0.0, numpy, opencv-python-headless, invisible-watermark 0.2.0 and the program exiftool.

    python tools/reference/make_marks.py
"""

import io
import json
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
from imwatermark import WatermarkDecoder
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "marks"
OUT.mkdir(parents=True, exist_ok=True)
MESSAGE = [int(bit) for bit in bin(0x2AFE879CF52E)[2:]]
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"


# ---- watermark ----


def to_yuv(rgb):
    """As OpenCV converts 8-bit RGB, in integers."""
    r, g, b = (rgb[..., i].astype(np.int64) for i in range(3))
    y = (r * 4899 + g * 9617 + b * 1868 + 8192) >> 14
    u = ((b - y) * 8061 + (128 << 14) + 8192) >> 14
    v = ((r - y) * 14369 + (128 << 14) + 8192) >> 14
    return [np.clip(plane, 0, 255) for plane in (y, u, v)]


def to_rgb(y, u, v):
    u, v = u - 128, v - 128
    b = y + ((u * 33292 + 8192) >> 14)
    g = y + ((u * -6472 + v * -9519 + 8192) >> 14)
    r = y + ((v * 18678 + 8192) >> 14)
    return np.clip(np.stack([r, g, b], -1), 0, 255).astype(np.uint8)


def embed(rgb, bits, margin=6):
    """Mark the largest value of each block but its first, so that it stays the largest by `margin`."""
    h, w = rgb.shape[0] // 4 * 4, rgb.shape[1] // 4 * 4
    y, u, v = to_yuv(rgb)
    low = (u[0:h:2, 0:w:2] + u[0:h:2, 1:w:2] + u[1:h:2, 0:w:2] + u[1:h:2, 1:w:2]) / 2
    n = 0
    for i in range(low.shape[0] // 4):
        for j in range(low.shape[1] // 4):
            block = low[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel()
            p = 1 + int(np.argmax(block[1:]))
            second = np.delete(block[1:], p - 1).max()
            marked = (block[p] // 36 + 0.25 + 0.5 * bits[n % len(bits)]) * 36
            if marked <= second + margin:
                marked += 36
            if marked > 500:
                marked -= 36
            n += 1
            top, left = 2 * (4 * i + p // 4), 2 * (4 * j + p % 4)
            pixels = u[top : top + 2, left : left + 2]
            u[top : top + 2, left : left + 2] = np.clip(np.floor(pixels + (marked - block[p]) / 2 + 0.5), 0, 255)
    return to_rgb(y, u, v)


def read_by_package(rgb):
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    return [int(bit) for bit in WatermarkDecoder("bits", len(MESSAGE)).decode(bgr, "dwtDct")]


def watermark():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert (cv2.cvtColor(noise[..., ::-1].copy(), cv2.COLOR_BGR2YUV) == np.stack(to_yuv(noise), -1)).all()
    yuv = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    back = to_rgb(*(yuv[..., i].astype(np.int64) for i in range(3)))
    assert (cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR)[..., ::-1] == back).all()
    y, x = np.mgrid[0:256, 0:256].astype(np.float64)
    waves = [128 + 70 * np.sin(x / 31 + c) * np.cos(y / (23 + 5 * c)) + 30 * np.sin((x + y) / 9 + c) for c in range(3)]
    picture = np.stack(waves, -1)
    picture[60:120, 140:220] = [250, 20, 60]
    picture[180:220, 20:100] = [20, 40, 250]
    picture = np.clip(np.rint(picture + rng.normal(0, 1, picture.shape)), 0, 255).astype(np.uint8)
    marked = embed(picture, MESSAGE)
    assert read_by_package(marked) == MESSAGE
    for name, pixels in (("before", picture), ("after", marked)):
        Image.fromarray(pixels).save(OUT / f"{name}.png", optimize=True)


# ---- XMP ----


def packet(kind):
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n '
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n  <rdf:Description rdf:about=""\n'
        '    xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
        '    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"\n'
        '    xmp:CreatorTool="dj-flux2 0.1.0"\n'
        f'    Iptc4xmpExt:DigitalSourceType="{VOCABULARY}{kind}"/>\n'
        ' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="r"?>'
    ).encode()


def png(data, xmp):
    chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def jpeg(data, xmp):
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    at = 2
    while data[at] == 0xFF and data[at + 1] in (0xE0, 0xE1):
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return data[:at] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[at:]


def webp(data, xmp, size):
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    header = b"VP8X" + struct.pack("<I", 10) + b"\x04\0\0\0" + sides
    chunk = b"XMP " + struct.pack("<I", len(xmp)) + xmp + b"\0" * (len(xmp) % 2)
    body = b"WEBP" + header + data[12:] + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def xmp():
    picture = Image.new("RGB", (48, 32), (200, 40, 90))

    def encoded(kind, **options):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()

    for kind in ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"):
        text = packet(kind)
        files = {
            "png": png(encoded("PNG"), text),
            "jpg": jpeg(encoded("JPEG"), text),
            "webp": webp(encoded("WEBP", lossless=True), text, picture.size),
        }
        for extension, data in files.items():
            path = OUT / f"{kind}.{extension}"
            path.write_bytes(data)
            command = ["exiftool", "-j", "-n", "-G1", "-XMP:all", "-validate", "-warning", str(path)]
            read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]
            assert read["XMP-iptcExt:DigitalSourceType"] == VOCABULARY + kind, read
            assert not any("Warning" in name for name in read), read


if __name__ == "__main__":
    watermark()
    xmp()
