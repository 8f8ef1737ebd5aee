"""Networks on disk: one safetensors file each, the weights in half precision, all that is said about them in its header.

The header's ``farfield`` is JSON: name, architecture (`Sizes`), recipe, scores. Those that ship lie in ``weights/``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from farfield.errors import FormatError, InputError, unknown_name
from farfield.files import write_atomic

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Sizes:
    """The architecture of a network: a data class of numbers and words."""

    kind: ClassVar[str] = "network"

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From plain values; FormatError for fields that do not exist."""
        try:
            return cls(**values)
        except TypeError as error:
            raise FormatError(f"not the architecture of a {cls.kind}: {error}") from error


def file_of(name: str | os.PathLike[str], shipped: Sequence[str], kind: str = "network") -> Path:
    """The file of a network that ships, or the one at that path; InputError where there is none."""
    if isinstance(name, str) and name in shipped:
        return WEIGHTS / f"{name}.safetensors"
    path = Path(name)
    if not path.is_file():
        raise unknown_name(kind, str(name), shipped) if path.suffix != ".safetensors" else InputError(f"no file {path}")
    return path


def read_about(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the header says; None where it is not the header of a network of farfield's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["farfield"])
    except (SafetensorError, KeyError, ValueError, OSError):
        return None
    return about if isinstance(about, dict) else None


def read_network(path: Path, sizes: type[Sizes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the header says, and the tensors by name; FormatError where it is not a network with an architecture of that kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["farfield"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        about["architecture"] = sizes.from_dict(about["architecture"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise FormatError(f"{path} is not a {sizes.kind} ({error}); allowed: a file of `farfield pfn train`") from error
    return about, tensors


def save_network(
    path: str | os.PathLike[str], name: str, arch: Sizes, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Write a network with its architecture and what there is to say about it."""
    from safetensors.numpy import save

    described = {"name": name, "architecture": arch.to_dict(), **about}
    half = {key: np.ascontiguousarray(value, dtype=np.float16) for key, value in tensors.items()}
    write_atomic(path, save(half, metadata={"farfield": json.dumps(described, sort_keys=True, allow_nan=False)}))
