"""What every predictive distribution can do, and what follows from its quantiles alone.

A predictive holds a *batch* of independent one-dimensional distributions of shape ``shape``, usually (n_runs, n_at). Every
method works on the whole batch at once and row by row: entry ``i`` of a result depends on entry ``i`` of the batch only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError, unknown_name
from farfield.seeds import Seed

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_KINDS: dict[str, type[Predictive]] = {}


class Predictive(ABC):
    """A batch of one-dimensional predictive distributions.

    ``y`` arguments broadcast against ``shape`` and may carry further leading axes; results have the broadcast shape.
    NaN in ``y`` gives NaN.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.__name__] = cls

    # -- what a member defines ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the batch."""

    @abstractmethod
    def mean(self) -> FloatArray:
        """Expected values, ``shape``."""

    @abstractmethod
    def std(self) -> FloatArray:
        """Standard deviations, ``shape``."""

    @abstractmethod
    def cdf(self, y: ArrayLike) -> FloatArray:
        """P(Y <= y)."""

    @abstractmethod
    def log_prob(self, y: ArrayLike) -> FloatArray:
        """Natural logarithm of the density at `y`; -inf outside the support."""

    @abstractmethod
    def crps(self, y: ArrayLike) -> FloatArray:
        """Continuous ranked probability score, the integral of (cdf(t) - 1{t >= y})^2 over t; smaller is better.

        Source: Gneiting & Raftery 2007, "Strictly proper scoring rules", section 4.2.
        """

    @abstractmethod
    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        """(n, *shape) draws; the same integer `rng` gives the same draws."""

    @abstractmethod
    def _quantile(self, q: FloatArray) -> FloatArray:
        """Quantiles at the checked levels `q` (k,), as (k, *shape)."""

    @abstractmethod
    def _take(self, flat: IntArray) -> Self:
        """The batch whose entries are those of this one, raveled, at `flat`; its shape is ``flat.shape``."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain Python values that :func:`from_dict` turns back into the same predictive; ready for strict JSON."""

    @classmethod
    @abstractmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`, without its ``kind``."""

    @classmethod
    @abstractmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        """Members of one shape, along a new first axis."""

    # -- what follows ---------------------------------------------------------------------------------------------------

    def quantile(self, q: ArrayLike) -> FloatArray:
        """Quantiles at `q` in [0, 1]: ``shape`` for a scalar q, (k, *shape) for k levels. Non-decreasing in q."""
        levels = checks.numbers("q", q)
        if levels.ndim > 1:
            raise InputError(f"q has shape {levels.shape}; allowed: a number or a (k,) array")
        if not np.all((levels >= 0) & (levels <= 1)):
            bad = levels[~((levels >= 0) & (levels <= 1))].flat[0]
            raise InputError(f"quantile level {bad:g} is not in [0, 1]")
        out = self._quantile(np.atleast_1d(levels))
        return out if levels.ndim else out[0]

    def median(self) -> FloatArray:
        """The 0.5 quantiles, ``shape``."""
        return self.quantile(0.5)

    def interval(self, level: float) -> tuple[FloatArray, FloatArray]:
        """(low, high) of the central interval that holds probability `level`, each ``shape``."""
        share = checks.level("level", level)
        low, high = self.quantile([(1 - share) / 2, (1 + share) / 2])
        return low, high

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a predictive of shape () has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Self:
        """The indexed part of the batch; anything NumPy can index an array of ``shape`` with."""
        flat = np.arange(int(np.prod(self.shape)), dtype=np.int64).reshape(self.shape)
        try:
            return self._take(np.asarray(flat[index], dtype=np.int64))
        except IndexError as error:
            raise IndexError(f"index {index!r} does not fit a predictive of shape {self.shape}: {error}") from None

    def _aligned(self, y: ArrayLike) -> FloatArray:
        """`y` as float64, broadcast against the batch."""
        values = checks.numbers("y", y)
        try:
            return np.broadcast_to(values, np.broadcast_shapes(values.shape, self.shape))
        except ValueError:
            raise InputError(f"y has shape {values.shape}, which does not broadcast against the batch {self.shape}") from None

    def _rows(self, shape: tuple[int, ...]) -> IntArray:
        """Index into the raveled batch for every entry of a result of `shape`, raveled."""
        flat = np.arange(int(np.prod(self.shape)), dtype=np.int64).reshape(self.shape)
        return np.broadcast_to(flat, shape).ravel()


def stack(items: Sequence[Predictive]) -> Predictive:
    """Predictives of one kind and shape, along a new first axis.

    Raises
    ------
    InputError : nothing to stack, or kinds or shapes differ
    """
    if not items:
        raise InputError("nothing to stack; give at least one predictive")
    first = items[0]
    for item in items:
        if type(item) is not type(first) or item.shape != first.shape:
            raise InputError(
                f"cannot stack {type(item).__name__} of shape {item.shape} on {type(first).__name__} of shape {first.shape}; "
                "kinds and shapes must agree"
            )
    return type(first)._stack(items)


def from_dict(record: Mapping[str, Any]) -> Predictive:
    """The predictive that ``to_dict`` wrote."""
    kind = str(record.get("kind"))
    if kind not in _KINDS:
        raise unknown_name("kind of predictive", kind, _KINDS)
    return _KINDS[kind]._from_fields({k: v for k, v in record.items() if k != "kind"})


def listed(values: FloatArray) -> Any:
    """Nested lists of an array, infinite entries as None (strict JSON has no infinity)."""
    if np.isfinite(values).all():
        return values.tolist()
    return None if values.ndim == 0 else [listed(np.asarray(v)) for v in values]


def unlisted(values: Any, infinity: float) -> FloatArray:
    """The inverse of :func:`listed`."""
    if isinstance(values, list):
        return np.array([unlisted(v, infinity) for v in values])
    return np.asarray(infinity if values is None else values, dtype=np.float64)
