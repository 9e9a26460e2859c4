"""Users that may do what extras/fleet/accounts.conf allows: a fleet works with them, and they may do no more."""

import asyncio
import os
import pathlib

import nats
import nats.errors

import site_of_fleet as site

CONFIG = pathlib.Path(__file__).parent.parent.parent / "extras/fleet/accounts.conf"
PASSWORDS = {f"{user.upper()}_PASSWORD": f"secret-of-{user}" for user in ("operator", "front", "worker")}


def address(user: str) -> str:
    return f"nats://{user}:secret-of-{user}@{site.HOST}:{site.PORT}"


def main():
    os.environ.update(PASSWORDS)
    with site.running(config=str(CONFIG)) as fleet:
        fleet.address = address("operator")
        assert fleet.status()["workers"] == []
        fleet.address = address("worker")
        fleet.add_workers(1, "--fake-step-ms", "5", "--fake-fail", "poison=internal")
        fleet.address = address("front")
        fronts = site.Fronts(fleet)
        prompts = ["a fox", "poison", "a hare"]
        request = {"size": "64x64", "steps": 2}
        jobs = [fronts.call(0, "/api/v1/jobs", {**request, "prompt": prompt})[2]["id"] for prompt in prompts]
        while (states := site.states(fronts, jobs)) != ["done", "failed", "done"]:
            fleet.workers[0].restart_if_ended()
            assert "cancelled" not in states
        assert fronts.call(0, f"/api/v1/jobs/{jobs[0]}/images/0")[0] == 200
        fleet.address = address("operator")
        assert [letter["id"] for letter in fleet.dead()] == [jobs[1]]
        refused = asyncio.run(forbidden())
        denied = [line for line in (fleet.folder / "nats.log").read_text().splitlines() if "Violation" in line]
        assert len(denied) == refused, "\n".join(denied)
        # No password is in a log.
        logs = "".join(path.read_text() for path in fleet.folder.glob("worker-*.log")) + str(fronts.running[0].log)
        assert "secret-of" not in logs
    return f"{refused} subjects refused"


async def forbidden() -> int:
    """Try what nobody of a kind may do. The server says so, and that is in its log."""
    wanted = {
        "worker": [
            "flux.job.klein-4b.normal",
            "$KV.flux_keys.x",
            "flux.control.worker-0",
            "$JS.API.STREAM.DELETE.FLUX_JOBS",
        ],
        "front": ["$JS.API.CONSUMER.MSG.NEXT.FLUX_JOBS.klein-4b_normal", "$KV.flux_workers.x", "flux.control.worker-0"],
        "operator": ["$O.flux_objects.C.x"],
    }
    for user, subjects in wanted.items():
        errors = []

        async def note(error, errors=errors):
            errors.append(str(error))

        client = await nats.connect(address(user), error_cb=note)
        for subject in subjects:
            await client.publish(subject, b"")
        await client.flush()
        await asyncio.sleep(0.2)
        await client.close()
        assert len(errors) == len(subjects) and all("permissions violation" in error for error in errors), errors
    return sum(len(subjects) for subjects in wanted.values())
