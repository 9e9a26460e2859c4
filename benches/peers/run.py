#!/usr/bin/env python3
"""Benchmarks dj-flux2 and other programs on the same checkpoint, sizes, steps, prompt and seed, in alternation.

    run.py MODEL_DIR [--size 512x512]... [--rounds 1] [--threads N] [-i REFERENCE]... [--peers PYTHON] [--only TEXT]

Each program runs in its own process and makes two pictures; the second one is timed, without loading. Programs that are
not installed are skipped. Prints seconds per stage, and their ratio to dj-flux2.
"""

import argparse
import os
import re
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import PROMPT, SEED, last_json, print_table, selected

HERE = Path(__file__).resolve().parent
STAGES = ["load", "text", "reference", "step", "decode", "work"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a checkpoint in the folder layout of diffusers")
    parser.add_argument("--size", action="append", metavar="WxH", help="default: 512x512; repeat it for several")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=1, help="how often each program runs; medians are shown")
    parser.add_argument("-i", "--input", action="append", default=[], metavar="FILE", help="reference image")
    parser.add_argument("--binary", default=HERE.parents[1] / "target/release/dj-flux2")
    parser.add_argument("--ours", default="bf16", help="dtypes of dj-flux2; the first is the baseline")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="a Python with diffusers")
    parser.add_argument(
        "--single-files", type=Path, metavar="DIR", help="the checkpoint as single files, for stable-diffusion.cpp"
    )
    parser.add_argument("--flux2c", metavar="FILE", help="the program of flux2.c")
    parser.add_argument("--only", metavar="TEXT", help="only the peer of this name, or all whose name contains it")
    return parser.parse_args()


# ---- contenders: functions that make two pictures of a size and return the seconds per stage of the second ----


def shared_arguments(args, width, height):
    inputs = [part for path in args.input for part in ("-i", path)]
    return ["--width", width, "--height", height, "--steps", args.steps, "--threads", args.threads, *inputs]


def ours(args, dtype):
    def run(width, height):
        result = last_json(
            [
                args.binary,
                "bench",
                "generate",
                "-m",
                args.model,
                "--dtype",
                dtype,
                "--warmup",
                1,
                "--json",
                "--quiet",
                *shared_arguments(args, width, height),
            ]
        )
        return result | {"work_s": result["total_s"] - result["load_s"]}

    return run


def diffusers(args, dtype, compiled):
    # PyTorch uses OpenMP's number of threads.
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}

    def run(width, height):
        command = [
            args.peers,
            HERE / "time_diffusers.py",
            args.model,
            "--dtype",
            dtype,
            "--prompt",
            PROMPT,
            "--seed",
            SEED,
        ]
        return last_json([*command, *shared_arguments(args, width, height), *(["--compile"] if compiled else [])], env)

    return run


def sdcpp(args):
    env = os.environ | {"GGML_LLAMAFILE": "1"}

    def run(width, height):
        command = [args.peers, HERE / "time_sdcpp.py", args.single_files, "--prompt", PROMPT, "--seed", SEED]
        return last_json([*command, *shared_arguments(args, width, height)], env)

    return run


def flux2c(args):
    """One process per picture. Step times are measured from its progress output, since it does not report them."""
    # OpenBLAS misdetects virtual processors as older ones.
    env = os.environ | {"OPENBLAS_NUM_THREADS": str(args.threads), "OPENBLAS_CORETYPE": "SkylakeX"}

    def run(width, height):
        with tempfile.TemporaryDirectory() as folder:
            inputs = [part for path in args.input for part in ("-i", path)]
            command = [
                args.flux2c,
                "-d",
                args.model,
                "-p",
                PROMPT,
                "-o",
                f"{folder}/picture.png",
                "-W",
                width,
                "-H",
                height,
                "-s",
                args.steps,
                "-S",
                SEED,
                "--no-mmap",
                *inputs,
            ]
            for _ in range(2):
                result = watched([str(part) for part in command], env)
        return result

    return run


def watched(command, env):
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    text, began = "", []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while chunk := os.read(process.stderr.fileno(), 4096):
            text += chunk.decode(errors="replace")
            count = len(re.findall(r"Step \d+/", text)) + ("Decoding" in text)
            began += [time.perf_counter()] * (count - len(began))
    if process.wait() != 0:
        raise RuntimeError(f"exit code {process.returncode}: {text.strip()[-400:]}")
    total = time.perf_counter() - start

    def phases(pattern):
        return sum(float(seconds) for seconds in re.findall(pattern + r"[^\n]*?\.\.\. done \((\d+\.\d+)s\)", text))

    load = phases("Loading")
    return {
        "load_s": load,
        "text_s": phases("Encoding text"),
        "reference_s": phases("Encoding (?:input|reference)"),
        "step_s": [b - a for a, b in zip(began, began[1:])],
        "decode_s": phases("Decoding"),
        "work_s": total - load,
        "peak_rss_bytes": None,
    }


def has(python, module):
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def contenders(args):
    found = {f"dj-flux2 {dtype}": ours(args, dtype) for dtype in args.ours.split(",")}
    peers = {}
    if has(args.peers, "diffusers"):
        for dtype in ["bf16", "f32"]:
            peers[f"diffusers {dtype}"] = diffusers(args, dtype, False)
            peers[f"diffusers {dtype} compiled"] = diffusers(args, dtype, True)
    if args.single_files and has(args.peers, "stable_diffusion_cpp"):
        peers["stable-diffusion.cpp bf16"] = sdcpp(args)
    if args.flux2c:
        peers["flux2.c"] = flux2c(args)
    return found | selected(peers, args.only)


# ---- the tables ----


def columns(result):
    steps = result["step_s"]
    peak = result["peak_rss_bytes"]
    return {"step": statistics.mean(steps) if steps else None, "peak GiB": peak / 2**30 if peak else None} | {
        stage: result[f"{stage}_s"] for stage in STAGES if stage != "step"
    }


def median(results):
    """Medians by column, over the rounds that have a value."""
    found = {column: [r[column] for r in results if r[column] is not None] for column in results[0]}
    return {column: statistics.median(values) if values else None for column, values in found.items()}


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def main():
    args = arguments()
    runs = contenders(args)
    print(f"{processor()}, {args.threads} threads, load average {os.getloadavg()[0]:.1f} before")
    print(
        f"{args.model.name}, {args.steps} steps, {len(args.input)} references, {args.rounds} rounds; work is the whole "
        "picture without loading, step the mean\n",
        flush=True,
    )
    for size in args.size or ["512x512"]:
        width, height = (int(side) for side in size.split("x"))
        results = {name: [] for name in runs}
        for turn in range(args.rounds):
            for name, run in runs.items():
                load = os.getloadavg()[0]
                try:
                    result = run(width, height)
                except (RuntimeError, OSError) as error:
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    continue
                results[name].append(columns(result))
                print(
                    f"{size} round {turn + 1}, {name}: {result['work_s']:.2f} s (load average {load:.1f} before)",
                    file=sys.stderr,
                    flush=True,
                )
        rows = {name: median(found) for name, found in results.items() if found}
        print(size)
        if rows:
            # Loading is not comparable between programs.
            print_table(rows, [*STAGES, "peak GiB"], STAGES[1:])
    print(f"load average {os.getloadavg()[0]:.1f} after")


main()
