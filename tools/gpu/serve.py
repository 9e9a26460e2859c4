#!/usr/bin/env python3
"""Images a second of `dj-flux2 serve` on a GPU, by size, dtype and batch, beside `bench generate` and diffusers.

    serve.py DJ_FLUX2 [--size 512x512]... [--dtype bf16]... [--batch 8]... [--seconds 340] [--diffusers]

Random weights, no files, no network. The server draws with `--max-batch N` for 2 N clients, each of which waits for
its image before it asks for the next one; their answers hold PNG files as base64. `bench generate --batch N` is the
engine alone, with neither files nor HTTP. diffusers, with --diffusers, makes N images in one call of its pipeline, up
to PIL images, eager, in bf16. Every image has a prompt of its own. `batch` is the mean number of images that the
server drew together. `rss` is its resident memory in MiB.

What begins after --seconds is left out, and the table says so.

To try it without a GPU: serve.py DJ_FLUX2 --model klein-mini --device cpu --size 64x64 --dtype bf16 --images 40
"""

import argparse
import concurrent.futures
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/clients"), str(ROOT / "benches/peers"), str(ROOT / "tools/gpu")]

import server  # noqa: E402
from common import PROMPT, last_json  # noqa: E402

COLUMNS = "{:10} {:5} {:24} {:>9} {:>9} {:>9} {:>7} {:>7}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="DJ_FLUX2", help="the program")
    parser.add_argument("--size", action="append", metavar="WxH", help="default: 512x512 and 1024x1024")
    parser.add_argument("--dtype", action="append", choices=["bf16", "fp8", "int8", "f32"], help="default: bf16, fp8")
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="default: 1, 2, 4, 8")
    parser.add_argument("--images", type=int, default=48, help="timed images of the server, at 1024x1024 half of it")
    parser.add_argument("--seconds", type=float, default=340, help="begin nothing after this time")
    parser.add_argument("--model", default="klein-4b", help="published model whose sizes are used")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--diffusers", action="store_true", help="time diffusers too, which must be installed")
    return parser.parse_args()


class Table:
    """Prints rows as they come. A row of what cannot run has the reason."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds
        print(COLUMNS.format("size", "dtype", "", "a second", "p50 ms", "p99 ms", "batch", "rss"), flush=True)

    def add(self, size: str, dtype: str, name: str, measure) -> None:
        if time.monotonic() > self.end:
            print(f"{size:10} {dtype:5} {name:24} not run: the time is over", flush=True)
            return
        try:
            columns = measure()
        except Exception as error:  # noqa: BLE001: any error becomes a row
            lines = str(error).strip().splitlines()
            print(f"{size:10} {dtype:5} {name:24} {type(error).__name__}: {lines[0][:200] if lines else ''}", flush=True)
            return
        texts = ["" if value is None else f"{value:.{digits}f}" for value, digits in zip(columns, (3, 1, 1, 1, 0))]
        print(COLUMNS.format(size, dtype, name, *texts), flush=True)


# ---- the server ----


def serve(args, table: Table, dtype: str, batch: int, sizes: list[str]) -> None:
    """All sizes with one server."""
    name = f"serve, batch {batch}"
    if time.monotonic() > table.end:
        return [table.add(size, dtype, name, None) for size in sizes]
    flags = ["--max-batch", str(batch), "--dtype", dtype, "--device", args.device, "--no-text-cache"]
    try:
        running = server.Server(*flags, model=["--synthetic", args.model], env=dict(os.environ), wait=False)
        running.wait_until_ready(120)
    except RuntimeError as error:
        return [table.add(size, dtype, name, lambda: raised(error)) for size in sizes]
    try:
        for size in sizes:
            table.add(size, dtype, name, lambda: throughput(args, running, size, batch))
    finally:
        running.stop()


def raised(error: Exception):
    raise error


def throughput(args, running, size: str, batch: int) -> list:
    numbers = iter(range(1 << 30))

    def one(_) -> float:
        begin, number = time.monotonic(), next(numbers)
        request = {"prompt": f"{PROMPT}, {number}", "size": size, "seed": number}
        status, _, answer = running.call("/v1/images/generations", request)
        if status != 200:
            raise RuntimeError(f"status {status}: {answer}")
        return time.monotonic() - begin

    clients = 2 * batch
    images = max(args.images // (2 if pixels(size) > 512 * 512 else 1), 3 * clients)
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(2 * clients)))
        begin = time.monotonic()
        times = sorted(pool.map(one, range(images)))
        seconds = time.monotonic() - begin
    jobs = running.call(f"/api/v1/jobs?limit={min(images, 200)}")[2]["jobs"]
    together = sum(job["timings"][0]["batch"] for job in jobs) / len(jobs)
    middle, slow = times[images // 2], times[min(images - 1, int(0.99 * images))]
    return [images / seconds, 1000 * middle, 1000 * slow, together, running.memory_mib()]


# ---- the engine alone, and diffusers ----


def bench(args, size: str, dtype: str, batch: int) -> list:
    width, height = size.split("x")
    flags = ["--synthetic", args.model, "--device", args.device, "--dtype", dtype, "--batch", batch]
    command = [args.binary, "bench", "generate", *flags, "--resident", "--warmup", 2, "--runs", 3]
    result = last_json([*command, "--width", width, "--height", height, "--json", "--quiet"])
    return [result["pictures_per_s"], 1000 * (result["total_s"] - result["load_s"]), None, batch, None]


def diffusers(peer, size: str, batch: int) -> list:
    width, height = map(int, size.split("x"))

    def run(number: int) -> float:
        peer.wait()
        begin = time.monotonic()
        peer.pipeline(
            prompt=[f"{PROMPT}, {number} {i}" for i in range(batch)],
            width=width,
            height=height,
            num_inference_steps=4,
            guidance_scale=1.0,
            max_sequence_length=peer.sizes["text_rows"],
            text_encoder_out_layers=peer.sizes["taps"],
        )
        return time.monotonic() - begin

    times = sorted(run(number) for number in range(5))[:3]
    return [batch / times[1], 1000 * times[1], None, batch, None]


def pixels(size: str) -> int:
    width, height = map(int, size.split("x"))
    return width * height


def main():
    args = arguments()
    server.PROGRAM = pathlib.Path(args.binary).resolve()
    sizes, dtypes = args.size or ["512x512", "1024x1024"], args.dtype or ["bf16", "fp8"]
    batches = args.batch or [1, 2, 4, 8]
    table = Table(args.seconds)
    for dtype in dtypes:
        for batch in batches:
            serve(args, table, dtype, batch, sizes)
        for size in sizes:
            for batch in {min(batches), max(batches)}:
                table.add(size, dtype, f"bench generate, batch {batch}", lambda: bench(args, size, dtype, batch))
    if not args.diffusers:
        return
    try:
        from peers import Diffusers

        peer = Diffusers(args)
    except Exception as error:  # noqa: BLE001
        return [table.add(size, "bf16", "diffusers", lambda: raised(error)) for size in sizes]
    for size in sizes:
        for batch in {min(batches), max(batches)}:
            table.add(size, "bf16", f"diffusers, batch {batch}", lambda: diffusers(peer, size, batch))


if __name__ == "__main__":
    main()
