"""A front end is killed while a client reads events: the client goes on at the other one, and misses none."""

import json
import threading
import urllib.request

import site_of_fleet as site

STEPS = 60


def main():
    with site.running() as fleet:
        fleet.add_workers(1, "--fake-step-ms", "100")
        fronts = site.Fronts(fleet)
        request = {"prompt": "a fox", "size": "64x64", "steps": STEPS}
        job = fronts.call(0, "/api/v1/jobs", request)[2]["id"]
        first = read(fronts.running[0].base, job, 0, until=lambda event: event[1] == "step" and event[2]["step"] >= 5)
        killer = threading.Timer(0.5, fronts.running[0].kill)
        killer.start()
        # The connection breaks in the middle.
        second = read(fronts.running[0].base, job, first[-1][0], until=lambda _: False)
        killer.join()
        last = (first + second)[-1][0]
        third = read(fronts.running[1].base, job, last, until=lambda _: False)
        events = first + second + third
        numbers = [number for number, _, _ in events]
        assert numbers == sorted(set(numbers)), numbers
        names = [name for _, name, _ in events]
        assert names[-1] == "done", names
        assert all(names.count(once) == 1 for once in ("started", "image_ready", "done")), names
        assert second and third, "the front end was killed too early or too late"
        # Whoever comes late reads the same changes of state.
        late = [name for _, name, _ in read(fronts.running[1].base, job, 0, until=lambda _: False)]
        states = ("queued", "started", "image_ready", "done")
        assert [n for n in late if n in states] == [n for n in names if n in states], late
        fronts.running[0] = fleet.front()
    return f"{len(first)} + {len(second)} + {len(third)} events"


def read(base: str, job: str, after: int, until) -> list[tuple[int, str, dict]]:
    """Events as number, name and data, until the connection or the stream ends, or `until` is met."""
    headers = {"last-event-id": str(after)} if after else {}
    found, fields = [], {}
    request = urllib.request.Request(f"{base}/api/v1/jobs/{job}/events", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as stream:
            for line in stream:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                    fields = {}
                    if until(found[-1]):
                        break
    except (OSError, ValueError):
        pass
    return found
