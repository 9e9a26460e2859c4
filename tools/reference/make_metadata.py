"""Pictures in fixtures/metadata with the parameters of this program and of others, as they are found in the wild.

In:  nothing; the texts follow the public descriptions of each format.
Out: fixtures/metadata/*.{png,jpg,webp}, 8x8 pixels each. What they say is in `crates/flux2/tests/it/metadata.rs`.

Needs Pillow 13.0.0.

    python tools/reference/make_metadata.py
"""

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import PIL
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if PIL.__version__ != "13.0.0":
    sys.exit(f"Pillow {PIL.__version__}: the fixtures are made with 13.0.0")

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "metadata"
OUT.mkdir(parents=True, exist_ok=True)
PICTURE = Image.new("RGB", (8, 8), (200, 60, 30))
MAKE, MODEL, DESCRIPTION, SOFTWARE, EXIF_IFD, USER_COMMENT = 0x010F, 0x0110, 0x010E, 0x0131, 0x8769, 0x9286


def png(name, texts=(), compressed=False, exif=None):
    info = PngInfo()
    for keyword, text in texts:
        info.add_text(keyword, text, zip=compressed)
    PICTURE.save(OUT / name, pnginfo=info, **({} if exif is None else {"exif": exif.tobytes()}))


def exif(tags=(), comment=None):
    block = Image.Exif()
    for tag, value in tags:
        block[tag] = value
    if comment is not None:
        block.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return block


def unicode_comment(text):
    return b"UNICODE\0" + text.encode("utf-16-be")


# ---- this program's, saved again by others ----

OURS = json.dumps(
    {
        "prompt": "a fox, café",
        "seed": 7,
        "noise": "philox",
        "model": "klein-4b",
        "variant": "klein",
        "dtype": "bf16",
        "steps": 4,
        "width": 512,
        "height": 768,
        "software": "dj-flux2",
        "version": "0.1.0",
    },
    ensure_ascii=False,
)
LINE = "a fox, café\nSteps: 4, Sampler: Euler, CFG scale: 1, Seed: 7, Size: 512x768, Model: klein-4b, Version: dj-flux2 0.1.0"
png("ours_text.png", [("parameters", LINE), ("dj-flux2", OURS)])
png("ours_compressed.png", [("parameters", LINE), ("dj-flux2", OURS)], compressed=True)
info = PngInfo()
info.add_itxt("dj-flux2", OURS, zip=True)
PICTURE.save(OUT / "ours_compressed_utf8.png", pnginfo=info)
ASCII = OURS.encode("ascii", "backslashreplace").decode().replace("\\xe9", "\\u00e9")
described = exif([(DESCRIPTION, ASCII), (SOFTWARE, "GIMP 3.0")], unicode_comment(LINE))
png("ours_exif.png", exif=described)
PICTURE.save(OUT / "ours_other_software.jpg", exif=described)
# Some programs write UTF-8 into tEXt, whose text is Latin-1.
data = b"dj-flux2\0" + OURS.encode()
chunk = struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
plain = io.BytesIO()
PICTURE.save(plain, "PNG")
(OUT / "ours_utf8_text.png").write_bytes(plain.getvalue()[:33] + chunk + plain.getvalue()[33:])
png("ours_line.png", [("parameters", LINE)])

# ---- AUTOMATIC1111's text ----

A1111 = (
    "a lighthouse,\n(stormy:1.2) sea\nNegative prompt: blurry,\ntext\nSteps: 20, Sampler: DPM++ 2M, "
    "Schedule type: Karras, CFG scale: 6.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, "
    'Model: "v1, 5: pruned", VAE: "a\\nb", Version: v1.10.1'
)
png("a1111.png", [("parameters", A1111)])
PICTURE.save(OUT / "a1111.jpg", exif=exif(comment=unicode_comment(A1111)))
PICTURE.save(OUT / "a1111.webp", exif=exif(comment=unicode_comment(A1111)))
little = b"UNICODE\0" + A1111.encode("utf-16-le")
PICTURE.save(OUT / "a1111_little_endian.jpg", exif=exif(comment=little))
PICTURE.save(OUT / "a1111_ascii.jpg", exif=exif(comment=b"ASCII\0\0\0" + A1111.encode()))
PICTURE.save(OUT / "a1111_comment.jpg", comment=A1111)
# UserComment in the primary directory, as bytes.
body = b"UNICODE\0" + A1111.encode("utf-16-be")
tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHII", USER_COMMENT, 1, len(body), 26) + b"\0\0\0\0" + body
PICTURE.save(OUT / "a1111_misplaced.jpg", exif=b"Exif\0\0" + tiff)
png("a1111_prompt_only.png", [("parameters", "just a lighthouse")])
png(
    "sdcpp.png",
    [
        (
            "parameters",
            "a sunflower\nSteps: 30, CFG scale: 5.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 197583933, "
            "Size: 512x512, Model: flux.gguf, RNG: cuda, Sampler: euler, Version: stable-diffusion.cpp, "
            'SDCPP: {"seed": 1, "steps": [1, 2]}',
        )
    ],
)
png(
    "forge.png",
    [("parameters", "a tower\nSteps: 8, Sampler: Euler, Seed: 3, Size: 896x1152, Version: f2.0.1v1.10.1-previous-527")],
)
fooocus = {"prompt": "a mill", "negative_prompt": "", "steps": 30, "resolution": "(1152, 896)", "guidance_scale": 4}
fooocus |= {"base_model": "juggernautXL", "sampler": "dpmpp_2m", "seed": "123456", "version": "Fooocus v2.5.5"}
png("fooocus.png", [("parameters", json.dumps(fooocus)), ("fooocus_scheme", "fooocus")])
swarm = {"prompt": "a tower", "model": "Flux/flux1-dev", "seed": 305223794, "steps": 25, "cfgscale": 1.0, "width": 1024}
swarm = json.dumps({"sui_image_params": swarm | {"height": 1024, "negativeprompt": "", "swarm_version": "0.9.1"}})
png("swarmui.png", [("parameters", swarm)])

# ---- ComfyUI ----


def graph(nodes):
    return {str(i): {"class_type": c, "inputs": inputs, "_meta": {"title": c}} for i, (c, inputs) in nodes.items()}


CLASSIC = graph(
    {
        3: (
            "KSampler",
            {"seed": 156680208700286, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal"}
            | {"denoise": 1.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
        ),
        4: ("CheckpointLoaderSimple", {"ckpt_name": "v1-5.safetensors"}),
        5: ("EmptyLatentImage", {"width": 640, "height": 512, "batch_size": 1}),
        6: ("CLIPTextEncode", {"text": "a glass bottle", "clip": ["4", 1]}),
        7: ("CLIPTextEncode", {"text": "watermark", "clip": ["4", 1]}),
        8: ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        9: ("SaveImage", {"filename_prefix": "x", "images": ["8", 0]}),
    }
)
# A second pass, and a seed and a text that other nodes hand on.
TWO_PASSES = CLASSIC | graph(
    {
        10: ("LatentUpscale", {"width": 1280, "height": 1024, "samples": ["3", 0]}),
        2: ("KSampler", CLASSIC["3"]["inputs"] | {"seed": 1, "steps": 5, "latent_image": ["10", 0]}),
        11: ("PrimitiveInt", {"value": 77}),
        12: ("PrimitiveStringMultiline", {"value": "a tea pot"}),
    }
)
TWO_PASSES = json.loads(json.dumps(TWO_PASSES))
TWO_PASSES["3"]["inputs"]["seed"] = ["11", 0]
TWO_PASSES["6"]["inputs"]["text"] = ["12", 0]
FLUX2 = graph(
    {
        1: ("SamplerCustomAdvanced", {i: [n, 0] for i, n in zip(["noise", "guider", "sampler", "sigmas"], "2345")}),
        2: ("RandomNoise", {"noise_seed": 432262096973502}),
        3: ("CFGGuider", {"cfg": 1.0, "model": ["7", 0], "positive": ["8", 0], "negative": ["11", 0]}),
        4: ("KSamplerSelect", {"sampler_name": "euler"}),
        5: ("Flux2Scheduler", {"steps": 4, "width": 1024, "height": 768}),
        6: ("EmptyFlux2LatentImage", {"width": 1024, "height": 768, "batch_size": 1}),
        7: ("UNETLoader", {"unet_name": "flux-2-klein-4b.safetensors", "weight_dtype": "default"}),
        8: ("ReferenceLatent", {"conditioning": ["9", 0], "latent": ["6", 0]}),
        9: ("CLIPTextEncode", {"text": "make the sky \u7d05", "clip": ["10", 0]}),
        10: ("CLIPLoader", {"clip_name": "qwen_3_4b.safetensors", "type": "flux2"}),
        11: ("ConditioningZeroOut", {"conditioning": ["9", 0]}),
    }
)
FLUX2["1"]["inputs"]["latent_image"] = ["6", 0]
WORKFLOW = {
    "nodes": [
        {
            "id": 3,
            "type": "KSampler",
            "inputs": [{"name": "positive", "link": 4}, {"name": "negative", "link": 6}]
            + [{"name": "model", "link": 1}, {"name": "latent_image", "link": 2}],
            "widgets_values": [42, "randomize", 4, 1, "euler", "simple", 1],
        },
        {"id": 4, "type": "UNETLoader", "inputs": [], "widgets_values": ["klein.safetensors", "default"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [512, 256, 1]},
        {"id": 6, "type": "CLIPTextEncode", "inputs": [], "widgets_values": ["a paper boat"]},
        {"id": 7, "type": "CLIPTextEncode", "inputs": [], "widgets_values": ["rain"]},
        {"id": 8, "type": "KSampler", "mode": 4, "inputs": [], "widgets_values": [1, "fixed", 1]},
    ],
    "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"], [4, 6, 0, 3, 1, "CONDITIONING"]]
    + [[6, 7, 0, 3, 2, "CONDITIONING"]],
}
png("comfyui.png", [("prompt", json.dumps(CLASSIC)), ("workflow", json.dumps(WORKFLOW))])
png("comfyui_two_passes.png", [("prompt", json.dumps(TWO_PASSES))])
png("comfyui_flux2.png", [("prompt", json.dumps(FLUX2))])
png("comfyui_workflow.png", [("workflow", json.dumps(WORKFLOW))])
broken = CLASSIC | {"20": {"class_type": "Random", "inputs": {"text": "NaN"}, "is_changed": [float("nan")]}}
png("comfyui_nan.png", [("prompt", json.dumps(broken))])
fields = [(MODEL, f"prompt:{json.dumps(CLASSIC)}"), (MAKE, f"workflow:{json.dumps(WORKFLOW)}")]
PICTURE.save(OUT / "comfyui.webp", exif=exif(fields))

# ---- others ----

png(
    "invokeai.png",
    [
        (
            "invokeai_metadata",
            json.dumps(
                {
                    "generation_mode": "flux_txt2img",
                    "positive_prompt": "a barn owl",
                    "negative_prompt": "",
                    "width": 1024,
                    "height": 1024,
                    "seed": 1234567890,
                    "steps": 30,
                    "cfg_scale": 1.0,
                    "guidance": 4.0,
                    "scheduler": "euler",
                    "model": {"key": "8a1b", "hash": "blake3:12", "name": "FLUX Dev", "base": "flux", "type": "main"},
                    "app_version": "5.6.0",
                }
            ),
        )
    ],
)
image = {"prompt": [{"prompt": "a barn", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5, "seed": 99, "width": 512}
image |= {"height": 448, "sampler": "k_lms", "type": "txt2img"}
legacy = {"model": "stable diffusion", "model_weights": "sd-1.5", "app_version": "v2.3.5", "image": image}
png("invokeai_2.png", [("sd-metadata", json.dumps(legacy))])
novelai = {"steps": 28, "height": 1216, "width": 832, "scale": 5.0, "seed": 3511258223, "sampler": "k_euler_ancestral"}
novelai_texts = [("Title", "NovelAI generated image"), ("Description", "1girl, lake"), ("Software", "NovelAI")]
png("novelai.png", [*novelai_texts, ("Source", "NovelAI Diffusion V3"), ("Comment", json.dumps(novelai | {"uc": "bad"}))])
v4 = {"v4_prompt": {"caption": {"base_caption": "a lake", "char_captions": []}}}
v4 |= {"v4_negative_prompt": {"caption": {"base_caption": "blurry", "char_captions": []}}}
png("novelai_v4.png", [("Software", "NovelAI"), ("Comment", json.dumps(novelai | v4))])
mflux = {"mflux_version": "0.9.6", "model": "schnell", "base_model": None, "seed": 2, "steps": 4, "guidance": None}
mflux |= {"precision": "mlx.core.bfloat16", "quantize": 8, "generation_time_seconds": 12.5, "prompt": "a puffin \u00e9"}
mflux |= {"width": 1024, "height": 560, "lora_paths": ["a.safetensors"], "lora_scales": [0.5], "negative_prompt": None}
png("mflux.png", exif=exif(comment=json.dumps(mflux, ensure_ascii=False).encode()))
easy = {"prompt": "an astronaut", "negative_prompt": "", "seed": 0, "use_stable_diffusion_model": "sd-v1-5"}
easy |= {"sampler_name": "euler_a", "width": 512, "height": 768, "num_inference_steps": 25, "guidance_scale": 7.5}
PICTURE.save(OUT / "easy_diffusion.jpg", exif=exif(comment=b"ASCII\0\0\0" + json.dumps(easy).encode()))

# ---- nothing ----

PICTURE.save(OUT / "camera.jpg", exif=exif([(MAKE, "Canon"), (DESCRIPTION, "A day: sea, sun")], b"ASCII\0\0\0me: 1"))
png("text.png", [("Comment", "Created with GIMP"), ("Software", "GIMP"), ("Title", "a: b, c: d, e: f")])
