"""What recipes do to the deltas of models against their base: result = base + edit of (model - base), one algebra for all of them.

A *delta* is what a model adds to its base. An edit sees the operands' chunks in float64, base first, and returns what to add to the
base. An edit that is a linear combination of the operands says so by its `terms`, and is then rounded exactly; the others are
evaluated in float64 and rounded once.

    Linear          sum of c_i delta_i            task arithmetic (arXiv 2212.04089), ExPO (2404.16792), soups
    Slerp           along the arc between two     Shoemake 1985, per tensor
    ModelStock      t mean(delta), t from angles  arXiv 2403.19522, per tensor
    Sparse          thin out each delta, then add or let signs agree:
        Magnitude   keep the largest              TIES (2306.01708), with `elect`
        Breadcrumbs keep all but the largest and the smallest        2312.06795
        Random      drop at random, rescale by 1 / density           DARE (2311.03099)
        and what :mod:`farfield.weights.compression` keeps: signs, few singular vectors, few bits

Scope "model": the edit is shown all tensors that it applies to before the first of them is prepared (:func:`survey`).

Thresholds are exact order statistics, found in passes over the tensor in constant memory. Random masks are a function of seed,
tensor name, model and position alone, so that neither chunks nor threads nor shards change them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from farfield.errors import InputError
from farfield.weights import order
from farfield.weights.exact import Terms

FloatArray = NDArray[np.float64]
Scope = Literal["element", "tensor", "model"]
Across = Literal["tensor", "model"]
BLOCK = 1 << 16  # elements of a pass over a tensor; fixed, so that sums are the same whatever the chunks of the merge


class TensorView(Protocol):
    """One operand's tensor as `prepare` sees it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> FloatArray:
        """Elements start .. stop in row-major order, float64."""
        ...


class DeltaEdit(Protocol):
    """An edit: `prepare` looks at a whole tensor where the scope asks for it, `apply` at corresponding chunks of all operands.

    One of scope ``model`` is a :class:`ModelEdit`.
    """

    @property
    def scope(self) -> Scope: ...

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> Any:
        """What `apply` needs to know of this tensor; `tensors` are the operands, base first."""
        ...

    def apply(self, state: Any, chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        """What to add to the base, (n,); chunks (n,) of every operand from element `offset` on."""
        ...

    def terms(self, state: Any) -> Terms | None:
        """The weights whose combination of operands base + apply(...) is; None where it is none."""
        ...


@runtime_checkable
class ModelEdit(Protocol):
    """An edit of scope ``model``: told of all its tensors, it says which edit of a narrower scope it then is."""

    def survey(self, tensors: Mapping[str, Sequence[TensorView]]) -> DeltaEdit: ...


def survey(edits: Mapping[str, DeltaEdit | None], tensors: Callable[[str], Sequence[TensorView]]) -> dict[str, DeltaEdit | None]:
    """The edits of all tensors, those of scope ``model`` having seen the tensors of all edits equal to them."""
    together: dict[DeltaEdit, list[str]] = {}
    for name, edit in edits.items():
        if edit is not None and edit.scope == "model":
            together.setdefault(edit, []).append(name)
    out = dict(edits)
    for edit, names in together.items():
        if not isinstance(edit, ModelEdit):
            raise InputError(f"{type(edit).__name__} has the scope model and no survey; give it one")
        out |= dict.fromkeys(names, edit.survey({name: tensors(name) for name in names}))
    return out


@dataclass(frozen=True)
class Linear:
    """base + sum of coefficients_i (model_i - base), rounded exactly; with `base_weight` w, w - 1 times the base on top."""

    coefficients: tuple[float, ...]
    base_weight: float = 1.0
    scope: Scope = "element"

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> None:
        if len(self.coefficients) != len(tensors) - 1:
            raise InputError(f"{len(self.coefficients)} coefficients for {len(tensors) - 1} models; give one a model")

    def apply(self, state: None, chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        if not self.coefficients and self.base_weight == 1:
            return np.zeros_like(chunks[0])
        return _sum(self.coefficients, _deltas(chunks), (self.base_weight - 1) * chunks[0] if self.base_weight != 1 else None)

    def terms(self, state: None) -> Terms:
        out: list[tuple[float, int]] = [(self.base_weight, 0)]
        for i, c in enumerate(self.coefficients, 1):
            out += [(c, i), (-c, 0)]
        return tuple(out)


@dataclass(frozen=True)
class Weighted:
    """sum of weights_i operand_i, base included: a linear merge whose weights need not add up to one; rounded exactly."""

    weights: tuple[float, ...]
    scope: Scope = "element"

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> None:
        if len(self.weights) != len(tensors):
            raise InputError(f"{len(self.weights)} weights for {len(tensors)} models; give one a model")

    def apply(self, state: None, chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        return _sum(self.weights, iter(chunks)) - chunks[0]

    def terms(self, state: None) -> Terms:
        return tuple((w, i) for i, w in enumerate(self.weights))


@dataclass(frozen=True)
class Slerp:
    """From the base (t = 0) to the one model (t = 1) along the arc between the two tensors; a straight line where parallel.

    Weights sin((1 - t) a) / sin a and sin(t a) / sin a with the angle a of the flattened tensors; where |cos a| > `straight`, as in
    mergekit, 1 - t and t.
    """

    t: float
    straight: float = 0.9995
    scope: Scope = "tensor"

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> tuple[float, float]:
        if len(tensors) != 2:
            raise InputError(f"slerp is between two models; got {len(tensors)}")
        products = _products(tensors)
        norms = math.sqrt(products[0, 0] * products[1, 1])
        cosine = products[0, 1] / norms if norms > 0 else 1.0
        if not math.isfinite(cosine) or abs(cosine) > self.straight:
            return 1 - self.t, self.t
        angle = math.acos(cosine)
        return math.sin((1 - self.t) * angle) / math.sin(angle), math.sin(self.t * angle) / math.sin(angle)

    def apply(self, state: tuple[float, float], chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        return _sum(state, iter(chunks)) - chunks[0]

    def terms(self, state: tuple[float, float]) -> Terms:
        return (state[0], 0), (state[1], 1)


@dataclass(frozen=True)
class ModelStock:
    """base + t mean(delta), t = k cos / (1 + (k - 1) cos), cos the mean cosine between the k models' deltas of this tensor."""

    scope: Scope = "tensor"

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> tuple[float, ...]:
        k = len(tensors) - 1
        if k < 2:
            raise InputError(f"model stock needs a base and at least two models; got {k} model(s)")
        products = _products(tensors, of_deltas=True)
        norms = np.sqrt(np.diag(products))
        pairs = [(i, j) for i in range(k) for j in range(i)]
        cosines = [float(products[i, j] / (norms[i] * norms[j])) if norms[i] * norms[j] > 0 else 0.0 for i, j in pairs]
        cosine = max(0.0, sum(cosines) / len(pairs))
        return (k * cosine / (1 + (k - 1) * cosine) / k,) * k

    def apply(self, state: tuple[float, ...], chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        return _sum(state, _deltas(chunks))

    def terms(self, state: tuple[float, ...]) -> Terms:
        return Linear(state).terms(None)


# -- thinning -------------------------------------------------------------------------------------------------------------

Thin = Callable[[FloatArray, int], FloatArray]  # (delta chunk, offset) -> what is kept of it
Blocks = order.Blocks


class Thinning(Protocol):
    """What is kept of a delta."""

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin: ...


@dataclass(frozen=True)
class Between:
    """Keep the entries whose magnitude is at least `low` and below `high`."""

    low: float
    high: float

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Between:
        return self

    def __call__(self, d: FloatArray, offset: int) -> FloatArray:
        magnitude = np.abs(d)
        return np.where((magnitude >= self.low) & (magnitude < self.high), d, 0.0)


@dataclass(frozen=True)
class Breadcrumbs:
    """Drop the share `gamma` largest in magnitude and, of the others, the smallest, so that `density` is kept (one at least).

    Shares of each tensor, or, `across` the ``model``, of all tensors together, by one pair of thresholds.
    """

    density: float
    gamma: float = 0.01
    across: Across = "tensor"

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin:
        return self.thresholds(delta, math.prod(shape)).prepare(name, model, delta, shape)

    def thresholds(self, delta: Blocks, size: int) -> Between:
        """The magnitudes between which `size` entries are kept."""
        if not size or not _share("density", self.density):
            return Between(math.inf, math.inf)
        keep = max(1, math.floor(self.density * size + 1e-9))
        top = min(math.floor(_share("gamma", self.gamma) * size + 1e-9), size - keep)
        low, *high = order.largest(delta, [top + keep, top] if top else [keep])
        return Between(low, high[0] if high else math.inf)


@dataclass(frozen=True)
class Magnitude:
    """Keep the share `density` of entries that are largest in magnitude, and all that equal the least of them."""

    density: float
    across: Across = "tensor"

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin:
        return self.thresholds(delta, math.prod(shape)).prepare(name, model, delta, shape)

    def thresholds(self, delta: Blocks, size: int) -> Between:
        """The least magnitude that is kept of `size` entries, and infinity."""
        return Breadcrumbs(self.density, 0.0).thresholds(delta, size)


@dataclass(frozen=True)
class Random:
    """Keep each entry with probability `density`, and divide what is kept by it unless `rescale` is False.

    With `factor` k, kept entries are multiplied by k and the others, in place of being dropped, by (1 - k density) / (1 - density):
    the expectation is the delta whatever k (arXiv 2410.13841); k = 1 / density is DARE itself.
    """

    density: float
    seed: int = 0
    rescale: bool = True
    factor: float | None = None

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Drawn:
        density = _share("density", self.density)
        key = hashlib.blake2b(f"{self.seed}\0{model}\0{name}".encode(), digest_size=16).digest()
        if density in (0.0, 1.0):
            if self.factor is not None:
                raise InputError(f"density is {density:g} with a factor; allowed: above 0 and below 1")
            return Drawn(None, 0, gain=density)
        limit = min(int(density * 2.0**64), 2**64 - 1)
        if self.factor is not None:
            return Drawn(key, limit, gain=self.factor, rest=(1 - self.factor * density) / (1 - density))
        return Drawn(key, limit, over=density if self.rescale else 1.0)


@dataclass(frozen=True)
class Drawn:
    """Entries whose 64-bit draws are below `limit` times `gain` over `over`, others times `rest` or, where that is None, 0.

    Without a `key` no numbers are drawn and every entry is kept. One of `gain` and `over` is 1.
    """

    key: bytes | None
    limit: int
    gain: float = 1.0
    over: float = 1.0
    rest: float | None = None

    def draws(self, offset: int, size: int) -> NDArray[np.uint64]:
        """Uniform 64-bit numbers of the entries from `offset` on."""
        assert self.key is not None
        # a counter-based generator, four numbers a count: any position can be reached without those before it
        source = np.random.Philox(key=np.frombuffer(self.key, "<u8"), counter=offset // 4)
        return source.random_raw(size + offset % 4)[offset % 4 :]

    def __call__(self, d: FloatArray, offset: int) -> FloatArray:
        kept = d / self.over if self.gain == 1 else d * self.gain
        if self.key is None:
            return kept
        return np.where(self.draws(offset, d.size) < np.uint64(self.limit), kept, 0.0 if self.rest is None else d * self.rest)


@dataclass(frozen=True)
class Sparse:
    """base + scale times the thinned deltas, weighted: their sum, or with `elect` the mean of those that agree on the sign.

    Parameters
    ----------
    weights : one a model
    thinning : one a model
    scale : factor of the whole (lambda)
    elect : the sign of each entry is that of the weighted sum, and only the deltas of that sign enter (TIES, step 2)
    normalize : divide by the sum of the weights, with `elect` of those that agree
    """

    weights: tuple[float, ...]
    thinning: tuple[Thinning, ...]
    scale: float = 1.0
    elect: bool = False
    normalize: bool = False

    @property
    def scope(self) -> Scope:
        if any(_of_model(t) for t in self.thinning):
            return "model"
        return "element" if all(isinstance(t, Random | Between) for t in self.thinning) else "tensor"

    def survey(self, tensors: Mapping[str, Sequence[TensorView]]) -> Sparse:
        """Itself, with thresholds that hold for these tensors together in place of what is to be shared across the model."""
        size = sum(t[0].size for t in tensors.values())

        def thresholds(thinning: Thinning, model: int) -> Thinning:
            if not (isinstance(thinning, Magnitude | Breadcrumbs) and _of_model(thinning)):
                return thinning

            def delta() -> Iterator[FloatArray]:
                return chain.from_iterable(_delta_blocks(t, model) for t in tensors.values())

            return thinning.thresholds(delta, size)

        self._fits(next(iter(tensors.values())))
        return replace(self, thinning=tuple(thresholds(t, i) for i, t in enumerate(self.thinning, 1)))

    def _fits(self, tensors: Sequence[TensorView]) -> None:
        if not len(self.weights) == len(self.thinning) == len(tensors) - 1:
            raise InputError(f"{len(self.weights)} weights and {len(self.thinning)} densities for {len(tensors) - 1} models")

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> list[Thin]:
        self._fits(tensors)
        if self.normalize and not self.elect and sum(self.weights) == 0:
            raise InputError("the weights add up to 0 and cannot be normalised; set normalize = false")
        return [
            thinning.prepare(name, i, partial(_delta_blocks, tensors, i), tensors[0].shape)
            for i, thinning in enumerate(self.thinning, 1)
        ]

    def apply(self, state: list[Thin], chunks: Sequence[FloatArray], offset: int) -> FloatArray:
        parts = [w * thin(d, offset) for w, thin, d in zip(self.weights, state, _deltas(chunks), strict=True)]
        total = _sum([1.0] * len(parts), iter(parts))
        if not self.elect:
            return total * self.factor
        sign = np.sign(total)
        agreeing = [np.where(np.sign(p) == sign, p, 0.0) for p in parts]
        total = _sum([self.scale] * len(parts), iter(agreeing))
        if self.normalize:
            shares = _sum(self.weights, ((p != 0).astype(np.float64) for p in agreeing))
            total = np.divide(total, shares, out=np.zeros_like(total), where=np.abs(shares) > 1e-12)
        return total

    @property
    def factor(self) -> float:
        """Of the sum, where no sign is elected."""
        return self.scale / sum(self.weights) if self.normalize else self.scale

    def terms(self, state: list[Thin]) -> None:
        return None


def _of_model(thinning: Thinning) -> bool:
    return getattr(thinning, "across", "tensor") == "model"


# -- sums and passes ------------------------------------------------------------------------------------------------------


def _deltas(chunks: Sequence[FloatArray]) -> Iterator[FloatArray]:
    return (model - chunks[0] for model in chunks[1:])


def _sum(weights: Sequence[float], parts: Iterator[FloatArray], start: FloatArray | None = None) -> FloatArray:
    total = start
    for weight, part in zip(weights, parts, strict=True):
        scaled = weight * part
        total = scaled if total is None else np.add(total, scaled, out=total)
    assert total is not None
    return total


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value:g}; allowed: 0 to 1")
    return float(value)


def _delta_blocks(tensors: Sequence[TensorView], model: int) -> Iterator[FloatArray]:
    for start in range(0, tensors[0].size, BLOCK):
        stop = min(start + BLOCK, tensors[0].size)
        yield tensors[model].read(start, stop) - tensors[0].read(start, stop)


def _products(tensors: Sequence[TensorView], *, of_deltas: bool = False) -> FloatArray:
    """Inner products of the operands, or of the deltas, (k, k)."""
    k = len(tensors) - of_deltas
    total, spare = np.zeros((k, k)), np.empty(min(BLOCK, tensors[0].size))
    for start in range(0, tensors[0].size, BLOCK):
        rows = [t.read(start, min(start + BLOCK, tensors[0].size)) for t in tensors]
        if of_deltas:
            rows = [row - rows[0] for row in rows[1:]]
        for i in range(k):
            for j in range(i + 1):
                # a plain sum: BLAS may split it by its number of threads
                total[i, j] += float(np.sum(np.multiply(rows[i], rows[j], out=spare[: rows[i].size])))
                total[j, i] = total[i, j]
    return total
