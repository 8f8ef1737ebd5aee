"""base + edits of deltas, as a stream: chunks of every operand are read, combined in float64, rounded once and written.

Everything that can be wrong with the inputs is found before a byte is written (:func:`plan`); what is then streamed takes a few
chunks of memory, whatever the tensors' sizes, and comes out the same for any chunk size and number of threads. Float tensors are
merged; integer and boolean ones, and those that no edit applies to, are copied from the base as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield import checks, formats
from farfield.errors import InputError, unknown_name
from farfield.formats import Raw
from farfield.weights.edits import DeltaEdit
from farfield.weights.exact import PairBF16, Terms, reach_of_pair, round_combination
from farfield.weights.io import FLOAT_DTYPES, Checkpoint, CheckpointWriter, TensorInfo

Choose = Callable[[str], DeltaEdit | None]
CHUNK = 1 << 18  # elements
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MOST_NAMED = 3  # tensors that a refusal names


def dtype_named(name: str | None) -> str | None:
    """The name a file uses for a float type: ``bfloat16`` and ``BF16`` both give ``BF16``; InputError for another."""
    if name is None or name in FLOAT_DTYPES:
        return name
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]


@dataclass(frozen=True)
class Plan:
    """What a merge will do, all of it checked: `operands` (base first), the edit of every tensor (None: copied), output dtypes."""

    operands: tuple[Checkpoint, ...]
    edits: Mapping[str, DeltaEdit | None]
    dtypes: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors to be written."""
        width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
        return sum(t.nbytes if t.dtype == d else t.size * width[d] for t, d in self._tensors())

    @property
    def fingerprint(self) -> str:
        """Says which files are merged, as they are now (names, sizes and times), how, and to which dtypes."""
        files = [o.file(s) for o in self.operands for s in o.shards]
        inputs = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        what = [(name, dtype, repr(self.edits[name])) for name, dtype in self.dtypes.items()]
        return hashlib.sha256(repr((inputs, what)).encode()).hexdigest()

    def _tensors(self) -> list[tuple[TensorInfo, str]]:
        return [(t, self.dtypes[name]) for name, t in self.operands[0].tensors.items()]

    def summary(self) -> str:
        """One line: how many tensors are merged and copied, and how many bytes that makes."""
        merged = sum(e is not None for e in self.edits.values())
        return f"{merged} tensors merged, {len(self.edits) - merged} copied from the base, {self.nbytes / 1e9:.3g} GB"


def open_operands(paths: Sequence[str | os.PathLike[str]]) -> tuple[Checkpoint, ...]:
    """Open checkpoints, base first. InputError where the same one is given twice, else as :meth:`Checkpoint.open`."""
    seen: dict[tuple[int, int], str] = {}
    out = []
    for path in paths:
        checkpoint = Checkpoint.open(path)
        for shard in checkpoint.shards:
            status = os.stat(checkpoint.file(shard))
            key = (status.st_dev, status.st_ino)
            if key in seen:
                raise InputError(f"{path} and {seen[key]} are the same checkpoint ({shard}); give two different ones")
        seen |= {(s.st_dev, s.st_ino): str(path) for s in (os.stat(checkpoint.file(n)) for n in checkpoint.shards)}
        out.append(checkpoint)
    return tuple(out)


def plan(operands: Sequence[Checkpoint], choose: Choose, *, dtype: str | None = None) -> Plan:
    """Check that these checkpoints can be merged, and decide for each tensor how.

    Parameters
    ----------
    operands : open checkpoints, base first
    choose : tensor name -> its edit, or None to copy it from the base
    dtype : of all merged float tensors; by default each keeps its own

    Raises InputError for tensors that are missing on either side, shapes that differ, and dtypes that differ while `dtype` says not
    which to write. Tensors that are copied may be missing elsewhere.
    """
    base, models = operands[0], operands[1:]
    target = dtype_named(dtype)
    edits: dict[str, DeltaEdit | None] = {}
    dtypes: dict[str, str] = {}
    missing: list[str] = []
    unequal: list[str] = []
    for name, info in base.tensors.items():
        edit = choose(name) if info.dtype in FLOAT_DTYPES else None
        edits[name] = edit
        dtypes[name] = (target or info.dtype) if info.dtype in FLOAT_DTYPES else info.dtype
        if edit is None:
            continue
        for model in models:
            other = model.tensors.get(name)
            if other is None:
                missing.append(f"{name!r} is not in {model.path}")
            elif other.shape != info.shape:
                unequal.append(f"{name!r} has shape {info.shape} in {base.path} and {other.shape} in {model.path}")
            elif other.dtype != info.dtype and (target is None or other.dtype not in FLOAT_DTYPES):
                unequal.append(f"{name!r} is {info.dtype} in {base.path} and {other.dtype} in {model.path}; choose one with dtype")
    for model in models:
        missing += [f"{n!r} is in {model.path} alone" for n in model.tensors if n not in base.tensors and choose(n) is not None]
    if missing:
        raise InputError(
            f"the checkpoints do not hold the same tensors: {_some(missing)}; leave tensors out with exclude to copy them"
        )
    if unequal:
        raise InputError(f"the checkpoints do not fit together: {_some(unequal)}")
    if not any(e is not None for e in edits.values()):
        raise InputError("nothing to merge: every tensor is left out or is not of floats; widen the filter")
    return Plan(tuple(operands), edits, dtypes)


def execute(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    chunk: int = CHUNK,
    threads: int = 1,
    key: str | None = None,
    metadata: Mapping[str, str] | None = None,
    sync: bool = True,
) -> Path:
    """Write the merged checkpoint, shard by shard as the base is, its side files with it; returns the path written.

    Parameters
    ----------
    plan : from :func:`plan`
    out : a directory that does not exist or is empty, or a ``.safetensors`` file if the base is one file (which has no side files)
    chunk : elements read and written at a time
    threads : how many tensors are worked on at a time
    key : says what is merged how; what a killed run of the same key left is then taken up instead of done again
    metadata : header metadata besides the base's own
    sync : make the files survive a power cut before they take their name

    Raises InputError before writing where `out` is, holds or lies in an input, exists, or its disk has too little space.
    """
    checks.count("chunk", chunk)
    checks.count("threads", threads)
    target = Path(out)
    _refuse_touching(target, plan.operands)
    base = plan.operands[0]
    layout = [(shard, [(name, plan.dtypes[name], shape) for name, _, shape in tensors]) for shard, tensors in base.layout]
    beside = {} if target.name.endswith(".safetensors") and len(layout) == 1 else base.side_files
    with CheckpointWriter(
        target, layout, {**base.metadata, **(metadata or {})}, side_files=beside, inputs=plan.operands, key=key, sync=sync
    ) as writer:
        free = [_Kernel(plan, chunk) for _ in range(threads)]  # list operations are atomic; there are as many as threads

        def work(name: str) -> None:
            kernel = free.pop()
            try:
                ranges = writer.missing(name)
                edit = plan.edits[name]
                state = None if edit is None or not ranges else edit.prepare(name, views(plan.operands, name))
                for begin, end in ranges:
                    for start in range(begin, end, chunk):
                        writer.write(name, start, kernel(name, state, start, min(start + chunk, end)))
            finally:
                free.append(kernel)

        names = [name for _, tensors in layout for name, _, _ in tensors]
        if threads == 1:
            for name in names:
                work(name)
        else:
            with ThreadPoolExecutor(threads) as pool:
                try:
                    for _ in pool.map(work, names):
                        pass
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return writer.finish()


def _refuse_touching(target: Path, operands: Sequence[Checkpoint]) -> None:
    where = Path(os.path.realpath(target))
    for operand in operands:
        inside = Path(os.path.realpath(operand.path))
        if where == inside or inside in where.parents or where in inside.parents:
            raise InputError(f"the output {target} is, holds or lies in the input {operand.path}; write to another directory")


class View:
    """One operand's tensor, read in float64."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint, self.name = checkpoint, name

    @property
    def size(self) -> int:
        return self.checkpoint.tensors[self.name].size

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        return self.checkpoint.read_float64(self.name, start, stop)


def views(operands: Sequence[Checkpoint], name: str) -> list[View]:
    """The tensor of this name in every operand."""
    return [View(operand, name) for operand in operands]


def combine(
    edit: DeltaEdit, state: Any, chunks: Sequence[NDArray[np.float64]], offset: int, dtype: str, source: str = "F64"
) -> Raw:
    """Raw bits of base + edit for corresponding chunks of all operands; `source` is a format that holds them all."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # what overflows is infinite, as in the inputs' own format
        total = chunks[0] + edit.apply(state, chunks, offset)
    terms = edit.terms(state)
    if terms is None:
        return formats.round_to(total, dtype)
    return round_combination(total, chunks, terms, dtype, source)


class _Kernel:
    """Combines chunks for one thread, in buffers that are used again."""

    def __init__(self, plan: Plan, chunk: int) -> None:
        self.plan, self.chunk = plan, chunk
        self._pairs: dict[Terms, PairBF16 | None] = {}
        self._raw: list[Raw] = []

    def __call__(self, name: str, state: Any, start: int, stop: int) -> Raw:
        plan = self.plan
        edit, dtype = plan.edits[name], plan.dtypes[name]
        source = plan.operands[0].tensors[name].dtype
        if edit is None:
            raw = plan.operands[0].read(name, start, stop)
            return raw if dtype == source else formats.round_to(formats.widen(raw, source), dtype)
        sources = [o.tensors[name].dtype for o in plan.operands]
        if dtype == "BF16" and sources == ["BF16", "BF16"]:
            done = self._pair(edit, name, state, start, stop)
            if done is not None:
                return done
        chunks = [o.read_float64(name, start, stop) for o in plan.operands]
        return combine(edit, state, chunks, start, dtype, source if len(set(sources)) == 1 else "F64")

    def _pair(self, edit: DeltaEdit, name: str, state: Any, start: int, stop: int) -> Raw | None:
        terms = edit.terms(state)
        if terms is None:
            return None
        if terms not in self._pairs:
            if len(self._pairs) > 3:  # weights that differ from tensor to tensor: keep few buffers
                self._pairs.clear()
            self._pairs[terms] = PairBF16(terms, self.chunk) if reach_of_pair(terms) > 0 else None
        pair = self._pairs[terms]
        if pair is None:
            return None
        if not self._raw:
            self._raw = [np.empty(self.chunk, "<u2") for _ in range(2)]
        first, second = (
            operand.read(name, start, stop, out=buffer) for operand, buffer in zip(self.plan.operands, self._raw, strict=True)
        )
        done = pair(first, second)
        if done is None:
            return None
        out, left = done
        if left.size:
            chunks = [formats.widen(raw[left], "BF16") for raw in (first, second)]
            out[left] = combine(edit, state, chunks, start, "BF16", "BF16")
        return out


def _some(problems: Sequence[str]) -> str:
    more = f", and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    return "; ".join(problems[:_MOST_NAMED]) + more
