"""Runs all tests of a fleet: `run.py PROGRAM FOLDER [NAME...]`. A test is a file with a function `main`."""

import importlib
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import site_of_fleet  # noqa: E402

TESTS = ["manifests", "accounts", "events", "full", "expired", "slow", "throughput", "chaos"]


def main() -> int:
    server = site_of_fleet.server
    server.PROGRAM, server.FOLDER = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    failed = []
    for name in sys.argv[3:] or TESTS:
        start = time.monotonic()
        try:
            result = importlib.import_module(name).main() or "ok"
        except server.Skipped as reason:
            # A test that did not run proves nothing.
            failed.append(name)
            result = f"not run: {reason}"
        except Exception as error:  # noqa: BLE001: the next test is run as well
            import traceback

            traceback.print_exc()
            failed.append(name)
            result = f"FAILED: {error}"
        print(f"{name:15} {time.monotonic() - start:6.1f} s  {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
