"""Safetensors files written by hand, byte by byte, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def raw_file(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """Bytes of a file with this header (an object, or its bytes) and, if given, another length in front."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def write_file(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str] | None = None) -> None:
    """A file of name -> (dtype, raw array), in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body = b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        header[name] = entry(dtype, array.shape, len(body), len(body) + len(data))
        body += data
    path.write_bytes(raw_file(header, body))


def write_index(directory: Path, weight_map: Mapping[str, str], name: str = "model.safetensors.index.json") -> None:
    (directory / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": dict(weight_map)}))
