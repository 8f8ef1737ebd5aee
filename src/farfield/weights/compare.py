"""Is a checkpoint whole, and what moved between two: every byte read once, in constant memory.

:func:`verify` looks for damage (headers, index, checksums, numbers that are not finite). :func:`diff` measures the step from one
checkpoint to another, tensor by tensor and layer by layer: its norm, its share of the weights, the angle, and how many elements it
changed at all, which in bf16 is often few, since a small step is less than the spacing of the numbers.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from farfield import formats
from farfield.errors import FormatError, InputError
from farfield.weights.checkpoint import CRC_KEY, Checkpoint, raw_dtype
from farfield.weights.crc import Crc32
from farfield.weights.header import FLOAT_DTYPES, TensorInfo
from farfield.wording import count, size

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

_CHUNK = 2**18  # elements at a time
_CHUNK_BYTES = 2**20
_MOST_TICKS = 24  # names below a plot
_LAYER = re.compile(r"^(.*?\b(?:layers|layer|blocks|block|h|stages)\.\d+)\.")


@dataclass(frozen=True)
class FileCheck:
    """What was found in one file of a checkpoint.

    Attributes
    ----------
    file : its name
    tensors : how many tensors it holds
    nbytes : bytes of their bodies
    checksum : ``ok``, ``wrong``, or ``none`` where the file carries none
    not_finite : NaN and infinite numbers in its float tensors
    """

    file: str
    tensors: int
    nbytes: int
    checksum: Literal["ok", "wrong", "none"]
    not_finite: int


@dataclass(frozen=True)
class Verification:
    """Whether a checkpoint is whole.

    Attributes
    ----------
    path : what was verified
    problems : what makes it unusable, one sentence each; empty where it is whole
    notes : what is unusual and allowed
    files : one entry a file, empty where headers or index already fail
    """

    path: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[FileCheck, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """One line."""
        if not self.ok:
            return f"{self.path}: {len(self.problems)} problem{'s' * (len(self.problems) > 1)}: {'; '.join(self.problems)}"
        tensors, nbytes = sum(f.tensors for f in self.files), sum(f.nbytes for f in self.files)
        sums = sum(f.checksum == "ok" for f in self.files)
        agree = f"checksums agree for {sums} of {count(len(self.files), 'file')}" if sums else "no file states a checksum"
        return f"{self.path} is whole: {count(tensors, 'tensor')}, {size(nbytes)}, {agree}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def to_frame(self) -> pl.DataFrame:
        """One row a file."""
        import polars as pl

        schema = {"file": pl.String, "tensors": pl.Int64, "nbytes": pl.Int64, "checksum": pl.String, "not_finite": pl.Int64}
        return pl.DataFrame([asdict(f) for f in self.files], schema=schema)


def verify(path: str | os.PathLike[str]) -> Verification:
    """Read a checkpoint whole and say what is wrong with it.

    Damaged files are problems of the result, not errors. Raises InputError where there is no checkpoint or it cannot be read.
    """
    shown = os.fspath(path)
    try:
        checkpoint = Checkpoint.open(path, allow_quantised=True)
    except FormatError as error:
        return Verification(shown, (str(error),), (), ())
    problems: list[str] = []
    files: list[FileCheck] = []
    with checkpoint:
        for shard in checkpoint.shards:
            try:
                files.append(_check_file(checkpoint, shard))
            except FormatError as error:
                problems.append(str(error))
    problems += [f"{f.file}: the body does not have the checksum that its header gives" for f in files if f.checksum == "wrong"]
    notes = [f"{f.file}: {f.not_finite} numbers are not finite" for f in files if f.not_finite]
    if checkpoint.unindexed:
        notes.append(f"{len(checkpoint.unindexed)} tensors are not in the index, such as {checkpoint.unindexed[0]!a}")
    if checkpoint.quantised:
        notes.append(f"the weights are quantised: {checkpoint.quantised}")
    return Verification(shown, tuple(problems), tuple(notes), tuple(files))


def _check_file(checkpoint: Checkpoint, shard: str) -> FileCheck:
    header = checkpoint.shards[shard]
    crc, not_finite = Crc32(), 0
    for info in header.tensors:
        for start in range(0, info.nbytes, _CHUNK_BYTES):
            chunk = checkpoint.read_bytes(info.name, start, min(start + _CHUNK_BYTES, info.nbytes))
            crc.update(chunk.data)
            if info.dtype in FLOAT_DTYPES:
                values = formats.widen(chunk.view(raw_dtype(info.dtype)[0]), info.dtype)
                not_finite += int(np.count_nonzero(~np.isfinite(values)))
    recorded = header.metadata.get(CRC_KEY)
    checksum: Literal["ok", "wrong", "none"] = "none" if recorded is None else "ok" if recorded == f"{crc.value:08x}" else "wrong"
    return FileCheck(shard, len(header.tensors), header.file_size - header.body, checksum, not_finite)


@dataclass(frozen=True)
class TensorDiff:
    """The step from a tensor of `a` to that of `b`; norms are Euclidean, over all elements.

    Attributes
    ----------
    name, shape, size : the tensor and its number of elements
    dtype_a, dtype_b : how it is stored
    norm_a, norm_b, norm_step : of a, of b, of b - a; NaN for tensors that are not floats or hold numbers that are not finite
    relative : norm_step / norm_a
    cosine : of the angle between a and b
    changed : share of elements whose value, or (within one dtype) whose bits, differ
    largest : the largest absolute difference
    """

    name: str
    shape: tuple[int, ...]
    size: int
    dtype_a: str
    dtype_b: str
    norm_a: float
    norm_b: float
    norm_step: float
    relative: float
    cosine: float
    changed: float
    largest: float


@dataclass(frozen=True)
class Diff:
    """What moved between two checkpoints.

    Attributes
    ----------
    a, b : their paths
    tensors : one entry a tensor of both, in the order of `a`
    only_a, only_b : tensors of one alone
    reshaped : (name, shape in a, shape in b) of tensors that cannot be compared
    """

    a: str
    b: str
    tensors: tuple[TensorDiff, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def total(self) -> TensorDiff:
        """All tensors as one."""
        return _together("all", self.tensors)

    def layers(self) -> tuple[TensorDiff, ...]:
        """Tensors of one layer as one, in the order of their first tensor; a tensor outside the layers stands for itself."""
        groups: dict[str, list[TensorDiff]] = {}
        for tensor in self.tensors:
            found = _LAYER.match(tensor.name)
            groups.setdefault(found[1] if found else tensor.name, []).append(tensor)
        return tuple(_together(name, members) for name, members in groups.items())

    def summary(self) -> str:
        """One line."""
        t = self.total
        text = (
            f"{len(self.tensors)} tensors, {t.size} elements: {t.changed:.4g} of them changed, "
            f"step {t.norm_step:.4g} is {t.relative:.4g} of the weights, cosine {t.cosine:.6g}"
        )
        alone = [(len(self.only_a), "only in a"), (len(self.only_b), "only in b"), (len(self.reshaped), "of another shape")]
        return "; ".join([text, *(f"{n} {what}" for n, what in alone if n)])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_frame(self, by: Literal["tensor", "layer"] = "tensor") -> pl.DataFrame:
        """One row a tensor, or one a layer."""
        import polars as pl

        rows = [{**asdict(t), "shape": "x".join(map(str, t.shape))} for t in (self.tensors if by == "tensor" else self.layers())]
        text = dict.fromkeys(("name", "shape", "dtype_a", "dtype_b"), pl.String)
        schema = {name: text.get(name, pl.Int64 if name == "size" else pl.Float64) for name in TensorDiff.__dataclass_fields__}
        return pl.DataFrame(rows, schema=schema)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The relative step and the changed share of every layer."""
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(7, 4), layout="constrained")[1]
        layers = self.layers()
        ax.plot([t.relative for t in layers], marker="o", markersize=3, label="step / weights (norms)")
        ax.plot([t.changed for t in layers], marker="s", markersize=3, label="share of elements changed")
        if any(t.relative > 0 or t.changed > 0 for t in layers):
            ax.set_yscale("log")
        shown = range(0, len(layers), -(-len(layers) // _MOST_TICKS) or 1)
        ax.set_xticks(shown, [layers[i].name.removeprefix("model.") for i in shown], rotation=35, ha="right")
        ax.set_ylabel("share")
        ax.legend()
        return ax


def diff(a: str | os.PathLike[str] | Checkpoint, b: str | os.PathLike[str] | Checkpoint, *, include: str | None = None) -> Diff:
    """What moved from checkpoint `a` to checkpoint `b`.

    Parameters
    ----------
    a, b : paths or open checkpoints
    include : regular expression; only tensors in whose names it is found are compared

    A tensor that one side ties to another (an output layer that is the embedding) is compared with what it is tied to.

    Raises InputError where a path holds no checkpoint or a quantised one, the expression is none, or nothing can be compared;
    FormatError for damage.
    """
    try:
        wanted = re.compile(include or "")
    except re.error as error:
        raise InputError(f"include is {include!r}, no regular expression: {error}") from None
    first = a if isinstance(a, Checkpoint) else Checkpoint.open(a)
    second = b if isinstance(b, Checkpoint) else Checkpoint.open(b)
    try:
        return _diff(first, second, wanted)
    finally:
        for given, opened in ((a, first), (b, second)):
            if given is not opened:
                opened.close()


def _diff(a: Checkpoint, b: Checkpoint, wanted: re.Pattern[str]) -> Diff:
    tensors: list[TensorDiff] = []
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    names = [n for n in dict.fromkeys([*a.tensors, *b.tensors]) if wanted.search(n)]
    in_a, in_b = ({n: c.tied.get(n, n) for n in names if c.tied.get(n, n) in c.tensors} for c in (a, b))
    for name in names:
        if name in in_a and name in in_b:
            info_a, info_b = a.tensors[in_a[name]], b.tensors[in_b[name]]
            if info_a.shape != info_b.shape:
                reshaped.append((name, info_a.shape, info_b.shape))
            else:
                tensors.append(_diff_tensor(name, a, info_a, b, info_b))
    only_a = tuple(n for n in names if n not in in_b)
    only_b = tuple(n for n in names if n not in in_a)
    if not tensors:
        asked = f" in whose names {wanted.pattern!r} is found" if wanted.pattern else ""
        of_each = "; ".join(f"{checkpoint.path}: {', '.join(list(checkpoint.tensors)[:3])}, ..." for checkpoint in (a, b))
        raise InputError(f"the checkpoints have no tensor of one name and shape in common{asked}; they hold, {of_each}")
    return Diff(str(a.path), str(b.path), tuple(tensors), only_a, only_b, tuple(reshaped))


def _diff_tensor(name: str, a: Checkpoint, info_a: TensorInfo, b: Checkpoint, info_b: TensorInfo) -> TensorDiff:
    floats = info_a.dtype in FLOAT_DTYPES and info_b.dtype in FLOAT_DTYPES
    aa = bb = ab = dd = largest = 0.0
    changed = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, info_a.size, _CHUNK):
            stop = min(start + _CHUNK, info_a.size)
            raw_a, raw_b = a.read(info_a.name, start, stop), b.read(info_b.name, start, stop)
            if info_a.dtype == info_b.dtype:
                per_element = raw_dtype(info_a.dtype)[1]
                changed += int(np.count_nonzero((raw_a != raw_b).reshape(-1, per_element).any(axis=1)))
            if not floats:
                continue
            x, y = formats.widen(raw_a, info_a.dtype), formats.widen(raw_b, info_b.dtype)
            if info_a.dtype != info_b.dtype:
                changed += int(np.count_nonzero(x != y))
            aa, bb, ab = aa + float(x @ x), bb + float(y @ y), ab + float(x @ y)
            y -= x
            dd += float(y @ y)
            largest = float(np.maximum(largest, np.max(np.abs(y))))
    if not floats:
        aa = bb = ab = dd = largest = math.nan
        changed = info_a.size if info_a.dtype != info_b.dtype else changed
    row = (name, info_a.shape, info_a.size, info_a.dtype, info_b.dtype)
    return _measured(row, aa, bb, ab, dd, changed, largest)


def _measured(
    row: tuple[str, tuple[int, ...], int, str, str], aa: float, bb: float, ab: float, dd: float, changed: int, largest: float
) -> TensorDiff:
    norm_a, norm_b, step = (math.sqrt(v) for v in (aa, bb, dd))
    relative = step / norm_a if norm_a else (0.0 if step == 0 else math.inf)
    both = norm_a * norm_b
    cosine = float(np.clip(ab / both, -1, 1)) if both else math.nan  # NaN stays NaN
    return TensorDiff(*row, norm_a, norm_b, step, relative, cosine, changed / row[2] if row[2] else 0.0, largest)


def _together(name: str, members: Sequence[TensorDiff]) -> TensorDiff:
    """Several tensors as one long one; norms and angle are over those that have them."""
    size = sum(t.size for t in members)
    changed = round(sum(t.changed * t.size for t in members))
    known = [t for t in members if math.isfinite(t.norm_step)]
    sums = [sum(v) for v in zip(*((t.norm_a**2, t.norm_b**2, _product(t), t.norm_step**2) for t in known), strict=True)]
    aa, bb, ab, dd = sums or [math.nan] * 4
    dtypes = ["+".join(dict.fromkeys(t)) for t in ([m.dtype_a for m in members], [m.dtype_b for m in members])]
    row = (name, (size,), size, dtypes[0], dtypes[1])
    return _measured(row, aa, bb, ab, dd, changed, max((t.largest for t in known), default=math.nan))


def _product(tensor: TensorDiff) -> float:
    return 0.0 if math.isnan(tensor.cosine) else tensor.cosine * tensor.norm_a * tensor.norm_b
