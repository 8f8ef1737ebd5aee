"""P035: game scores rise with size; families must be told apart to see by how much; size alone explains less than size and data.

Scripted players of graded skill, whose "size" is 10^(8 + 4 skill), play four games. Families of such players differ in
discipline (how often they keep to the rules), and the disciplined ones are small, so the slope over all players is not that within
families; the truth is the slope within families from further, longer plays. On a public table of base models each family's mean
score above chance is predicted from all other families, with and without training tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims import base_models
from farfield.claims.criteria import Curve, Measured, Trend
from farfield.evals.dialogue import GameMaster
from farfield.evals.scripted import ScriptedPlayer
from farfield.evals.size_effect import size_effect

FAMILIES, MEMBERS, SPAN = 8, 4, 0.35  # families, players in each, and the skill they span
FloatArray = NDArray[np.float64]


def _size(skill: FloatArray) -> FloatArray:
    return np.asarray(10 ** (8 + 4 * skill))


def _scores(skill: FloatArray, discipline: FloatArray, episodes: int, rng: np.random.Generator) -> FloatArray:
    """Clemscores of players, each against itself."""
    master = GameMaster(episodes=episodes, random_state=rng)
    players = [ScriptedPlayer(float(s), discipline=float(d), random_state=rng) for s, d in zip(skill, discipline, strict=True)]
    return np.array([master.benchmark(player).score for player in players])


def _slope_errors(episodes: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Absolute errors of the slope, with family effects and without, and the slope within families."""
    discipline = np.sort(rng.uniform(0.93, 1.0, FAMILIES))[::-1]
    start = np.sort(rng.uniform(0.05, 0.6, FAMILIES))
    skill = (start[:, None] + np.linspace(0, SPAN, MEMBERS)).ravel()
    group, ruly = np.repeat(np.arange(FAMILIES), MEMBERS), np.repeat(discipline, MEMBERS)
    score, longer = _scores(skill, ruly, episodes, rng), _scores(skill, ruly, 4 * episodes, rng)
    x = np.log10(_size(skill)).reshape(FAMILIES, MEMBERS)
    x = x - x.mean(1, keepdims=True)
    truth = float((x * longer.reshape(x.shape)).sum() / (x * x).sum())
    slopes = [size_effect(_size(skill), score, group, family_effects=effects).slope for effects in (True, False)]
    return abs(slopes[0] - truth), abs(slopes[1] - truth), truth


def _table() -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.str_]]:
    """Parameters, training tokens, mean score above chance, family: the models of which all are known."""
    rows = base_models.models((base_models.SIZE, base_models.TOKENS, *base_models.CHANCE))
    score = 100 * base_models.above_chance(rows).mean(1)
    return 1e9 * base_models.column(rows, base_models.SIZE), base_models.tokens(rows), score, np.array(base_models.families(rows))


def run(budget: str, seed: int) -> Measured:
    """score_by_size: clemscores. slope_error: points a decade. unexplained: squared error over the variance, by held-out family."""
    tiny = budget == "tiny"
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.1, 1.0, 4 if tiny else 8)
    by_size = _scores(skill, np.full(skill.size, 0.99), 10 if tiny else 50, rng)
    mixed, plain, truth = _slope_errors(3 if tiny else 20, rng)

    size, tokens, score, family = _table()
    units = sorted(set(family.tolist()))
    unexplained: dict[str, list[float]] = {"ours": [], "baseline": []}
    for held in units:
        kept = family != held
        for side, columns in (("ours", {"log10 tokens": np.log10(tokens)}), ("baseline", {})):
            fit = size_effect(size[kept], score[kept], family[kept], covariates={k: v[kept] for k, v in columns.items()})
            said = fit.predict(size[~kept], {k: v[~kept] for k, v in columns.items()}).mean()
            unexplained[side].append(float(((said - score[~kept]) ** 2).mean() / score.var()))
    whole, both = size_effect(size, score, family), size_effect(size, score, family, covariates={"log10 tokens": np.log10(tokens)})
    at = np.geomspace(size.min(), size.max(), 40)
    low, high = whole.predict(at).interval(0.8)
    return Measured(
        ours={
            "score_by_size": Trend(np.log10(_size(skill)).tolist(), by_size.tolist()),
            "slope_error": mixed,
            "unexplained": unexplained["ours"],
        },
        baseline={"unexplained": unexplained["baseline"]},
        ablation={"slope_error": plain},
        units=units,
        curves=[
            Curve(".base models", np.log10(size).tolist(), score.tolist()),
            Curve(
                "size alone, a new family", np.log10(at).tolist(), whole.predict(at).mean().tolist(), low.tolist(), high.tolist()
            ),
        ],
        axes=("log10 parameters", "mean score above chance (points)"),
        notes={
            "models": len(score),
            "families": len(units),
            "R2 of size alone, of size with tokens": [whole.r2[0], both.r2[0]],
            "points a decade of size, by size alone and with tokens": [whole.slope, both.slope],
            "spread of families and of models about size alone": [whole.family_sd, whole.residual_sd],
            "widest bracket of half a decade": max(r["highest"] - r["lowest"] for r in whole.brackets()),
            "slope within scripted families": truth,
            "scores of scripted players": by_size.tolist(),
        },
    )
