"""Pictures cannot be stored for longer than a lease: each job has one result, though one may be drawn again."""

import pathlib
import subprocess
import time

import server
import site_of_fleet as site

# Several leases.
FROZEN = 3 * site.LEASE


def main():
    with site.running() as fleet:
        disk, folder = fleet.folder / "disk", fleet.folder / "objects"
        folder.mkdir()
        with open(disk, "wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
        try:
            site.run("mount", "-o", "loop", str(disk), str(folder))
        except RuntimeError as error:
            raise server.Skipped(f"a loop device cannot be mounted: {error}") from error
        try:
            freeze(fleet, folder)
        finally:
            for worker in fleet.workers:
                worker.kill()
            for fronts in fleet.fronts:
                fronts.close()
            site.run("umount", "--lazy", str(folder))
    return f"{FROZEN} s without the store"


def freeze(fleet: site.Site, folder: pathlib.Path) -> None:
    place = ["--objects", f"file://{folder}"]
    fleet.add_workers(2, "--fake-step-ms", "20", *place)
    fronts = site.Fronts(fleet, *place)
    request = {"prompt": "p", "size": "64x64", "steps": 4}
    jobs = [fronts.call(0, "/api/v1/jobs", {**request, "seed": seed})[2]["id"] for seed in range(4)]
    assert all(view["state"] == "done" for view in site.ended(fronts, jobs, 30).values())
    site.run("fsfreeze", "-f", str(folder))
    try:
        jobs = [fronts.call(0, "/api/v1/jobs", {**request, "seed": seed})[2]["id"] for seed in range(10, 20)]
        time.sleep(FROZEN)
    finally:
        site.run("fsfreeze", "-u", str(folder))
    views = site.ended(fronts, jobs, 60)
    assert all(view["state"] == "done" and len(view["images"]) == 1 for view in views.values()), views
    # A job counts as failed only when it was drawn several times: these have waited.
    assert all(view["attempts"] <= 2 for view in views.values()), [view["attempts"] for view in views.values()]
    assert fleet.dead() == []
