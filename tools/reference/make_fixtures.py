#!/usr/bin/env python3
"""Generates everything under fixtures/tiny and fixtures/golden with pinned diffusers, or checks the existing files.

    make_fixtures.py            regenerate the fixtures of this repository
    make_fixtures.py --check    generate them in a temporary folder and compare

Needs the packages of requirements.txt and about 15 seconds on one core. Building and testing the project need neither.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

import compare
import gguf_blocks
import golden_cases
import inpaint
import lora
import lora_lycoris
import mini_cases
import nvfp4
import parts
import preview_decoders
import seams
import single_files
import tables
import tiny_models

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the fixtures on disk, change nothing")
    arguments = parser.parse_args()
    if not arguments.check:
        make(FIXTURES)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        problems = compare.folders(FIXTURES, Path(scratch))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "fixtures match those of pinned diffusers")
    return 1 if problems else 0


def make(out: Path) -> None:
    # One thread, so that the order of sums does not depend on the number of cores.
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tiny, golden = out / "tiny", out / "golden"

    ids = tiny_models.write_klein(tiny / "klein")
    single_files.write_single_files(tiny / "klein", tiny / "klein-bfl")
    tiny_models.write_text_encoder_fp8(tiny / "text_encoder_fp8", ids)
    tiny_models.write_vae(tiny / "vae_small_decoder", tiny_models.SMALL_DECODER)

    golden_cases.write_references(golden / "references")
    pipelines = golden_cases.load_pipelines(tiny / "klein")
    for case in golden_cases.CASES:
        golden_cases.write_case(case, pipelines, golden / "references", golden / f"{case.name}.safetensors")
    mini_cases.write(golden)
    inpaint.write(tiny / "klein", golden)
    lora.write(tiny / "klein", tiny / "lora.safetensors", golden / "lora.safetensors")
    seams.write_seams(pipelines["distilled"], golden / "seams.safetensors")
    parts.write_text_encoder_fp8(
        tiny / "text_encoder_fp8", pipelines["distilled"], golden / "text_encoder_fp8.safetensors"
    )
    parts.write_vae_small_decoder(tiny / "vae_small_decoder", golden / "vae_small_decoder.safetensors")
    tables.write_noise(golden / "noise.json")
    tables.write_schedule(pipelines["distilled"], golden / "schedule.json")
    gguf_blocks.write(golden / "gguf_blocks.safetensors")
    nvfp4.write(golden / "nvfp4.safetensors")
    lora_lycoris.write(golden / "lycoris.safetensors")
    preview_decoders.write(golden / "preview")


if __name__ == "__main__":
    sys.exit(main())
