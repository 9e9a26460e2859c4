"""Deterministic writers of safetensors and JSON files: equal values give equal bytes.

In:  tensors by name, string metadata. Out: files. The `safetensors` package orders metadata by a random hash, so its
files change from run to run; this writer keeps the given order.
"""

import json
import struct
from pathlib import Path

import torch

DTYPE_NAMES = {
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """`tensors` in the order given, each with its own dtype; the header is padded so that data starts 8-aligned."""
    header, blobs, offset = {"__metadata__": metadata or {"format": "pt"}}, [], 0
    # Wide types first keep every tensor aligned to its own size.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        blob = raw_bytes(tensor)
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """Little-endian bytes in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_json(path: Path, value) -> None:
    """Indented JSON with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
