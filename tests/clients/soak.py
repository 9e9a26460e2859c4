"""Memory after many jobs of klein-mini: `JOBS=10000 run.py PROGRAM FOLDER soak` with a release build, about ten minutes.

Resident memory at the end must be within 2 % of that after a tenth of the jobs: by then caches and lists are full.
"""

import concurrent.futures
import os
import pathlib
import tempfile

import server

JOBS = int(os.environ.get("JOBS", "10000"))
DRIFT = 0.02


def main():
    with tempfile.TemporaryDirectory() as folder:
        running = server.Server(
            state=f"{folder}/state", model=["-m", "klein-mini"], env={"XDG_CACHE_HOME": f"{folder}/cache"}
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
    assert late < (1 + DRIFT) * early, f"{early:.1f} MiB after a tenth of the jobs, {late:.1f} at the end"
    return f"{early:.1f} MiB after {JOBS // 10} jobs, {late:.1f} after {JOBS}"
