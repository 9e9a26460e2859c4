"""A full queue: 429 with the seconds, and everything that was accepted is done."""

import site_of_fleet as site

ROOM = 20


def main():
    with site.running() as fleet:
        site.QUEUE.extend(["--fleet-jobs", str(ROOM)])
        try:
            fleet.add_workers(1, "--fake-step-ms", "50")
            fronts = site.Fronts(fleet)
            front = fronts.running[0]
            accepted, refused = [], []
            for seed in range(2 * ROOM):
                request = {"prompt": "p", "size": "64x64", "steps": 4, "seed": seed}
                status, headers, body = front.call("/api/v1/jobs", request, headers={"idempotency-key": f"k{seed}"})
                if status == 202:
                    accepted.append(body["id"])
                else:
                    assert status == 429 and body["error"]["code"] == "queue_full", body
                    assert int(headers["retry-after"]) >= 1, headers
                    refused.append((request, seed))
            # The worker has taken a few meanwhile.
            assert ROOM <= len(accepted) < 2 * ROOM, f"{len(accepted)} of {2 * ROOM} were accepted"
            views = site.ended(fronts, accepted, 60)
            assert all(view["state"] == "done" for view in views.values())
            # Once there is room, the same request with the same key is a job.
            request, seed = refused[0]
            job = fronts.call(0, "/api/v1/jobs", request, headers={"idempotency-key": f"k{seed}"})[2]["id"]
            assert site.ended(fronts, [job], 30)[job]["state"] == "done"
        finally:
            del site.QUEUE[-2:]
    return f"{len(accepted)} accepted, {len(refused)} refused"
