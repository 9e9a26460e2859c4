"""What the server adds to the engine's own time, with klein-mini: run it alone on a quiet machine, with a release build.

`run.py PROGRAM FOLDER speed`. One client asks for one image after the other, then four clients at once.
"""

import concurrent.futures
import tempfile
import time

import server

IMAGES = 200
SIZES = ["64x64", "128x128"]
# What the server may add to an image: this share of the engine's time, or these seconds.
SHARE, SECONDS = 0.03, 0.002


def main():
    lines = [f"{'size':9} {'clients':>7} {'a second':>9} {'engine':>8} {'p50':>8} {'p99':>8} {'added':>8}"]
    with tempfile.TemporaryDirectory() as folder:
        running = server.Server("--no-text-cache", state=f"{folder}/state", model=["-m", "klein-mini"])
        for size in SIZES:
            for clients in (1, 4):
                lines.append(measure(running, size, clients))
        assert running.stop() == 0
    print("\n".join(lines))
    return "milliseconds; added: wall time of an image beyond the engine's text, steps and decoding"


def measure(running, size: str, clients: int) -> str:
    def one(number: int) -> float:
        begin = time.monotonic()
        request = {"prompt": "a red fox", "size": size, "seed": number}
        status, _, answer = running.call("/v1/images/generations", request)
        assert status == 200, answer
        return time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(20)))
        begin = time.monotonic()
        times = sorted(pool.map(one, range(IMAGES)))
        wall = time.monotonic() - begin
    records = [job["timings"][0] for job in running.call(f"/api/v1/jobs?limit={IMAGES}")[2]["jobs"]]
    assert len(records) == IMAGES
    own = sum(record["text"] + record["references"] + sum(record["steps"]) + record["decode"] for record in records)
    engine, added = own / IMAGES, (wall - own) / IMAGES
    within = "" if added <= max(SHARE * engine, SECONDS) else "  over the bar"
    columns = [engine, times[IMAGES // 2], times[int(0.99 * IMAGES)], added]
    numbers = " ".join(f"{1000 * seconds:8.2f}" for seconds in columns)
    return f"{size:9} {clients:7} {IMAGES / wall:9.1f} {numbers}{within}"
