"""What other runs are worth to the context network on fresh sweeps of its prior, and what runs of another sweep do to it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from farfield import checks
from farfield.curves.normalize import Normaliser
from farfield.curves.pfn.architecture import FloatArray
from farfield.curves.pfn.context import ContextPFN
from farfield.curves.pfn.questions import Runs, ask
from farfield.curves.priors import SweepPrior, Sweeps
from farfield.curves.rescored import Rescored
from farfield.errors import InputError
from farfield.predictive import Mixture
from farfield.seeds import Seed, generator

SITUATIONS = ("finished", "as far", "alone", "strangers")
_CUTS = (0.1, 0.2, 0.4, 0.8)
_BLOCK = 16


@dataclass(frozen=True)
class SweepScore:
    """Scores of the last point of one run of each sweep, cut at 10, 20, 40 and 80 %, given its other runs.

    situation : the others are *finished*, *as far* as the run, not there (*alone*), or finished runs of another sweep (*strangers*)
    first : log-likelihood of the network that reads single runs, log_likelihood : of the context network
    standard_error : of the difference, over sweeps; coverage_80 : share of values inside the central 80 %
    """

    situation: str
    n_sweeps: int
    first: float
    log_likelihood: float
    standard_error: float
    coverage_80: float


def score_on_sweeps(
    model: ContextPFN, *, n: int = 200, curves: int = 17, points: int = 40, rng: Seed = 0
) -> tuple[SweepScore, ...]:
    """Scores of `model` on `n` fresh sweeps of `curves` runs of `points` points, in every situation.

    Raises InputError for fewer than two sweeps or runs.
    """
    if checks.count("n", n) < 2 or checks.count("curves", curves) < 2:
        raise InputError(f"n is {n} and curves {curves}; allowed: two or more")
    sweeps = SweepPrior().sample(n, curves, points, generator(rng))
    return tuple(_score(model, sweeps, situation) for situation in SITUATIONS)


def _score(model: ContextPFN, sweeps: Sweeps, situation: str) -> SweepScore:
    n, curves, m = sweeps.y.shape
    runs = runs_of(sweeps, sweeps.horizon)
    if situation == "strangers":
        runs = _exchanged(runs)
    cut = np.maximum(np.round(np.array(_CUTS) * m).astype(np.int64), 1)
    until = np.full((1, curves, cut.size), m, dtype=np.int64)
    until[:, 0] = cut
    if situation == "as far":
        until[:] = cut
    visible = np.full((1, curves), situation != "alone")
    first: list[FloatArray] = []
    ours: list[FloatArray] = []
    covered: list[FloatArray] = []
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        some = _sets(runs, rows)
        c, x = sweeps.x[rows][:, cut - 1], np.repeat(sweeps.x[rows, -1:], cut.size, axis=1)
        seen = np.repeat(until, rows.size, axis=0)
        asked = ask(model.first.engine, some, seen, c, x, np.zeros(1, dtype=np.int64), visible)
        truth = np.repeat(some.z[:, 0, -1], cut.size)[:, None]
        alone = Mixture(asked.weight, asked.loc, asked.scale)
        found = Rescored(alone, Mixture(*model.engine(asked)))
        low, high = found.interval(0.8)
        for out, values in (
            (first, Mixture(alone.weights, alone.loc, alone.scale, lower=0.0, upper=1.0).log_prob(truth)),
            (ours, found.log_prob(truth)),
            (covered, ((truth >= low) & (truth <= high)).astype(np.float64)),
        ):
            out.append(values.reshape(rows.size, -1).mean(axis=1))
    a, b, inside = (np.concatenate(v) for v in (first, ours, covered))
    error = float((b - a).std(ddof=1) / np.sqrt(n))
    return SweepScore(situation, n, float(a.mean()), float(b.mean()), error, float(inside.mean()))


def runs_of(sweeps: Sweeps, horizon: FloatArray) -> Runs:
    """Drawn sweeps as sets of runs, with planned last steps (tasks,)."""
    t, n, m = sweeps.y.shape
    z = sweeps.normaliser.forward(sweeps.y.reshape(t * n, m)).reshape(t, n, m)
    x = np.repeat(sweeps.x[:, None], n, axis=1)
    planned = np.repeat(horizon[:, None], n, axis=1)
    return Runs(x, sweeps.y, z, np.full((t, n), m, dtype=np.int64), sweeps.normaliser, sweeps.settings, planned)


def _exchanged(runs: Runs) -> Runs:
    """Each set's first run among the other runs of the next set."""
    t, n, _ = runs.x.shape
    index = np.arange(t * n).reshape(t, n)
    index[:, 1:] = np.roll(index, -1, axis=0)[:, 1:]
    moved = {f.name: getattr(runs, f.name) for f in dataclasses.fields(runs) if f.name not in ("normaliser", "number")}
    flat = {k: v.reshape(t * n, *v.shape[2:])[index] for k, v in moved.items()}
    return Runs(**flat, normaliser=runs.normaliser[index.ravel()])


def _sets(runs: Runs, rows: np.ndarray) -> Runs:
    n = runs.x.shape[1]
    some = {f.name: getattr(runs, f.name)[rows] for f in dataclasses.fields(runs) if f.name not in ("normaliser", "number")}
    normaliser: Normaliser = runs.normaliser[(rows[:, None] * n + np.arange(n)).ravel()]
    return Runs(**some, normaliser=normaliser)
