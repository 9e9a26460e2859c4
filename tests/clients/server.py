"""Starts the server for a test, and stops it; runs tests by their names."""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request

# With LONG=1 the tests of load and of kills take minutes.
LONG = os.environ.get("LONG") == "1"
PROGRAM = pathlib.Path()
FOLDER = pathlib.Path()


class Skipped(Exception):
    """A test that cannot run here, and why."""


class Server:
    """A running server and its address."""

    def __init__(
        self,
        *flags: str,
        state: str | None = None,
        env: dict | None = None,
        wait: bool = True,
        model: list[str] | None = None,
        prefix: list[str] | None = None,
    ):
        """`model` are flags that say what draws, in place of the fake; `prefix` is put before the command."""
        model = model or ["--backend", "fake", "-m", "klein-4b"]
        # A front end of a fleet keeps nothing.
        none = [] if "--fleet" in model else ["--no-journal"]
        where = ["--state", state] if state else none
        command = [*(prefix or []), str(PROGRAM), "serve", *model, "--port", "0", "--log-format", "json"]
        self.log: list[dict] = []
        self.process = subprocess.Popen(
            [*command, *where, *flags],
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), **(env or {})},
        )
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(20):
            self.process.kill()
            raise RuntimeError(f"the server does not listen: {self.log}")
        self.base = self.address
        self.host, port = self.base.split("://")[1].rsplit(":", 1)
        self.port = int(port)
        if wait:
            self.wait_until_ready()

    def _read(self) -> None:
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"message": line.decode(errors="replace").rstrip()}
            self.log.append(entry)
            if entry.get("message") == "listening":
                self.address = entry["address"]
                self._listening.set()
        self._listening.set()

    def wait_until_ready(self, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.status("/ready") == 200:
                return
            time.sleep(0.02)
        raise RuntimeError("the server does not get ready")

    def answered(self, request: str, seconds: float = 20) -> dict:
        """The log's entry of a request's answer. It may be read a moment after the client has the answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for entry in self.log:
                if entry.get("message") == "answered" and entry["span"]["id"] == request:
                    return entry
            time.sleep(0.01)
        raise AssertionError(f"the log has no answer of request {request}")

    def status(self, path: str) -> int:
        return self.call(path)[0]

    def call(self, path: str, body=None, method: str | None = None, headers: dict | None = None):
        """Status, headers and body of an answer; JSON is parsed."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                status, headers, content = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, headers, content = error.code, error.headers, error.read()
        if "json" in headers.get("content-type", ""):
            content = json.loads(content)
        return status, headers, content

    def memory_mib(self) -> float:
        """Resident memory of the process."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """Ends the server in order, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run_tests(tests: list[str], may_skip: tuple[str, ...] = ()) -> int:
    """Runs the tests that the command line names, or all: each is a module with a function `main`. Returns the code to
    exit with. Those of `may_skip` need rights that a machine may not give."""
    global PROGRAM, FOLDER
    PROGRAM, FOLDER = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    failed = []
    for name in sys.argv[3:] or tests:
        start = time.monotonic()
        try:
            result = importlib.import_module(name).main() or "ok"
        except Skipped as reason:
            # A test that did not run proves nothing.
            failed += [] if name in may_skip else [name]
            result = f"not run: {reason}"
        except Exception as error:  # noqa: BLE001: the next test is run as well
            traceback.print_exc()
            failed.append(name)
            result = f"FAILED: {error}"
        print(f"{name:15} {time.monotonic() - start:6.1f} s  {result}", flush=True)
    return 1 if failed else 0


@contextlib.contextmanager
def running(*flags: str, **options):
    """A server for a `with` block; it must end in order."""
    server = Server(*flags, **options)
    try:
        yield server
    except BaseException:
        server.kill()
        for entry in server.log[-20:]:
            print("   ", entry)
        raise
    code = server.stop()
    assert code == 0, f"exit code {code}: {server.log[-5:]}"


def png(width: int = 64, height: int = 64) -> bytes:
    """A gray PNG."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * (3 * width)) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
