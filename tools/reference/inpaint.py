"""Pictures that are painted into, drawn by diffusers' networks.

Out: `golden/inpaint/*.safetensors`, as in golden_cases.py, and the masks and sources they are made from.

| cases | rules |
|---|---|
| `inpaint_*` | `Flux2KleinInpaintPipeline`, unchanged |
| `sdedit_*` | image-to-image without a mask, which diffusers does not have: networks and scheduler driven by hand |
| `ours_*` | the rules of this program, written out: tokens by the largest value of their cell, a mask as strength of each token, a work region, feathered pasting, a larger canvas |
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinInpaintPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein_inpaint import compute_empirical_mu
from PIL import Image

from files import write_safetensors
from golden_cases import PRODUCED_BY


@dataclass
class Painting:
    """A request. Files are names in `golden/references` or `golden/inpaint`."""

    name: str
    rule: str
    prompt: str
    seed: int
    mask: str | None = None
    source: str = "wide.png"
    references: list[str] = field(default_factory=list)
    steps: int = 4
    strength: float = 1.0
    feather: int = 8
    outpaint: list[int] | None = None
    overlap: int = 24
    area: int = 1024 * 1024
    context: int = 64
    source_reference: bool = True


CASES = [
    Painting("inpaint_hard", "diffusers", "a red fox in the snow", 11, "mask_hard.png"),
    Painting("inpaint_soft_blur", "diffusers", "an old lighthouse", 12, "mask_soft_blur4.png", strength=0.6),
    Painting(
        "inpaint_reference", "diffusers", "the fox of image 2", 13, "mask_hard.png", references=["tall.png"], strength=0.8
    ),
    Painting("sdedit_index", "index", "a blue boat", 21, steps=8, strength=0.6, source_reference=False),
    Painting("sdedit_level", "level", "a blue boat", 21, source="wide_96x64.png", strength=0.3, source_reference=False),
    Painting("ours_hard", "own", "a red fox in the snow", 31, "mask_hard.png", feather=3),
    Painting("ours_soft_reference", "own", "the fox of image 2", 32, "mask_soft.png", references=["tall.png"], feather=0),
    Painting("ours_strength", "own", "an old lighthouse", 35, "mask_soft.png", strength=0.5, feather=2),
    Painting("ours_outpaint", "own", "a red fox in the snow", 33, outpaint=[28, 0, 0, 21], overlap=6, feather=0),
    Painting(
        "ours_region", "own", "a blue boat", 34, "mask_box.png", "tiled.png", feather=4, area=96 * 96, context=24,
        source_reference=False,
    ),
    Painting(
        "ours_region_reduced", "own", "a blue boat", 34, "mask_box.png", "tiled.png", steps=2, feather=4, area=64 * 64,
        context=24,
    ),
]


def write(klein: Path, golden: Path) -> None:
    pipe = Flux2KleinInpaintPipeline.from_pretrained(klein, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    write_images(pipe, golden)
    for case in CASES:
        of_rule = {"diffusers": inpaint, "index": sdedit, "level": sdedit, "own": own}[case.rule]
        tensors = {name: plain(tensor) for name, tensor in of_rule(pipe, case, golden).items()}
        request = json.dumps({key: value for key, value in asdict(case).items() if key != "name"})
        metadata = {"request": request, "model": "klein", "noise": "torch-cpu", "produced_by": PRODUCED_BY}
        write_safetensors(golden / "inpaint" / f"{case.name}.safetensors", tensors, metadata)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().contiguous()
    return tensor if tensor.dtype in (torch.uint8, torch.int64) else tensor.float()


def write_images(pipe, golden: Path) -> None:
    folder = golden / "inpaint"
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:75, 0:100].astype(np.float64)
    hard = np.zeros((75, 100), np.uint8)
    hard[20:56, 30:71] = 255
    hard[(x - 84) ** 2 + (y - 20) ** 2 <= 12**2] = 255
    hard[66:69, :] = 255  # three rows, of which only one is at the center of the cells below
    soft = np.rint(np.clip((34 - np.hypot((x - 48) / 1.3, y - 36)) / 22, 0, 1) * 255).astype(np.uint8)
    box = np.zeros((150, 200), np.uint8)
    box[70:90, 120:150] = 255
    wide = Image.open(golden / "references" / "wide.png").convert("RGB")
    images = {
        "mask_hard": Image.fromarray(hard),
        "mask_soft": Image.fromarray(soft),
        "mask_soft_blur4": pipe.mask_processor.blur(Image.fromarray(soft), blur_factor=4),
        "mask_box": Image.fromarray(box),
        "tiled": Image.fromarray(np.tile(np.asarray(wide), (2, 2, 1))),
        "wide_96x64": wide.resize((96, 64), Image.LANCZOS),
    }
    for name, image in images.items():
        image.save(folder / f"{name}.png", optimize=True)


def open_image(golden: Path, name: str) -> Image.Image:
    folder = "references" if (golden / "references" / name).is_file() else "inpaint"
    return Image.open(golden / folder / name)


class Spy:
    """Wraps methods and hears what goes through them, until it is done."""

    def __init__(self):
        self.undo = []

    def wrap(self, owner, name, hear):
        original = getattr(owner, name)

        def wrapped(*arguments, **named):
            result = original(*arguments, **named)
            hear(named, result)
            return result

        setattr(owner, name, wrapped)
        self.undo.append(lambda: delattr(owner, name))

    def done(self):
        for undo in self.undo:
            undo()


def inpaint(pipe, case: Painting, golden: Path) -> dict[str, torch.Tensor]:
    tensors, velocities, spy = {}, [], Spy()

    def latents(_, result):
        tensors["latents_start"], tensors["noise"], tensors["source_tokens"] = (part[0] for part in result[:3])

    def references(_, result):
        tensors["reference_tokens"], tensors["reference_ids"] = result[0][0], result[1][0]

    def step(_, i, __, named):
        n_img = named["latents"].shape[1]
        tensors[f"velocity_{i}"], tensors[f"latents_{i}"] = velocities.pop()[:n_img], named["latents"][0]
        return named

    spy.wrap(pipe.transformer, "forward", lambda _, result: velocities.append(result[0][0]))
    spy.wrap(pipe, "prepare_latents", latents)
    spy.wrap(pipe, "prepare_image_latents", references)
    spy.wrap(pipe, "prepare_mask_latents", lambda _, result: tensors.update(mask_tokens=result[0, :, 0]))
    [reference] = [open_image(golden, name).convert("RGB") for name in case.references] or [None]
    made = pipe(
        prompt=case.prompt,
        image=open_image(golden, case.source).convert("RGB"),
        mask_image=open_image(golden, case.mask),
        image_reference=reference,
        strength=case.strength,
        num_inference_steps=case.steps,
        generator=torch.Generator("cpu").manual_seed(case.seed),
        callback_on_step_end=step,
    )
    spy.done()
    tensors["sigmas"] = pipe.scheduler.sigmas
    tensors["image"] = torch.from_numpy(np.asarray(made.images[0]).copy())
    return tensors


class Networks:
    """The parts of a pipeline, for what is driven by hand."""

    def __init__(self, pipe, case: Painting):
        self.pipe, self.case = pipe, case
        vae = pipe.vae
        self.mean = vae.bn.running_mean.view(1, -1, 1, 1)
        self.std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        self.text, self.text_ids = pipe.encode_prompt(case.prompt)

    def encode(self, image: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        return self.pipe._encode_vae_image(pixels, None)

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(self.case.seed)
        return self.pipe._pack_latents(torch.randn(like.shape, generator=generator))

    def sigmas(self, n_img: int) -> torch.Tensor:
        """The levels of a picture from noise; with a strength below 1, of the level rule."""
        steps, strength = self.case.steps, self.case.strength
        mu = compute_empirical_mu(n_img, steps)
        if self.case.rule in ("own", "level") and strength < 1:
            even = torch.tensor(strength * np.linspace(1.0, 1 / steps, steps), dtype=torch.float64)
            levels = math.exp(mu) / (math.exp(mu) + (1 / even - 1))
            return torch.cat([levels, torch.zeros(1, dtype=torch.float64)]).float()
        self.pipe.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return self.pipe.scheduler.sigmas.clone()

    def velocity(self, latents, ids, sigma, tokens=None, token_ids=None) -> torch.Tensor:
        result = self.pipe.transformer(
            hidden_states=latents if tokens is None else torch.cat([latents, tokens], 1),
            timestep=sigma.expand(1),
            guidance=None,
            encoder_hidden_states=self.text,
            txt_ids=self.text_ids,
            img_ids=ids if tokens is None else torch.cat([ids, token_ids], 1),
            return_dict=False,
        )
        return result[0][:, : latents.shape[1]]

    def decode(self, latents, ids) -> np.ndarray:
        pipe = self.pipe
        latents = pipe._unpack_latents_with_ids(latents, ids) * self.std + self.mean
        decoded = pipe.vae.decode(pipe._unpatchify_latents(latents), return_dict=False)[0]
        return np.asarray(pipe.image_processor.postprocess(decoded, output_type="pil")[0])


def sdedit(pipe, case: Painting, golden: Path) -> dict[str, torch.Tensor]:
    net = Networks(pipe, case)
    source = open_image(golden, case.source).convert("RGB")
    width, height = source.width // 16 * 16, source.height // 16 * 16
    z = pipe._encode_vae_image(pipe.image_processor.preprocess(source, height, width), None)
    ids, packed, noise = pipe._prepare_latent_ids(z), pipe._pack_latents(z), net.noise(z)
    sigmas = net.sigmas(packed.shape[1])
    if case.rule == "index":  # as the inpainting pipeline's get_timesteps
        sigmas = sigmas[int(max(case.steps - min(case.steps * case.strength, case.steps), 0)) :]
    x = sigmas[0] * noise + (1 - sigmas[0]) * packed
    tensors = {"sigmas": sigmas, "noise": noise[0], "source_tokens": packed[0], "latents_start": x[0]}
    for i in range(len(sigmas) - 1):
        velocity = net.velocity(x, ids, sigmas[i])
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
        tensors[f"velocity_{i}"], tensors[f"latents_{i}"] = velocity[0], x[0]
    return tensors | {"image": torch.from_numpy(net.decode(x, ids).copy())}


def levels(mask: np.ndarray) -> np.ndarray:
    mask = mask.copy()
    mask[mask < 8], mask[mask > 247] = 0, 255
    return mask


def region(mask: np.ndarray, area: int, context: int) -> tuple[int, int, int, int]:
    """The box to draw: left, top, right, bottom."""
    h, w = mask.shape
    if w * h <= area:
        return 0, 0, w, h
    ys, xs = np.nonzero(mask)
    left, right, top, bottom = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    margin = max(context, (max(right - left, bottom - top) + 1) // 2)
    left, top, right, bottom = max(left - margin, 0), max(top - margin, 0), min(right + margin, w), min(bottom + margin, h)
    bw, bh = right - left, bottom - top
    if bw * bh <= area:
        factor = math.sqrt(area / (bw * bh))

        def enlarged(start, end, full):
            side = min(full, max(end - start, int((end - start) * factor) // 16 * 16))
            start = min(max((start + end - side) // 2, 0), full - side)
            return start, start + side

        (left, right), (top, bottom) = enlarged(left, right, w), enlarged(top, bottom, h)
    return int(left), int(top), int(right), int(bottom)


def distances(inside: np.ndarray) -> np.ndarray:
    """From each pixel inside to the nearest outside; infinite if there is none."""
    ys, xs = np.nonzero(~inside)
    result = np.zeros(inside.shape)
    for y, x in zip(*np.nonzero(inside)):
        result[y, x] = math.sqrt(((ys - y) ** 2 + (xs - x) ** 2).min()) if len(ys) else math.inf
    return result


def enlarge(source: np.ndarray, sides: list[int], overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """A canvas with repeated edges, and its mask."""
    left, top, right, bottom = sides
    h, w = source.shape[:2]
    canvas = np.pad(source, ((top, bottom), (left, right), (0, 0)), mode="edge")
    y, x = np.mgrid[0:h, 0:w]
    far = np.full((h, w), np.inf)
    for grows, distance in ((left, x + 1), (top, y + 1), (right, w - x), (bottom, h - y)):
        if grows:
            far = np.minimum(far, distance)
    mask = np.full(canvas.shape[:2], 255, np.uint8)
    mask[top : top + h, left : left + w] = np.rint(255 * np.clip(1 - far / (overlap + 1), 0, 1)).astype(np.uint8)
    return canvas, mask


def own(pipe, case: Painting, golden: Path) -> dict[str, torch.Tensor]:
    net = Networks(pipe, case)
    canvas = np.asarray(open_image(golden, case.source).convert("RGB"))
    if case.outpaint:
        canvas, mask = enlarge(canvas, case.outpaint, case.overlap)
    else:
        mask = np.asarray(open_image(golden, case.mask).convert("L"))
    mask = levels(mask)
    left, top, right, bottom = box = region(mask, case.area, case.context)
    part, part_mask = canvas[top:bottom, left:right], mask[top:bottom, left:right]
    h, w = part_mask.shape
    scale = min(1.0, math.sqrt(case.area / (w * h)))
    if scale < 1:
        to = max(16, round(w * scale / 16) * 16), max(16, round(h * scale / 16) * 16)
        drawn, drawn_mask = (np.asarray(Image.fromarray(a).resize(to, Image.LANCZOS)) for a in (part, part_mask))
        drawn_mask = levels(drawn_mask)
    else:
        below, beside = -h % 16, -w % 16
        drawn = np.pad(part, ((0, below), (0, beside), (0, 0)), mode="edge")
        drawn_mask = np.pad(part_mask, ((0, below), (0, beside)), mode="edge")

    rows, columns = (side // 16 for side in drawn_mask.shape)
    values = (drawn_mask.astype(np.float64) / 255).reshape(rows, 16, columns, 16).max((1, 3)).reshape(-1)
    steps = case.steps
    start = np.array([int(max(steps - min(steps * value, steps), 0)) if value > 0 else steps for value in values])
    first = int(start.min())

    z = net.encode(drawn)
    images = [z] if case.source_reference else []
    for name in case.references:
        reference = open_image(golden, name).convert("RGB")
        width, height = reference.width // 16 * 16, reference.height // 16 * 16
        x0, y0 = (reference.width - width) // 2, (reference.height - height) // 2
        images.append(net.encode(np.asarray(reference.crop((x0, y0, x0 + width, y0 + height)))))
    ids, packed, noise = pipe._prepare_latent_ids(z), pipe._pack_latents(z), net.noise(z)
    token_ids = pipe._prepare_image_ids(images, 1) if images else None
    tokens = torch.cat([pipe._pack_latents(image) for image in images], 1) if images else None
    sigmas = net.sigmas(rows * columns)
    x = sigmas[first] * noise + (1 - sigmas[first]) * packed
    tensors = {"sigmas": sigmas, "noise": noise[0], "source_tokens": packed[0], "latents_start": x[0]}
    tensors |= {"mask_tokens": torch.tensor(values), "start_step": torch.tensor(start), "box": torch.tensor(box)}
    held = torch.tensor(start)[None, :, None]
    for i in range(first, steps):
        velocity = net.velocity(x, ids, sigmas[i], tokens, token_ids)
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
        known = packed if i == steps - 1 else sigmas[i + 1] * noise + (1 - sigmas[i + 1]) * packed
        x = torch.where(held > i, known, x)
        tensors[f"velocity_{i}"], tensors[f"latents_{i}"] = velocity[0], x[0]

    generated = net.decode(x, ids)
    tensors["generated"] = torch.from_numpy(generated.copy())
    generated = np.asarray(Image.fromarray(generated).resize((w, h), Image.LANCZOS)) if scale < 1 else generated[:h, :w]
    near = distances(mask > 0)[top:bottom, left:right] / (case.feather + 1)
    cover = np.minimum(np.minimum(1.0, 2 * (part_mask / 255.0)), near).astype(np.float32)[..., None]
    under, over = part.astype(np.float32), generated.astype(np.float32)
    result = canvas.copy()
    result[top:bottom, left:right] = np.floor(under + cover * (over - under) + np.float32(0.5)).astype(np.uint8)
    assert np.array_equal(result[mask == 0], canvas[mask == 0]), "pixels outside of the mask changed"
    return tensors | {"image": torch.from_numpy(result)}
