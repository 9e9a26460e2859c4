"""Workers, the NATS server and front ends are killed, and workers are cut off: each job has exactly one result."""

import concurrent.futures
import hashlib
import random
import threading
import time

import server
import site_of_fleet as site

WORKERS = 8
JOBS = 10_000 if server.LONG else 1_000
# Jobs that fail on every worker.
POISON = set(range(17, JOBS, JOBS // 10))
NATS_DOWN = 1.0
EVERY = {"worker": 2.0, "nats": 30.0 if server.LONG else 15.0, "cut": 9.0, "front": 7.0}
# Longer than the lease: the job of a worker that is cut off is given to another meanwhile.
CUT = site.LEASE + 2


def request(number: int) -> dict:
    prompt = f"{'poison' if number in POISON else 'picture'} {number}"
    return {"prompt": prompt, "size": "64x64", "steps": 4, "seed": number}


class Chaos(threading.Thread):
    """Kills and cuts until it is told to be calm, and starts again what has ended, as a supervisor does."""

    def __init__(self, fleet: site.Site, fronts: site.Fronts):
        super().__init__(daemon=True)
        self.fleet, self.fronts = fleet, fronts
        self.rng, self.error = random.Random(1), None
        self.calm, self.over = threading.Event(), threading.Event()
        self.count = dict.fromkeys(EVERY, 0)
        self.healing: tuple[float, site.Worker] | None = None

    def run(self) -> None:
        try:
            due = {what: time.monotonic() + pause for what, pause in EVERY.items()}
            while not self.over.wait(0.05):
                for worker in self.fleet.workers:
                    worker.restart_if_ended()
                if self.healing and (self.calm.is_set() or time.monotonic() >= self.healing[0]):
                    self.healing[1].cut(False)
                    self.healing = None
                for what in [what for what, at in due.items() if time.monotonic() >= at and not self.calm.is_set()]:
                    due[what] = time.monotonic() + EVERY[what]
                    self.count[what] += 1
                    self.harm(what)
        except Exception as error:  # noqa: BLE001: the test fails with it
            self.error = error

    def harm(self, what: str) -> None:
        if what == "worker":
            self.rng.choice(self.fleet.workers).kill()
        elif what == "front":
            self.fronts.kill_one(self.count[what] % 2)
        elif what == "nats":
            self.fleet.kill_nats()
            time.sleep(NATS_DOWN)
            self.fleet.start_nats()
        else:
            worker = self.rng.choice(self.fleet.workers)
            worker.cut(True)
            self.healing = (time.monotonic() + CUT, worker)


def main():
    with site.running() as fleet:
        fleet.add_workers(WORKERS, "--fake-step-ms", "60", "--fake-fail", "poison=internal")
        fronts = site.Fronts(fleet)
        chaos = Chaos(fleet, fronts)

        def submit(number: int) -> str:
            headers = {"idempotency-key": f"job-{number}"}
            status, _, job = fronts.call(number, "/api/v1/jobs", request(number), headers=headers)
            assert status in (200, 202), job
            return job["id"]

        def is_over(number: int) -> bool:
            assert chaos.error is None, chaos.error
            status, _, view = fronts.call(number, f"/api/v1/jobs/{jobs[number]}")
            assert status == 200, view
            return view["state"] in ("done", "failed")

        chaos.start()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(submit, range(JOBS)))
        for number in (number for number in range(JOBS) if number not in POISON):
            site.until(f"job {number} is over", JOBS / 4, lambda number=number: is_over(number))
        chaos.calm.set()
        views = site.ended(fronts, jobs, 180)
        check(fleet, fronts, jobs, views)
        chaos.over.set()
        chaos.join(30)
        assert chaos.error is None, chaos.error
    counts = ", ".join(f"{count} x {what}" for what, count in chaos.count.items())
    assert all(chaos.count.values()), counts
    return f"{JOBS} jobs, {len(POISON)} poisoned; {counts}"


def check(fleet: site.Site, fronts: site.Fronts, jobs: list[str], views: dict[str, dict]) -> None:
    assert len(set(jobs)) == JOBS
    states = {number: views[job]["state"] for number, job in enumerate(jobs)}
    failed = {number for number, state in states.items() if state == "failed"}
    assert failed == POISON, f"failed: {sorted(failed - POISON)}, should have: {sorted(POISON - failed)}"
    dead = [letter["id"] for letter in fleet.dead()]
    assert sorted(dead) == sorted(jobs[number] for number in POISON), "dead letters are not the poisoned jobs"
    for number in set(range(JOBS)) - POISON:
        view = views[jobs[number]]
        assert view["state"] == "done" and len(view["images"]) == 1, view
        assert view["images"][0]["seed"] == number, view
    # Both front ends say the same, and a picture has the bytes that any other worker draws.
    for number in random.Random(2).sample(sorted(set(range(JOBS)) - POISON), 20):
        again = fronts.call(0, "/api/v1/jobs", request(number))[2]["id"]
        assert site.ended(fronts, [again], 60)[again]["state"] == "done"
        urls = [(front, f"/api/v1/jobs/{job}/images/0") for job in (jobs[number], again) for front in (0, 1)]
        pictures = {hashlib.sha256(fronts.call(*url)[2]).hexdigest() for url in urls}
        assert len(pictures) == 1, f"job {number} has several pictures"
    # A client that asks again gets the job that is there.
    for number in (0, JOBS // 2, JOBS - 1):
        headers = {"idempotency-key": f"job-{number}"}
        assert fronts.call(number, "/api/v1/jobs", request(number), headers=headers)[2]["id"] == jobs[number]
