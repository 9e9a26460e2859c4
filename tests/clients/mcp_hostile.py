"""A hostile client of the Model Context Protocol: enormous lines, floods, broken JSON; memory is bounded, nobody panics.

Paths and types are tried in `crates/flux2-mcp/tests/it/hostile.rs`, on every field.
"""

import concurrent.futures
import json
import pathlib
import subprocess
import tempfile
import threading
import time

import server

ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}}
HELLO = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT}
HEADERS = {"accept": "application/json, text/event-stream"}
# A message of 16 MiB may become this many bytes while it is read.
MOST_MIB = 1500
MIB = 1 << 20


def main():
    with tempfile.TemporaryDirectory() as folder:
        peak = lines(pathlib.Path(folder))
    with server.running("--max-pixels", "65536") as running:
        posts(running)
        return f"{peak:.0f} MiB and {running.memory_mib():.0f} MiB"


class Process:
    """A server on pipes."""

    def __init__(self, folder: pathlib.Path):
        command = [str(server.PROGRAM), "mcp", "--root", "root", "--backend", "fake"]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.answers: dict = {}
        self.bad: list[bytes] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                self.bad.append(line)
                continue
            self.answers[message.get("id")] = message

    def send(self, message) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def call(self, number, tool, **arguments):
        self.send({"jsonrpc": "2.0", "id": number, "method": "tools/call",
                   "params": {"name": tool, "arguments": arguments}})

    def answer(self, number, seconds: float = 60):
        end = time.monotonic() + seconds
        while number not in self.answers:
            assert time.monotonic() < end and self.process.poll() is None, f"no answer to {number}: {self.process.poll()}"
            time.sleep(0.005)
        return self.answers[number]

    def peak_mib(self) -> float:
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024


def lines(folder: pathlib.Path) -> float:
    process = Process(folder)
    process.send(HELLO)
    process.answer(0)
    process.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    before = set(folder.rglob("*"))
    for message in [b"\0" * MIB, b"{" * MIB, b'{"a":' * 100_000, b"[" * 15 * MIB, b'"' + b"\\u0000" * MIB + b'"',
                    b"[" + b"0," * (7 * MIB) + b"0]", b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":['
                    + b"{}," * (4 * MIB) + b"{}]}", b"9" * 10 * MIB, b"\xff" * MIB]:
        process.send(message + b"\n")
    # A line that never ends is dropped as it comes.
    for _ in range(200):
        process.send(b"x" * MIB)
    process.send(b"\n")
    process.call("big", "upscale", image="A" * (15 * MIB))
    assert process.answer("big", 120)["result"]["isError"]
    process.call("zero", "upscale", image="data:image/png;base64," + "iVBORw0KGgo" + "A" * (10 * MIB))
    assert process.answer("zero", 120)["result"]["isError"]
    # More calls than are carried out, each answered.
    for number in range(3000):
        process.call(number + 10, "plan", width=64, height=64)
    for number in range(3000):
        process.answer(number + 10)
    for number in range(500):
        process.call(number + 10_000, "generate", prompt="p", width=64, height=64, wait_seconds=0, show=False)
    for number in range(500):
        process.answer(number + 10_000)
    process.call("last", "list_models")
    assert not process.answer("last")["result"]["isError"]
    peak = process.peak_mib()
    outside = {path for path in set(folder.rglob("*")) - before if not path.is_relative_to(folder / "root")}
    process.process.stdin.close()
    assert process.process.wait(30) == 0
    errors = process.process.stderr.read()
    assert b"panicked" not in errors, errors[-2000:]
    assert not process.bad and not outside, (process.bad[:3], outside)
    assert peak < MOST_MIB, f"{peak:.0f} MiB"
    return peak


def posts(running) -> None:
    status, headers, _ = running.call("/mcp", HELLO, headers=HEADERS)
    assert status == 200
    session = {**HEADERS, "mcp-session-id": headers["mcp-session-id"]}
    for body in [[], {}, None, "x", [HELLO] * 1000, {"jsonrpc": "2.0", "id": {}, "method": "x"}, 1e300]:
        status = running.call("/mcp", body, "POST", session)[0]
        assert 200 <= status < 500, (body, status)
    assert running.call("/mcp", "x" * (17 * MIB), "POST", session)[0] == 413

    def begin(_):
        return running.call("/mcp", HELLO, headers=HEADERS)[0]

    before = running.memory_mib()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(begin, range(1500)))
    assert set(statuses) == {200, 429}, set(statuses)
    assert statuses.count(200) <= 1000, statuses.count(200)
    grown = running.memory_mib() - before
    assert grown < 200, f"{grown:.0f} MiB for {statuses.count(200)} sessions"
    # Those that have a session go on.
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "plan", "arguments": {}}}
    assert running.call("/mcp", call, headers=session)[0] == 200
    assert running.call("/mcp", None, "DELETE", session)[0] < 300
    assert running.status("/health") == 200
