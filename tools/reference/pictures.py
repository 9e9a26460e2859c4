"""What scripts share that write pictures which the image module must read, with the pixels that Pillow reads from them.

Orientation is applied first, then the ICC profile (LittleCMS, relative colorimetric), then white behind transparency,
then `convert("RGB")`. Needs Pillow 13.0.0 with LittleCMS, and numpy.
"""

import io
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps

if PIL.__version__ != "13.0.0":
    sys.exit(f"Pillow {PIL.__version__}: the fixtures are made with 13.0.0")


def rough(w, h):
    """Every pixel differs from its neighbors; the Rust tests compute the same formula."""
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    return Image.fromarray(np.stack([x ^ y, x * 3 + y * 5, (x * y) >> 4], -1).astype(np.uint8))


def smooth(w, h):
    """Gradients, which lossy formats preserve."""
    y, x = np.mgrid[0:h, 0:w]
    return Image.fromarray(
        np.stack([x * 255 // (w - 1), y * 255 // (h - 1), 255 - x * 255 // (w - 1)], -1).astype(np.uint8)
    )


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def over_white(image):
    """As viewers show it: blended without linear light, rounded to the nearest level."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
    color, alpha = rgba[..., :3], rgba[..., 3:]
    return Image.fromarray(((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))


class Folder:
    """A folder of files, and for each the pixels that are expected: `NAME.expected.png`."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def keep(self, name, data):
        """Writes a file."""
        (self.path / name).write_bytes(data)

    def expect(self, name, image):
        """Writes the pixels that a file shows."""
        # A new image with only the pixels: Pillow would also write metadata, such as a profile with today's date.
        pixels = Image.frombytes(image.mode, image.size, image.tobytes())
        self.keep(f"{name}.expected.png", encoded(pixels, "PNG", optimize=True))

    def like(self, name, data, image):
        """Writes a file and the pixels that it shows."""
        self.keep(name, data)
        self.expect(name, image)

    def fixture(self, name, data):
        """Writes a file and the pixels that Pillow reads from it."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        profile = image.info.get("icc_profile")
        if profile:
            image = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
            )
        self.like(name, data, over_white(image))
