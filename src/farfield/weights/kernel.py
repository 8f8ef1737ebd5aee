"""One chunk of one tensor: operands read, combined in float64, rounded once; by the fastest way that gives the same bits.

Linear edits are exactly rounded. A pair of BF16 checkpoints takes the short way through float32 (:mod:`farfield.weights.pairs`);
what that leaves in doubt, every other dtype, and LoRA adapters are summed in float64 and decided exactly where that cannot tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw
from farfield.weights.adapters import AdaptedCheckpoint, Factors
from farfield.weights.checkpoint import Checkpoint
from farfield.weights.edits import DeltaEdit, Linear
from farfield.weights.exact import Terms, exact_product, round_combination, round_sum
from farfield.weights.pairs import PairBF16, PairNear, pair_for

if TYPE_CHECKING:
    from farfield.weights.algebra import Plan

FloatArray = NDArray[np.float64]
_LONGER = 4  # chunks that the short way takes at a time


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


class Kernel:
    """Combines chunks for one thread, in buffers that are used again."""

    def __init__(self, plan: Plan, edits: Mapping[str, DeltaEdit | None], chunk: int) -> None:
        self.plan, self.edits, self.chunk, self._longest = plan, edits, chunk, _LONGER * chunk
        self._pairs: dict[Terms, PairBF16 | PairNear | None] = {}
        self._raw: list[Raw] = []

    def most(self, name: str) -> int:
        """Elements of a tensor to combine at a time: the short way needs little memory for each, and less time for more."""
        plain = not self.plan.low and self.plan.rounding == "nearest" and isinstance(self.edits[name], Linear)
        plain &= not any(isinstance(o, AdaptedCheckpoint) for o in self.plan.operands)
        dtypes = {self.plan.dtypes[name], *(o.tensors[name].dtype for o in self.plan.operands if name in o.tensors)}
        return self._longest if plain and dtypes == {"BF16"} and len(self.plan.operands) == 2 else self.chunk

    def __call__(self, name: str, state: Any, start: int, stop: int) -> Raw:
        """Raw bits of elements start .. stop of the output's tensor, for the next call to overwrite; `state` is what the edit
        prepared."""
        plan = self.plan
        edit, dtype = self.edits[name], plan.dtypes[name]
        source = plan.operands[0].tensors[name].dtype
        factors = [o.factors(name) if isinstance(o, AdaptedCheckpoint) else None for o in plan.operands]
        if edit is None:
            if factors[0] is None and not plan.low and (plan.rounding == "nearest" or dtype == source):
                raw = plan.operands[0].read(name, start, stop)
                return raw if dtype == source else formats.round_to(formats.widen(raw, source), dtype)
            edit, factors, operands = Linear(()), factors[:1], plan.operands[:1]
        else:
            operands = plan.operands
        sources = [o.tensors[name].dtype for o in operands]
        if plan.low or plan.rounding == "stochastic":
            return self._split(edit, state, name, operands, factors, start, stop)
        if any(f is not None for f in factors):
            return _with_adapters(edit, state, name, operands, factors, start, stop, dtype)
        if dtype == "BF16" and sources == ["BF16", "BF16"]:
            done = self._pair(edit, name, state, start, stop)
            if done is not None:
                return done
        if stop - start > self.chunk:
            out = np.empty(stop - start, "<u2")
            for at in range(start, stop, self.chunk):
                out[at - start : at - start + self.chunk] = self(name, state, at, min(at + self.chunk, stop))
            return out
        chunks = [o.read_float64(name, start, stop) for o in operands]
        return combine(edit, state, chunks, start, dtype, source if len(set(sources)) == 1 else "F64")

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

    def _pair(self, edit: DeltaEdit, name: str, state: Any, start: int, stop: int) -> Raw | None:
        terms = edit.terms(state)
        if terms is None:
            return None
        if terms not in self._pairs:
            if len(self._pairs) > 3:  # weights that differ from tensor to tensor: keep few buffers
                self._pairs.clear()
            self._pairs[terms] = pair_for(terms, self._longest)
        pair = self._pairs[terms]
        if pair is None:
            return None
        if not self._raw:
            self._raw = [np.empty(self._longest, "<u2") for _ in range(2)]
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
