"""The server answers at once: /health soon after the process begins, before a model is loaded."""

import pathlib
import socket
import subprocess
import tempfile
import time

import server

# A loaded machine takes a while to begin a process; alone it is 0.2 s at most.
BOUND = 2.0


def main():
    with tempfile.TemporaryDirectory() as folder:
        fake = ["--backend", "fake", "-m", "klein-4b", "--no-journal", "--fake-load-ms", "60000"]
        mini = ["-m", "klein-mini", "--state", f"{folder}/state"]
        fake, mini = (min(seconds_to_health(flags) for _ in range(5)) for flags in (fake, mini))
    assert max(fake, mini) < BOUND, f"/health after {fake:.3f} and {mini:.3f} s"
    return f"/health after {fake * 1000:.0f} ms (a model that loads for a minute), {mini * 1000:.0f} ms (klein-mini)"


def seconds_to_health(flags: list[str]) -> float:
    """Time from the start of the process to the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(server.PROGRAM), "serve", *flags, "--port", str(port)]
    begin = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={"HOME": tempfile.gettempdir()})
    try:
        while time.monotonic() < begin + 20:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if b" 200 " in connection.recv(1000):
                        return time.monotonic() - begin
            except OSError:
                time.sleep(0.001)
        raise RuntimeError(f"{pathlib.Path(command[0]).name} does not answer")
    finally:
        process.kill()
        process.wait()
