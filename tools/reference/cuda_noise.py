#!/usr/bin/env python3
"""Writes samples of torch.randn on an NVIDIA GPU: fixtures/golden/noise_cuda.json. Needs only a GPU and torch.

    cuda_noise.py OUT.json

For each seed and length: about 64 values spread over the whole draw, with their indices, drawn in f32 and in bf16.
The order of elements depends on the GPU's number of threads if a draw is longer than that, so the file includes it.
"""

import json
import sys

import torch

SEEDS = [0, 1, 42, 2**32 - 1, 2**63 - 1]
LENGTHS = [5, 1000, 131072, 524288, 1179648, 2097152]


def main():
    gpu = torch.cuda.get_device_properties(0)
    rows = []
    for seed in SEEDS:
        for n in LENGTHS:
            draw = lambda dtype: torch.randn(
                n, device="cuda", dtype=dtype, generator=torch.Generator("cuda").manual_seed(seed)
            )
            index = sorted({*range(min(n, 8)), *range(max(0, n - 8), n), *(i * 2654435761 % n for i in range(48))})
            f32, bf16 = draw(torch.float32).cpu(), draw(torch.bfloat16).float().cpu()
            rows.append(
                {
                    "seed": seed,
                    "n": n,
                    "index": index,
                    "f32": [f32[i].item() for i in index],
                    "bf16": [bf16[i].item() for i in index],
                }
            )
    with open(sys.argv[1], "w") as f:
        f.write(
            json.dumps(
                {
                    "gpu": gpu.name,
                    "sms": gpu.multi_processor_count,
                    "threads_per_sm": gpu.max_threads_per_multi_processor,
                    "torch": torch.__version__,
                }
            )[:-1]
        )
        f.write(', "rows": [\n' + ",\n".join(json.dumps(r) for r in rows) + "\n]}\n")
    print(gpu.name, gpu.multi_processor_count, gpu.max_threads_per_multi_processor, torch.__version__, len(rows))


main()
