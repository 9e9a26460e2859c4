"""kill -9 with 100 accepted jobs: none is lost, none is there twice, all are done after the restart."""

import base64
import hashlib
import tempfile
import time

import server

JOBS = 100
KILLS = 20 if server.LONG else 3


def main():
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--fake-step-ms", "2"]
        running = server.Server(*flags, state=folder)
        jobs = []
        for seed in range(JOBS):
            request = {"prompt": f"picture {seed}", "size": "64x64", "steps": 4, "seed": seed}
            status, _, job = running.call("/api/v1/jobs", request, headers={"idempotency-key": f"k-{seed}"})
            assert status == 202, job
            jobs.append(job["id"])
        for _ in range(KILLS):
            time.sleep(0.15)
            running.kill()
            running = server.Server(*flags, state=folder, wait=False)
        end = time.monotonic() + 60
        while sum(job["state"] != "done" for job in listed(running)) and time.monotonic() < end:
            time.sleep(0.1)
        found = listed(running)
        assert sorted(job["id"] for job in found) == sorted(jobs)
        assert all(job["state"] == "done" and len(job["images"]) == 1 for job in found), found
        # A client that asks again, as its answer was lost, gets the job that is there.
        again = running.call("/api/v1/jobs", {"prompt": "picture 7", "size": "64x64", "steps": 4, "seed": 7},
                             headers={"idempotency-key": "k-7"})[2]
        assert again["id"] == jobs[7]
        kept = hashlib.sha256(running.call(f"/api/v1/jobs/{jobs[7]}/images/0")[2]).hexdigest()
        request = {"prompt": "picture 7", "size": "64x64", "steps": 4, "seed": 7}
        fresh = running.call("/v1/images/generations", request)[2]
        assert hashlib.sha256(base64.b64decode(fresh["data"][0]["b64_json"])).hexdigest() == kept
        assert running.stop() == 0
    return f"{JOBS} jobs, {KILLS} kills"


def listed(running) -> list[dict]:
    jobs, cursor = [], ""
    while True:
        page = running.call(f"/api/v1/jobs?limit=200{cursor}")[2]
        jobs += page["jobs"]
        if page["next"] is None:
            return jobs
        cursor = f"&cursor={page['next']}"
