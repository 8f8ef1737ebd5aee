"""Scores of mixtures of data sources, beyond the sizes tried (Kang and others 2023, arXiv 2307.02460, "projektor").

Sources i = 1..m have revealed a few rows each. A training set of N rows holds a share q_i of source i. To say what score it would
give, and which q to choose:

- *Distance.* OT(q) is the label-aware transport distance between the mixture of revealed rows, weighted by q, and a target set.
- *Stage 1.* At two small sizes N0 < N1 models are trained on some mixtures, and for each size
      score(q) = OT(q) (b0 + sum_i b1_i q_i + b2_i q_i^2) + c0 + sum_i c1_i q_i + c2_i q_i^2.
  Form "pseudo-quadratic" leaves out c2.
- *Stage 2*, which has no parameters: the score is linear in log N,
      score(N, q) = [ln(N/N0) score(N1, q) - ln(N/N1) score(N0, q)] / ln(N1/N0).
- *Selection* climbs score(N, q) on the simplex. dOT/dq_i is the mean dual potential of source i's rows; potentials are defined up
  to a constant, which drops out in the plane where the shares sum to one (the calibration).

Deviations: OT is debiased and its label costs are per source, since one label's rows differ from source to source and then costs do
not depend on q. Coefficients are shrunk by ridge with a strength chosen by leave-one-out, as twelve of them meet a dozen models.
Predictions are clamped to the score's range, which the straight line in log N leaves. Steps have a line search and potentials are
recomputed at each, where an author's code takes 100 steps of 5e-4 * 0.9^t with the potentials of one mixture. `growth="power"`
continues the error as a power of N instead; it never leaves the range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, transport
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.predictive import Samples
from farfield.seeds import Seed, child, generator, root

FloatArray = NDArray[np.float64]
Rows = tuple[ArrayLike, ArrayLike]  # features (n, d), labels (n,)
Form = Literal["quadratic", "pseudo-quadratic"]
Growth = Literal["log", "power"]

_RIDGES = np.concatenate([[0.0], np.geomspace(1e-4, 1e2, 13)])  # of columns with variance one
_FIT = "fit(sources, target, mixtures, scores, sizes)"
_LEAST_ERROR = 1e-4  # of a score, where its logarithm is taken


def simplex_grid(sources: int, steps: int) -> FloatArray:
    """(k, sources) all mixtures whose shares are multiples of 1 / steps: 66 of three sources at ten steps."""
    m, n = checks.count("sources", sources), checks.count("steps", steps)
    bars = np.array(list(combinations(range(n + m - 1), m - 1)), dtype=np.int64).reshape(-1, m - 1)
    ends = np.c_[np.full(len(bars), -1), bars, np.full(len(bars), n + m - 1)]
    return np.asarray((np.diff(ends, axis=1) - 1) / n)


def mixture_counts(mixture: ArrayLike, n: int) -> NDArray[np.int64]:
    """(m,) rows of each source in a training set of `n`, by largest remainder; `mixture` (m,) shares that sum to 1."""
    q = _shares(checks.finite("mixture", mixture, ndim=1), None)[0]
    size = checks.count("n", n)
    counts = np.floor(q * size + 1e-9).astype(np.int64)
    order = np.argsort(counts - q * size, kind="stable")
    counts[order[: size - int(counts.sum())]] += 1
    return np.asarray(counts)


def pilot_scores(
    sources: Sequence[Rows],
    mixtures: ArrayLike,
    sizes: tuple[int, int],
    train: Callable[[NDArray[Any], NDArray[Any]], float],
    *,
    repeats: int = 3,
    rng: Seed = None,
) -> FloatArray:
    """(k, 2) mean scores of models trained on mixtures of revealed rows, at two sizes.

    Parameters
    ----------
    sources : features (n_i, d) and labels (n_i,) of each; at least sizes[1] times the largest share of rows
    mixtures : (k, m) shares; sizes : rows of a training set
    train : trains on features and labels and returns the score, the same way for every call
    repeats : training sets drawn for each mixture and size, without replacement

    Stage 2 multiplies noise by up to ln(N/N0) / ln(N1/N0): repeat where one training costs little.
    """
    data = _rows(sources)
    q = _shares(mixtures, len(data))
    seed, out = root(rng), np.zeros((len(q), 2))
    for j, size in enumerate(sizes):
        for k, mixture in enumerate(q):
            counts = mixture_counts(mixture, size)
            for i, (count, (x, _)) in enumerate(zip(counts, data, strict=True)):
                if count > len(x):
                    raise InputError(f"a mixture of {size} rows needs {count} of source {i}, which revealed {len(x)}")
            for r in range(checks.count("repeats", repeats)):
                draw = child(seed, j, k, r)
                picks = [draw.choice(len(x), c, replace=False) for c, (x, _) in zip(counts, data, strict=True)]
                x = np.concatenate([x[p] for p, (x, _) in zip(picks, data, strict=True)])
                y = np.concatenate([y[p] for p, (_, y) in zip(picks, data, strict=True)])
                out[k, j] += float(train(x, y)) / repeats
    return out


@dataclass(frozen=True)
class Selection:
    """The mixture that is predicted to score best.

    Attributes
    ----------
    mixture : (m,) shares; n : rows
    score : predicted score, clamped; unclamped : as the climb saw it
    distance : transport distance of the mixture, in units of the mean cost
    steps : of the climb that won
    """

    mixture: FloatArray
    n: int
    score: float
    unclamped: float
    distance: float
    steps: int

    def summary(self) -> str:
        """One line."""
        shares = ", ".join(f"{100 * q:.0f} %" for q in self.mixture)
        return f"{self.n} rows mixed {shares}: predicted score {self.score:.4g}, distance {self.distance:.3g}"


class MixtureScaling(Parameters):
    """Score of a training set by its mixture of sources and its size.

    Parameters
    ----------
    form : of the regression, see the module
    label_cost : how labels are compared in the distance (`farfield.transport.label_distances`)
    use_distance : False for the regression on shares alone
    growth : "log" as published, or "power" of the error
    bounds : range of the score, to which predictions are clamped; None for no clamp (then growth must be "log")
    ridge : strength, or None for leave-one-out; blur : eps of the transport, as a share of its mean cost
    n_boot, random_state : refits to resampled residuals for `predict`, and their seed

    Attributes
    ----------
    coefficients_ : (2, p) of stage 1, by size; ridge_ : (2,) the strengths; loo_error_ : (2,) mean absolute leave-one-out error
    """

    def __init__(
        self,
        form: Form = "quadratic",
        *,
        label_cost: transport.LabelCost = "gaussian",
        use_distance: bool = True,
        growth: Growth = "log",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        ridge: float | None = None,
        blur: float = 0.05,
        n_boot: int = 200,
        random_state: Seed = None,
    ) -> None:
        self.form = checks.choice("form", form, ("quadratic", "pseudo-quadratic"))
        self.label_cost: transport.LabelCost = label_cost
        checks.choice("label_cost", label_cost, ("gaussian", "inner", "none"))
        self.use_distance = use_distance
        self.growth = checks.choice("growth", growth, ("log", "power"))
        if bounds is not None and not bounds[0] < bounds[1]:
            raise InputError(f"bounds is {bounds}; allowed: the lower one below the upper")
        if bounds is None and growth == "power":
            raise InputError("growth 'power' follows the distance to the upper bound; give bounds, or growth='log'")
        self.bounds = bounds
        self.ridge = ridge
        self.blur = checks.positive("blur", blur)
        self.n_boot = checks.count("n_boot", n_boot, least=0)
        self.random_state = random_state

    def __repr__(self) -> str:
        return f"MixtureScaling(form={self.form!r}, label_cost={self.label_cost!r}, growth={self.growth!r})"

    def fit(self, sources: Sequence[Rows], target: Rows, mixtures: ArrayLike, scores: ArrayLike, sizes: tuple[int, int]) -> Self:
        """Fit stage 1.

        Parameters
        ----------
        sources : revealed features (n_i, d) and labels (n_i,) of each of m >= 2 sources
        target : features and labels of the set on which the score counts
        mixtures : (k, m) shares that were trained on; scores : (k, 2) at the two sizes (`pilot_scores` makes them)
        sizes : N0 < N1

        Raises InputError for fewer than three mixtures, shares that do not sum to 1, or scores outside the bounds.
        """
        data = _rows(sources)
        if len(data) < 2:
            raise InputError(f"{len(data)} source; a mixture has two or more")
        q = _shares(mixtures, len(data))
        y = checks.finite("scores", scores, shape=(len(q), 2))
        if len(q) < 3:
            raise InputError(f"{len(q)} mixtures; needed: three or more")
        if not 0 < sizes[0] < sizes[1]:
            raise InputError(f"sizes is {tuple(sizes)}; allowed: two numbers of rows, the smaller first")
        if self.bounds is not None and ((y < self.bounds[0]).any() or (y > self.bounds[1]).any()):
            raise InputError(f"scores go from {y.min():g} to {y.max():g}, outside bounds {self.bounds}; give the score's own range")
        self.sizes_ = (int(sizes[0]), int(sizes[1]))
        self.n_sources_ = len(data)
        if self.use_distance:
            self._prepare(data, target)
        design = self._design(q, self._distance(q)[0])
        fits = [_ridge(design, y[:, j], self.ridge) for j in range(2)]
        self.coefficients_ = np.stack([f.coefficients for f in fits])
        self.ridge_ = np.array([f.strength for f in fits])
        self.loo_error_ = np.array([np.abs(f.left_out).mean() for f in fits])
        # residuals of the two sizes belong to one mixture and are resampled together; left-out ones have the right size
        rng = generator(self.random_state)
        picks = rng.integers(0, len(q), (self.n_boot, len(q)))
        self.draws_ = np.stack(
            [f.coefficients + (f.left_out - f.left_out.mean())[picks] @ f.solve.T for f in fits], axis=1
        )  # (n_boot, 2, p)
        return self

    def _prepare(self, data: list[tuple[FloatArray, NDArray[Any]]], target: Rows) -> None:
        ((x_t, y_t),) = _rows([target], "target")
        source = np.repeat(np.arange(len(data)), [len(x) for x, _ in data])
        x = np.concatenate([x for x, _ in data])
        codes = np.concatenate([np.unique(y, return_inverse=True)[1] for _, y in data])
        labels = source * (codes.max() + 1) + codes  # a label of one source is not that of another
        self._costs = transport.labelled_costs(x, labels, x_t, y_t, method=self.label_cost)
        self._unit = float(self._costs[0].mean())
        self._members: FloatArray = np.eye(len(data))[source].T / np.bincount(source)[:, None]  # (m, rows)

    def _given(self, mixtures: ArrayLike) -> FloatArray:
        """(k, m) shares of the sources this was fitted to."""
        checks.fitted(self, "coefficients_", _FIT)
        return _shares(mixtures, self.n_sources_)

    def distance(self, mixtures: ArrayLike) -> FloatArray:
        """(k,) transport distance between mixtures (k, m) of revealed rows and the target, in units of the mean cost."""
        return self._distance(self._given(mixtures))[0]

    def _distance(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Distances (k,) and their derivatives by the shares (k, m), of which only differences mean something."""
        if not self.use_distance:
            return np.zeros(len(q)), np.zeros(q.shape)
        found = transport.divergence(*self._costs, q @ self._members, eps=self.blur * self._unit, tol=1e-5, max_iter=10_000)
        return found.value / self._unit, found.gradient_a @ self._members.T / self._unit

    def _design(self, q: FloatArray, distance: FloatArray) -> FloatArray:
        """(k, p) columns of stage 1, the constant first."""
        one, d = np.ones((len(q), 1)), distance[:, None]
        plain = [one, q] if self.form == "pseudo-quadratic" else [one, q, q**2]
        return np.concatenate([*plain, *([d, d * q, d * q**2] if self.use_distance else [])], axis=1)

    def _derivative(self, coefficients: FloatArray, q: FloatArray, d: float, slope: FloatArray) -> FloatArray:
        """(m,) of one size's regression at one mixture."""
        m = len(q)
        parts = np.split(
            coefficients[1:], np.cumsum([m, *([m] if self.form == "quadratic" else []), *([1, m] if self.use_distance else [])])
        )
        out = parts[0].copy()
        if self.form == "quadratic":
            out += 2 * parts[1] * q
        if self.use_distance:
            b0, b1, b2 = parts[-3:]
            out += (b0 + b1 @ q + b2 @ q**2) * slope + d * (b1 + 2 * b2 * q)
        return out

    def _continue(self, at_sizes: FloatArray, n: float) -> FloatArray:
        """Scores (...) at n from those at the two sizes (..., 2), before the clamp."""
        small, large = (np.log(s) for s in self.sizes_)
        w1 = (np.log(n) - small) / (large - small)
        if self.growth == "log" or self.bounds is None:
            return np.asarray((1 - w1) * at_sizes[..., 0] + w1 * at_sizes[..., 1])
        low, high = self.bounds
        error = np.log(np.clip((high - at_sizes) / (high - low), _LEAST_ERROR, None))
        return np.asarray(high - (high - low) * np.exp((1 - w1) * error[..., 0] + w1 * error[..., 1]))

    def _clamped(self, score: FloatArray) -> FloatArray:
        return score if self.bounds is None else np.clip(score, *self.bounds)

    def expected(self, mixtures: ArrayLike, n: int) -> FloatArray:
        """(k,) predicted scores of training sets of `n` rows mixed by (k, m) shares."""
        q, size = self._given(mixtures), checks.count("n", n)
        design = self._design(q, self._distance(q)[0])
        return self._clamped(self._continue(design @ self.coefficients_.T, size))

    def predict(self, mixtures: ArrayLike, n: int) -> Samples:
        """Distribution of :meth:`expected` over refits to resampled residuals.

        It holds the noise of stage 1, as stage 2 enlarges it, not the error of the straight line in log N itself.
        """
        if not self.n_boot:
            raise InputError("n_boot is 0, so there are no refits; expected() gives the scores")
        q, size = self._given(mixtures), checks.count("n", n)
        design = self._design(q, self._distance(q)[0])
        return Samples(self._clamped(self._continue(np.moveaxis(self.draws_ @ design.T, 1, -1), size)))

    def gradient(self, mixture: ArrayLike, n: int) -> FloatArray:
        """(m,) derivative of the unclamped score by the shares, less its mean: along the plane where shares sum to one."""
        q, size = self._given(checks.finite("mixture", mixture, ndim=1)), checks.count("n", n)
        d, slope = self._distance(q)
        at_sizes = self._design(q, d) @ self.coefficients_.T
        by_size = np.stack([self._derivative(c, q[0], float(d[0]), slope[0]) for c in self.coefficients_], axis=-1)
        h = 1e-6  # stage 2 is a smooth function of two numbers
        by_score = [(self._continue(at_sizes + h * e, size) - self._continue(at_sizes - h * e, size)) / (2 * h) for e in np.eye(2)]
        out = by_size @ np.concatenate(by_score)
        return np.asarray(out - out.mean())

    def select(self, n: int, *, max_steps: int = 60, tol: float = 1e-4) -> Selection:
        """The mixture with the highest predicted score at `n` rows, by projected gradient ascent from the best of a coarse grid."""
        checks.fitted(self, "coefficients_", _FIT)
        size = checks.count("n", n)
        starts = np.concatenate([simplex_grid(self.n_sources_, 4), np.full((1, self.n_sources_), 1 / self.n_sources_)])
        found = self._continue(self._design(starts, self._distance(starts)[0]) @ self.coefficients_.T, size)
        best: tuple[float, FloatArray, int] | None = None
        for q in starts[np.argsort(-found)[:3]]:
            value, steps, rate = self._unclamped(q, size), 0, 1.0
            for steps in range(1, max_steps + 1):  # noqa: B007
                slope = self.gradient(q, size)
                rate = min(4 * rate, 1e3)
                while rate > 1e-6:
                    new = project_simplex(q + rate * slope)
                    gain = self._unclamped(new, size) - value
                    if gain >= 1e-4 * slope @ (new - q):
                        break
                    rate /= 4
                moved = float(np.abs(new - q).max())
                if gain > 0:
                    q, value = new, value + gain
                if moved < tol or gain <= 0:
                    break
            if best is None or value > best[0]:
                best = (value, q, steps)
        assert best is not None
        value, q, steps = best
        clamped = float(self._clamped(np.array([value]))[0])
        return Selection(q, size, clamped, value, float(self._distance(q[None])[0][0]), steps)

    def _unclamped(self, q: FloatArray, n: int) -> float:
        return float(self._continue(self._design(q[None], self._distance(q[None])[0]) @ self.coefficients_.T, n)[0])


def project_simplex(point: ArrayLike) -> FloatArray:
    """(..., m) the nearest shares, none negative and with sum 1 (Held, Wolfe and Crowder 1974)."""
    v = checks.finite("point", point)
    ordered = -np.sort(-v, axis=-1)
    above = (np.cumsum(ordered, axis=-1) - 1) / np.arange(1, v.shape[-1] + 1)
    last = (ordered > above).sum(-1, keepdims=True) - 1
    return np.asarray(np.maximum(v - np.take_along_axis(above, last, -1), 0.0))


@dataclass(frozen=True)
class _Fit:
    coefficients: FloatArray  # (p,)
    strength: float
    left_out: FloatArray  # (k,) leave-one-out residuals
    solve: FloatArray  # (p, k) coefficients from scores


def _ridge(design: FloatArray, y: FloatArray, strength: float | None) -> _Fit:
    """Ridge on standardised columns with a free constant (the first column); strength by leave-one-out unless given."""
    x = design[:, 1:]
    centre, spread = x.mean(0), x.std(0)
    used = spread > 1e-12 * np.maximum(np.abs(centre), 1e-300)
    z = np.where(used, (x - centre) / np.where(used, spread, 1.0), 0.0)
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    kept = s > 1e-9 * max(float(s.max(initial=0.0)), 1e-300)
    u, s, vt = u[:, kept], s[kept], vt[kept]
    k = len(y)

    def fit(value: float) -> _Fit:
        hat = 1 / k + ((u * s**2 / (s**2 + k * value)) * u).sum(1)
        inner = vt.T @ ((s / (s**2 + k * value))[:, None] * u.T)
        slopes = inner / np.where(used, spread, 1.0)[:, None]
        solve = np.concatenate([np.full((1, k), 1 / k) - (centre @ slopes)[None], slopes])
        coefficients = solve @ y
        # a row that fits itself alone has no left-out residual; it then counts for nothing of this strength
        left_out = (y - design @ coefficients) / np.maximum(1 - hat, 1e-9)
        return _Fit(coefficients, value, left_out, solve)

    if strength is not None:
        return fit(float(strength))
    return min((fit(float(v)) for v in _RIDGES if v > 0 or len(s) < k - 1), key=lambda f: float((f.left_out**2).sum()))


def _shares(mixtures: ArrayLike, sources: int | None) -> FloatArray:
    q = np.atleast_2d(checks.finite("mixtures", mixtures))
    if q.ndim != 2 or (sources is not None and q.shape[1] != sources):
        raise InputError(f"mixtures has shape {np.shape(mixtures)}; allowed: a share for each of {sources or 'm'} sources a row")
    if (q < -1e-9).any() or (np.abs(q.sum(1) - 1) > 1e-6).any():
        worst = int(np.argmax(np.maximum(np.abs(q.sum(1) - 1), -q.min(1))))
        raise InputError(f"mixture {worst} is {q[worst].tolist()}; allowed: shares of 0 or more with sum 1")
    return np.asarray(np.maximum(q, 0) / np.maximum(q, 0).sum(1, keepdims=True))


def _rows(sets: Sequence[Rows], what: str = "sources") -> list[tuple[FloatArray, NDArray[Any]]]:
    out: list[tuple[FloatArray, NDArray[Any]]] = []
    for i, (x, y) in enumerate(sets):
        rows, labels = checks.finite(f"{what}[{i}] features", x, ndim=2), np.asarray(y)
        if labels.shape != (len(rows),) or not len(rows):
            raise InputError(f"{what}[{i}] has {len(rows)} rows and labels of shape {labels.shape}; allowed: one label a row")
        if out and rows.shape[1] != out[0][0].shape[1]:
            raise InputError(f"{what}[{i}] has {rows.shape[1]} features and {what}[0] {out[0][0].shape[1]}; they must agree")
        out.append((rows, labels))
    return out
