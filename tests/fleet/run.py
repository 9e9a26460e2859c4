"""Runs all tests of a fleet: `run.py PROGRAM FOLDER [NAME...]`. A test is a file with a function `main`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import site_of_fleet  # noqa: E402

TESTS = ["manifests", "accounts", "events", "full", "expired", "slow", "throughput", "chaos"]


if __name__ == "__main__":
    # A disk that freezes has to be mounted.
    sys.exit(site_of_fleet.server.run_tests(TESTS, may_skip=("slow",)))
