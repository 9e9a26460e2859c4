"""Memory after many jobs of klein-mini: `JOBS=10000 run.py PROGRAM FOLDER soak` with a release build, about ten minutes.

Resident memory at the end must be within 2 % of that after a tenth of the jobs. The history is kept so short that caches
and lists are full by then. What a job of the history takes is measured by `FULL=1`, which keeps all of them.
"""

import concurrent.futures
import os
import pathlib
import tempfile

import server

JOBS = int(os.environ.get("JOBS", "10000"))
FULL = os.environ.get("FULL") == "1"
DRIFT = 0.02
# An image of 64x64 is a file of about 6 kB: so many bytes are those of about 500 jobs.
SHORT_HISTORY = ["--keep-bytes", "3MiB"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        running = server.Server(
            *([] if FULL else SHORT_HISTORY),
            state=f"{folder}/state",
            model=["-m", "klein-mini"],
            env={"XDG_CACHE_HOME": f"{folder}/cache"},
        )

        def one(number: int) -> None:
            request = {"prompt": f"a red cat, {number % 500}", "size": "64x64", "seed": number}
            status, _, answer = running.call("/v1/images/generations", request)
            assert status == 200, answer

        memory, files = {}, {}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for tenth in range(1, 11):
                first = (tenth - 1) * JOBS // 10
                list(pool.map(one, range(first, tenth * JOBS // 10)))
                count = tenth * JOBS // 10
                memory[count] = running.memory_mib()
                files[count] = len(list(pathlib.Path(f"/proc/{running.process.pid}/fd").iterdir()))
                threads = len(list(pathlib.Path(f"/proc/{running.process.pid}/task").iterdir()))
                print(f"{count:7} jobs: {memory[count]:7.1f} MiB, {files[count]} files, {threads} threads", flush=True)
        assert running.stop() == 0
    early, late = memory[JOBS // 10], memory[JOBS]
    if FULL:
        return f"{1024 * (late - early) / (0.9 * JOBS):.2f} KiB for each job that is kept"
    assert late < (1 + DRIFT) * early, f"{early:.1f} MiB after a tenth of the jobs, {late:.1f} at the end"
    return f"{early:.1f} MiB after {JOBS // 10} jobs, {late:.1f} after {JOBS}"
