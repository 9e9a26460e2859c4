"""Compares fixtures on disk with freshly made ones.

Checkpoints, pictures and tables must agree byte for byte. Outputs of models may differ by rounding, because another CPU
may add in another order. The bounds allow for that and are far below any real change.
"""

from pathlib import Path

import torch
from safetensors import safe_open

RELATIVE_L2 = 1e-5
SHARE_OF_PIXELS_OFF_BY_ONE = 0.001


def folders(expected: Path, made: Path) -> list[str]:
    """One line for each difference under `tiny/` and `golden/`."""
    problems = []
    there, fresh = files_under(expected), files_under(made)
    problems += [f"{name}: not made by this command" for name in sorted(there - fresh)]
    problems += [f"{name}: missing" for name in sorted(fresh - there)]
    if not there & fresh:
        problems.append("nothing to compare")
    for name in sorted(there & fresh):
        if (expected / name).read_bytes() == (made / name).read_bytes():
            continue
        if name.parts[0] == "golden" and name.suffix == ".safetensors":
            problems += [f"{name}: {problem}" for problem in golden(expected / name, made / name)]
        else:
            problems.append(f"{name}: bytes differ")
    return problems


def files_under(root: Path) -> set[Path]:
    return {p.relative_to(root) for part in ("tiny", "golden") for p in (root / part).rglob("*") if p.is_file()}


def golden(expected: Path, made: Path) -> list[str]:
    problems = []
    with safe_open(expected, "pt") as old, safe_open(made, "pt") as new:
        if old.metadata() != new.metadata():
            problems.append("metadata differs")
        if set(old.keys()) != set(new.keys()):
            return problems + [f"tensors differ: {sorted(set(old.keys()) ^ set(new.keys()))}"]
        for name in old.keys():
            if problem := tensor_problem(old.get_tensor(name), new.get_tensor(name)):
                problems.append(f"{name}: {problem}")
    return problems


def tensor_problem(old: torch.Tensor, new: torch.Tensor) -> str | None:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype} {list(old.shape)} became {new.dtype} {list(new.shape)}"
    if old.dtype == torch.uint8:
        difference = (old.int() - new.int()).abs()
        share = (difference > 0).float().mean().item()
        if difference.max() > 1 or share > SHARE_OF_PIXELS_OFF_BY_ONE:
            return f"{share:.2%} of the values differ, by up to {difference.max()}"
    elif old.is_floating_point():
        error = ((old.double() - new.double()).norm() / old.double().norm()).item()
        if not error <= RELATIVE_L2:
            return f"relative L2 difference {error:.1e}"
    elif not torch.equal(old, new):
        return "integers differ"
    return None
