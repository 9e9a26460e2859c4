#!/usr/bin/env python3
"""Time diffusers' Flux2KleinPipeline on a checkpoint, stage by stage.

    time_diffusers.py MODEL_DIR [--size 256] [--steps 4] [--dtype bf16] [--threads 2] [--runs 2]

Prints a line for each run; the first pays for reading the weights, so quote a later one.
"""
import argparse
import resource
import time

import torch
from diffusers import Flux2KleinPipeline

PROMPT = ("A photo of a small wooden house beside a quiet lake at sunset, with mountains and pine trees in the distance")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    pipeline = Flux2KleinPipeline.from_pretrained(args.model, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)

    stages = []

    def watch(owner, name, label):
        original = getattr(owner, name)

        def timed(*positional, **named):
            start = time.perf_counter()
            result = original(*positional, **named)
            stages.append(f"{label} {time.perf_counter() - start:.2f}")
            return result

        setattr(owner, name, timed)

    watch(pipeline, "encode_prompt", "text")
    watch(pipeline.transformer, "forward", "step")
    watch(pipeline.vae, "decode", "decode")
    for run in range(args.runs):
        stages.clear()
        start = time.perf_counter()
        pipeline(prompt=PROMPT, width=args.size, height=args.size, num_inference_steps=args.steps, guidance_scale=1.0,
                 generator=torch.Generator().manual_seed(42))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"run {run}: {time.perf_counter() - start:.2f} s, peak {peak:.2f} GiB: {', '.join(stages)}", flush=True)


main()
