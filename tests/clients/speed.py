"""What the server adds to the engine, with klein-mini: run it alone on a quiet machine, with a release build.

`run.py PROGRAM FOLDER speed`. The rival is the engine alone: `bench generate --resident`, in turns with the server.
One client asks for one image after the other, and also waits for encoding, saving and the journal. With four clients
the server does that while the next image is drawn. Images are drawn one at a time, as the rival does, and together.
"""

import concurrent.futures
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time

import server

# Sides in pixels, and images of a turn.
SIZES = {64: 60, 128: 40, 256: 12}
TURNS = 5
# What the server may add to an image when it is always busy: this share of the engine's time, or these seconds.
SHARE, SECONDS = 0.03, 0.002


def main():
    print(f"load {os.getloadavg()[0]:.2f} at the start")
    over = []
    with contextlib.ExitStack() as stack:
        servers = {batch: start(stack, batch) for batch in (1, 8)}
        for side, images in SIZES.items():
            ways = [(batch, clients) for batch in servers for clients in (1, 4)]
            alone, walls, times = [], {way: [] for way in ways}, {way: [] for way in ways}
            for _ in range(TURNS):
                alone.append(engine(side, images))
                for way in ways:
                    wall, each = measure(servers[way[0]], side, way[1], images)
                    walls[way].append(wall)
                    times[way] += each
            own = statistics.median(alone)
            print(f"{side}x{side}: engine alone {1000 * own:.2f} ms an image, {1 / own:.1f} a second")
            for way in ways:
                added = statistics.median(wall - engine for wall, engine in zip(walls[way], alone, strict=True))
                wall, each = statistics.median(walls[way]), sorted(times[way])
                print(
                    f"  --max-batch {way[0]}, {way[1]} clients: {1 / wall:5.1f} a second; "
                    f"p50 {1000 * each[len(each) // 2]:.1f}, p99 {1000 * each[int(0.99 * len(each))]:.1f} ms; "
                    f"added {1000 * added:+.2f} ms, {100 * added / own:+.1f} %",
                    flush=True,
                )
                if way[1] > 1 and added > max(SHARE * own, SECONDS):
                    over.append(f"{side}x{side}, --max-batch {way[0]}: {1000 * added:.2f} ms")
        for running in servers.values():
            assert running.stop() == 0
    assert not over, f"the server adds too much: {'; '.join(over)}"
    return "added: wall time of an image beyond that of the engine alone"


def start(stack: contextlib.ExitStack, batch: int) -> server.Server:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    model = ["-m", "klein-mini", "--no-text-cache", "--max-batch", str(batch)]
    return server.Server(state=f"{folder}/state", model=model)


def engine(side: int, images: int) -> float:
    """Seconds an image takes in the engine alone, without its text: the server's texts are in memory."""
    command = ["bench", "generate", "-m", "klein-mini", "-W", side, "-H", side, "--resident", "--json"]
    command += ["--warmup", 5, "--runs", images]
    printed = subprocess.run([server.PROGRAM, *map(str, command)], capture_output=True, check=True).stdout
    result = json.loads(printed)
    return result["s_per_picture"] - result["text_s"]


def measure(running, side: int, clients: int, images: int) -> tuple[float, list[float]]:
    """Seconds an image, and those that each client waited."""

    def one(number: int) -> float:
        begin = time.monotonic()
        request = {"prompt": "a red fox", "size": f"{side}x{side}", "seed": number}
        status, _, answer = running.call("/v1/images/generations", request)
        assert status == 200, answer
        return time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(5)))
        begin = time.monotonic()
        times = list(pool.map(one, range(images)))
        return (time.monotonic() - begin) / images, times
