"""One chunk of one tensor: operands read, combined in float64, rounded once; by the fastest way that gives the same bits.

Linear edits are exactly rounded. A pair of BF16 checkpoints takes the short way through float32 (:mod:`farfield.weights.pairs`),
other linear edits and conversions a compiled loop (:mod:`farfield.weights.sums`). What those leave in doubt, float64 and LoRA
adapters, and all of it where nothing is compiled, is summed in float64 by NumPy and decided exactly where that cannot tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw
from farfield.weights import thinned
from farfield.weights.adapters import AdaptedCheckpoint, Factors
from farfield.weights.checkpoint import Checkpoint
from farfield.weights.edits import DeltaEdit, Linear, Sparse
from farfield.weights.exact import Terms, exact_product, round_combination, round_sum
from farfield.weights.pairs import pair_for
from farfield.weights.sums import Sum

if TYPE_CHECKING:
    from farfield.weights.algebra import Plan

FloatArray = NDArray[np.float64]
_LONGER = 16  # bytes of an element's operands for which the fast ways take one chunk at a time; four of BF16 pairs
_PIECE = 1 << 16  # elements that NumPy takes at a time: their float64 arrays stay in memory that the process has already
_COPY: Terms = ((1.0, 0),)
_NOWHERE = np.empty(0, np.intp)


class View:
    """One operand's tensor, read in float64."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint, self.name = checkpoint, name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.checkpoint.tensors[self.name].shape

    @property
    def size(self) -> int:
        return self.checkpoint.tensors[self.name].size

    def read(self, start: int, stop: int) -> FloatArray:
        return self.checkpoint.read_float64(self.name, start, stop)


def views(operands: Sequence[Checkpoint], name: str) -> list[View]:
    """The tensor of this name in every operand."""
    return [View(operand, name) for operand in operands]


def combine(edit: DeltaEdit, state: Any, chunks: Sequence[FloatArray], offset: int, dtype: str, source: str = "F64") -> Raw:
    """Raw bits of base + edit for corresponding chunks of all operands; `source` is a format that holds them all."""
    total = _total(edit, state, chunks, offset)
    terms = edit.terms(state)
    if terms is None:
        return formats.round_to(total, dtype)
    return round_combination(total, chunks, terms, dtype, source)


def _total(edit: DeltaEdit, state: Any, chunks: Sequence[FloatArray], offset: int) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # what overflows is infinite, as in the inputs' own format
        return chunks[0] + edit.apply(state, chunks, offset)


Way = Callable[..., tuple[Raw, NDArray[np.intp]] | None]  # raw bits of operands -> those of the result, and elements it leaves


def _pair(terms: Terms, sources: Sequence[str], dtype: str, size: int) -> Way | None:
    return pair_for(terms, size) if {*sources, dtype} == {"BF16"} and len(sources) == 2 else None


def _sum(terms: Terms, sources: Sequence[str], dtype: str, size: int) -> Way | None:
    return Sum(terms, sources, dtype, size) if Sum.applies(terms, sources, dtype) else None


_WAYS = _pair, _sum


def _dtypes(operands: Sequence[Checkpoint], name: str) -> tuple[str, ...]:
    return tuple(o.tensors[name].dtype for o in operands)


class Kernel:
    """Combines chunks for one thread, in buffers that are used again."""

    def __init__(self, plan: Plan, edits: Mapping[str, DeltaEdit | None], chunk: int) -> None:
        self.plan, self.edits, self.chunk = plan, edits, chunk
        self._ways: dict[tuple[object, ...], Way | None] = {}
        self._raw: dict[tuple[int, str], Raw] = {}

    def most(self, name: str, state: Any) -> int:
        """Elements of a tensor to combine at a time: the fast ways need little memory for each, and less time for more."""
        edit, operands, dtype = self.edits[name], self.plan.operands, self.plan.dtypes[name]
        if edit is None:
            operands = operands[:1]
        terms, sources = _COPY if edit is None else edit.terms(state), _dtypes(operands, name)
        if terms is None or self.plan.low or self.plan.rounding != "nearest" or (edit is None and sources == (dtype,)):
            return self.chunk
        if any(isinstance(o, AdaptedCheckpoint) for o in operands):
            return self.chunk
        return self._longest(sources) if any(self._way(make, terms, sources, dtype) for make in _WAYS) else self.chunk

    def __call__(self, name: str, state: Any, start: int, stop: int) -> Raw:
        """Raw bits of elements start .. stop of the output's tensor, for the next call to overwrite; `state` is what the edit
        prepared."""
        plan = self.plan
        edit, dtype = self.edits[name], plan.dtypes[name]
        source = plan.operands[0].tensors[name].dtype
        factors = [o.factors(name) if isinstance(o, AdaptedCheckpoint) else None for o in plan.operands]
        if edit is None:
            if factors[0] is None and not plan.low and (plan.rounding == "nearest" or dtype == source):
                if dtype == source:
                    return plan.operands[0].read(name, start, stop)
                return self._plain(
                    _COPY, plan.operands[:1], name, start, stop, lambda chunks, at: formats.round_to(chunks[0], dtype)
                )
            edit, factors, operands = Linear(()), factors[:1], plan.operands[:1]
        else:
            operands = plan.operands
        if plan.low or plan.rounding == "stochastic":
            return self._split(edit, state, name, operands, factors, start, stop)
        if any(f is not None for f in factors):
            return _with_adapters(edit, state, name, operands, factors, start, stop, dtype)
        sources = _dtypes(operands, name)
        if isinstance(edit, Sparse) and thinned.applies(state, sources, dtype):
            done = thinned.combine(edit, state, self._read(operands, sources, name, start, stop), sources, dtype, start)
            if done is not None:
                return done
        common = source if len(set(sources)) == 1 else "F64"

        def slowly(chunks: Sequence[FloatArray], at: int) -> Raw:
            return combine(edit, state, chunks, at, dtype, common)

        return self._plain(edit.terms(state), operands, name, start, stop, slowly)

    def _plain(
        self,
        terms: Terms | None,
        operands: Sequence[Checkpoint],
        name: str,
        start: int,
        stop: int,
        slowly: Callable[[Sequence[FloatArray], int], Raw],
    ) -> Raw:
        """By the fast ways, the second for what the first leaves, and what is then left, or all, `slowly` from float64."""
        sources, dtype = _dtypes(operands, name), self.plan.dtypes[name]
        raws: list[Raw] = []
        out: Raw | None = None
        left = _NOWHERE
        for make in _WAYS:
            way = None if terms is None else self._way(make, terms, sources, dtype)
            if way is None:
                continue
            raws = raws or self._read(operands, sources, name, start, stop)
            done = way(*raws) if out is None else way(*(raw[left] for raw in raws))
            if done is None:
                continue
            if out is None:
                out, left = done
            else:
                out[left] = done[0]
                left = left[done[1]]
            if not left.size:
                return out
        if out is not None:
            out[left] = slowly([formats.widen(raw[left], s) for raw, s in zip(raws, sources, strict=True)], start)
            return out
        out = np.empty(stop - start, formats.format_named(dtype).raw_dtype)
        step = min(self.chunk, _PIECE)
        for at in range(start, stop, step):
            end = min(at + step, stop)
            out[at - start : end - start] = slowly([o.read_float64(name, at, end) for o in operands], at)
        return out

    def _way(self, make: Callable[..., Way | None], terms: Terms, sources: tuple[str, ...], dtype: str) -> Way | None:
        key = (make, terms, sources, dtype)
        if key not in self._ways:
            if len(self._ways) > 3:  # weights that differ from tensor to tensor: keep few buffers
                self._ways.clear()
            self._ways[key] = make(terms, sources, dtype, self._longest(sources))
        return self._ways[key]

    def _longest(self, sources: Sequence[str]) -> int:
        width = sum(formats.format_named(s).bits // 8 for s in sources)
        return max(1, _LONGER // width) * self.chunk

    def _read(self, operands: Sequence[Checkpoint], sources: Sequence[str], name: str, start: int, stop: int) -> list[Raw]:
        out = []
        for i, (operand, source) in enumerate(zip(operands, sources, strict=True)):
            buffer = self._raw.get((i, source))
            if buffer is None or buffer.size < stop - start:
                buffer = self._raw[i, source] = np.empty(stop - start, formats.format_named(source).raw_dtype)
            out.append(operand.read(name, start, stop, out=buffer))
        return out

    def _split(
        self,
        edit: DeltaEdit,
        state: Any,
        name: str,
        operands: Sequence[Checkpoint],
        factors: Sequence[Factors | None],
        start: int,
        stop: int,
    ) -> Raw:
        """Rounded at random, or what rounding to nearest loses; from the float64 sum, to a few units in its last place."""
        dtype = self.plan.dtypes[name]
        chunks = [o.read_float64(name, start, stop) for o in operands]
        total = _total(edit, state, chunks, start)
        if self.plan.rounding == "stochastic":
            key = hashlib.blake2b(f"{self.plan.seed}\0rounding\0{name}".encode(), digest_size=16).digest()
            # a counter-based generator, four numbers a count: any position can be reached without those before it
            rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8"), counter=start // 4))
            rng.random(start % 4)
            return formats.round_to(total, dtype, rounding="stochastic", rng=rng)
        if any(f is not None for f in factors):
            high = _with_adapters(edit, state, name, operands, factors, start, stop, dtype)
        else:
            high = combine(edit, state, chunks, start, dtype)
        exact = formats.widen(high, dtype)
        with np.errstate(invalid="ignore"):
            return formats.round_to(np.where(np.isfinite(exact), total - exact, 0.0), dtype)


def _with_adapters(
    edit: DeltaEdit,
    state: Any,
    name: str,
    operands: Sequence[Checkpoint],
    factors: Sequence[Factors | None],
    start: int,
    stop: int,
    dtype: str,
) -> Raw:
    """Operands with low-rank steps: a linear edit exactly rounded, as a sum over the base's numbers and the products of factors."""
    terms = edit.terms(state)
    exactly = terms is not None and dtype != "F64"
    chunks = [
        o.read_float64(name, start, stop, ordered=not exactly)
        if isinstance(o, AdaptedCheckpoint)
        else o.read_float64(name, start, stop)
        for o in operands
    ]
    total = _total(edit, state, chunks, start)
    if not exactly or terms is None:
        return formats.round_to(total, dtype)
    stored = [
        o.base.read_float64(name, start, stop) if isinstance(o, AdaptedCheckpoint) and f is not None else c
        for o, f, c in zip(operands, factors, chunks, strict=True)
    ]
    bound = 0.0
    for weight, i in terms:
        step = factors[i]
        bound += abs(weight) * (float(np.max(np.abs(stored[i]), initial=0.0)) + (step.bound if step else 0.0))
    n_terms = sum(1 + (step.rank if (step := factors[i]) else 0) for _, i in terms)

    def expanded(at: NDArray[np.intp]) -> tuple[list[FloatArray], Terms]:
        values = [s[at] for s in stored]
        where: dict[int, range] = {}
        for i, step in enumerate(factors):
            if step is not None:
                where[i] = range(len(values), len(values) + step.rank)
                values += step.products(start + at)
        out: list[tuple[float, int]] = list(terms)
        for weight, i in terms:
            step = factors[i]
            if step is not None:
                parts = [w for w in exact_product(weight, step.strength) if w]
                out += [(w, k) for k in where[i] for w in parts]
        return values, tuple(out)

    return round_sum(total, bound, n_terms, dtype, expanded)
