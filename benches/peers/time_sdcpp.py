#!/usr/bin/env python3
"""Time stable-diffusion.cpp through `stable-diffusion-cpp-python`, and print the last picture's times as JSON.

    time_sdcpp.py FOLDER [--width 512 --height 512] [--steps 4] [--wtype bf16] [--threads 2] [--runs 2]

FOLDER contains `transformer.safetensors`, `text_encoder.safetensors` and `ae.safetensors` in Black Forest Labs' layout,
as tools/reference/single_files.py writes them. The Python binding reports the end of steps, but not of text encoding or
decoding.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("-i", "--input", action="append", default=[])
    parser.add_argument("--wtype", default="bf16")
    parser.add_argument("--threads", type=int, default=-1)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()

    start = time.perf_counter()
    from stable_diffusion_cpp import StableDiffusion

    model = StableDiffusion(
        diffusion_model_path=str(args.folder / "transformer.safetensors"),
        llm_path=str(args.folder / "text_encoder.safetensors"),
        vae_path=str(args.folder / "ae.safetensors"),
        wtype=args.wtype,
        n_threads=args.threads,
        diffusion_flash_attn=True,
        verbose=False,
    )
    load_s = time.perf_counter() - start
    totals, steps = [], []

    def progress(_step, _steps, seconds):
        steps.append(seconds)

    for run in range(args.runs):
        steps.clear()
        start = time.perf_counter()
        model.generate_image(
            prompt=args.prompt,
            ref_images=args.input or None,
            width=args.width,
            height=args.height,
            cfg_scale=1.0,
            sample_steps=args.steps,
            seed=args.seed,
            progress_callback=progress,
        )
        totals.append(time.perf_counter() - start)
        print(f"picture {run + 1}: {totals[-1]:.2f} s", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "load_s": load_s,
                "first_s": totals[0],
                "text_s": None,
                "reference_s": None,
                "step_s": steps[-args.steps :],
                "decode_s": None,
                "work_s": totals[-1],
                "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


main()
