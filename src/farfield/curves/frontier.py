"""The best score at each compute, jointly over problem sizes (Jones 2021, "Scaling scaling laws with board games", 2104.03113).

With C the compute, b the problem's size and a score whose known best, perfect play, is the cap (0 on Elo's scale):

    score(C, b) = min(cap, max(m_C log10 C + m_b b + c,  p_b b + p_0)):

a floor that no little compute falls below, an incline whose slope all sizes share, and perfection. The five numbers minimise the
squared error over all sizes at once, so that small problems tell of larger ones: fit on b <= k, predict b = k + 1. How much is left
unexplained is the *residual variance* sum (y - law)^2 / sum (y - cap)^2, as the paper's code has it.

The *frontier* of several runs is their running maximum over compute. The maximum of noisy scores is too high; by how much is
estimated from their errors. *Trade-off*: the least test compute that reaches a score falls as a power of train compute,
log10 test = s log10 train + e score + o.

Deviations: minimised by damped Gauss-Newton steps from a grid of starts instead of L-BFGS from one (the law has kinks, and flat
pieces where a start may rest); intervals from resampled residuals; the optimism of the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.predictive import Samples
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
_NAMES = ("incline_compute", "incline_size", "incline_offset", "plateau_size", "plateau_offset")
_FIT = "fit(compute, size, score)"


class FrontierLaw(Parameters):
    """Clamped change-point law in compute and size.

    Parameters
    ----------
    cap : score of perfection
    sized : False for a law that knows no size, in which every problem looks like the last
    n_boot, random_state : refits to resampled residuals, and their seed

    Attributes
    ----------
    parameters_ : incline_compute (points a decade), incline_size and plateau_size (points a unit of size), the two offsets
    residual_variance_ : of the fit
    """

    def __init__(self, *, cap: float = 0.0, sized: bool = True, n_boot: int = 200, random_state: Seed = None) -> None:
        checks.finite("cap", cap, ndim=0)
        self.cap = cap
        self.sized = sized
        self.n_boot = checks.count("n_boot", n_boot, least=0)
        self.random_state = random_state

    def __repr__(self) -> str:
        return f"FrontierLaw(cap={self.cap:g}, sized={self.sized})"

    def fit(self, compute: ArrayLike, size: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None) -> Self:
        """Fit to n points.

        Parameters
        ----------
        compute : (n,) above 0; size : (n,) or one number; score : (n,), at most a little above the cap
        weights : (n,) of the squared errors, above 0, such as 1 / variance

        Raises InputError for fewer than six points, or fewer than two sizes where the law is sized.
        """
        x, y = _inputs(compute, size), checks.finite("score", score, ndim=1)
        if y.shape != (len(x),) or len(y) < 6:
            raise InputError(f"{len(x)} points and {y.size} scores; allowed: as many of both, six or more")
        if self.sized and np.unique(x[:, 1]).size < 2:
            raise InputError(f"every point has size {x[0, 1]:g}; a law of size needs two sizes or more, or sized=False")
        w = np.ones(len(y)) if weights is None else checks.finite("weights", weights, shape=(len(y),))
        if (w <= 0).any():
            raise InputError(f"weights go down to {w.min():g}; allowed: above 0")
        y = y - self.cap
        starts = self._starts(x, y)
        theta, _ = _minimise(x, y[None], w, starts, self.sized)
        self._theta = theta[0]
        fitted = _value(theta, x)[0]
        self.parameters_ = dict(zip(_NAMES, (float(v) for v in self._theta), strict=True))
        self.parameters_["incline_offset"] += self.cap
        self.parameters_["plateau_offset"] += self.cap
        self.residual_variance_ = _share(y, fitted)
        rng = generator(self.random_state)
        residual = (y - fitted) * np.sqrt(len(y) / max(len(y) - (5 if self.sized else 3), 1))
        # only in units of their own noise, which the weights tell, may residuals change places
        draws = fitted + (residual * np.sqrt(w))[rng.integers(0, len(y), (self.n_boot, len(y)))] / np.sqrt(w)
        self.draws_ = _minimise(x, draws, w, np.concatenate([theta, starts[::5]]), self.sized)[0] if self.n_boot else theta[:0]
        self._residual = residual
        return self

    def _starts(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """(s, 5): planes through the points below and above a quantile of compute, with the points near the cap left out or not."""
        out = []
        columns = [0, 1, 2] if self.sized else [0, 2]
        for share in (0.0, 0.2, 0.4, 0.6):
            for top in (0.0, 0.1, 0.3):
                early = x[:, 0] <= np.quantile(x[:, 0], max(share, 0.1))
                rising = (x[:, 0] >= np.quantile(x[:, 0], share)) & (y < top * y.min())
                if rising.sum() < 3:
                    continue
                theta = np.zeros(5)
                theta[columns] = np.linalg.lstsq(x[rising][:, columns], y[rising], rcond=None)[0]
                flat = [1, 2] if self.sized else [2]
                theta[[i + 2 for i in flat]] = np.linalg.lstsq(x[early][:, flat], y[early], rcond=None)[0]
                out += [theta, theta - [0, 0, 0, 0, 100 * np.ptp(y)]]  # the second without a floor
        if not out:
            out = [np.r_[0.0, 0.0, y.mean(), 0.0, y.mean()]]
        return np.array(out)

    def expected(self, compute: ArrayLike, size: ArrayLike) -> FloatArray:
        """(n,) score at `compute` (n,) on problems of `size`, one or (n,)."""
        checks.fitted(self, "parameters_", _FIT)
        return np.asarray(_value(self._theta[None], _inputs(compute, size))[0] + self.cap)

    def predict(self, compute: ArrayLike, *, size: ArrayLike) -> Samples:
        """Distribution of a new point's score: refits to resampled residuals, each with a residual drawn on top.

        It says how sure the law is if it is right; that its planes go on to a new size is the assumption.
        """
        if not self.n_boot:
            raise InputError("n_boot is 0, so there are no refits; expected() gives the scores")
        checks.fitted(self, "parameters_", _FIT)
        values = _value(self.draws_, _inputs(compute, size))
        rng = np.random.default_rng(len(self.draws_))
        return Samples(values + rng.choice(self._residual, values.shape) + self.cap)

    def compute_for(self, score: float, size: float) -> float:
        """The compute at which the incline reaches `score`, below the cap, on a problem of `size`; inf where it never does."""
        if not score < self.cap:
            raise InputError(
                f"score is {score:g}; allowed: below the cap, {self.cap:g}, which is reached for good at no single compute"
            )
        checks.fitted(self, "parameters_", _FIT)
        rise, by_size, offset = self._theta[:3]
        return float(10 ** ((score - self.cap - by_size * size - offset) / rise)) if rise > 0 else float("inf")

    def residual_variance(self, compute: ArrayLike, size: ArrayLike, score: ArrayLike) -> float:
        """Unexplained share of the scores' squares about the cap, on points of any size."""
        y = checks.finite("score", score, ndim=1)
        return _share(y - self.cap, self.expected(compute, size) - self.cap)


@dataclass(frozen=True)
class Frontier:
    """Running maximum over runs.

    Attributes
    ----------
    compute, score : (k,) the frontier
    optimism : (k,) by how much the maximum of noisy scores is expected to lie too high; zeros where no errors were given
    """

    compute: FloatArray
    score: FloatArray
    optimism: FloatArray


def frontier(
    compute: ArrayLike,
    score: ArrayLike,
    runs: ArrayLike,
    *,
    error: ArrayLike | None = None,
    points: int = 101,
    n_boot: int = 200,
    rng: Seed = None,
) -> Frontier:
    """Best score so far at each compute, from several runs.

    Parameters
    ----------
    compute, score, runs : (n,) one row a measured agent; runs names the run it belongs to
    error : (n,) standard errors of the scores, independent
    points : on an even grid of log compute, from the least to the largest
    n_boot, rng : draws of the noise for the optimism, and their seed

    Within a run scores are interpolated in log compute; before its first and after its last point it has none. Optimism is the rise
    of the frontier when noise of size `error` is added again. Raises InputError for lengths that differ, compute that is not above
    0, and a run with two scores at one compute.
    """
    c, y = checks.finite("compute", compute, ndim=1), checks.finite("score", score, ndim=1)
    names = np.asarray(runs)
    if y.shape != c.shape or names.shape != c.shape or not c.size or (c <= 0).any():
        raise InputError(f"compute {c.shape}, score {y.shape}, runs {names.shape}; allowed: as many of each, compute above 0")
    noise = None if error is None else checks.finite("error", error, shape=c.shape)
    x = np.log10(c)
    grid = np.linspace(x.min(), x.max(), checks.count("points", points, least=2))
    weights = []  # the frontier is a maximum of linear functions of the scores
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(x[rows], kind="stable")]
        if (np.diff(x[rows]) <= 0).any():
            raise InputError(f"run {name!r} has two scores at the same compute")
        inside = (grid >= x[rows[0]] - 1e-12) & (grid <= x[rows[-1]] + 1e-12)
        one = np.full((len(grid), c.size), np.nan)
        one[inside] = 0.0
        for k, row in enumerate(rows):
            one[inside, row] = np.interp(grid[inside], x[rows], np.eye(len(rows))[k])
        weights.append(one)
    stacked = np.stack(weights)  # (runs, points, n)

    def best(values: FloatArray) -> FloatArray:
        at = stacked @ values
        return np.asarray(np.fmax.accumulate(np.fmax.reduce(at, axis=0)))

    found = best(y)
    optimism = np.zeros_like(found)
    if noise is not None:
        draw = generator(rng)
        draws = range(checks.count("n_boot", n_boot))
        optimism = np.mean([best(y + noise * draw.standard_normal(c.size)) for _ in draws], axis=0) - found
    return Frontier(10**grid, found, optimism)


@dataclass(frozen=True)
class TradeOff:
    """log10 test = train_slope log10 train + score_slope score + offset: the least test compute that reaches a score.

    `points` (k, 3) train compute, score and test compute it rests on; `error` root mean square, in decades.
    """

    train_slope: float
    score_slope: float
    offset: float
    points: FloatArray
    error: float

    def test_compute(self, train: ArrayLike, score: ArrayLike) -> FloatArray:
        """Least test compute for `score` after training with `train`; shapes broadcast."""
        log = self.train_slope * np.log10(np.asarray(train, dtype=np.float64)) + self.score_slope * np.asarray(score) + self.offset
        return np.asarray(10**log)


def trade_off(train: ArrayLike, test: ArrayLike, score: ArrayLike, targets: ArrayLike) -> TradeOff:
    """How train and test compute stand in for each other.

    Parameters
    ----------
    train, test, score : (n,) one row an agent: its train compute, its test compute, what it scored
    targets : (k,) scores to be reached

    For each target and train compute the least test compute that reached it, at that training or less; points where more training
    brought nothing are left out. Raises InputError where fewer than four points or no variety of train compute remain.
    """
    c, t, y = (checks.finite(n, v, ndim=1) for n, v in (("train", train), ("test", test), ("score", score)))
    if not c.shape == t.shape == y.shape or (c <= 0).any() or (t <= 0).any():
        raise InputError(f"train {c.shape}, test {t.shape} and score {y.shape} must be of one length, the first two above 0")
    rows = []
    for target in checks.finite("targets", targets, ndim=1):
        least = np.inf
        for level in np.unique(c):
            reached = t[(c == level) & (y >= target)]
            if reached.size and reached.min() < least:
                least = float(reached.min())
                rows.append((level, target, least))
    points = np.array(rows).reshape(-1, 3)
    design = np.c_[np.log10(points[:, 0]), points[:, 1], np.ones(len(points))]
    if len(points) < 4 or np.linalg.matrix_rank(design) < 3:
        raise InputError(f"{len(points)} points of least test compute; needed: four or more, over several trainings and targets")
    found = np.linalg.lstsq(design, np.log10(points[:, 2]), rcond=None)[0]
    error = float(np.sqrt(np.mean((design @ found - np.log10(points[:, 2])) ** 2)))
    return TradeOff(float(found[0]), float(found[1]), float(found[2]), points, error)


def _inputs(compute: ArrayLike, size: ArrayLike) -> FloatArray:
    """(n, 3) log10 compute, size, one."""
    c = np.atleast_1d(checks.finite("compute", compute))
    b = checks.finite("size", size)
    if c.ndim != 1 or b.shape not in ((), c.shape) or (c <= 0).any():
        raise InputError(f"compute has shape {c.shape} and size {b.shape}; allowed: (n,) above 0, and one size or (n,)")
    return np.column_stack([np.log10(c), np.broadcast_to(b, c.shape), np.ones(len(c))])


def _value(theta: FloatArray, x: FloatArray) -> FloatArray:
    """(b, n) laws `theta` (b, 5) with cap 0 at points (n, 3)."""
    return np.asarray(np.minimum(0.0, np.maximum(theta[:, :3] @ x.T, theta[:, 3:] @ x[:, 1:].T)))


def _share(y: FloatArray, fitted: FloatArray) -> float:
    return float(((y - fitted) ** 2).sum() / max(float((y**2).sum()), 1e-300))


def _minimise(
    x: FloatArray, y: FloatArray, w: FloatArray, starts: FloatArray, sized: bool, steps: int = 60
) -> tuple[FloatArray, FloatArray]:
    """The best of all starts (s, 5) for each of the score vectors (b, n): parameters (b, 5) and cost (b,).

    Within a pattern of which point lies on which piece the cost is quadratic and one step is exact; damping carries it over the
    kinks, and leaves alone the parameters of a piece that no point lies on.
    """
    b, s = len(y), len(starts)
    theta = np.tile(starts, (b, 1))
    target = np.repeat(y, s, axis=0)
    free = np.array([True, sized, True, sized, True])
    theta[:, ~free] = 0.0
    columns = np.concatenate([x, x[:, 1:]], axis=1)  # (n, 5)
    scale = np.sqrt((w[:, None] * columns**2).sum(0))
    damping = np.full(len(theta), 1e-3)

    def cost(t: FloatArray) -> FloatArray:
        return np.asarray((w * (target - _value(t, x)) ** 2).sum(1))

    now = cost(theta)
    for _ in range(steps):
        incline, floor = theta[:, :3] @ x.T, theta[:, 3:] @ x[:, 1:].T
        value = np.maximum(incline, floor)
        below = value < 0
        on = np.stack([below & (incline >= floor)] * 3 + [below & (incline < floor)] * 2, axis=-1) * columns * free  # (b s, n, 5)
        slope = np.einsum("bnp,bn->bp", on, w * (target - np.minimum(value, 0.0)))
        bend = np.einsum("bnp,n,bnq->bpq", on, w, on) + damping[:, None, None] * np.diag(scale**2)
        new = theta + np.linalg.solve(bend, slope[..., None])[..., 0]
        then = cost(new)
        better = then < now
        theta, now = np.where(better[:, None], new, theta), np.where(better, then, now)
        damping = np.clip(np.where(better, damping * 0.2, damping * 5), 1e-10, 1e6)
    pick = now.reshape(b, s).argmin(1) + s * np.arange(b)
    return theta[pick], now[pick]
