"""P068: sets of features that pass in n environments fail on a share of unseen ones that falls like 1/n and stays below the bound.

Random linear models; the target stands in the middle, with two parents and with descendants. An environment intervenes on one other
variable, some variables far more often than others: new weights from its parents and a noise up to three times larger or smaller.
Heads are fitted on the model without interventions. All is closed form in second moments, for every set of features; where rows are
drawn, their second moments are drawn (Wishart, 1,000 rows an environment) and the check allows for its error (miss 0.1). A repeat
is above the bound if any set that passed, not only the chosen one, fails on more unseen environments than `pac_level` says with
delta = 0.05. The chosen set is the one that predicts best in the reference among those that pass. Ablation: least squares on all
features of the pooled training environments.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Count, Curve, Measured, Trend
from farfield.shift.invariance import best_head, certified_share, invariance_violation, log_subsets, pac_level
from farfield.shift.sem import LinearSEM

EPS, DELTA, MISS, ROWS = 0.05, 0.05, 0.1, 1000
SIZES = (2, 4, 8, 16, 32)
FloatArray = NDArray[np.float64]


def environments(d: int, models: int, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Second moments, target last: of the reference (models, d, d), and of n environments a model (models, n, d, d)."""
    sem, target = LinearSEM.random(d, size=(models,), rng=rng), d // 2
    others = np.delete(np.arange(d), target)
    often = 1 / np.arange(1.0, d)
    hit = rng.permuted(np.tile(others, (models, 1)), axis=1)[
        np.arange(models)[:, None], rng.choice(d - 1, (models, n), p=often / often.sum())
    ]
    order = [*others, target]
    after = sem.intervene(hit[..., None] == np.arange(d), "mechanism", strength=3.0, rng=rng)
    return sem.second_moments()[:, order][:, :, order], after.second_moments()[:, :, order][..., order]


def drawn(moments: FloatArray, rows: int, rng: np.random.Generator) -> FloatArray:
    """Second moments of `rows` Gaussian rows with these true ones: L W L^T / rows with W from Bartlett's decomposition."""
    d = moments.shape[-1]
    a = np.tril(rng.normal(size=moments.shape), -1) + np.sqrt(rng.chisquare(rows - np.arange(d), moments.shape[:-1]))[
        ..., None
    ] * np.eye(d)
    factor = np.linalg.cholesky(moments) @ a
    return np.asarray(factor @ factor.swapaxes(-1, -2) / rows)


def run(budget: str, seed: int) -> Measured:
    """Repeats above the bound; decline: log mean failure against log n; worst_error: median over models at the largest n."""
    d, models, unseen = (5, 20, 200) if budget == "tiny" else (8, 200, 300)
    rng, last = np.random.default_rng([1, seed]), SIZES[-1]  # 1: the draws before these were looked at
    reference, moments = environments(d, models, last + unseen, rng)
    sampled = drawn(moments[:, :last], ROWS, rng)
    variance = reference[:, -1, -1]
    above = {name: np.zeros((models, len(SIZES)), dtype=bool) for name in ("population", "samples")}
    limits = {"population": 0.0, "samples": MISS}
    best, rates, worst = (np.full((models, len(SIZES)), np.inf) for _ in range(3))
    for k in range(1, d):
        allowed = certified_share(EPS, k, ROWS, MISS)
        for subset in itertools.combinations(range(d - 1), k):
            head = best_head(reference, subset)
            left = variance - np.einsum("mi,mi->m", head, reference[:, list(subset), -1])
            there = invariance_violation(moments, subset, head[:, None])
            bad = there.share > EPS
            failed = bad[:, last:].mean(axis=1)
            most = (there.excess + there.own)[:, last:].max(axis=1)
            checks = {"population": bad[:, :last], "samples": invariance_violation(sampled, subset, head[:, None]).share > allowed}
            for i, n in enumerate(SIZES):
                for name, check in checks.items():
                    level = pac_level(n, log_subsets(d - 1), DELTA, limits[name])
                    above[name][:, i] |= ~check[:, :n].any(axis=1) & (failed > level)
                better = ~checks["population"][:, :n].any(axis=1) & (left < np.minimum(0.99 * variance, best[:, i]))
                best[better, i], rates[better, i], worst[better, i] = left[better], failed[better], most[better]
    everything = tuple(range(d - 1))
    pooled = invariance_violation(moments[:, last:], everything, best_head(moments[:, :last].mean(axis=1), everything)[:, None])
    mean = np.maximum(rates.mean(axis=0), 0.5 / (models * unseen))
    bound = [pac_level(n, log_subsets(d - 1), DELTA) for n in SIZES]
    sizes = [float(n) for n in SIZES]
    return Measured(
        ours={
            "above_bound": Count(int(above["population"].sum()), models * len(SIZES)),
            "above_bound_samples": Count(int(above["samples"].sum()), models * len(SIZES)),
            "decline": Trend(np.log(sizes).tolist(), np.log(mean).tolist()),
            "worst_error": float(np.median(worst[:, -1])),
        },
        ablation={"worst_error": float(np.median((pooled.excess + pooled.own).max(axis=1)))},
        curves=[Curve("chosen set", sizes, mean.tolist()), Curve("bound, delta = 0.05", sizes, bound)],
        axes=("training environments", "share of unseen environments on which it fails"),
        notes={"models": models, "unseen environments": unseen, "sets": 2 ** (d - 1) - 1, "rows": ROWS},
    )
