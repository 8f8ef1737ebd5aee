"""LoRA adapters as checkpoints: a base whose matrices move by strength * B A, read by ranges and never written out in between.

LoRA (arXiv 2106.09685): W = W_0 + (lora_alpha / r) B A with B (out, r) and A (r, in); rsLoRA (arXiv 2312.03732) divides by sqrt(r).
PEFT stores ``adapter_config.json`` and ``adapter_model.safetensors``, whose names are the module's with ``base_model.model.``
before and ``lora_A.weight`` or ``lora_B.weight`` after it. Whole tensors beside them (``modules_to_save``, biases) replace those of
the base.

The strength is one float64 number: the quotient rounded once, or lora_alpha / sqrt(r) as PEFT computes it. Given that, an
:class:`AdaptedCheckpoint` in a linear recipe is exactly rounded like any other operand: each product B_ik A_kj of stored numbers is
a float64 number, so the exact sum is one of r + 1 of them (see :func:`Factors.products`). What is no plain low-rank step is
refused: DoRA, biases of the low-rank layers, adapters that changed their base when they were made (PiSSA, OLoRA).
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.errors import FormatError, InputError
from farfield.weights.checkpoint import Checkpoint
from farfield.weights.header import MOST_JSON, TensorInfo, strict_json

FloatArray = NDArray[np.float64]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?")
_ALTERS_ITS_BASE = re.compile(r"pissa|olora|corda|lora_ga|loftq", re.IGNORECASE)
_LONGEST_PATTERN = 1000
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")  # (a+)+ takes time exponential in the name it is tried on
_BLOCK = 1 << 18  # elements compared at a time
_KEPT = 8  # tensors whose factors stay in memory; at least as many as threads work on


@dataclass(frozen=True)
class _Pair:
    """Where a tensor's factors lie and how they enter."""

    down: str  # A
    up: str  # B
    strength: float
    transposed: bool  # the weight is stored as (in, out), or is an embedding: the step is (B A) transposed


class Factors:
    """strength * left @ right, the step of one tensor as a matrix of its first axis by all others."""

    def __init__(self, left: NDArray[np.float32], right: NDArray[np.float32], strength: float) -> None:
        self.left, self.right, self.strength = left, right, strength  # (m, r), (r, n)
        self.bound = abs(strength) * _largest_row(left) * float(np.abs(right).max(initial=0.0))

    @property
    def rank(self) -> int:
        return int(self.right.shape[0])

    def step(self, start: int, stop: int, *, ordered: bool = True) -> FloatArray:
        """Elements start .. stop of the step, in float64; `ordered` sums over the rank in turn, the same for any range."""
        n = self.right.shape[1]
        first, last = start // n, -(-stop // n)
        left = self.left[first:last].astype(np.float64)
        right = self.right.astype(np.float64)
        if ordered:
            out = np.zeros((last - first, n))
            for k in range(self.rank):
                out += left[:, k, None] * right[k]
        else:
            out = left @ right
        out *= self.strength
        flat: FloatArray = out.reshape(-1)[start - first * n : stop - first * n]
        return flat

    def products(self, at: NDArray[np.intp]) -> list[FloatArray]:
        """The r products whose sum, times the strength, is the step at these elements; each is exact."""
        row, column = np.divmod(at, self.right.shape[1])
        return [self.left[row, k].astype(np.float64) * self.right[k, column].astype(np.float64) for k in range(self.rank)]


class AdaptedCheckpoint(Checkpoint):
    """A base checkpoint with a LoRA adapter on it; reads as the adapted model, in float64.

    Attributes
    ----------
    path : the adapter's directory
    adapted : names of the tensors that the adapter moves
    replaced : names of those it replaces whole
    """

    def __init__(self, base: Checkpoint, path: Path, pairs: Mapping[str, _Pair], whole: Mapping[str, str], own: Checkpoint) -> None:
        self.path, self.base, self._own, self._pairs, self._whole = path, base, own, dict(pairs), dict(whole)
        self.index_name, self.shards, self.metadata, self.side_files = base.index_name, base.shards, base.metadata, base.side_files
        self.tied, self.unindexed, self.quantised = base.tied, base.unindexed, base.quantised
        self._files = {s: base.file(s) for s in base.shards}
        tensors = dict(base.tensors)
        for name, source in whole.items():
            there, info = base.tensors[name], own.tensors[source]
            tensors[name] = TensorInfo(name, info.dtype, info.shape, info.nbytes, there.shard, there.offset)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self._factors: dict[str, Factors] = {}
        self._lock = threading.Lock()
        self._descriptors = {}

    @classmethod
    def on(cls, path: str | os.PathLike[str], base: Checkpoint) -> Self:
        """The adapter in a directory, on its base; headers and the configuration are read, and everything is checked.

        Raises
        ------
        InputError : an adapter of another kind (not LoRA, DoRA, one that altered its base), or one that does not fit this base
        FormatError : a damaged configuration or file
        """
        folder = Path(os.path.abspath(path))
        config = _read_config(folder / CONFIG)
        file = folder / WEIGHTS
        if not file.is_file():
            other = " (only adapter_model.bin, which could run code when read)" if (folder / "adapter_model.bin").exists() else ""
            raise InputError(f"{folder} has no {WEIGHTS}{other}; save the adapter with safetensors")
        own = Checkpoint.open(file)
        pairs, whole = _matched(folder, config, own, base)
        return cls(base, folder, pairs, whole, own)

    def __repr__(self) -> str:
        return f"AdaptedCheckpoint({str(self.path)!r} on {str(self.base.path)!r}, {len(self._pairs)} tensors adapted)"

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(self._pairs)

    @property
    def replaced(self) -> tuple[str, ...]:
        return tuple(self._whole)

    @property
    def files(self) -> list[Path]:
        """The files that are its own, not the base's."""
        return [*self._own.files, self.path / CONFIG]

    def factors(self, name: str) -> Factors | None:
        """The low-rank step of this tensor, or None where it has none."""
        pair = self._pairs.get(name)
        if pair is None:
            return None
        with self._lock:
            found = self._factors.get(name)
        if found is None:
            down, up = (self._matrix(side) for side in (pair.down, pair.up))
            up, down = up.reshape(-1, down.shape[0]), down.reshape(down.shape[0], -1)
            found = Factors(down.T, up.T, pair.strength) if pair.transposed else Factors(up, down, pair.strength)
            with self._lock:
                while len(self._factors) >= _KEPT:
                    self._factors.pop(next(iter(self._factors)))
                self._factors[name] = found
        return found

    def _matrix(self, name: str) -> NDArray[np.float32]:
        info = self._own.tensors[name]
        return formats.widen_float32(self._own.read(name), info.dtype).reshape(info.shape)

    def read(self, name: str, start: int = 0, stop: int | None = None, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Raw bits of a tensor that the adapter leaves alone or replaces; InputError for one that it moves, which has none."""
        if name in self._pairs:
            raise InputError(f"{name!r} is adapted and stored nowhere; read_float64 gives its values")
        if name in self._whole:
            return self._own.read(self._whole[name], start, stop, out=out)
        return self.base.read(name, start, stop, out=out)

    def read_float64(self, name: str, start: int = 0, stop: int | None = None, *, ordered: bool = True) -> FloatArray:
        """Values of the adapted model in float64, the same for any range unless `ordered` is False, which is faster."""
        if name in self._whole:
            return self._own.read_float64(self._whole[name], start, stop)
        values = self.base.read_float64(name, start, stop)
        factors = self.factors(name)
        if factors is not None and values.size:
            values += factors.step(start, start + values.size, ordered=ordered)
        return values

    def read_bytes(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of a tensor that the adapter leaves alone or replaces; raises as :meth:`read`."""
        if name in self._pairs:
            raise InputError(f"{name!r} is adapted and stored nowhere; read_float64 gives its values")
        return (
            self._own.read_bytes(self._whole[name], start, stop) if name in self._whole else self.base.read_bytes(name, start, stop)
        )

    def close(self) -> None:
        """Close the adapter's file; the base is its own."""
        self._own.close()


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether this is a directory with an adapter's configuration and no weights of a whole model."""
    folder = Path(path)
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def _largest_row(left: NDArray[np.float32]) -> float:
    return float(np.abs(left).sum(axis=1, dtype=np.float64).max(initial=0.0))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) > MOST_JSON:
        raise FormatError(f"{path} is {len(text)} bytes long; allowed: up to {MOST_JSON}")
    config = strict_json(text, str(path))
    if not isinstance(config, dict):
        raise FormatError(f"{path} holds no JSON object")
    kind = str(config.get("peft_type", "LORA")).upper()
    initial = config.get("init_lora_weights")
    if kind != "LORA":
        raise InputError(f"{path} is an adapter of type {kind}; only LORA is a low-rank step that can be added to weights")
    if config.get("use_dora"):
        raise InputError(f"{path} uses DoRA, which rescales the base as well; merge it into its base with PEFT first")
    if isinstance(initial, str) and _ALTERS_ITS_BASE.search(initial):
        raise InputError(
            f"{path} was initialised by {initial}, which changed the base it was trained on; convert it to plain LoRA first"
        )
    if config.get("layer_replication"):
        raise InputError(f"{path} replicates layers of its base; only adapters on the base as it is are allowed")
    return config


def _matched(folder: Path, config: Mapping[str, Any], own: Checkpoint, base: Checkpoint) -> tuple[dict[str, _Pair], dict[str, str]]:
    """The base's tensors that the adapter moves and replaces; every tensor of the adapter is used or refused."""
    sides: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    strange: list[str] = []
    for name in own.tensors:
        plain = name.removeprefix(_PREFIX)
        found = _FACTOR.fullmatch(plain)
        if found:
            sides.setdefault(found["module"], {})[found["side"]] = name
            if found["embedding"]:
                sides[found["module"]]["embedding"] = name
        elif "lora_" in plain:
            strange.append(name)
        else:
            whole[plain.replace(".modules_to_save.", ".").replace(".base_layer.", ".")] = name
    if strange:
        raise InputError(
            f"{folder}: {strange[0]!r} is no plain low-rank step (DoRA or a bias); merge it into its base with PEFT first"
        )
    if not sides and not whole:
        raise InputError(f"{folder} holds no tensors")
    shift = _shift([*(f"{m}.weight" for m in sides), *whole], base, folder)
    pairs: dict[str, _Pair] = {}
    for module, found_sides in sides.items():
        if not {"A", "B"} <= set(found_sides):
            raise InputError(f"{folder}: {module} has only one of lora_A and lora_B; the file is not complete")
        target = f"{module}.weight".removeprefix(shift)
        down, up = own.tensors[found_sides["A"]], own.tensors[found_sides["B"]]
        transposed = bool(config.get("fan_in_fan_out")) or "embedding" in found_sides
        _check_fit(folder, target, base.tensors[target].shape, up, down, transposed)
        strength = _strength(folder, config, module, down.shape[0])
        pairs[target] = _Pair(found_sides["A"], found_sides["B"], strength, transposed)
    out: dict[str, str] = {}
    for plain, name in whole.items():
        target = plain.removeprefix(shift)
        if target in pairs:
            if _equal(own, name, base, target):  # PEFT stores an adapted embedding's base as well
                continue
            raise InputError(f"{folder} both moves and replaces {target!r}; merge it into its base with PEFT first")
        if base.tensors[target].shape != own.tensors[name].shape:
            raise InputError(
                f"{folder} replaces {target!r} of shape {base.tensors[target].shape} by {own.tensors[name].shape}; "
                "the vocabulary was resized: merge it into its base with PEFT first"
            )
        out[target] = name
    return pairs, out


def _equal(own: Checkpoint, name: str, base: Checkpoint, target: str) -> bool:
    size = base.tensors[target].size
    return own.tensors[name].shape == base.tensors[target].shape and all(
        np.array_equal(own.read_float64(name, at, min(at + _BLOCK, size)), base.read_float64(target, at, min(at + _BLOCK, size)))
        for at in range(0, size, _BLOCK)
    )


def _shift(names: list[str], base: Checkpoint, folder: Path) -> str:
    """The prefix ("" or the first part of the name) that the adapter's names have and the base's do not."""
    for shift in ("", f"{names[0].split('.')[0]}."):
        missing = [n for n in names if n.removeprefix(shift) not in base.tensors]
        if not missing:
            return shift
    first = next(n for n in names if n not in base.tensors)
    tied = f"; it shares {base.tied[first]!r}, adapt that one" if first in base.tied else "; give the base it was trained on"
    raise InputError(f"{folder} adapts {first!r}, which {base.path} does not store{tied}")


def _check_fit(folder: Path, target: str, shape: tuple[int, ...], up: TensorInfo, down: TensorInfo, transposed: bool) -> None:
    for info in (up, down):
        if info.dtype not in ("F32", "F16", "BF16"):
            raise InputError(f"{folder}: {info.name!r} is {info.dtype}; allowed: F32, F16, BF16")
    fits = len(up.shape) >= 2 and len(down.shape) >= 2 and down.shape[0] > 0 and math.prod(up.shape[1:]) == down.shape[0]
    step = (up.shape[0], *down.shape[1:])
    if not fits or (step[::-1] if transposed else step) != shape:
        raise InputError(
            f"{folder}: lora_B {up.shape} and lora_A {down.shape} make no step for {target!r} of shape {shape}; "
            "give the base it was trained on"
        )


def _strength(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _patterned(folder, config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FormatError(f"{folder / CONFIG}: lora_alpha is {alpha!r}; allowed: a finite number")
    stated = _patterned(folder, config, "rank_pattern", module, config.get("r", rank))
    if stated != rank:
        raise FormatError(f"{folder}: the rank of {module} is {rank}, and {CONFIG} says {stated!r}")
    return float(alpha) / math.sqrt(rank) if config.get("use_rslora") else float(Fraction(alpha) / rank)


def _patterned(folder: Path, config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value for this module in a table of patterns, the first that ends the module's name, or the default."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise FormatError(f"{folder / CONFIG}: {key} is {table!r}; allowed: an object")
    for pattern, value in table.items():
        if len(pattern) > _LONGEST_PATTERN or _REPEATED_GROUP.search(pattern):
            raise FormatError(f"{folder / CONFIG}: {key} holds {pattern[:60]!r}; allowed: short patterns without repeated groups")
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise FormatError(f"{folder / CONFIG}: {key} holds {pattern!r}, which is no regular expression: {error}") from None
        if matches:
            return value
    return default
