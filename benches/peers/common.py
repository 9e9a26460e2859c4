"""Shared by the benchmarks in this folder and tools/gpu/peers.py: the prompt, timing of diffusers' stages, tables."""

import json
import subprocess
import time
from contextlib import contextmanager

# Prompt and seed of `dj-flux2 bench generate`.
PROMPT = "A photo of a small wooden house beside a quiet lake at sunset, with mountains and pine trees in the distance"
SEED = 42


def last_json(command, env=None):
    """Runs a program and parses its last line of output as JSON; RuntimeError with the end of stderr if it fails."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def selected(peers, only):
    """The peers that `--only` names: the one of exactly this name, else all whose name contains it.

    >>> peers = {"diffusers bf16": 1, "diffusers bf16 compiled": 2, "flux2.c": 3}
    >>> selected(peers, "diffusers bf16")
    {'diffusers bf16': 1}
    >>> selected(peers, "compiled")
    {'diffusers bf16 compiled': 2}
    >>> selected(peers, "bf16")
    {'diffusers bf16': 1, 'diffusers bf16 compiled': 2}
    >>> selected(peers, None) == peers
    True
    """
    if only in peers:
        return {only: peers[only]}
    return {name: run for name, run in peers.items() if not only or only in name}


@contextmanager
def timed_stages(pipeline, wait=lambda: None):
    """Times the stages of diffusers' pipeline within the context: for each stage a list of seconds, one per call.

    `wait` synchronizes with the device; it is called before and after each stage.
    """
    stages = {"text": [], "reference": [], "step": [], "decode": []}
    watched = []

    def watch(owner, name, stage):
        original = getattr(owner, name)
        watched.append((owner, name, original if name in vars(owner) else None))

        def timed(*positional, **named):
            wait()
            start = time.perf_counter()
            result = original(*positional, **named)
            wait()
            stages[stage].append(time.perf_counter() - start)
            return result

        setattr(owner, name, timed)

    watch(pipeline, "encode_prompt", "text")
    watch(pipeline.vae, "encode", "reference")
    watch(pipeline.transformer, "forward", "step")
    watch(pipeline.vae, "decode", "decode")
    try:
        yield stages
    finally:
        for owner, name, original in watched:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def print_table(rows, columns, compared, digits=3):
    """Prints a table. `rows` maps names to numbers by column (or None), or to a sentence that says why there are none.

    Below it, the `compared` columns of the other rows relative to the first row.
    """
    numbers = {name: row for name, row in rows.items() if not isinstance(row, str)}
    print(f"{'seconds':28}" + "".join(f"{column:>12}" for column in columns))
    for name, row in rows.items():
        if isinstance(row, str):
            print(f"{name:28}  {row}")
        else:
            cells = ["-" if row[column] is None else format(row[column], f".{digits}f") for column in columns]
            print(f"{name:28}" + "".join(f"{cell:>12}" for cell in cells))
    first = next(iter(rows))
    if first in numbers and len(numbers) > 1:
        base = numbers.pop(first)
        print(f"\n{'times ' + first:28}" + "".join(f"{column:>12}" for column in compared))
        for name, row in numbers.items():
            ratios = [format(row[c] / base[c], ".2f") if row[c] and base[c] else "-" for c in compared]
            print(f"{name:28}" + "".join(f"{ratio:>12}" for ratio in ratios))
    print(flush=True)
