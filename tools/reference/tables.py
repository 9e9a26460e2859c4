"""Tables that need no model: torch's CPU noise, and sigmas for many pairs of image tokens and steps.

Out: `noise.json`, `schedule.json`. Numbers are exact: every f32 is printed as the equal double.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu, retrieve_timesteps

from files import raw_bytes

SEEDS = [0, 1, 42, 2**32 - 1, 2**63]
# 7 takes torch's path for fewer than 16 values; for 40 and 1000, torch redraws the last block of 16.
COUNTS = [7, 16, 40, 1000, 131072, 524288]
IMAGE_TOKENS = [1, 16, 20, 24, 35, 256, 1024, 2304, 4080, 4096, 4300, 4301, 9216, 16384]
STEPS = [1, 2, 4, 8, 20, 50]


def write_noise(path: Path) -> None:
    rows = []
    for seed in SEEDS:
        for count in COUNTS:
            row = {"seed": seed, "n": count}
            for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
                noise = torch.randn(count, dtype=dtype, generator=torch.Generator("cpu").manual_seed(seed))
                row[name] = {
                    "sha256": hashlib.sha256(raw_bytes(noise)).hexdigest(),
                    "first": noise[:16].float().tolist(),
                    "last": noise[-16:].float().tolist(),
                }
            rows.append(row)
    write_rows(path, rows)


def write_schedule(pipe, path: Path) -> None:
    rows = []
    for image_tokens in IMAGE_TOKENS:
        for steps in STEPS:
            mu = compute_empirical_mu(image_seq_len=image_tokens, num_steps=steps)
            # As in the pipeline: linearly spaced before the shift.
            retrieve_timesteps(pipe.scheduler, steps, "cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
            rows.append(
                {"image_tokens": image_tokens, "steps": steps, "mu": mu, "sigmas": pipe.scheduler.sigmas.tolist()}
            )
    write_rows(path, rows)


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes a JSON array with one row per line."""
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
