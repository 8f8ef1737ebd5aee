"""Fitting curve forms to many curves at once: a grid of starts, then Levenberg-Marquardt from the best of them.

Every cell of a form's grid gets its linear coefficients by least squares; the best cells of every curve are refined to the
least-squares (or Huber) optimum, all curves and starts together. What a forecast wants instead, since far beyond the seen
points equally good fits disagree, is the average over cells of `farfield.curves.average`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.forms import Form
from farfield.errors import InputError
from farfield.leastsquares import solve

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# how many values of a shape are held at once: with temporaries about what the second-level cache takes
_BLOCK = 200_000


@dataclass(frozen=True)
class Batch:
    """Curves as padded arrays, x made positive.

    x, y, weight : (n, width) with weight 0 where a row has ended (x is then its last x, y 0)
    last : (n,) x of the last point, the unit of u
    shift : (n,) what was added to x so that it is positive
    """

    x: FloatArray
    y: FloatArray
    weight: FloatArray
    last: FloatArray
    shift: FloatArray

    @classmethod
    def from_padded(cls, x: ArrayLike, y: ArrayLike, weight: ArrayLike) -> Batch:
        """From (n, width) arrays; a row whose x does not start above 0 is shifted so that it starts at its own spacing.

        In each row the seen points (weight above 0) come first, with x increasing; what follows them is not read. Raises
        InputError for rows without a seen point, or whose seen points are not finite, not increasing or not first.
        """
        xs, ys, ws = (np.array(a, dtype=np.float64) for a in (x, y, weight))
        if xs.ndim != 2 or not (xs.shape == ys.shape == ws.shape):
            raise InputError(f"x, y and weight have shapes {xs.shape}, {ys.shape}, {ws.shape}; all must be (n, width)")
        if not len(xs):
            return cls(xs, ys, ws, np.empty(0), np.empty(0))
        seen = ws > 0
        count = seen.sum(axis=1)
        refused = {
            "a weight that is negative, infinite or NaN; allowed: 0 for a point that is not there, or above": ~np.isfinite(ws)
            | (ws < 0),
            "no seen point, that is none with a weight above 0": count[:, None] < 1,
            "a weight of 0 before its last seen point; put the seen points first": seen[:, 1:] & ~seen[:, :-1],
            "a seen point with x or y infinite or NaN; leave such points out": seen & ~(np.isfinite(xs) & np.isfinite(ys)),
            "seen points whose x does not increase; sort them and keep one of each x": seen[:, 1:] & (xs[:, 1:] <= xs[:, :-1]),
        }
        for problem, where in refused.items():
            if where.any():
                raise InputError(f"row {int(where.any(axis=1).argmax())} has {problem}")
        rows = np.arange(len(xs))
        first, last = xs[:, 0], xs[rows, count - 1]
        spacing = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), 1.0)
        second = xs[rows, np.minimum(1, count - 1)]
        shift = np.where(first > 0, 0.0, np.where(count > 1, np.minimum(second - first, spacing), 1.0) - first)
        xs = np.where(seen, xs, last[:, None]) + shift[:, None]
        return cls(xs, np.where(seen, ys, 0.0), ws, last + shift, shift)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def count(self) -> IntArray:
        """(n,) seen points."""
        return np.asarray((self.weight > 0).sum(axis=1), dtype=np.int64)

    def take(self, rows: IntArray | slice) -> Batch:
        """The named rows."""
        return Batch(self.x[rows], self.y[rows], self.weight[rows], self.last[rows], self.shift[rows])

    def first(self, count: IntArray) -> Batch:
        """Only the first `count` (n,) points of every row."""
        keep = np.arange(self.x.shape[1]) < count[:, None]
        width = int(count.max())
        last = self.x[np.arange(len(self)), count - 1]
        x = np.where(keep, self.x, last[:, None])[:, :width]
        return Batch(x, np.where(keep, self.y, 0.0)[:, :width], (self.weight * keep)[:, :width], last, self.shift)

    def units(self, form: Form, x: FloatArray) -> FloatArray:
        """`x` (n, m), already shifted, in the unit of `form`."""
        return x / self.last[:, None] if form.scale_free else x


def positions(batch: Batch, at: ArrayLike) -> FloatArray:
    """`at` (m,) or (n, m) in the user's x, as (n, m) in the batch's shifted x."""
    wanted = np.asarray(at, dtype=np.float64)
    if wanted.ndim == 1:
        wanted = np.broadcast_to(wanted, (len(batch), wanted.size))
    if wanted.ndim != 2 or len(wanted) != len(batch):
        raise InputError(f"at has shape {np.shape(at)}; allowed: (m,) or ({len(batch)}, m)")
    return wanted + batch.shift[:, None]


@dataclass(frozen=True)
class FitResult:
    """Least-squares fits of one form to a batch of curves.

    theta : (n, p) transformed nonlinear parameters (`Form.parameters`), beta : (n, q) linear coefficients (c,) a, cost : (n,)
    half the weighted sum of squares or the sum of Huber losses, converged : (n,), floor : (n,) what stands for c in forms
    without one
    """

    form: Form
    batch: Batch
    theta: FloatArray
    beta: FloatArray
    cost: FloatArray
    converged: NDArray[np.bool_]
    floor: FloatArray

    def __repr__(self) -> str:
        return f"FitResult({self.form.name}, {len(self.batch)} curves, {int(self.converged.sum())} converged)"

    def predict(self, at: ArrayLike) -> FloatArray:
        """Fitted values at `at` (m,) or (n, m), as (n, m)."""
        u = self.batch.units(self.form, positions(self.batch, at))
        out = self.beta[:, -1:] * self.form.values(u, self.theta)
        out += self.beta[:, :1] if self.form.offset else self.floor[:, None]
        return out


def fit_form(
    form: Form,
    batch: Batch,
    *,
    n_starts: int = 3,
    huber: FloatArray | float | None = None,
    floor: ArrayLike = 0.0,
    max_iter: int = 200,
    rtol: float = 1e-9,
) -> FitResult:
    """Best fit of `form` to every curve of `batch`, from the `n_starts` best cells of the form's grid.

    Parameters
    ----------
    n_starts : cells refined for each curve, at least 1; the best result of each curve is returned
    huber : residual size, in y, beyond which the loss is linear, scalar or (n,), above 0; None for least squares
    floor : value an offset-free form decays to (or rises from), scalar or (n,): 0, or the chance level
    max_iter, rtol : see `farfield.leastsquares.solve`

    Raises InputError for arguments outside these. Curves with fewer points than the form has parameters are fitted, exactly
    as a rule; curves that did not converge are marked in `FitResult.converged`.
    """
    n_starts = checks.count("n_starts", n_starts)
    base = _per_curve("floor", floor, len(batch))
    limits = None if huber is None else _per_curve("huber", huber, len(batch))
    if limits is not None and (limits <= 0).any():
        raise InputError(f"huber is {limits.min():g}; allowed: above 0, in the unit of y")
    u = _even(batch.units(form, batch.x), "edge")
    y, weight = _even(batch.y - (0.0 if form.offset else base[:, None]), "constant"), _even(batch.weight, "constant")
    starts = best_cells(form, u, y, weight, n_starts)
    k = starts.shape[1]
    parts = []
    for rows in _blocks(len(batch), k * u.shape[1]):
        found = solve(
            lambda t, r, first=rows.start * k: form.basis(u[(first + r) // k], t),  # type: ignore[misc]
            starts[rows].reshape(len(y[rows]) * k, len(form.parameters)),
            np.repeat(y[rows], k, axis=0),
            np.repeat(weight[rows], k, axis=0),
            bounds=(form.lower, form.upper),
            huber=None if limits is None else np.repeat(limits[rows], k),
            max_iter=max_iter,
            rtol=rtol,
        )
        cost = np.where(np.isfinite(found.cost), found.cost, np.inf).reshape(-1, k)
        pick = np.arange(len(cost)) * k + cost.argmin(axis=1)
        parts.append((found.theta[pick], found.beta[pick], found.cost[pick], found.converged[pick]))
    theta, beta, cost, converged = (np.concatenate(a) for a in zip(*parts, strict=True))
    return FitResult(form, batch, theta, beta, cost, converged, base)


def _per_curve(name: str, value: ArrayLike, n: int) -> FloatArray:
    given = checks.finite(name, value)
    if given.shape not in ((), (n,)):
        raise InputError(f"{name} has shape {given.shape}; allowed: one number, or ({n},), one a curve")
    return np.broadcast_to(given, (n,)).copy()


def _even(a: FloatArray, mode: Literal["edge", "constant"]) -> FloatArray:
    """`a` (n, width) with its width made a multiple of 16.

    Sums then run over the same lanes however far a curve is padded, and its fit does not depend on its neighbours' lengths.
    """
    return np.pad(a, ((0, 0), (0, -a.shape[1] % 16)), mode=mode)


def best_cells(form: Form, u: FloatArray, y: FloatArray, weight: FloatArray, n_starts: int) -> FloatArray:
    """The cells of the form's grid that fit each row best, best first: theta (n, n_starts or all there are, p).

    u, y, weight : (n, width), u in the form's unit and y above the floor, where the form has one
    """
    costs = [_grid_costs(form, u[r], y[r], weight[r]) for r in _blocks(len(u), len(form.starts) * u.shape[1])]
    order = np.argsort(np.concatenate(costs), axis=1, kind="stable")
    return form.starts[order[:, :n_starts]]


def _grid_costs(form: Form, u: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    """Residual sum of squares (n, n_starts) of the linear fit in every cell; good enough to choose starts by."""
    shared = len(u) > 1 and bool((u == u[0]).all() and (w == w[0]).all())
    if shared:
        u, w = u[:1], w[:1]  # curves logged at the same steps share one grid
    g = form.values(u[:, None, :], form.starts[None])
    if form.offset:
        mean = w / np.einsum("bn->b", w)[:, None]
        g = g - np.einsum("bkn,bn->bk", g, mean)[:, :, None]
        y = y - np.einsum("bn,bn->b", np.broadcast_to(mean, y.shape), y)[:, None]
    gg = np.einsum("bkn,bkn,bn->bk", g, g, w)
    gy = (w * y) @ g[0].T if shared else np.einsum("bkn,bn->bk", g, w * y)
    yy = np.einsum("bn,bn->b", w * y, y)[:, None]
    return np.asarray(yy - gy * (gy / np.maximum(gg, 1e-300)))


def _blocks(n: int, size: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(size, 1))
    for start in range(0, max(n, 1), step):  # one block, though empty, where there is nothing
        yield slice(start, min(start + step, n))
