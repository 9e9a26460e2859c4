"""The sharp pictures that the upscaler learns from, painted on the training device.

In:  the archive of upscaler_sprites.py, klein-mini's autoencoder.
Out: batches of pictures [B, 3, SIDE, SIDE] in 0..1: emoji, text, shapes and gratings on colored backgrounds, dead
     leaves, clouds, pictures of klein-mini and mixtures of these.

Drawn pictures are painted at twice their size and averaged, so that their edges are antialiased. Dead leaves (disks,
boxes and polygons of all sizes that hide each other, with textures) have the edges and spectra of photographs.
"""

import io
import math
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from subjects import COLORS

SIDE = 256
FINE = 2 * SIDE
# Chunks of each kind in a cycle.
SHARES = {
    "emoji": 8,
    "text": 3,
    "shapes": 3,
    "gratings": 2,
    "leaves": 6,
    "clouds": 2,
    "mixed": 3,
    "mini": 3,
    "decoded": 2,
}
# Kinds that look like what klein-mini draws, so that its autoencoder can be used on them.
DRAWN = ("emoji", "shapes", "mini")


def load_archive(path):
    """Arrays of the archive by folder: {"emoji": [N, 384, 384, 4], "text": [N, 384, 384], "mini": list of pictures}."""
    with zipfile.ZipFile(path) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    decode = lambda item: np.asarray(Image.open(io.BytesIO(item[1])))
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(decode, files))
    by_folder = {}
    for (name, _), image in zip(files, images):
        by_folder.setdefault(name.split("/")[0], []).append(image)
    return by_folder


def between(low, high, *shape, device):
    return low + (high - low) * torch.rand(*shape, device=device)


def log_between(low, high, *shape, device):
    return low * (high / low) ** torch.rand(*shape, device=device)


def per_picture(values):
    """Values [n] for a broadcast over [n, h, w]."""
    return values[:, None, None]


def halved(x):
    return F.avg_pool2d(x, 2)


def blur(x, sigma):
    """Gaussian blur of pictures [n, c, h, w] with `sigma` [n] in pixels, at most 2."""
    n, c, h, w = x.shape
    at = torch.arange(-6, 7, device=x.device)
    kernel = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    x = F.pad(x, (6, 6, 6, 6), mode="replicate").view(1, n * c, h + 12, w + 12)
    x = F.conv2d(F.conv2d(x, kernel[:, None, :, None], groups=n * c), kernel[:, None, None, :], groups=n * c)
    return x.view(n, c, h, w)


class Painter:
    """Paints chunks of pictures of one kind; `chunk` pictures of SIDE x SIDE at a time."""

    def __init__(self, archive, vae, device, chunk):
        self.vae, self.device, self.chunk = vae, device, chunk
        parts = load_archive(archive)
        emoji = torch.from_numpy(np.stack(parts["emoji"])).permute(0, 3, 1, 2)  # [N, 4, 384, 384]
        text = torch.from_numpy(np.stack([t if t.ndim == 2 else t[..., 0] for t in parts["text"]]))[:, None]
        self.emoji = self.levels(emoji.to(device), premultiply=True)
        self.text = self.levels(text.to(device), premultiply=False)
        self.mini = self.tiles(parts.get("mini", []))
        palette = torch.tensor(list(COLORS.values()), device=device) / 255
        self.palette = palette
        center = lambda n: (torch.arange(n, device=device) + 0.5) * (SIDE / n)
        self.fine = torch.meshgrid(center(FINE), center(FINE), indexing="ij")
        self.coarse = torch.meshgrid(center(SIDE), center(SIDE), indexing="ij")
        frequency = torch.fft.fftfreq(SIDE, device=device)
        self.radius = torch.hypot(frequency[:, None], torch.fft.rfftfreq(SIDE, device=device)[None])
        self.radius[0, 0] = 1 / SIDE
        self.cycle = [kind for turn in range(max(SHARES.values())) for kind, n in SHARES.items() if turn < n]
        self.turn = 0

    # ---- sources ----

    @staticmethod
    def levels(sprites, premultiply):
        """Sprites at full, half and quarter size, as u8."""
        out = [sprites]
        if premultiply:
            for part in sprites.split(64):
                part[:, :3] = (part[:, :3].float() * part[:, 3:].float() / 255).round().byte()
        for _ in range(2):
            out.append(torch.cat([halved(part.float()).round().byte() for part in out[-1].split(64)]))
        return out

    def tiles(self, pictures):
        """Pictures of klein-mini as [N, 3, SIDE, SIDE] u8: those of half the side are put together in fours."""
        large = [p for p in pictures if p.shape[0] == SIDE]
        small = [p for p in pictures if p.shape[0] == SIDE // 2]
        for i in range(0, len(small) - 3, 4):
            rows = [np.concatenate(small[i + j : i + j + 2], 1) for j in (0, 2)]
            large.append(np.concatenate(rows, 0))
        if not large:
            return None
        return torch.from_numpy(np.stack(large)[..., :3]).permute(0, 3, 1, 2).contiguous().to(self.device)

    # ---- colors and backgrounds ----

    def color(self, n):
        """Colors [n, 3]: any, near those of klein-mini's backgrounds, or pale and grayish."""
        any_ = torch.rand(n, 3, device=self.device)
        near = self.palette[torch.randint(len(self.palette), (n,), device=self.device)]
        near = (near + 0.04 * torch.randn(n, 3, device=self.device)).clamp(0, 1)
        gray = (torch.rand(n, 1, device=self.device) + 0.08 * torch.randn(n, 3, device=self.device)).clamp(0, 1)
        kind = torch.rand(n, 1, device=self.device)
        return torch.where(kind < 0.4, any_, torch.where(kind < 0.75, near, gray))

    def blend(self, a, b, weight):
        """Colors `a` and `b` [n, 3] mixed by `weight` [n, h, w] of b."""
        return torch.lerp(a[:, :, None, None], b[:, :, None, None], weight[:, None])

    def background(self, n):
        """Plain, striped, in gradients or cloudy, [n, 3, FINE, FINE]."""
        y, x = self.fine
        kind = torch.rand(n, device=self.device)
        upright = torch.rand(n, device=self.device) < 0.5
        angle = torch.where(upright, 0.0, between(-math.pi, math.pi, n, device=self.device))
        along = per_picture(angle.cos()) * x + per_picture(angle.sin()) * y
        across = per_picture(angle.cos()) * y - per_picture(angle.sin()) * x
        linear = (across / SIDE + per_picture(between(-0.3, 0.3, n, device=self.device))).clamp(0, 1)
        period = log_between(4, 64, n, device=self.device)
        phase = along / per_picture(period)
        stripes = ((phase - phase.floor() - 0.5).abs() - 0.25) * per_picture(period) * 2 + 0.5
        middle = between(0, SIDE, 2, n, device=self.device)
        radial = torch.hypot(x - per_picture(middle[0]), y - per_picture(middle[1])) / SIDE
        weight = torch.zeros(n, FINE, FINE, device=self.device)
        for low, high, pattern in ((0.4, 0.65, linear), (0.65, 0.82, stripes), (0.82, 0.92, radial)):
            chosen = (kind >= low) & (kind < high)
            weight = torch.where(per_picture(chosen), pattern.clamp(0, 1), weight)
        first = self.color(n)
        # The second color of klein-mini's gradients and stripes is a pale shade of the first.
        second = torch.where(torch.rand(n, 1, device=self.device) < 0.5, first * 0.5 + 0.5, self.color(n))
        out = self.blend(first, second, weight)
        clouds = F.interpolate(self.noise(n, between(2.0, 3.5, n, device=self.device))[:, None], scale_factor=2.0)
        strength = torch.where(kind > 0.92, between(0.02, 0.2, n, device=self.device), torch.zeros_like(kind))
        return (out + strength[:, None, None, None] * clouds).clamp(0, 1)

    def noise(self, n, exponent):
        """Noise [n, SIDE, SIDE] of mean 0 and deviation 1 whose power falls with frequency to -`exponent` [n]."""
        spectrum = torch.fft.rfft2(torch.randn(n, SIDE, SIDE, device=self.device))
        out = torch.fft.irfft2(spectrum * self.radius ** (-per_picture(exponent) / 2), s=(SIDE, SIDE))
        out = out - out.mean((1, 2), keepdim=True)
        return out / out.std((1, 2), keepdim=True)

    # ---- things ----

    def placed(self, n, grid, side, turned, spread=0.8):
        """Coordinates (u, v) [n, h, w] in pixels around a random place, turned in a share `turned` of the pictures."""
        y, x = grid
        angle = between(-math.pi, math.pi, n, device=self.device)
        angle = torch.where(torch.rand(n, device=self.device) < turned, angle, torch.zeros_like(angle))
        reach = 0.5 * SIDE + 0.25 * side
        at = 0.5 * SIDE + (2 * torch.rand(2, n, device=self.device) - 1) * reach * spread
        dx, dy = x - per_picture(at[0]), y - per_picture(at[1])
        c, s = per_picture(angle.cos()), per_picture(angle.sin())
        return c * dx + s * dy, c * dy - s * dx

    def put_sprites(self, canvas, levels, low, high, turned, colored):
        """Draws one sprite a picture, `low` to `high` px large, from the smallest level that is fine enough."""
        n = len(canvas)
        bound = SIDE * 1.5  # the sprites' side
        level = 0 if high > bound / 4 else 1 if high > bound / 8 else 2
        sprites = levels[level]
        sprites = sprites[torch.randint(len(sprites), (n,), device=self.device)].float() / 255
        side = log_between(low, high, n, device=self.device)
        u, v = self.placed(n, self.fine, side, turned)
        mirror = torch.where(torch.rand(n, device=self.device) < (0.5 if colored else 0.0), -1.0, 1.0)
        where = torch.stack([u * per_picture(mirror * 2 / side), v * per_picture(2 / side)], -1)
        rgba = F.grid_sample(sprites, where, align_corners=False)
        if colored:
            rgb, alpha = rgba[:, :3], rgba[:, 3:]
            if torch.rand(()) < 0.25:
                rgb = rgb[:, torch.randperm(3, device=self.device)]
        else:
            alpha = rgba
            rgb = alpha * self.color(n)[:, :, None, None]
        if torch.rand(()) < 0.15:
            canvas = self.shadow(canvas, alpha)
        return rgb + canvas * (1 - alpha)

    def shadow(self, canvas, alpha):
        """Darkens `canvas` by a soft shadow of `alpha`, a little to the side."""
        by = int(torch.randint(4, 33, ()))
        soft = F.interpolate(F.avg_pool2d(alpha, 16, 8, 4), size=(FINE, FINE), mode="bilinear")
        soft = torch.roll(soft, (by, by // 2), (2, 3))
        return canvas * (1 - between(0.2, 0.7, len(canvas), 1, 1, 1, device=self.device) * soft)

    def distance(self, u, v, size, thin):
        """Signed distance in pixels to a random shape [n]: ellipse, box, ring, polygon, line; negative inside."""
        n = len(u)
        kind = torch.randint(5, (n,), device=self.device)
        ratio = log_between(0.25, 1.0, n, device=self.device)
        a, b = per_picture(size), per_picture(size * ratio)
        r = torch.hypot(u, v)
        ellipse = (torch.hypot(u / a, v / b) - 1) * b
        thin_b = torch.where(per_picture(kind == 4), per_picture(log_between(*thin, n, device=self.device)), b)
        qx, qy = u.abs() - a, v.abs() - thin_b
        box = torch.maximum(qx, qy)
        corner = per_picture(torch.rand(n, device=self.device) * size * ratio * (kind == 1))
        rounded = torch.hypot((qx + corner).clamp(min=0), (qy + corner).clamp(min=0)) - corner
        box = torch.where((corner > 0) & (torch.maximum(qx, qy) > -corner), rounded, box)
        ring = (r - a).abs() - per_picture(log_between(*thin, n, device=self.device))
        sides = per_picture(torch.randint(3, 8, (n,), device=self.device))
        turn = 2 * math.pi / sides
        phi = torch.atan2(v, u)
        polygon = r * torch.cos(phi - turn * torch.floor(phi / turn) - turn / 2) - a
        choose = lambda k, value, rest: torch.where(per_picture(kind == k), value, rest)
        return choose(0, ellipse, choose(2, ring, choose(3, polygon, box)))

    def put_shape(self, canvas, low, high):
        n = len(canvas)
        size = log_between(low, high, n, device=self.device)
        u, v = self.placed(n, self.fine, size, 0.7)
        d = self.distance(u, v, size, (0.4, 8.0))
        fill = self.blend(self.color(n), self.color(n), (u / per_picture(2 * size) + 0.5).clamp(0, 1))
        plain = torch.rand(n, 1, 1, 1, device=self.device) < 0.6
        fill = torch.where(plain, self.color(n)[:, :, None, None], fill)
        canvas = torch.lerp(canvas, fill, (0.5 - 2 * d).clamp(0, 1)[:, None])
        if torch.rand(()) < 0.3:
            edge = d.abs() - per_picture(log_between(0.4, 5.0, n, device=self.device))
            canvas = torch.lerp(canvas, self.color(n)[:, :, None, None], (0.5 - 2 * edge).clamp(0, 1)[:, None])
        return canvas

    # ---- kinds of pictures ----

    def emoji_fine(self, n):
        canvas = self.background(n)
        for _ in range(int(torch.randint(0, 3, ()))):
            canvas = self.put_shape(canvas, 4, 150)
        # One large emoji, or several of about one size.
        spans = [[(180, 360)], [(96, 192)] * 2, [(48, 96)] * 5, [(24, 48)] * 8]
        for span in spans[int(torch.multinomial(torch.tensor([0.35, 0.35, 0.2, 0.1]), 1))]:
            canvas = self.put_sprites(canvas, self.emoji, *span, 0.25, True)
        return canvas

    def emoji_kind(self, n):
        return halved(self.emoji_fine(n))

    def text_kind(self, n):
        canvas = self.background(n)
        if torch.rand(()) < 0.5:
            canvas = self.put_shape(canvas, 40, 200)
        spans = [(190, 380), (130, 260), (96, 190)]
        for _ in range(int(torch.randint(1, 3, ()))):
            canvas = self.put_sprites(canvas, self.text, *spans[int(torch.randint(3, ()))], 0.25, False)
        return halved(canvas)

    def shapes_kind(self, n):
        canvas = self.background(n)
        for _ in range(int(torch.randint(3, 16, ()))):
            canvas = self.put_shape(canvas, 2, 160)
        return halved(canvas)

    def gratings_kind(self, n):
        """Sinusoidal and square gratings, checkers and zone plates of two colors, some within a shape."""
        size = between(30, 200, n, device=self.device)
        u, v = self.placed(n, self.fine, size, 0.8)
        period = per_picture(log_between(5, 80, n, device=self.device))
        kind = per_picture(torch.randint(4, (n,), device=self.device))
        wave = torch.cos(2 * math.pi * u / period)
        second = torch.cos(2 * math.pi * v / period)
        zone = torch.cos(math.pi * (u.square() + v.square()) / (period * 60))
        value = torch.where(kind == 3, zone, torch.where(kind == 2, wave * second, wave))
        # Square: steep around zero, over about one fine pixel.
        square = (value * period / 3).clamp(-1, 1)
        value = torch.where(per_picture(torch.rand(n, device=self.device) < 0.5), square, value)
        value = value * per_picture(between(0.1, 1, n, device=self.device)) * 0.5 + 0.5
        grating = self.blend(self.color(n), self.color(n), value)
        inside = (0.5 - 2 * self.distance(u, v, size, (10.0, 60.0))).clamp(0, 1)
        inside = torch.where(per_picture(torch.rand(n, device=self.device) < 0.5), inside, torch.ones_like(inside))
        return halved(torch.lerp(self.background(n), grating, inside[:, None]))

    def clouds_kind(self, n):
        """Noise like clouds, sand, marble: one pattern of light and a weaker one of color."""
        light = self.noise(n, between(1.0, 3.2, n, device=self.device))
        veins = torch.sin(3 * self.noise(n, between(2.2, 3.2, n, device=self.device)) + 0.5 * light)
        light = torch.where(per_picture(torch.rand(n, device=self.device) < 0.3), veins, light)
        hue = self.noise(n, between(2.0, 3.2, n, device=self.device))
        base, tint = self.color(n), 0.1 * torch.randn(n, 3, device=self.device)
        # To another color, or only to another lightness.
        shade = (base + torch.randn(n, 1, device=self.device)).clamp(0, 1)
        to = torch.where(torch.rand(n, 1, device=self.device) < 0.4, self.color(n), shade)
        out = self.blend(base, to, (0.5 + per_picture(between(0.05, 0.35, n, device=self.device)) * light).clamp(0, 1))
        return (out + hue[:, None] * tint[:, :, None, None]).clamp(0, 1)

    def leaves_kind(self, n):
        """Dead leaves with sizes of a power law, each with a texture and shaded; some are softened like photographs."""
        textures = torch.stack([self.noise(n, between(0.8, 3.0, n, device=self.device)) for _ in range(3)], 1)
        y, x = self.coarse
        canvas = self.clouds_kind(n)
        scalar = lambda low, high: float(between(low, high, 1, device="cpu"))
        smallest, largest, law = 2.0, scalar(60, 160), scalar(0.7, 1.6)
        # As in photographs, lightness varies more than color does.
        base = torch.rand(n, 1, device=self.device) + 0.15 * torch.randn(n, 3, device=self.device)
        light, hue = between(0.1, 0.5, n, 1, device=self.device), log_between(0.02, 0.3, n, 1, device=self.device)
        for _ in range(int(torch.randint(60, 160, ()))):
            q = torch.rand(n, device=self.device)
            size = smallest / (1 - q * (1 - (smallest / largest) ** law)) ** (1 / law)
            u, v = self.placed(n, self.coarse, size, 1.0, 1.0)
            alpha = (0.5 - self.distance(u, v, size, (0.7, 6.0))).clamp(0, 1)
            color = base + light * torch.randn(n, 1, device=self.device)
            color = (color + hue * torch.randn(n, 3, device=self.device)).clamp(0, 1)
            strength = 0.25 * torch.rand(n, device=self.device).square()
            texture = textures[:, int(torch.randint(3, ()))] * per_picture(strength)
            shade = per_picture(0.2 * torch.randn(n, device=self.device)) * (u / per_picture(2 * size + 20))
            fill = color[:, :, None, None] * (1 + texture + shade)[:, None]
            canvas = torch.lerp(canvas, fill.clamp(0, 1), alpha[:, None])
        soft = torch.where(torch.rand(n, device=self.device) < 0.6, between(0.3, 1.4, n, device=self.device), 0.0)
        return blur(canvas, soft)

    def mixed_kind(self, n):
        """Two kinds beside each other, with a sharp or soft border."""
        kinds = [self.leaves_kind, self.clouds_kind, self.emoji_kind, self.text_kind, self.gratings_kind]
        first, second = (kinds[int(torch.randint(len(kinds), ()))](n) for _ in range(2))
        size = between(40, 160, n, device=self.device)
        u, v = self.placed(n, self.coarse, size, 1.0)
        softness = per_picture(log_between(1, 30, n, device=self.device))
        inside = (0.5 - self.distance(u, v, size, (10.0, 80.0)) / softness).clamp(0, 1)
        return torch.lerp(first, second, inside[:, None])

    def mini_kind(self, n):
        """Pictures that klein-mini drew, some in other colors."""
        if self.mini is None:
            return self.decoded_kind(n)
        x = self.mini[torch.randint(len(self.mini), (n,), device=self.device)].float() / 255
        return x[:, torch.randperm(3, device=self.device)] if torch.rand(()) < 0.3 else x

    def decoded_kind(self, n):
        """Emoji as klein-mini's decoder makes them, at full size."""
        return torch.cat([self.vae.round_trip(p, 0.05) for p in self.emoji_kind(n).split(32)])

    @torch.no_grad()
    def paint(self, kind=None):
        """(kind, pictures) of the next kind in the cycle, or of the given one."""
        if kind is None:
            kind = self.cycle[self.turn % len(self.cycle)]
            self.turn += 1
        return kind, getattr(self, kind + "_kind")(self.chunk).clamp(0, 1)
