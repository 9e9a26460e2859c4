#!/usr/bin/env python3
"""Benchmarks dj-flux2 and diffusers on one GPU: the same sizes, steps and dtypes, random weights, no files, no network.

    peers.py DJ_FLUX2 [--size 1024x1024]... [--dtype bf16]... [--mode default] [--only TEXT]
    peers.py DJ_FLUX2 --save FOLDER

DJ_FLUX2 is the path of the program. diffusers runs in this process: Flux2KleinPipeline with bf16 networks created from
their sizes, eager and with transformer and decoder under torch.compile. fp8 is torchao's dynamic quantization with
per-row scales, for the linear layers of the transformer's blocks. dj-flux2 runs in its own process while diffusers is
idle, as `bench generate --synthetic --resident`. Everything is loaded and warm, each picture has another prompt, and
all numbers are medians of --runs pictures.

text, step and decode are measured in runs that synchronize with the GPU at both ends of each stage. total is from the
prompt to pixels on the host; for diffusers it is measured in separate runs without those synchronizations. joules is
the energy of the GPU per picture, by NVML: the mean of the runs behind total. Its counter advances every 20 to 100 ms,
so use --runs that take 2 s or more. A row of what cannot run contains the reason.

To try this script without a GPU: peers.py DJ_FLUX2 --model klein-mini --device cpu --size 64x64
"""

import argparse
import ctypes
import gzip
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/peers"))

from common import PROMPT, SEED, last_json, print_table, selected, timed_stages  # noqa: E402

TOKENIZER = ROOT / "crates/flux2/assets/tokenizer/qwen3.json.gz"
TEMPLATE = "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
COLUMNS = ["text", "step", "decode", "total", "joules"]
# As in `crates/flux2/src/weights/synthetic.rs`; other settings are the defaults of diffusers and transformers.
SIZES = {
    "klein-4b": {
        "transformer": {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "text_encoder": {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        "vae": {},
        "taps": (9, 18, 27),
        "text_rows": 512,
    },
    "klein-mini": {
        "transformer": {
            "in_channels": 64,
            "num_layers": 2,
            "num_single_layers": 5,
            "num_attention_heads": 5,
            "attention_head_dim": 32,
            "joint_attention_dim": 288,
            "mlp_ratio": 2.0,
            "axes_dims_rope": (8, 8, 8, 8),
            "guidance_embeds": False,
        },
        "text_encoder": {
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
        },
        "vae": {
            "latent_channels": 16,
            "block_out_channels": (16, 32, 48, 64),
            "decoder_block_out_channels": (24, 40, 64, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        "taps": (1, 2, 3),
        "text_rows": 48,
    },
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="DJ_FLUX2", help="the program")
    parser.add_argument(
        "--size", action="append", metavar="WxH", help="default: 512x512 and 1024x1024; repeat it for several"
    )
    parser.add_argument(
        "--dtype", action="append", choices=["bf16", "fp8"], help="default: both; repeat it for several"
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=2, help="untimed pictures before")
    parser.add_argument("--runs", type=int, default=5, help="timed pictures")
    parser.add_argument(
        "--mode", default="default", help="mode of torch.compile: default, max-autotune-no-cudagraphs, …"
    )
    parser.add_argument("--model", default="klein-4b", choices=SIZES, help="model whose sizes are used")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", metavar="TEXT", help="only the peer of this name, or all whose name contains it")
    parser.add_argument(
        "--save", metavar="FOLDER", help="write the random model there as a checkpoint, and time nothing"
    )
    return parser.parse_args()


def ours(args, dtype, width, height):
    result = last_json(
        [
            args.binary,
            "bench",
            "generate",
            "--synthetic",
            args.model,
            "--device",
            args.device,
            "--dtype",
            dtype,
            "--resident",
            "--warmup",
            args.warmup,
            "--runs",
            args.runs,
            "--steps",
            args.steps,
            "--width",
            width,
            "--height",
            height,
            "--json",
            "--quiet",
        ]
    )
    return {
        "text": result["text_s"],
        "step": statistics.mean(result["step_s"]),
        "decode": result["decode_s"],
        "total": result["total_s"] - result["load_s"],
        "joules": result["joules"] or 0.0,
    }


# ---- diffusers ----


def joules_used(torch, device):
    """Joules the GPU has used since its driver was loaded; 0 on the CPU."""
    if device != "cuda":
        return 0.0
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    properties = torch.cuda.get_device_properties(0)
    bus = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    calls = [
        nvml.nvmlInit_v2(),
        nvml.nvmlDeviceGetHandleByPciBusId_v2(bus.encode(), ctypes.byref(handle)),
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)),
    ]
    if any(calls):
        raise RuntimeError(f"NVML: errors {calls}")
    return millijoules.value / 1e3


class Diffusers:
    """diffusers' pipeline with random weights on the device; its pictures are noise, its timing is realistic."""

    def __init__(self, args):
        import torch

        self.torch, self.args, self.sizes = torch, args, SIZES[args.model]
        self.wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(args.device):
                self.pipeline = make_pipeline(self.sizes)
        finally:
            torch.set_default_dtype(default)
        torch.manual_seed(SEED)
        for network in [self.pipeline.transformer, self.pipeline.text_encoder, self.pipeline.vae]:
            randomize(torch, network)
        self.pipeline.set_progress_bar_config(disable=True)

    def round_to_fp8(self):
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        def is_of_a_block(module, name):
            return isinstance(module, self.torch.nn.Linear) and "transformer_blocks." in name

        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
        quantize_(self.pipeline.transformer, config, filter_fn=is_of_a_block)

    def picture(self, width, height, number, output_type="pil"):
        """Generates a picture; returns when it is on the host."""
        generator = self.torch.Generator(self.args.device).manual_seed(SEED)
        return self.pipeline(
            prompt=f"{PROMPT}, {number}",
            width=width,
            height=height,
            num_inference_steps=self.args.steps,
            guidance_scale=1.0,
            generator=generator,
            max_sequence_length=self.sizes["text_rows"],
            text_encoder_out_layers=self.sizes["taps"],
            output_type=output_type,
        ).images[0]

    def time(self, width, height):
        import numpy

        for number in range(self.args.warmup):
            start = time.perf_counter()
            pixels = self.picture(width, height, number, output_type="np")
            print(f"  warm-up {number + 1}: {time.perf_counter() - start:.2f} s", file=sys.stderr, flush=True)
            if not numpy.isfinite(pixels).all() or pixels.std() < 0.01:
                raise RuntimeError("the picture has values that are not finite, or is flat")
        totals = []
        before = joules_used(self.torch, self.args.device)
        for number in range(self.args.runs):
            self.wait()
            start = time.perf_counter()
            self.picture(width, height, number)
            totals.append(time.perf_counter() - start)
        joules = (joules_used(self.torch, self.args.device) - before) / self.args.runs
        with timed_stages(self.pipeline, self.wait) as stages:
            for number in range(self.args.runs):
                self.picture(width, height, number)
        return {stage: statistics.median(stages[stage]) for stage in ["text", "step", "decode"]} | {
            "total": statistics.median(totals),
            "joules": joules,
        }

    def time_compiled(self, width, height):
        networks = [self.pipeline.transformer, self.pipeline.vae.decoder]
        for network in networks:
            network.forward = self.torch.compile(network.forward, mode=self.args.mode, dynamic=False)
        try:
            return self.time(width, height)
        finally:
            for network in networks:
                del network.forward
            self.torch.compiler.reset()


def make_pipeline(sizes):
    """Creates the pipeline on torch's default device, in its default dtype."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    text_encoder = Qwen3Config(
        **sizes["text_encoder"],
        vocab_size=151_936,
        tie_word_embeddings=True,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    with gzip.open(TOKENIZER, "rt", encoding="utf-8") as file:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(file.read()), pad_token="<|endoftext|>", chat_template=TEMPLATE
        )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(**sizes["vae"]).eval(),
        text_encoder=Qwen3ForCausalLM(text_encoder).eval(),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(**sizes["transformer"]).eval(),
        is_distilled=True,
    )
    return pipeline


def randomize(torch, network):
    """Random values that keep activations of order one: with zeros, the GPU would clock higher than with a model."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.02)


# ---- the tables ----


def reason(error):
    """First line of an error, for a row of the table."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"


def versions(args):
    found = []
    try:
        import torch

        if args.device == "cuda":
            found.append(torch.cuda.get_device_name())
        found.append(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    except (ImportError, RuntimeError, AssertionError) as error:
        found.append(reason(error))
    for package in ["torch", "diffusers", "transformers", "torchao"]:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def contenders(args, dtype, peer):
    """By name: a function that times a size, or the reason why there is none."""
    peers = {f"diffusers {dtype}": peer, f"diffusers {dtype} compiled": peer}
    if not isinstance(peer, str):
        peers = dict(zip(peers, [peer.time, peer.time_compiled]))
    found = {f"dj-flux2 {dtype}": lambda width, height: ours(args, dtype, width, height)}
    return found | selected(peers, args.only)


def main():
    args = arguments()
    if args.save:
        pipeline, sizes = Diffusers(args).pipeline, SIZES[args.model]
        # diffusers takes these as arguments of a call; a checkpoint stores them in its configuration.
        pipeline.register_to_config(text_encoder_out_layers=sizes["taps"], max_sequence_length=sizes["text_rows"])
        return pipeline.save_pretrained(args.save)
    print(versions(args))
    print(
        f"random weights of {args.model}'s sizes, {args.steps} steps, "
        f"medians of {args.runs} pictures after {args.warmup}; "
        f"compiled: torch.compile of transformer and decoder, mode {args.mode}\n",
        flush=True,
    )
    sizes = [tuple(map(int, size.split("x"))) for size in args.size or ["512x512", "1024x1024"]]
    try:
        peer = Diffusers(args)
    except Exception as error:  # any error of a library becomes a row
        peer = reason(error)
    # fp8 last, because the quantization is not undone.
    for dtype in sorted(set(args.dtype or ["bf16", "fp8"])):
        if dtype == "fp8" and not isinstance(peer, str):
            try:
                peer.round_to_fp8()
            except Exception as error:
                peer = reason(error)
        for width, height in sizes:
            rows = {}
            for name, run in contenders(args, dtype, peer).items():
                print(f"{width}x{height}, {name}", file=sys.stderr, flush=True)
                try:
                    rows[name] = run if isinstance(run, str) else run(width, height)
                except Exception as error:
                    rows[name] = reason(error)
            print(f"{width}x{height}")
            print_table(rows, COLUMNS, COLUMNS, digits=4)


if __name__ == "__main__":
    main()
