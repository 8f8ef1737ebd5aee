"""base + edits of deltas, as a stream: chunks of every operand are read, combined in float64, rounded once and written.

Everything that can be wrong with the inputs is found before a byte is written (:func:`plan`); what is then streamed takes a few
chunks of memory, whatever the tensors' sizes, and comes out the same for any chunk size and number of threads. Float tensors are
merged; integer and boolean ones, and those that no edit applies to, are copied from the base as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farfield import checks, processors
from farfield.errors import InputError, unknown_name
from farfield.formats import Rounding
from farfield.weights.adapters import AdaptedCheckpoint, is_adapter
from farfield.weights.edits import DeltaEdit, survey
from farfield.weights.io import FLOAT_DTYPES, Checkpoint, CheckpointWriter, TensorInfo
from farfield.weights.kernel import Kernel, combine, views
from farfield.wording import size

__all__ = ["CHUNK", "Choose", "Plan", "combine", "dtype_named", "execute", "open_operands", "plan", "views", "write_plan"]
Choose = Callable[[str], DeltaEdit | None]
CHUNK = 1 << 18  # elements
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SPAN = 1 << 23  # elements that one thread works through before it looks what is next
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
    """What a merge will do, all of it checked.

    Attributes
    ----------
    operands : base first
    edits : of every tensor; None where it is copied
    dtypes : of the output
    rounding : ``nearest``, or ``stochastic``: to one of the two neighbours, the nearer the likelier, a function of `seed`, the
        tensor's name and the position alone; the mean over seeds is the exact result
    low : write instead what the plan without it loses by rounding, float tensors only: high + low is the result to twice the digits
    """

    operands: tuple[Checkpoint, ...]
    edits: Mapping[str, DeltaEdit | None]
    dtypes: Mapping[str, str]
    rounding: Rounding = "nearest"
    seed: int = 0
    low: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors to be written."""
        width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
        return sum(t.nbytes if t.dtype == d else t.size * width[d] for t, d in self._tensors())

    @property
    def fingerprint(self) -> str:
        """Says which files are merged, as they are now (names, sizes and times), how, and to which dtypes."""
        files = [f for o in self.operands for f in o.files]
        inputs = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        what = [(name, dtype, repr(self.edits[name])) for name, dtype in self.dtypes.items()]
        return hashlib.sha256(repr((inputs, what, self.rounding, self.seed, self.low)).encode()).hexdigest()

    def _tensors(self) -> list[tuple[TensorInfo, str]]:
        return [(t, self.dtypes[name]) for name, t in self.operands[0].tensors.items() if self.writes(name)]

    def writes(self, name: str) -> bool:
        """Whether this tensor is in the output: all are, but of what rounding loses only floats."""
        return not self.low or self.operands[0].tensors[name].dtype in FLOAT_DTYPES

    def summary(self) -> str:
        """One line: how many tensors are merged and copied, and how many bytes that makes."""
        merged = sum(e is not None for e in self.edits.values())
        return f"{merged} tensors merged, {len(self.edits) - merged} copied from the base, {size(self.nbytes)}"


def open_operands(paths: Sequence[str | os.PathLike[str]], base: int = 0) -> tuple[Checkpoint, ...]:
    """Open checkpoints, base first; a LoRA adapter among them is put on the checkpoint at `base` and reads as the adapted model.

    InputError where the same one is given twice or only adapters are, else as :meth:`Checkpoint.open` and
    :meth:`AdaptedCheckpoint.on`.
    """
    adapters = [is_adapter(path) for path in paths]
    if adapters and adapters[base]:
        raise InputError(f"{paths[base]} is an adapter, a step without its base; give the checkpoint it was trained on as the base")
    whole = {i: Checkpoint.open(path) for i, path in enumerate(paths) if not adapters[i]}
    out = [whole[i] if i in whole else AdaptedCheckpoint.on(path, whole[base]) for i, path in enumerate(paths)]
    seen: dict[tuple[int, int], str] = {}
    for path, checkpoint in zip(paths, out, strict=True):
        status = {file: os.stat(file) for file in checkpoint.files}
        for file, s in status.items():
            if (s.st_dev, s.st_ino) in seen:
                raise InputError(
                    f"{path} and {seen[s.st_dev, s.st_ino]} are the same checkpoint ({file.name}); give two different ones"
                )
        seen |= {(s.st_dev, s.st_ino): str(path) for s in status.values()}
    return tuple(out)


def plan(
    operands: Sequence[Checkpoint],
    choose: Choose,
    *,
    dtype: str | None = None,
    rounding: Rounding = "nearest",
    seed: int = 0,
) -> Plan:
    """Check that these checkpoints can be merged, and decide for each tensor how.

    Parameters
    ----------
    operands : open checkpoints, base first
    choose : tensor name -> its edit, or None to copy it from the base
    dtype : of all merged float tensors; by default each keeps its own
    rounding, seed : ``nearest`` or ``stochastic``, as :class:`Plan` has it

    Raises InputError for tensors that are missing on either side, shapes that differ, and dtypes that differ while `dtype` says not
    which to write. Tensors that are copied may be missing elsewhere.
    """
    base, models = operands[0], operands[1:]
    target = dtype_named(dtype)
    checks.choice("rounding", rounding, ("nearest", "stochastic"))
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
    return Plan(tuple(operands), edits, dtypes, rounding, seed)


def execute(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    chunk: int = CHUNK,
    threads: int | None = None,
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
    threads : how many work at a time; by default two where there are two processors
    key : says what is merged how; what a killed run of the same key left is then taken up instead of done again
    metadata : header metadata besides the base's own
    sync : make the files survive a power cut before they take their name

    Raises InputError before writing where `out` is, holds or lies in an input, exists, or its disk has too little space.
    """
    checks.count("chunk", chunk)
    threads = checks.count("threads", threads) if threads is not None else min(2, processors.usable())
    target = Path(out)
    _refuse_touching(target, plan.operands)
    base = plan.operands[0]
    layout = [
        (shard, [(name, plan.dtypes[name], shape) for name, _, shape in tensors if plan.writes(name)])
        for shard, tensors in base.layout
        if not plan.low or any(plan.writes(name) for name, _, _ in tensors)
    ]
    beside = {} if plan.low or (target.name.endswith(".safetensors") and len(layout) == 1) else base.side_files
    with CheckpointWriter(
        target, layout, {**base.metadata, **(metadata or {})}, side_files=beside, inputs=plan.operands, key=key, sync=sync
    ) as writer:
        edits = survey(plan.edits, lambda name: views(plan.operands, name))
        spans = [_spans(writer, names, edits, chunk) for names in ([name for name, _, _ in tensors] for _, tensors in layout)]
        queues = _shared_out(spans, threads)
        stop = threading.Event()

        def work(own: int) -> None:
            kernel = Kernel(plan, edits, chunk)
            prepared: tuple[str, Any] = ("", None)
            while not stop.is_set() and (span := _next(queues, own)) is not None:
                name, begin, end = span
                edit = edits[name]
                if prepared[0] != name:
                    prepared = name, None if edit is None else edit.prepare(name, views(plan.operands, name))
                step = kernel.most(name, prepared[1])
                for start in range(begin, end, step):
                    writer.write(name, start, kernel(name, prepared[1], start, min(start + step, end)))

        if threads == 1:
            work(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                try:
                    for done in as_completed([pool.submit(work, i) for i in range(threads)]):
                        done.result()
                except BaseException:
                    stop.set()
                    raise
        return writer.finish()


def _spans(
    writer: CheckpointWriter, names: Sequence[str], edits: Mapping[str, DeltaEdit | None], chunk: int
) -> list[tuple[str, int, int]]:
    """What is to be written of a file's tensors, in pieces for one thread: what is prepared for a whole tensor stays in one."""
    out = []
    for name in names:
        edit = edits[name]
        for begin, end in writer.missing(name):
            most = max(_SPAN // chunk, 1) * chunk if edit is None or edit.scope == "element" else end - begin
            out += [(name, start, min(start + most, end)) for start in range(begin, end, most)]
    return out


def _shared_out(files: Sequence[Sequence[tuple[str, int, int]]], threads: int) -> list[deque[tuple[str, int, int]]]:
    """A queue a thread, of whole files where there are enough: two threads that write to one file wait for each other."""
    queues: list[deque[tuple[str, int, int]]] = [deque() for _ in range(threads)]
    sizes = [0] * threads
    for spans in sorted(files, key=lambda f: -sum(end - begin for _, begin, end in f)):
        least = sizes.index(min(sizes))
        queues[least].extend(spans)
        sizes[least] += sum(end - begin for _, begin, end in spans)
    return queues


def _next(queues: Sequence[deque[tuple[str, int, int]]], own: int) -> tuple[str, int, int] | None:
    """The first of a thread's own queue, or, where that is done, the last of the longest of the others'."""
    try:
        return queues[own].popleft()
    except IndexError:
        pass
    while any(queues):
        try:
            return max(queues, key=len).pop()
        except IndexError:  # another thread was faster
            continue
    return None


def write_plan(
    plan: Plan, out: str | os.PathLike[str], *, low: str | os.PathLike[str] | None = None, threads: int | None = None
) -> Path:
    """Write a plan's result to `out` and, given `low`, what rounding loses to that; returns `out`.

    Each takes up what a killed run of the same plan left. Raises InputError as :func:`execute`, and for `low` with stochastic
    rounding, of which there is no fixed loss.
    """
    if low is not None:
        if plan.rounding != "nearest":
            raise InputError("low holds what rounding to nearest loses; leave out stochastic rounding or low")
        here, there = Path(os.path.realpath(out)), Path(os.path.realpath(low))
        if here == there or here in there.parents or there in here.parents:
            raise InputError(f"{low} and {out} are, hold or lie in each other; write them to two directories")
        if os.path.lexists(low) and not (Path(low).is_dir() and not any(Path(low).iterdir())):
            raise InputError(f"{low} exists; remove it or write elsewhere")
    done = execute(plan, out, threads=threads, key=plan.fingerprint)
    if low is not None:
        lost = dataclasses.replace(plan, low=True)
        execute(lost, low, threads=threads, key=lost.fingerprint)
    return done


def _refuse_touching(target: Path, operands: Sequence[Checkpoint]) -> None:
    where = Path(os.path.realpath(target))
    for operand in operands:
        inside = Path(os.path.realpath(operand.path))
        if where == inside or inside in where.parents or where in inside.parents:
            raise InputError(f"the output {target} is, holds or lies in the input {operand.path}; write to another directory")


def _some(problems: Sequence[str]) -> str:
    more = f", and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    return "; ".join(problems[:_MOST_NAMED]) + more
