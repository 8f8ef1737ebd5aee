"""What to run next: expected improvement under a Gaussian process over the settings, with forecasts as its observations.

Every run gives one observation: the mean of what it will have been worth at its end, with the variance of that forecast as
noise (a run that ended has none but the process's own nugget). So runs that are half way, and runs that were stopped early,
count for what is known of them and no more. Settings are the ``config.*`` columns in which the runs differ: numbers are mapped
to [0, 1] (their logarithm where they span more than a factor of ten and are positive), text to one indicator a level. Kernel:
Matern 5/2 with a length scale a column, chosen with the nugget by marginal likelihood, one after another on a grid (Rasmussen &
Williams 2006, chapter 5; Jones, Schonlau, Welch 1998 for the improvement). Several runs are chosen one by one, each as if
those before had come out as expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from farfield import checks
from farfield.curves.data import FloatArray
from farfield.curves.stopping.advice import Advice
from farfield.errors import InputError
from farfield.seeds import Seed, generator

LEAST_RUNS = 5
_MOST_RUNS = 600
_CANDIDATES = 2000
_LOCAL = 300
_SCALES = (0.1, 0.2, 0.4, 0.8, 1.6, 6.4)  # the last hardly depends on the column
_NUGGETS = (1e-3, 1e-2, 0.1, 0.4)
_MOST_LEVELS = 20


@dataclass(frozen=True)
class Setting:
    """One setting: a number on a (log) scale between two ends, or one of several levels."""

    name: str
    levels: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False

    @property
    def width(self) -> int:
        """Columns it takes in the surrogate."""
        return len(self.levels) or 1

    def encode(self, values: list[Any]) -> FloatArray:
        """(n, width); a level's indicator is 1/2, so that two levels are as far apart as the ends of a number's half range."""
        if self.levels:
            return np.array([[0.5 * (v == level) for level in self.levels] for v in values])
        number = np.array([np.nan if v is None else float(v) for v in values])
        if self.log:
            number = np.log(np.where(number > 0, number, np.nan))
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        return np.nan_to_num((number - low) / (high - low), nan=0.5, posinf=1.0, neginf=0.0)[:, None]

    def draw(self, n: int, rng: np.random.Generator) -> list[Any]:
        """`n` values, even on the setting's own scale."""
        if self.levels:
            return [self.levels[i] for i in rng.integers(len(self.levels), size=n)]
        return self._decoded(rng.random(n))

    def near(self, value: Any, n: int, rng: np.random.Generator) -> list[Any]:
        """`n` values around `value`: a tenth of the range away, another level one time in ten."""
        if self.levels:
            return [v if move else value for v, move in zip(self.draw(n, rng), rng.random(n) < 0.1, strict=True)]
        at = float(self.encode([value])[0, 0])
        return self._decoded(np.clip(at + 0.1 * rng.standard_normal(n) * (rng.random(n) < 0.7), 0.0, 1.0))

    def _decoded(self, share: FloatArray) -> list[Any]:
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        value = np.clip(np.exp(value) if self.log else value, self.low, self.high)
        return [round(v) if self.whole else float(v) for v in value]


@dataclass(frozen=True)
class NextRuns:
    """Settings worth running next, the best first.

    frame : the settings, ``expected`` value at the end, its ``sd``, and the expected ``improvement`` on the best run
    best : what is to be improved on, the best expected end of the runs there are
    n_runs, settings : what the surrogate was fitted on
    note : how well it explains the runs: error of leaving each out, against that of their mean
    """

    frame: pl.DataFrame
    best: float
    n_runs: int
    settings: tuple[str, ...]
    note: str

    def __repr__(self) -> str:
        return f"NextRuns({self.frame.height} of {', '.join(self.settings)}; {self.note})"

    def summary(self) -> str:
        """One line: from what the settings were chosen, and how far to trust it."""
        return f"next runs by expected improvement over {self.best:.4g}, from {self.n_runs} runs; {self.note}"

    def to_frame(self) -> pl.DataFrame:
        """One row a proposed run."""
        return self.frame

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "schema": "farfield.next_runs/1", "best": self.best, "n_runs": self.n_runs, "settings": list(self.settings),
            "note": self.note, "runs": self.frame.to_dicts(),
        }  # fmt: skip


def next_runs(advice: Advice, n: int = 5, *, rng: Seed = 0) -> NextRuns:
    """The `n` settings from which most improvement is to be expected, given the forecasts behind `advice`.

    Raises InputError where fewer than 5 runs have a value or the runs do not differ in any setting.
    """
    n = checks.count("n", n)
    curves, sign = advice.curves, 1.0 if advice.curves.metric.goal == "min" else -1.0
    size = len(curves)
    draws = advice.ends.draws[:, :size]
    rows = np.flatnonzero(np.isfinite(draws).all(axis=0))
    if rows.size > _MOST_RUNS:  # the best, and as many of the others as fit
        rank = rows[np.argsort(draws[:, rows].mean(axis=0))]
        spread = np.linspace(0, rank.size - 1, _MOST_RUNS // 2).astype(np.int64)
        rows = np.unique(np.concatenate([rank[: _MOST_RUNS // 2], rank[spread]]))
    if rows.size < LEAST_RUNS:
        raise InputError(f"{rows.size} runs have a value to learn from; proposing further runs needs at least {LEAST_RUNS}")
    frame = curves.attributes[rows.tolist()]
    settings = settings_of(frame)
    if not settings:
        raise InputError("the runs differ in no setting (no config.* column varies), so nothing tells which to run next")
    y, noise = draws[:, rows].mean(axis=0), draws[:, rows].var(axis=0)
    # a diverged or hopeless run must not set the scale
    y = np.minimum(y, np.quantile(y, 0.75) + 3.0 * float(np.subtract(*np.quantile(y, [0.75, 0.25]))) + 1e-12)
    g = generator(rng)
    surrogate = Surrogate.fit(np.hstack([s.encode(frame[s.name].to_list()) for s in settings]), y, noise)
    leader = int(surrogate.mean(surrogate.x).argmin())
    around = {s.name: frame[s.name].to_list()[leader] for s in settings}
    table = {s.name: s.draw(_CANDIDATES, g) + s.near(around[s.name], _LOCAL, g) for s in settings}
    x = np.hstack([s.encode(table[s.name]) for s in settings])
    best = float(surrogate.mean(surrogate.x).min())
    chosen: list[tuple[int, float, float, float]] = []
    goal, now = best, surrogate
    for _ in range(min(n, len(x))):
        mean, sd = now.predict(x)
        improvement = expected_improvement(mean, sd, goal)
        improvement[[c[0] for c in chosen]] = -np.inf
        i = int(improvement.argmax())
        chosen.append((i, float(mean[i]), float(sd[i]), float(improvement[i])))
        goal, now = min(goal, float(mean[i])), now.believing(x[i], float(mean[i]))
    picked = [c[0] for c in chosen]
    out = {s.name.removeprefix("config."): [table[s.name][i] for i in picked] for s in settings}
    values = np.array([c[1:] for c in chosen])
    return NextRuns(
        frame=pl.DataFrame({**out, "expected": sign * values[:, 0], "sd": values[:, 1], "improvement": values[:, 2]}),
        best=sign * best, n_runs=int(rows.size), settings=tuple(s.name.removeprefix("config.") for s in settings),
        note=surrogate.left_out(),
    )  # fmt: skip


def settings_of(attributes: pl.DataFrame) -> list[Setting]:
    """The settings in which the runs differ."""
    out = []
    for name, dtype in attributes.schema.items():
        if not name.startswith("config."):
            continue
        known = attributes[name].drop_nulls()
        if dtype.is_float():
            known = known.filter(known.is_finite())
        levels = known.unique().sort().to_list()
        if len(levels) < 2 or name.removeprefix("config.").casefold() in ("seed", "run", "name", "id", "run_id", "run_name"):
            continue
        if dtype.is_numeric():
            low, high = float(levels[0]), float(levels[-1])
            whole = bool(dtype.is_integer()) or all(float(v).is_integer() for v in levels)
            out.append(Setting(name, (), low, high, low > 0 and high / low > 10, whole))
        elif len(levels) <= _MOST_LEVELS:
            out.append(Setting(name, tuple(levels)))
    return out


def expected_improvement(mean: FloatArray, sd: FloatArray, best: float) -> FloatArray:
    """E[(best - Y)+] for Y ~ N(mean, sd^2), each (n,)."""
    z = (best - mean) / sd
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(np.maximum(sd * (z * ndtr(z) + density), 0.0))


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process on n observations y (n,) with known noise variances (n,) at x (n, d)."""

    x: FloatArray
    y: FloatArray
    noise: FloatArray
    scales: FloatArray
    nugget: float
    centre: float
    unit: float

    @classmethod
    def fit(cls, x: FloatArray, y: FloatArray, noise: FloatArray) -> Surrogate:
        """Length scales and nugget by marginal likelihood, one after another, twice round."""
        unit = float(y.std()) or 1.0
        found = cls(x, y, noise, np.full(x.shape[1], 0.8), 1e-2, float(y.mean()), unit)
        best = found.evidence()
        for _ in range(2):
            for j in range(-1, x.shape[1]):
                for value in _NUGGETS if j < 0 else _SCALES:
                    scales = found.scales.copy()
                    if j >= 0:
                        scales[j] = value
                    tried = cls(x, y, noise, scales, value if j < 0 else found.nugget, found.centre, unit)
                    if (score := tried.evidence()) > best:
                        found, best = tried, score
        return found

    def kernel(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Matern 5/2 between the rows of `a` and `b`."""
        a, b = a / self.scales, b / self.scales
        square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * a @ b.T
        r = np.sqrt(5.0 * np.maximum(square, 0.0))
        return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))

    def _solved(self) -> tuple[Any, FloatArray, FloatArray]:
        target = (self.y - self.centre) / self.unit
        gram = self.kernel(self.x, self.x) + np.diag(self.noise / self.unit**2 + self.nugget)
        factor = cho_factor(gram, lower=True)
        return factor, cho_solve(factor, target), target

    def evidence(self) -> float:
        """Log marginal likelihood, up to a constant."""
        factor, alpha, target = self._solved()
        return float(-0.5 * target @ alpha - np.log(np.diag(factor[0])).sum())

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation, without the nugget, at `x` (m, d)."""
        factor, alpha, _ = self._solved()
        cross = self.kernel(x, self.x)
        variance = np.maximum(1.0 - np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T)), 1e-9)
        return self.centre + self.unit * (cross @ alpha), self.unit * np.sqrt(variance)

    def mean(self, x: FloatArray) -> FloatArray:
        """(m,) means at `x` (m, d)."""
        return self.predict(x)[0]

    def believing(self, x: FloatArray, y: float) -> Surrogate:
        """The same with one more observation."""
        return Surrogate(
            np.vstack([self.x, x]),
            np.append(self.y, y),
            np.append(self.noise, 0.0),
            self.scales,
            self.nugget,
            self.centre,
            self.unit,
        )

    def left_out(self) -> str:
        """Error at each run when it is left out, against that of the mean of the others."""
        factor, alpha, target = self._solved()
        inverse = cho_solve(factor, np.eye(len(target)))
        error = alpha / np.diag(inverse)
        n = len(target)
        naive = (target - target.mean()) * n / (n - 1)
        share = np.abs(error).mean() / max(np.abs(naive).mean(), 1e-300)
        return f"each run left out, the settings explain it with {share:.2f} of the error of the mean"
