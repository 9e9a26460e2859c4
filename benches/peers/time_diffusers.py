#!/usr/bin/env python3
"""Time diffusers' Flux2KleinPipeline on a checkpoint, stage by stage, and print the last picture's times as JSON.

    time_diffusers.py MODEL_DIR [--width 512 --height 512] [--steps 4] [--dtype bf16] [--threads 2] [--runs 2]
                      [--compile]

The first picture includes reading the weights and compiling, so the last one is reported; `first_s` is the first.
"""

import argparse
import json
import resource
import sys
import time

from common import PROMPT, SEED, timed_stages

START = time.perf_counter()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("-i", "--input", action="append", default=[])
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer")
    args = parser.parse_args()

    import torch
    from diffusers import Flux2KleinPipeline
    from diffusers.utils import load_image

    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    pipeline = Flux2KleinPipeline.from_pretrained(args.model, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    if args.compile:
        pipeline.transformer.forward = torch.compile(pipeline.transformer.forward)
    images = [load_image(path) for path in args.input]
    load_s = time.perf_counter() - START

    totals = []
    for run in range(args.runs):
        start = time.perf_counter()
        with timed_stages(pipeline) as stages:
            pipeline(
                prompt=args.prompt,
                image=images or None,
                width=args.width,
                height=args.height,
                num_inference_steps=args.steps,
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(args.seed),
            )
        totals.append(time.perf_counter() - start)
        print(f"picture {run + 1}: {totals[-1]:.2f} s", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "load_s": load_s,
                "first_s": totals[0],
                "text_s": sum(stages["text"]),
                "reference_s": sum(stages["reference"]),
                "step_s": stages["step"],
                "decode_s": sum(stages["decode"]),
                "work_s": totals[-1],
                "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


main()
