"""SIGTERM under load: no new work, what runs is finished, exit code 0; a second one ends at once."""

import signal
import tempfile
import threading
import time

import server


def main():
    with tempfile.TemporaryDirectory() as folder:
        running = server.Server("--fake-step-ms", "50", state=folder)
        jobs = [running.call("/api/v1/jobs", {"prompt": "p", "size": "64x64", "steps": 20})[2]["id"] for _ in range(5)]
        while running.call(f"/api/v1/jobs/{jobs[0]}")[2]["state"] != "running":
            time.sleep(0.01)
        answers = []
        stream = threading.Thread(target=lambda: answers.append(running.call(f"/api/v1/jobs/{jobs[0]}/events")))
        stream.start()
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert running.status("/ready") == 503 and running.status("/health") == 200
        status, headers, body = running.call("/v1/images/generations", {"prompt": "p"})
        assert status == 503 and body["error"]["code"] == "draining" and int(headers["retry-after"]) >= 1
        assert running.process.wait(30) == 0
        stream.join(10)
        assert b"event: done" in answers[0][2], answers
        again = server.Server("--fake-step-ms", "1", state=folder)
        for job in jobs:
            while (state := again.call(f"/api/v1/jobs/{job}")[2]["state"]) != "done":
                assert state in ("queued", "running"), state
                time.sleep(0.02)
        assert again.stop() == 0
    twice = server.Server("--fake-step-ms", "1000")
    twice.call("/api/v1/jobs", {"prompt": "p", "size": "64x64", "steps": 900})
    time.sleep(0.3)
    twice.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert twice.process.poll() is None
    start = time.monotonic()
    twice.process.send_signal(signal.SIGTERM)
    assert twice.process.wait(5) == 130 and time.monotonic() - start < 2
    return "ok"
