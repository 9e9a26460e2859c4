"""What the programs beside this file and tools/gpu/peers.py share: what is drawn, stages of diffusers timed, tables."""
import json
import subprocess
import time
from contextlib import contextmanager

# What `dj-flux2 bench generate` draws, with its seed.
PROMPT = "A photo of a small wooden house beside a quiet lake at sunset, with mountains and pine trees in the distance"
SEED = 42


def last_json(command, env=None):
    """The object on the last line a program prints; RuntimeError with the end of what it complains about otherwise."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def timed_stages(pipeline, wait=lambda: None):
    """Lists of seconds, one for each call of a stage of diffusers' pipeline, filled while the context lasts.

    `wait` returns when the device has done what it was given; it is called before and after each stage.
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
    """`rows` are named; each has numbers by column (None where there is none), or says in a sentence why it has none.

    Below, how many times as much as in the first row the `compared` columns are in each of the others.
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
