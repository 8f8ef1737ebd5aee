"""A mixture whose metric has bounds, and that may end exactly there: an error of 0, an accuracy of 1, the best value so far.

A kernel has no mass at a point, so that the central interval of a run that has long been at a bound would leave out the very
value at which it stays. Here all that a mixture puts within `edge` of a bound is at the bound: Y = lower where X <= lower + edge,
upper where X >= upper - edge, and X elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.errors import InputError
from farfield.predictive import Mixture
from farfield.predictive.base import FloatArray, IntArray, listed, unlisted
from farfield.seeds import Seed


@dataclass(frozen=True, eq=False, repr=False)
class Edged(Mixture):
    """A mixture with what lies within `edge` of its bounds moved onto them.

    Parameters
    ----------
    edge : >= 0, a number or broadcastable to ``shape``; at most half the distance of the bounds. Open sides have none.

    Quantiles, draws and the distribution function are those of the moved values. Moments, the ranked score and the density are the
    mixture's: the first two differ by no more than `edge`, and a distribution with mass at a point has no density there.

    Raises InputError for an edge that is not finite, negative or too wide, and as `Mixture`.
    """

    edge: FloatArray | float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        edge = checks.numbers("edge", self.edge)
        try:
            edge = np.broadcast_to(edge, self.shape)
        except ValueError:
            raise InputError(f"edge has shape {edge.shape}; allowed: a number or the batch's {self.shape}") from None
        room = 0.5 * (np.asarray(self.upper) - np.asarray(self.lower))
        if not (np.isfinite(edge) & (edge >= 0) & (edge <= room * (1 + 1e-12))).all():
            raise InputError("edge must be finite, 0 or more, and at most half the distance of the bounds")
        object.__setattr__(self, "edge", edge)

    def __repr__(self) -> str:
        return super().__repr__().replace("Mixture", "Edged", 1)

    @property
    def _inner(self) -> tuple[FloatArray, FloatArray]:
        """The values up to which all is moved to the lower bound, and from which to the upper."""
        return np.asarray(self.lower + self.edge), np.asarray(self.upper - self.edge)

    def _moved(self, y: FloatArray) -> FloatArray:
        low, high = self._inner
        return np.where(y <= low, self.lower, np.where(y >= high, self.upper, y))

    def _quantile(self, q: FloatArray) -> FloatArray:
        return self._moved(super()._quantile(q))

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        return self._moved(super().sample(n, rng))

    def cdf(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        low, high = self._inner
        # between a bound and its edge nothing is left; at the bound itself, and beyond, all that was moved counts
        values = np.where((values >= self.lower) & (values < low), low, values)
        return super().cdf(np.where((values > high) & (values < self.upper), high, values))

    def rescaled(self, factor: ArrayLike) -> Self:
        return replace(super().rescaled(factor), edge=self.edge)

    # -- the batch ------------------------------------------------------------------------------------------------------

    def _take(self, flat: IntArray) -> Self:
        return replace(super()._take(flat), edge=np.ravel(self.edge)[flat])

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "Edged", "edge": listed(np.asarray(self.edge))}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return replace(super()._from_fields(fields), edge=unlisted(fields["edge"], np.inf))

    @classmethod
    def _joined(cls, items: Sequence[Self], join: Callable[[list[FloatArray]], FloatArray]) -> Self:
        return replace(super()._joined(items, join), edge=join([np.asarray(i.edge) for i in items]))
