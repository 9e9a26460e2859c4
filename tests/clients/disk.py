"""A disk that is full or read-only: jobs fail with a sentence, the server stays up, the journal stays consistent.

The state folder is a small tmpfs in a mount namespace of its own.
"""

import pathlib
import subprocess
import tempfile
import time

import server

PICTURE = {"prompt": "p", "size": "64x64", "steps": 1}
# Its file takes more than is left beside the journal.
LARGE = {"prompt": "p", "size": "1024x1024", "steps": 1, "count": 10}


class Disk:
    """A tmpfs of 4 MiB that outlives the server."""

    def __init__(self, folder: str):
        self.folder = f"{folder}/disk"
        pathlib.Path(self.folder).mkdir()
        script = 'mount -t tmpfs -o size=4m none "$0" && echo mounted && exec sleep 600'
        command = ["unshare", "-rm", "sh", "-c", script, self.folder]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.holder.stdout.readline() != b"mounted\n":
            raise server.Skipped(f"no mount namespace: {self.holder.stderr.read().decode().strip()}")
        self.inside = pathlib.Path(f"/proc/{self.holder.pid}/root{self.folder}")
        self.enter = ["nsenter", "-U", "-m", "--preserve-credentials", "-t", str(self.holder.pid)]

    def start(self) -> server.Server:
        return server.Server("--max-wait", "36000", state=f"{self.folder}/state", prefix=self.enter)

    def fill(self, leave: int) -> None:
        """Takes all room but `leave` bytes."""
        with open(self.inside / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        size = (self.inside / "filler").stat().st_size
        with open(self.inside / "filler", "r+b") as filler:
            filler.truncate(max(0, size - leave))

    def empty(self) -> None:
        (self.inside / "filler").unlink()

    def remount(self, how: str) -> None:
        subprocess.run([*self.enter, "mount", "-o", f"remount,{how}", self.folder], check=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder)
        try:
            running = disk.start()
            try:
                full(disk, running)
                no_room_for_the_journal(disk, running)
                read_only(disk, running)
            finally:
                running.kill()
            consistent(disk)
        finally:
            disk.holder.kill()
            disk.holder.wait()
    return "full and read-only"


def draw(running, request: dict):
    return running.call("/v1/images/generations", request)


def full(disk: Disk, running) -> None:
    """A picture that has no room fails; small ones are drawn; with room, so is a large one."""
    assert draw(running, PICTURE)[0] == 200
    disk.fill(leave=400 << 10)
    job = running.call("/api/v1/jobs", LARGE)[2]
    failed = ended(running, job["id"])
    assert failed["state"] == "failed" and failed["error"]["class"] == "storage", failed
    message = failed["error"]["message"]
    # The pictures may leave no room for the journal: they are given back.
    assert "could not be saved" in message or message.startswith("the journal cannot be written"), failed
    assert failed["error"]["hint"] == "free some room on the disk", failed
    assert running.status("/health") == 200
    # Every job makes the log of the journal longer: it has to begin anew. The images that were saved are kept.
    disk.empty()
    disk.fill(leave=600 << 10)
    for seed in range(20):
        status, _, answer = draw(running, {**PICTURE, "seed": seed})
        assert status == 200, answer
    disk.empty()
    assert ended(running, running.call("/api/v1/jobs", LARGE)[2]["id"])["state"] == "done"


def no_room_for_the_journal(disk: Disk, running) -> None:
    """Nothing can be accepted; what was accepted is done once there is room."""
    job = running.call("/api/v1/jobs", {**PICTURE, "prompt": "x" * 30_000})[2]
    assert ended(running, job["id"])["state"] == "done"
    disk.fill(leave=0)
    accepted, refused = [], None
    for seed in range(200):
        request = {**PICTURE, "seed": seed, "prompt": "x" * 30_000}
        status, _, answer = running.call("/api/v1/jobs", request)
        if status != 202:
            refused = (status, answer["error"])
            break
        accepted.append(answer["id"])
    assert refused is not None, "the disk is not full"
    status, error = refused
    assert status == 500 and error["code"] == "storage", refused
    assert error["message"].startswith("the journal cannot be written"), refused
    assert running.status("/health") == 200 and running.status("/ready") == 200
    disk.empty()
    for job in accepted:
        assert ended(running, job)["state"] in ("done", "failed"), job
    assert draw(running, PICTURE)[0] == 200


def read_only(disk: Disk, running) -> None:
    """A disk that becomes read-only refuses jobs, and takes them again when it can be written."""
    try:
        disk.remount("ro")
    except subprocess.CalledProcessError:
        # The open journal keeps the file system writable.
        return
    status, _, answer = draw(running, PICTURE)
    assert status == 500 and answer["error"]["code"] == "storage", answer
    assert running.status("/health") == 200
    disk.remount("rw")
    assert draw(running, PICTURE)[0] == 200


def consistent(disk: Disk) -> None:
    """After a kill the journal is whole, and each job has ended once."""
    again = disk.start()
    assert not any("journal" in entry.get("message", "") for entry in again.log), again.log
    jobs, cursor = [], ""
    while True:
        page = again.call(f"/api/v1/jobs?limit=200{cursor}")[2]
        jobs += page["jobs"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(jobs) > 20 and len({job["id"] for job in jobs}) == len(jobs)
    for job in jobs:
        expected = {"done": job["request"]["count"], "failed": len(job["images"])}
        assert len(job["images"]) == expected[ended(again, job["id"])["state"]], job
        for image in job["images"] if job["state"] == "done" else []:
            status, _, content = again.call(image["url"])
            assert status == 200 and len(content) == image["bytes"], image
    assert again.stop() == 0


def ended(running, job: str, seconds: float = 60) -> dict:
    """A job when it is over."""
    end = time.monotonic() + seconds
    while (found := running.call(f"/api/v1/jobs/{job}")[2])["state"] in ("queued", "running"):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found
