"""What the server adds to the engine, with klein-mini: run it alone on a quiet machine, with a release build.

`run.py PROGRAM FOLDER speed`. Two rivals, in the same turns. The engine's own times are those of its stages in the
server's metrics: what is beyond them is the worker's waiting. The engine alone is `bench generate --resident`: what is
beyond it is also what clients, encoding, saving and the journal take from the engine's two cores.
One client asks for one image after the other, and waits for encoding, saving and the journal. With four clients the
server does that while the next image is drawn. Images are drawn one at a time, as `bench` does, and together.
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
# What the server may add to the engine's own times when it is always busy: this share of them, or these seconds.
SHARE, SECONDS = 0.03, 0.002
# Stages of the engine. Saving is the server's.
ENGINE = ("text_encode", "references", "denoise", "vae")


def main():
    print(f"load {os.getloadavg()[0]:.2f} at the start")
    over = []
    with contextlib.ExitStack() as stack:
        servers = {batch: start(stack, batch) for batch in (1, 8)}
        for side, images in SIZES.items():
            ways = [(batch, clients) for batch in servers for clients in (1, 4)]
            alone = []
            walls, owns, times = ({way: [] for way in ways} for _ in range(3))
            for _ in range(TURNS):
                alone.append(engine(side, images))
                for way in ways:
                    wall, own, each = measure(servers[way[0]], side, way[1], images)
                    walls[way].append(wall)
                    owns[way].append(own)
                    times[way] += each
            rival = statistics.median(alone)
            print(f"{side}x{side}: engine alone {1000 * rival:.2f} ms an image, {1 / rival:.1f} a second")
            for way in ways:
                beyond = statistics.median(wall - engine for wall, engine in zip(walls[way], alone, strict=True))
                own = statistics.median(owns[way])
                added = statistics.median(wall - own for wall, own in zip(walls[way], owns[way], strict=True))
                wall, each = statistics.median(walls[way]), sorted(times[way])
                print(
                    f"  --max-batch {way[0]}, {way[1]} clients: {1 / wall:5.1f} a second; "
                    f"p50 {1000 * each[len(each) // 2]:.1f}, p99 {1000 * each[int(0.99 * len(each))]:.1f} ms; "
                    f"own {1000 * own:.2f}, added {1000 * added:+.2f} ms, {100 * added / own:+.1f} %; "
                    f"beyond the engine alone {1000 * beyond:+.2f} ms",
                    flush=True,
                )
                # Stages of images that are drawn together overlap, and have no sum to compare with.
                if way == (1, 4) and added > max(SHARE * own, SECONDS):
                    over.append(f"{side}x{side}, --max-batch {way[0]}: {1000 * added:.2f} ms")
        for running in servers.values():
            assert running.stop() == 0
    assert not over, f"the server adds too much: {'; '.join(over)}"
    return "added: wall time of an image beyond the engine's own times"


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


def own_seconds(running) -> float:
    """Seconds that the stages of the engine took so far."""
    _, _, text = running.call("/metrics")
    lines = [line.split() for line in text.decode().splitlines() if line.startswith("flux_stage_seconds_sum")]
    return sum(float(value) for name, value in lines if any(f'"{stage}"' in name for stage in ENGINE))


def measure(running, side: int, clients: int, images: int) -> tuple[float, float, list[float]]:
    """Seconds an image, of these those of the engine's stages, and those that each client waited."""

    def one(number: int) -> float:
        begin = time.monotonic()
        request = {"prompt": "a red fox", "size": f"{side}x{side}", "seed": number}
        status, _, answer = running.call("/v1/images/generations", request)
        assert status == 200, answer
        return time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(5)))
        before, begin = own_seconds(running), time.monotonic()
        times = list(pool.map(one, range(images)))
        wall = time.monotonic() - begin
    return wall / images, (own_seconds(running) - before) / images, times
