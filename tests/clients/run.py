"""Runs all tests of clients: `run.py PROGRAM FOLDER [NAME...]`. A test is a file with a function `main`.

`speed` and `soak` are measurements of klein-mini, run by their names with a release build. `disk` mounts a small disk.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import server  # noqa: E402

TESTS = [
    "openai_python",
    "openai_node",
    "webui",
    "origin",
    "mcp_python",
    "mcp_hostile",
    "start",
    "doors",
    "fuzz",
    "attacks",
    "load",
    "durability",
    "drain",
]


if __name__ == "__main__":
    sys.exit(server.run_tests(TESTS))
