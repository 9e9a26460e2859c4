"""Jobs that nobody wants any more are not drawn; a job whose message the server has lost is drawn."""

import asyncio
import json

import nats

import server
import site_of_fleet as site


def main():
    with site.running() as fleet:
        fleet.add_workers(1, "--fake-step-ms", "500")
        fronts = site.Fronts(fleet)
        slow = {"prompt": "p", "size": "64x64", "steps": 8}
        first = fronts.call(0, "/api/v1/jobs", slow)[2]["id"]
        late = [fronts.call(0, "/api/v1/jobs", {**slow, "deadline_seconds": 1})[2]["id"] for _ in range(3)]
        views = site.ended(fronts, [first, *late], 60)
        assert views[first]["state"] == "done"
        for job in late:
            view = views[job]
            assert view["state"] == "failed" and view["error"]["class"] == "deadline_exceeded", view
            assert view["images"] == [] and view["attempts"] == 0, view
        assert fleet.dead() == []
        lost = 0
        if server.LONG:
            # Front ends look after a minute of silence.
            jobs = [fronts.call(0, "/api/v1/jobs", slow)[2]["id"] for _ in range(5)]
            lost = asyncio.run(purge(fleet.address, jobs[-1]))
            assert lost >= 1
            assert all(view["state"] == "done" for view in site.ended(fronts, jobs, 180).values())
    return f"{len(late)} too late, {lost} lost and drawn"


async def purge(address: str, job: str) -> int:
    """Drop a job's message from the queue, as the server does with one that is too old."""
    client = await nats.connect(address)
    stream = client.jetstream()
    record = json.loads((await (await stream.key_value("flux_status")).get(job)).value)
    assert record["state"] == "queued", record
    assert await stream.delete_msg("FLUX_JOBS", record["seq"])
    await client.close()
    return 1
