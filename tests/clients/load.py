"""Ten times as many requests as can be drawn; readers that stall and heads that do not come; cancels at random."""

import asyncio
import json
import random
import resource
import time

import server

SECONDS = 60 if server.LONG else 6
STALLED = 300


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    overload = asyncio.run(overloaded())
    slow = asyncio.run(slow_clients())
    asyncio.run(cancels())
    return f"{overload}; {slow}; 200 cancels"


async def request(running, method: str, path: str, body=None, headers: str = "") -> tuple[int, dict, bytes]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(running.host, running.port)
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}" \
           f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    answer = await reader.read()
    writer.close()
    top, _, content = answer.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), fields, content


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def overloaded():
    """A picture takes 50 ms, so 20 are drawn in a second; 200 are asked for."""
    refusals, accepted = [], []
    with server.running("--fake-step-ms", "25", "--max-queue", "20") as running:
        memory = running.memory_mib()

        async def one():
            start = time.monotonic()
            status, fields, content = await request(
                running, "POST", "/api/v1/jobs", {"prompt": "p", "size": "64x64", "steps": 2})
            if status == 202:
                accepted.append(json.loads(content)["id"])
            else:
                assert status == 429 and int(fields["retry-after"]) >= 1, (status, fields)
                refusals.append(time.monotonic() - start)

        tasks, end = [], time.monotonic() + SECONDS
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        for job in accepted:
            while (state := json.loads((await request(running, "GET", f"/api/v1/jobs/{job}"))[2])["state"]) != "done":
                assert state in ("queued", "running"), state
                await asyncio.sleep(0.05)
        grown = running.memory_mib() - memory
        assert grown < 100, f"{grown} MiB more"
    slowest = percentile(refusals, 0.99)
    assert slowest < 0.05, f"p99 of refusals: {slowest:.3f} s"
    assert len(refusals) > len(accepted) > SECONDS * 10, (len(refusals), len(accepted))
    return f"{len(accepted)} drawn, {len(refusals)} refused, p99 {slowest * 1000:.0f} ms"


async def slow_clients():
    with server.running("--fake-step-ms", "1", "--max-connections", "1000") as running:
        big = {"prompt": "p", "size": "1024x1024", "steps": 1, "count": 4}
        job = json.loads((await request(running, "POST", "/api/v1/jobs", big))[2])["id"]
        while json.loads((await request(running, "GET", f"/api/v1/jobs/{job}"))[2])["state"] != "done":
            await asyncio.sleep(0.02)

        async def healthy() -> float:
            times = []
            for _ in range(60):
                start = time.monotonic()
                status, _, _ = await request(
                    running, "POST", "/v1/images/generations", {"prompt": "p", "size": "64x64", "steps": 1})
                assert status == 200
                times.append(time.monotonic() - start)
            return percentile(times, 0.9)

        alone = await healthy()
        open_ones = []
        for number in range(2 * STALLED):
            reader, writer = await asyncio.open_connection(running.host, running.port, limit=1)
            if number % 2:
                writer.write(b"GET /health HTTP/1.1\r\nHost: loc")
            else:
                writer.write(f"GET /api/v1/jobs/{job}/images/0 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            open_ones.append(writer)
        crowded = await healthy()
        for writer in open_ones:
            writer.close()
        # A few milliseconds are noise.
        assert crowded < 2 * alone + 0.01, f"{alone:.4f} s alone, {crowded:.4f} s among {2 * STALLED} slow ones"
    return f"{alone * 1000:.1f} ms alone, {crowded * 1000:.1f} ms among {2 * STALLED} slow clients"


async def cancels():
    chance = random.Random(1)
    with server.running("--fake-step-ms", "2", "--max-queue", "300") as running:
        async def one():
            status, _, content = await request(
                running, "POST", "/api/v1/jobs", {"prompt": "p", "size": "64x64", "steps": 4})
            assert status == 202
            job = json.loads(content)["id"]
            await asyncio.sleep(chance.random() * 0.5)
            assert (await request(running, "DELETE", f"/api/v1/jobs/{job}"))[0] == 200
            return job

        jobs = await asyncio.gather(*(one() for _ in range(200)))
        for job in jobs:
            unfinished = ("queued", "running")
            while json.loads((await request(running, "GET", f"/api/v1/jobs/{job}"))[2])["state"] in unfinished:
                await asyncio.sleep(0.02)
        status, _, _ = await request(running, "POST", "/v1/images/generations", {"prompt": "p", "size": "64x64"})
        assert status == 200
