"""The openai package for JavaScript: see openai_node.mjs."""

import os
import pathlib
import shutil
import subprocess

import server


def main():
    node = shutil.which("node")
    if node is None or not (server.FOLDER / "node_modules/openai").is_dir():
        raise server.Skipped("no node, or no openai for it")
    # Modules are found beside the script.
    script = server.FOLDER / "openai_node.mjs"
    script.write_bytes((pathlib.Path(__file__).parent / "openai_node.mjs").read_bytes())
    (server.FOLDER / "gray.png").write_bytes(server.png())
    with server.running("--alias", "gpt-image-1=klein-4b") as running:
        environment = {**os.environ, "BASE": running.base, "IMAGE": str(server.FOLDER / "gray.png")}
        done = subprocess.run([node, str(script)], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
