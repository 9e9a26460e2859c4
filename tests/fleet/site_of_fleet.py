"""A NATS server, workers and front ends for a test.

Workers have network namespaces of their own, so that they can be cut off. Where the machine does not allow that, as in
a container without --privileged, they are stopped by a signal instead: NATS sees the same silence.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "clients"))
import server  # noqa: E402

BRIDGE, NETWORK = "flux-bridge", "10.213.57"
PORT = 4257
# Seconds without a sign of life after which a job is given to another worker.
LEASE = 5
QUEUE = ["--lease", str(LEASE)]


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def can_cut() -> bool:
    """Whether network namespaces can be made here; says so if not."""
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "netns", "add", BRIDGE)
        run("ip", "netns", "del", BRIDGE)
        run("ip", "link", "del", BRIDGE)
        return True
    except (RuntimeError, FileNotFoundError) as error:
        print(f"workers are stopped instead of cut off from the network: {error}", flush=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        return False


def path_of_nats() -> str:
    found = shutil.which("nats-server", path=os.environ["PATH"] + ":/usr/sbin")
    assert found, "nats-server is missing: apt-get install nats-server"
    return found


CAN_CUT = can_cut()
# Where NATS listens.
HOST = f"{NETWORK}.1" if CAN_CUT else "127.0.0.1"


class Worker:
    """A worker that can be killed, and cut off from the network."""

    def __init__(self, site: "Site", number: int, flags: list[str]):
        self.address, self.number, self.flags = site.address, number, flags
        self.space, self.link = f"flux-{number}", f"flux-v{number}"
        self.log = open(site.folder / f"worker-{number}.log", "ab")
        self.enter = ["ip", "netns", "exec", self.space] if CAN_CUT else []
        if CAN_CUT:
            run("ip", "netns", "add", self.space)
            run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
            run("ip", "link", "set", self.link, "master", BRIDGE, "up")
            run("ip", "-n", self.space, "addr", "add", f"{NETWORK}.{number + 10}/24", "dev", "eth0")
            run("ip", "-n", self.space, "link", "set", "eth0", "up")
        self.start()

    def start(self) -> None:
        fake = ["--backend", "fake", "-m", "klein-4b"]
        command = [str(server.PROGRAM), "worker", "--fleet", self.address, *QUEUE, "--name", "worker", *fake]
        self.process = subprocess.Popen(
            [*self.enter, *command, "--only", str(self.number), *self.flags],
            stderr=self.log,
            env={"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir()},
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart_if_ended(self) -> bool:
        """As a supervisor does. A process may end by itself when its device has failed."""
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def cut(self, is_cut: bool) -> None:
        if CAN_CUT:
            run("ip", "link", "set", self.link, "down" if is_cut else "up")
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP if is_cut else signal.SIGCONT)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def remove(self) -> None:
        self.kill()
        if CAN_CUT:
            # With its namespace it would only go after a while.
            run("ip", "link", "del", self.link)
            run("ip", "netns", "del", self.space)
        self.log.close()


class Site:
    """A fleet on this machine."""

    def __init__(self, folder: str, config: str | None = None, user: str = ""):
        self.folder = pathlib.Path(folder)
        self.config = config
        self.address = f"nats://{user}{HOST}:{PORT}"
        self.workers: list[Worker] = []
        self.fronts: list[Fronts] = []
        self.nats = None
        if CAN_CUT:
            run("ip", "link", "add", BRIDGE, "type", "bridge")
            run("ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE)
            run("ip", "link", "set", BRIDGE, "up")

    def start_nats(self) -> None:
        flags = ["-c", self.config] if self.config else []
        self.nats = subprocess.Popen(
            [path_of_nats(), "-js", "-a", HOST, "-p", str(PORT), "-sd", str(self.folder / "nats"), *flags],
            stderr=open(self.folder / "nats.log", "ab"),
        )
        until("nats-server listens", 20, self.is_listening)

    def is_listening(self) -> bool:
        try:
            socket.create_connection((HOST, PORT), 1).close()
            return True
        except OSError:
            assert self.nats.poll() is None, "nats-server has ended"
            return False

    def kill_nats(self) -> None:
        self.nats.kill()
        self.nats.wait()

    def add_workers(self, count: int, *flags: str) -> None:
        for _ in range(count):
            self.workers.append(Worker(self, len(self.workers), list(flags)))

    def front(self, *flags: str, wait: bool = True) -> server.Server:
        queue = [*QUEUE, "--max-queue", "100000", "--max-wait", "864000"]
        return server.Server(*flags, model=["--fleet", self.address, *queue], wait=wait)

    def command(self, *words: str) -> str:
        return run(str(server.PROGRAM), "fleet", *words, "--fleet", self.address)

    def dead(self) -> list[dict]:
        return [json.loads(line) for line in self.command("dead", "list", "--json").splitlines()]

    def status(self) -> dict:
        return json.loads(self.command("status", "--once", "--json"))

    def close(self) -> None:
        for fronts in self.fronts:
            fronts.close()
        for worker in self.workers:
            worker.remove()
        self.nats.kill()
        self.nats.wait()
        if CAN_CUT:
            run("ip", "link", "del", BRIDGE)


class Fronts:
    """Two front ends. Requests go to either, and again when there is no answer."""

    def __init__(self, fleet: Site, *flags: str):
        self.fleet, self.flags = fleet, flags
        self.running = [fleet.front(*flags), fleet.front(*flags)]
        fleet.fronts.append(self)

    def call(self, number: int, *request, **options):
        """Status, headers and body of an answer."""
        for attempt in range(300):
            front = self.running[(number + attempt) % 2]
            try:
                status, headers, body = front.call(*request, **options)
                if status < 500 and status != 429:
                    return status, headers, body
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        raise AssertionError(f"no answer to {request}")

    def kill_one(self, number: int) -> None:
        self.running[number].kill()
        self.running[number] = self.fleet.front(*self.flags, wait=False)

    def close(self) -> None:
        for front in self.running:
            front.kill()


@contextlib.contextmanager
def running(**options):
    """A site for a `with` block. Its logs are printed when the block fails."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder, **options)
        try:
            site.start_nats()
            yield site
        except BaseException:
            for log in sorted(site.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_bytes()[-2000:].decode(errors='replace')}")
            raise
        finally:
            site.close()


def until(what: str, seconds: float, condition):
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return result


def ended(fronts, jobs: list[str], seconds: float) -> dict[str, dict]:
    """The jobs once all of them are over."""
    found, end = {}, time.monotonic() + seconds
    while len(found) < len(jobs):
        for job in jobs:
            if job not in found:
                status, _, view = fronts.call(0, f"/api/v1/jobs/{job}")
                assert status == 200, view
                if view["state"] not in ("done", "failed", "cancelled"):
                    break
                found[job] = view
        assert time.monotonic() < end, f"{len(jobs) - len(found)} of {len(jobs)} jobs are not over: {view}"
        time.sleep(0.2)
    return found


def states(fronts: Fronts, jobs: list[str]) -> list[str]:
    return [fronts.call(0, f"/api/v1/jobs/{job}")[2]["state"] for job in jobs]
