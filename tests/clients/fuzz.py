"""schemathesis, which makes requests from the OpenAPI document and compares the answers with it."""

import importlib.metadata
import subprocess

import server

CHECKS = "not_a_server_error,content_type_conformance,response_headers_conformance,response_schema_conformance"
# Variations are a 501 by intention. An image that is enlarged takes many seconds in a debug build on a busy machine.
OPTIONS = f"""
    --checks {CHECKS} --phases examples,coverage,fuzzing --max-examples 10 --seed 1 --workers 2 --request-timeout 60
    --no-color --suppress-health-check all --exclude-path /v1/images/variations
"""


def main():
    program = server.FOLDER / "venv/bin/schemathesis"
    if not program.exists():
        raise server.Skipped("no schemathesis")
    with server.running("--max-pixels", "65536") as running:
        command = [program, "run", f"{running.base}/openapi.json", *OPTIONS.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=480, cwd=server.FOLDER)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert running.status("/health") == 200
    return importlib.metadata.version("schemathesis")
