"""Robust weight signatures: what training on a corruption adds beyond ordinary fine-tuning, as a patch (P097, arXiv 2302.12480).

Of every tensor, with pre-trained, standard and corruption-trained weights of one architecture,

    step = standard - pre,   robust step = robust - pre
    signature = robust step - <robust step, step> / |step|^2  step          (where step is zero: the robust step)
    patched = weights + strength * mean over signatures

Only the first layers are kept; they hold most of what corruption training changes. A signature is stored in float32 or in int8
codes with one scale a tensor (symmetric, the largest magnitude is 127). A patch is rounded once to the model's own dtype, so
subtracting it again would not restore the weights; what does is an :class:`Undo`, the XOR of the bits before and after.

Deviations: the strength enters once (the authors' code multiplies the step before the projection and again in the sum), and
statistics of batch normalisation are left alone (`exclude` their tensors): re-estimate them on data of the target.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, formats
from farfield.errors import FormatError, InputError, unknown_name
from farfield.weights.io import Checkpoint, CheckpointWriter

FloatArray = NDArray[np.float64]
Weights = Mapping[str, ArrayLike]
_FORMAT = "farfield signature 1"
_SCALE = ".scale"


@dataclass(frozen=True, eq=False)
class RobustWeightSignature:
    """A patch: float64 values by tensor name, and how many bits they are stored in (8, or 32 for float32)."""

    tensors: Mapping[str, FloatArray]
    bits: int = 32

    @classmethod
    def extract(
        cls,
        pre: Weights,
        standard: Weights,
        robust: Weights,
        *,
        layers: int | None = 5,
        include: str | None = None,
        exclude: str | None = None,
        bits: int = 32,
    ) -> Self:
        """The signature of one corruption.

        Parameters
        ----------
        pre, standard, robust : weights by name, of the same names and shapes, in the order of the layers
        layers : how many of the first layers are kept (a layer is what shares a name up to the last dot, if one of it has two axes
            or more); None keeps all
        include, exclude : regular expressions searched in tensor names, before layers are counted
        bits : 32, or 8 for int8 codes

        Raises InputError for names or shapes that differ, values that are not finite, or where no tensor is left.
        Source: section 3.2 of the paper.
        """
        if bits not in (8, 32):
            raise InputError(f"bits is {bits}; allowed: 8 or 32")
        models = [{name: np.asarray(v) for name, v in m.items()} for m in (pre, standard, robust)]
        for other in models[1:]:
            if set(other) != set(models[0]):
                raise InputError(f"the models hold different names: {sorted(set(other) ^ set(models[0]))[:3]}")
        kept = first_layers({n: v.shape for n, v in models[0].items() if v.dtype.kind == "f"}, layers, include, exclude)
        if not kept:
            raise InputError("no tensor is left to take a signature of; widen include or raise layers")
        out: dict[str, FloatArray] = {}
        for name in kept:
            before, plain, hard = (checks.finite(name, m[name]) for m in models)
            if not before.shape == plain.shape == hard.shape:
                raise InputError(f"{name!r} has shapes {before.shape}, {plain.shape} and {hard.shape} in the three models")
            out[name] = project_out(hard - before, plain - before)
        return cls(out).rounded(bits)

    def rounded(self, bits: int) -> Self:
        """With the values that storage in so many bits leaves."""
        values = {}
        for name, tensor in self.tensors.items():
            if bits == 8:
                scale = _scale(tensor)
                values[name] = np.rint(tensor / scale).clip(-127, 127) * scale
            else:
                values[name] = tensor.astype(np.float32).astype(np.float64)
        return type(self)(values, bits)

    @classmethod
    def combine(cls, signatures: Sequence[RobustWeightSignature]) -> Self:
        """The mean of several signatures of the same tensors, as float32; InputError where their tensors differ."""
        if not signatures:
            raise InputError("no signatures to combine; give one at least")
        names = signatures[0].tensors.keys()
        for other in signatures[1:]:
            if other.tensors.keys() != names:
                raise InputError(f"signatures of different tensors: {sorted(other.tensors.keys() ^ names)[:3]}; extract them alike")
            if any(other.tensors[n].shape != t.shape for n, t in signatures[0].tensors.items()):
                raise InputError("signatures of tensors of different shapes; extract them of one architecture")
        return cls({n: np.mean([s.tensors[n] for s in signatures], axis=0) for n in names}).rounded(32)

    def project(self, off: RobustWeightSignature) -> Self:
        """Without its part along another signature, tensor by tensor, as float32; InputError where their tensors differ."""
        if self.tensors.keys() != off.tensors.keys() or any(t.shape != off.tensors[n].shape for n, t in self.tensors.items()):
            raise InputError("the signatures have different tensors; extract them alike")
        return type(self)({n: project_out(t, off.tensors[n]) for n, t in self.tensors.items()}).rounded(32)

    @property
    def nbytes(self) -> int:
        """Bytes that storage takes, without headers."""
        return sum(t.size * self.bits // 8 + (4 if self.bits == 8 else 0) for t in self.tensors.values())

    def cosine(self, other: RobustWeightSignature) -> float:
        """Cosine between two signatures as long vectors over the tensors both have; 0 where one of them is zero."""
        shared = self.tensors.keys() & other.tensors.keys()
        if not shared:
            raise InputError("the signatures share no tensor; extract them of the same layers")
        product = sum(float(np.sum(self.tensors[n] * other.tensors[n])) for n in shared)
        norms = [sum(float(np.sum(s.tensors[n] ** 2)) for n in shared) ** 0.5 for s in (self, other)]
        return product / (norms[0] * norms[1]) if norms[0] * norms[1] > 0 else 0.0

    def apply(self, weights: Mapping[str, NDArray[Any]], strength: float = 1.0) -> tuple[dict[str, NDArray[Any]], Undo]:
        """weights + strength * signature, each entry rounded once to its own dtype, and what takes that back to the bit.

        Raises InputError for tensors that the model lacks, of another shape or not of floats.
        """
        amount = float(checks.finite("strength", strength, ndim=0))
        out = dict(weights)
        bits: dict[str, NDArray[np.uint8]] = {}
        for name, patch in self.tensors.items():
            if name not in weights:
                raise unknown_name("tensor", name, list(weights))
            value = np.asarray(weights[name])
            if value.shape != patch.shape or value.dtype.kind != "f":
                raise InputError(
                    f"{name!r} is {value.dtype} of shape {value.shape}; the signature has floats of shape {patch.shape}"
                )
            out[name] = (value.astype(np.float64) + amount * patch).astype(value.dtype)
            bits[name] = _bytes(value) ^ _bytes(out[name])
        return out, Undo(bits)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.safetensors`` file; raises InputError where it exists or cannot be written."""
        dtype = "I8" if self.bits == 8 else "F32"
        layout = [(n, dtype, t.shape) for n, t in self.tensors.items()]
        if self.bits == 8:
            layout += [(n + _SCALE, "F32", (1,)) for n in self.tensors]
        if not str(path).endswith(".safetensors"):
            raise InputError(f"{path} does not end in .safetensors; name such a file")
        with CheckpointWriter(path, [(Path(path).name, layout)], {"format": "pt", "farfield": _FORMAT}) as writer:
            for name, tensor in self.tensors.items():
                if self.bits == 8:
                    scale = _scale(tensor)
                    writer.write(name, 0, np.rint(tensor / scale).astype(np.int8).reshape(-1).view(np.uint8))
                    writer.write(name + _SCALE, 0, np.array([scale], "<f4").view("<u4"))
                else:
                    writer.write(name, 0, formats.round_to(tensor, "F32").reshape(-1))
            return writer.finish()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote; FormatError for any other file."""
        with Checkpoint.open(path) as file:
            if file.metadata.get("farfield") != _FORMAT:
                raise FormatError(f"{path} is no signature; write one with RobustWeightSignature.save")
            values: dict[str, FloatArray] = {}
            for name, info in file.tensors.items():
                if info.dtype == "F32" and name.endswith(_SCALE) and name.removesuffix(_SCALE) in file.tensors:
                    continue
                if info.dtype == "I8" and name + _SCALE in file.tensors:
                    codes = file.read(name).view(np.int8).astype(np.float64)
                    values[name] = (codes * file.read_float64(name + _SCALE)[0]).reshape(info.shape)
                elif info.dtype == "F32":
                    values[name] = file.read_float64(name).reshape(info.shape)
                else:
                    raise FormatError(f"{path}: {name!r} is {info.dtype} without a scale; the file is damaged")
            coded = any(t.dtype == "I8" for t in file.tensors.values())
        return cls(values, 8 if coded else 32)


@dataclass(frozen=True, eq=False)
class Undo:
    """What takes a patch back to the bit: the XOR of the patched tensors' bytes before and after."""

    bits: Mapping[str, NDArray[np.uint8]]

    def remove(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The weights as they were before the patch; InputError for tensors that are missing or of another size."""
        out = dict(weights)
        for name, mask in self.bits.items():
            if name not in weights:
                raise unknown_name("tensor", name, list(weights))
            value = np.asarray(weights[name])
            if value.nbytes != mask.size:
                raise InputError(
                    f"{name!r} takes {value.nbytes} bytes, and the patch was made to {mask.size}; give the patched weights"
                )
            out[name] = (_bytes(value) ^ mask).view(value.dtype).reshape(value.shape)
        return out


def project_out(vector: FloatArray, direction: FloatArray) -> FloatArray:
    """`vector` without its part along `direction`, both flattened; unchanged where the direction is zero."""
    norm = float(np.sum(direction * direction))
    if norm == 0:
        return vector.copy()
    out = vector - float(np.sum(vector * direction)) / norm * direction
    # once more: what rounding of the first projection leaves along the direction
    rest: FloatArray = out - float(np.sum(out * direction)) / norm * direction
    return rest


def first_layers(
    shapes: Mapping[str, tuple[int, ...]], layers: int | None, include: str | None = None, exclude: str | None = None
) -> list[str]:
    """Names of the tensors of the first layers, in order; see :meth:`RobustWeightSignature.extract`."""
    patterns = [None if p is None else _compiled(p) for p in (include, exclude)]
    names = [
        n
        for n in shapes
        if (patterns[0] is None or patterns[0].search(n)) and not (patterns[1] is not None and patterns[1].search(n))
    ]
    if layers is None:
        return names
    checks.count("layers", layers)
    order = list(dict.fromkeys(n.rpartition(".")[0] for n in names if len(shapes[n]) >= 2))
    return [n for n in names if n.rpartition(".")[0] in order[:layers]]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}") from error


def _scale(tensor: FloatArray) -> float:
    """The step of int8 codes, a float32 number; 1 where all is zero."""
    largest = float(np.abs(tensor).max(initial=0.0))
    return float(np.float32(largest / 127)) or 1.0


def _bytes(value: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
