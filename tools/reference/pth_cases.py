"""Small PyTorch files: those that are read, those that are refused, and the values of their tensors.

    pth_cases.py [OUT_DIR]
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).parents[2] / "fixtures/golden/pth"


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    a = torch.randn(2, 3)
    tensors = {
        "a": a,
        "h": torch.randn(4).half(),
        "b": torch.randn(3).bfloat16(),
        "i": torch.arange(5),
        "d": torch.randn(2).double(),
        "view": a.t(),
        "slice": torch.arange(10.0)[3:7],
        "scalar": torch.tensor(2.5),
    }
    state = OrderedDict(tensors)
    torch.save(state, out / "flat.pth")
    torch.save({"params_ema": state}, out / "params_ema.pth")
    torch.save({"iter": 5, "state_dict": state, "name": "x", "lr": 1e-4, "l": [1, 2, (3, 4)]}, out / "extra.pth")
    torch.save({"w": torch.nn.Parameter(a)}, out / "parameter.pth")
    torch.save(state, out / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), out / "module.pth")
    row = lambda t: {"dtype": str(t.dtype), "shape": list(t.shape), "values": t.double().flatten().tolist()}
    (out / "expected.json").write_text(json.dumps({name: row(t) for name, t in tensors.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
