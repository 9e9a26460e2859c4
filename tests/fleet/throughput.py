"""Eight workers draw eight times as much as one of them: what the queue takes is within 3 %."""

import datetime

import server
import site_of_fleet as site

WORKERS = 8
JOBS = 40 if server.LONG else 12
# Long enough that two cores can serve eight workers, and short against a picture of a real model.
STEP_MS, STEPS = 250, 4


def main():
    alone, together = measure(1), measure(WORKERS)
    part = together / (WORKERS * alone)
    assert part >= 0.97, f"{WORKERS} workers draw {together:.2f} images/s, one draws {alone:.3f}: {100 * part:.1f} %"
    return f"{together:.2f} images/s with {WORKERS} workers, {100 * part:.1f} % of their sum"


def measure(workers: int) -> float:
    """Images a second, while all workers have jobs."""
    with site.running() as fleet:
        fleet.add_workers(workers, "--fake-step-ms", str(STEP_MS))
        fronts = site.Fronts(fleet)
        site.until("all workers are there", 30, lambda: len(fleet.status()["workers"]) == workers)
        request = {"prompt": "p", "size": "64x64", "steps": STEPS}
        jobs = [fronts.call(0, "/api/v1/jobs", {**request, "seed": n})[2]["id"] for n in range(JOBS * workers)]
        views = site.ended(fronts, jobs, 30 + 4 * JOBS)
        times = sorted(datetime.datetime.fromisoformat(view["finished_at"]).timestamp() for view in views.values())
        # From the end of each worker's first job, until some have none left.
        first, last = times[workers - 1], times[-workers - 1]
        return (len(times) - 2 * workers) / (last - first)
