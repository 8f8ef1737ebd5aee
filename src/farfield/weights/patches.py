"""Robust weight signatures (P097) on checkpoints in files: taken, put on and taken off again to the bit, a tensor at a time.

A file does not keep the order of a model's layers, so tensors are chosen by name here. Patched numbers are rounded once to the
checkpoint's own dtype; what takes the patch off is a file with the XOR of the bits before and after, and the CRC-32 of what the
patch made, so that weights that have changed since are refused instead of spoilt.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from farfield import checks, formats
from farfield.errors import FormatError, InputError, unknown_name
from farfield.formats import Raw
from farfield.weights.io import FLOAT_DTYPES, Checkpoint, CheckpointWriter
from farfield.weights.signature import RobustWeightSignature, first_layers

PathLike = str | os.PathLike[str]
_FORMAT = "farfield undo 1"
_CHUNK = 1 << 20


def extract_signature(
    pre: PathLike, standard: PathLike, robust: PathLike, *, include: str | None = None, exclude: str | None = None, bits: int = 8
) -> RobustWeightSignature:
    """The signature of one corruption, from three checkpoints; :meth:`RobustWeightSignature.extract` of the float tensors chosen.

    Raises InputError where a model lacks one of them, else as that.
    """
    with Checkpoint.open(pre) as a, Checkpoint.open(standard) as b, Checkpoint.open(robust) as c:
        shapes = {n: t.shape for n, t in a.tensors.items() if t.dtype in FLOAT_DTYPES}
        names = first_layers(shapes, None, include, exclude)
        weights = [{n: m.read_float64(n).reshape(m.info(n).shape) for n in names} for m in (a, b, c)]
    return RobustWeightSignature.extract(*weights, layers=None, bits=bits)


def apply_signature(
    model: PathLike, signature: RobustWeightSignature, out: PathLike, *, strength: float = 1.0, undo: PathLike | None = None
) -> Path:
    """Write the checkpoint `model` + strength * signature to `out`, and to `undo` what :func:`remove_signature` needs.

    Raises InputError for tensors that the model lacks, of another shape or not of floats, and where an output exists or lies on an
    input.
    """
    amount = float(checks.finite("strength", strength, ndim=0))
    with Checkpoint.open(model) as source:
        for name, patch in signature.tensors.items():
            info = source.info(name)
            if info.dtype not in FLOAT_DTYPES or info.shape != patch.shape:
                raise InputError(f"{name!r} is {info.dtype} of shape {info.shape}; the signature has floats of shape {patch.shape}")
        _refuse_undo(undo, source, Path(out))
        masks: dict[str, Raw] = {}
        made: dict[str, int] = {}
        patched: dict[str, Raw] = {}
        for name, patch in signature.tensors.items():
            before, dtype = source.read(name), source.tensors[name].dtype
            after = formats.round_to(formats.widen(before, dtype) + amount * patch.reshape(-1), dtype)
            patched[name], masks[name] = after, (before ^ after).view(np.uint8)
            made[name] = zlib.crc32(after.view(np.uint8).data)
        if undo is not None:
            layout = [(Path(undo).name, [(n, "U8", (m.size,)) for n, m in masks.items()])]
            about = {"format": "pt", "farfield": _FORMAT, "made": json.dumps(made)}
            with CheckpointWriter(undo, layout, about, inputs=[source]) as writer:
                for name, mask in masks.items():
                    writer.write(name, 0, mask)
                writer.finish()
        return _rewrite(source, patched, out)


def remove_signature(model: PathLike, undo: PathLike, out: PathLike) -> Path:
    """Write the checkpoint as it was before the patch to `out`, to the bit.

    Raises FormatError where `undo` is not what :func:`apply_signature` wrote, InputError for weights other than it made.
    """
    with Checkpoint.open(model) as source, Checkpoint.open(undo) as masks:
        if masks.metadata.get("farfield") != _FORMAT:
            raise FormatError(f"{undo} does not undo a signature; give the file that --undo of apply wrote")
        made = _made(masks.metadata.get("made", ""), undo)
        restored: dict[str, Raw] = {}
        for name, info in masks.tensors.items():
            if name not in source.tensors:
                raise unknown_name("tensor", name, source.tensors)
            after, mask = source.read(name), masks.read(name)
            if info.dtype != "U8" or after.nbytes != mask.size or zlib.crc32(after.view(np.uint8).data) != made.get(name):
                raise InputError(f"{name!r} of {model} is not what the patch made; give the patched checkpoint, unchanged since")
            restored[name] = (after.view(np.uint8) ^ mask).view(after.dtype)
        return _rewrite(source, restored, out)


def _made(text: str, path: PathLike) -> dict[str, object]:
    try:
        made = json.loads(text)
    except ValueError:
        made = None
    if not isinstance(made, dict):
        raise FormatError(f"{path} does not say what the patch made; it is damaged")
    return made


def _refuse_undo(undo: PathLike | None, source: Checkpoint, out: Path) -> None:
    if undo is None:
        return
    if not str(undo).endswith(".safetensors"):
        raise InputError(f"{undo} does not end in .safetensors; name such a file for what takes the patch off")
    where, target = Path(os.path.realpath(undo)), Path(os.path.realpath(out))
    if where == target or target in where.parents:
        raise InputError(f"{undo} is or lies in the output {out}; write it elsewhere")
    if os.path.lexists(undo) or (os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{undo if os.path.lexists(undo) else out} exists; remove it or write elsewhere")


def _rewrite(source: Checkpoint, changed: Mapping[str, Raw], out: PathLike) -> Path:
    """The checkpoint with some tensors' bits replaced, its side files with it."""
    single = str(out).endswith(".safetensors") and len(source.shards) == 1
    side = {} if single else source.side_files
    with CheckpointWriter(out, source.layout, source.metadata, side_files=side, inputs=[source]) as writer:
        for name, info in source.tensors.items():
            if name in changed:
                writer.write(name, 0, changed[name])
                continue
            for start in range(0, info.size, _CHUNK):
                writer.write(name, start, source.read(name, start, min(start + _CHUNK, info.size)))
        return writer.finish()
