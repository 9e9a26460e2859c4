"""Adapters of every kind that reduces to a matrix, and the updates that LyCORIS makes of them.

Out: `lycoris.safetensors`. For each case `CASE/lycoris_MODULE.TENSOR` as LyCORIS saves it, and `CASE/MODULE`, the
matrix that its own module adds to the weight (f32). LyCORIS uses cores (Tucker) only for kernels larger than 1x1, so
these cases call its functions. LyCORIS multiplies by the scale twice when it merges; this is what it adds when it runs.

    lora_lycoris.py OUT      only this fixture
"""

import sys
from pathlib import Path

import torch
from lycoris.functional import locon, loha, lokr
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

from files import write_safetensors

# Matrices of the tiny transformer: (out, in). The halves of the last one are swapped in BFL's layout.
MODULES = {
    "x_embedder": (64, 32),
    "transformer_blocks_1_attn_to_k": (64, 64),
    "norm_out_linear": (128, 64),
}
RANK, ALPHA = 3, 5
# On all modules: each kind with its defaults. On the first: both matrices in factors, both whole, and other splits of
# the sizes.
DEFAULTS = {
    "locon": (LoConModule, {}),
    "loha": (LohaModule, {}),
    "lokr": (LokrModule, {}),
    "full": (FullModule, {}),
}
OPTIONS = {
    "lokr_both": (LokrModule, {"decompose_both": True, "lora_dim": 2}),
    "lokr_whole": (LokrModule, {"full_matrix": True}),
    "lokr_factor_4": (LokrModule, {"factor": 4}),
    "lokr_unbalanced": (LokrModule, {"factor": 4, "unbalanced_factorization": True}),
    "loha_rs": (LohaModule, {"rs_lora": True}),
}
CORES = ["locon_core", "loha_core", "lokr_core"]


def write(path: Path) -> None:
    random = torch.Generator().manual_seed(5)
    tensors = {}
    first = next(iter(MODULES))
    cases = [(case, module) for case in DEFAULTS for module in MODULES] + [(case, first) for case in OPTIONS]
    made = [(case, module, of_module(*(DEFAULTS | OPTIONS)[case], MODULES[module], random)) for case, module in cases]
    made += [(case, first, globals()[case](*MODULES[first], random)) for case in CORES]
    for case, module, (saved, update) in made:
        tensors |= {f"{case}/lycoris_{module}.{name}": tensor for name, tensor in saved.items()}
        tensors[f"{case}/{module}"] = update.reshape(MODULES[module])
    write_safetensors(path, {name: tensor.detach().float() for name, tensor in tensors.items()})


def of_module(kind, options, shape, random):
    layer = torch.nn.Linear(shape[1], shape[0], bias=False)
    layer.weight.data.zero_()
    module = kind("name", layer, **{"lora_dim": RANK, "alpha": ALPHA} | options).eval()
    if kind is FullModule:
        update = values(shape, random)
        return {"diff": update}, update
    for parameter in module.parameters():
        parameter.data = values(parameter.shape, random)
    # What it adds to the outputs of a layer without weights, for every unit vector.
    return module.custom_state_dict(), module(torch.eye(shape[1])).T


def locon_core(rows, cols, random):
    down, up, mid = (values(shape, random) for shape in [(RANK, cols, 1, 1), (rows, RANK, 1, 1), (RANK, RANK, 1, 1)])
    saved = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid, "alpha": torch.tensor(ALPHA)}
    return saved, locon.diff_weight(down, up, mid, gamma=ALPHA / RANK)


def loha_core(rows, cols, random):
    names = ["hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a", "hada_t1", "hada_t2"]
    shapes = [(RANK, cols), (RANK, rows), (RANK, cols), (RANK, rows), (RANK, RANK, 1, 1), (RANK, RANK, 1, 1)]
    saved = {name: values(shape, random) for name, shape in zip(names, shapes)}
    update = loha.diff_weight(*saved.values(), gamma=torch.tensor(ALPHA / RANK))
    return saved | {"alpha": torch.tensor(ALPHA)}, update


def lokr_core(rows, cols, random):
    w1 = values((4, 2), random)
    a, b, core = (values(shape, random) for shape in [(RANK, rows // 4), (RANK, cols // 2), (RANK, RANK, 1, 1)])
    saved = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": core, "alpha": torch.tensor(ALPHA)}
    return saved, lokr.kron_weight(w1, None, None, None, a, b, core, scale=ALPHA / RANK)


def values(shape, random) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=random) * 0.3


if __name__ == "__main__":
    with torch.no_grad():
        write(Path(sys.argv[1]))
