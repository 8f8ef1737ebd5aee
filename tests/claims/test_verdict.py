"""Verdicts: the intervals against brute force, the rules case by case, and known truth in, rates of verdicts out."""

import itertools

import mpmath
import numpy as np
import pytest

from farfield.claims.criteria import Count, Criterion, Trend
from farfield.claims.verdict import (
    Decision,
    Verdict,
    classify,
    combine,
    decide,
    decide_ablation,
    improvements,
    mean_interval,
    rate_interval,
)
from farfield.errors import InputError

HOLDS, WEAKER, INCONCLUSIVE, FAILS = (v.rank for v in list(Verdict)[:4])


# -- intervals against independent evaluations --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 6, 8, 10])
def test_interval_holds_exactly_the_centres_neither_the_t_test_nor_the_sign_flip_test_rejects(n):
    d = np.random.default_rng(n).normal(0.3, 1.0, n) ** 3
    low, high = mean_interval(d, 0.05)
    flips = np.array(list(itertools.product([1, -1], repeat=n)))

    def rejected(centre):  # that the centre is at most `centre`: enumeration of all sign flips, and t by mpmath
        e = d - centre
        p_flip = np.mean((flips * e).mean(1) >= e.mean() - 1e-12)
        t = mpmath.mpf(e.mean()) / (mpmath.mpf(e.std(ddof=1)) / mpmath.sqrt(n))
        x = mpmath.mpf(n - 1) / (n - 1 + t**2)
        tail = mpmath.betainc(mpmath.mpf(n - 1) / 2, 0.5, 0, x, regularized=True) / 2
        p_t = tail if t > 0 else 1 - tail
        return p_flip <= 0.05 and p_t <= 0.05

    assert rejected(low - 1e-6)
    assert not rejected(low + 1e-6)
    assert -mean_interval(-d, 0.05)[0] == pytest.approx(float(high), abs=1e-12)


def test_fewer_than_five_replicates_bound_nothing():
    for n in range(5):
        low, high = mean_interval(np.ones(n))
        assert low == -np.inf
        assert high == np.inf
    assert np.isfinite(mean_interval(np.ones(5))).all()


def test_interval_of_each_experiment_is_that_of_the_experiment_alone():
    d = np.random.default_rng(0).normal(size=(7, 5))
    low, high = mean_interval(d)
    for i in range(7):
        assert (low[i], high[i]) == mean_interval(d[i])


@pytest.mark.parametrize(("k", "n"), [(0, 30), (1, 20), (7, 50), (50, 50)])
def test_rate_interval_solves_the_binomial_tail_equations(k, n):
    low, high = rate_interval(k, n, 0.05)

    def at_most(j, p):
        return mpmath.fsum(mpmath.binomial(n, i) * mpmath.mpf(p) ** i * (1 - mpmath.mpf(p)) ** (n - i) for i in range(j + 1))

    assert (low == 0) if k == 0 else abs(1 - at_most(k - 1, low) - 0.05) < 1e-10
    assert (high == 1) if k == n else abs(at_most(k, high) - 0.05) < 1e-10


# -- known truth in, rates out ------------------------------------------------------------------------------------------------

NOISES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t2": lambda rng, size: rng.standard_t(2, size=size),
    "cauchy": lambda rng, size: rng.standard_cauchy(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
    "contaminated": lambda rng, size: rng.normal(size=size) * np.where(rng.random(size) < 0.1, 20.0, 1.0),
    "two-point": lambda rng, size: rng.choice([-1.0, 1.0], size=size),
}
N = 20_000


def verdict_rates(criterion, ours, baseline):
    """Share of each verdict over experiments in the leading axis, by the vectorised pieces `decide` is made of."""
    beyond, plain = improvements(criterion, ours, baseline)
    low, high = mean_interval(beyond, criterion.alpha)
    ranks = classify(low, high, mean_interval(plain, criterion.alpha)[0])
    return np.bincount(ranks, minlength=5) / ranks.size


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n_seeds", [5, 8, 20])
def test_a_true_null_is_called_holds_in_at_most_five_percent(noise, n_seeds):
    rng = np.random.default_rng(1)
    n = N if n_seeds < 20 else N // 10
    slack = 3 * np.sqrt(0.05 * 0.95 / n)  # the Monte Carlo error of the rate itself
    cases = {
        "no difference": (Criterion("c", "superiority"), 0.0),
        "difference equal to the margin": (Criterion("c", "superiority", margin=0.7), 0.7),
        "worse by the margin of noninferiority": (Criterion("c", "noninferiority", margin=0.4), -0.4),
        "higher is better": (Criterion("c", "superiority", better="higher", margin=0.2), 0.2),
    }
    for name, (criterion, effect) in cases.items():
        shared = rng.normal(size=(n, n_seeds))  # what a seed does to both sides: pairing takes it out
        ours = shared + NOISES[noise](rng, (n, n_seeds))
        baseline = shared + effect * (1 if criterion.better == "lower" else -1)
        assert verdict_rates(criterion, ours, baseline)[HOLDS] <= 0.05 + slack, name


@pytest.mark.parametrize("noise", ["exponential", "lognormal"])
def test_two_methods_with_the_same_skewed_noise_are_called_different_in_at_most_five_percent(noise):
    rng = np.random.default_rng(2)
    draw = {"exponential": rng.exponential, "lognormal": lambda size: rng.lognormal(0, 1.5, size)}[noise]
    rates = verdict_rates(Criterion("c", "superiority"), draw(size=(N, 5)), draw(size=(N, 5)))
    assert rates[HOLDS] <= 0.05
    assert rates[FAILS] <= 0.05


def test_a_relative_margin_at_its_own_boundary_holds_in_at_most_five_percent():
    rng = np.random.default_rng(3)
    baseline = 2.0 + 0.3 * rng.normal(size=(N, 5))
    ours = 0.5 * baseline + 0.1 * rng.normal(size=(N, 5))
    assert verdict_rates(Criterion("mae", "superiority", margin=0.5, relative=True), ours, baseline)[HOLDS] <= 0.05
    clearly = verdict_rates(Criterion("mae", "superiority", margin=0.3, relative=True), ours, baseline)
    assert clearly[HOLDS] > 0.9


def test_power_and_the_other_verdicts_where_they_are_the_truth():
    """Five seeds, unit normal noise in the differences. The rates are those `docs/add-a-paper.md` quotes."""
    rng = np.random.default_rng(4)

    def rates(effect, margin):
        ours = -effect + rng.normal(size=(N, 5))
        return verdict_rates(Criterion("c", "superiority", margin=margin), ours, np.zeros((N, 5)))

    power = {effect: rates(effect, 0.0)[HOLDS] for effect in (1.0, 2.0, 3.0)}
    assert power[1.0] == pytest.approx(0.41, abs=0.02)
    assert power[2.0] == pytest.approx(0.88, abs=0.02)
    assert power[3.0] > 0.99
    assert rates(5.0, 10.0)[WEAKER] > 0.99  # right direction, margin out of reach
    assert rates(-3.0, 0.0)[FAILS] > 0.99
    assert rates(0.0, 0.0)[INCONCLUSIVE] > 0.9


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.2])
def test_a_bound_that_is_exceeded_is_called_holds_in_at_most_five_percent(rate):
    rng = np.random.default_rng(5)
    criterion = Criterion("coverage", "bound", rate=rate)
    counts = rng.binomial(60, rate, size=(1500, 5))  # the rate that is stated is the largest that may not be excluded
    verdicts = [decide(criterion, [Count(int(k), 60) for k in row], []).verdict for row in counts]
    assert np.mean([v is Verdict.HOLDS for v in verdicts]) <= 0.05
    assert np.mean([v is Verdict.FAILS for v in verdicts]) <= 0.05


def test_a_bound_with_dependent_trials_does_not_count_them_as_independent():
    """Rates that jump between seeds: the pooled binomial alone would call the null *holds* far too often."""
    rng = np.random.default_rng(6)
    criterion = Criterion("coverage", "bound", rate=0.3)
    rates = rng.choice([0.1, 0.5], size=(1500, 5))
    counts = rng.binomial(200, rates)
    held = [decide(criterion, [Count(int(k), 200) for k in row], []).verdict is Verdict.HOLDS for row in counts]
    pooled = [rate_interval(int(row.sum()), 1000)[1] <= 0.3 for row in counts]
    assert np.mean(held) <= 0.05
    assert np.mean(pooled) > 0.2


def test_a_flat_trend_is_called_holds_in_at_most_five_percent():
    rng = np.random.default_rng(7)
    criterion = Criterion("accuracy", "trend", better="higher")
    x = [0.0, 1.0, 2.0, 3.0]
    flat = [decide(criterion, [Trend(x, y) for y in rng.normal(size=(5, 4))], []).verdict for _ in range(1500)]
    rising = [decide(criterion, [Trend(x, y) for y in rng.normal(size=(5, 4)) + 2 * np.asarray(x)], []).verdict for _ in range(200)]
    assert np.mean([v is Verdict.HOLDS for v in flat]) <= 0.05
    assert np.mean([v is Verdict.HOLDS for v in rising]) > 0.9


# -- case by case -------------------------------------------------------------------------------------------------------------

BETTER = [1.0, 1.1, 0.9, 1.05, 0.95]  # ours
BASE = [2.0, 2.1, 1.9, 2.2, 1.8]


@pytest.mark.parametrize(
    ("criterion", "ours", "against", "verdict"),
    [
        (Criterion("c", "superiority"), BETTER, BASE, Verdict.HOLDS),
        (Criterion("c", "superiority", margin=5.0), BETTER, BASE, Verdict.WEAKER),
        (Criterion("c", "superiority", margin=1.0), BETTER, BASE, Verdict.INCONCLUSIVE),
        (Criterion("c", "superiority"), BASE, BETTER, Verdict.FAILS),
        (Criterion("c", "superiority", better="higher"), BASE, BETTER, Verdict.HOLDS),
        (Criterion("c", "superiority", margin=0.4, relative=True), BETTER, BASE, Verdict.HOLDS),
        (Criterion("c", "superiority", margin=0.9, relative=True), BETTER, BASE, Verdict.WEAKER),
        (Criterion("c", "superiority", better="higher", margin=0.8, relative=True), BASE, BETTER, Verdict.HOLDS),
        (Criterion("c", "noninferiority", margin=1.5), BASE, BETTER, Verdict.HOLDS),
        (Criterion("c", "noninferiority", margin=0.5), BASE, BETTER, Verdict.FAILS),
        (Criterion("c", "noninferiority", margin=1.0), BASE, BETTER, Verdict.INCONCLUSIVE),
        (Criterion("c", "noninferiority", margin=0.2, relative=True), BASE, BETTER, Verdict.FAILS),
        (Criterion("c", "superiority"), [1.0] * 5, [1.0] * 5, Verdict.FAILS),  # a tie in every seed
        (Criterion("c", "noninferiority", margin=0.1), [1.0] * 5, [1.0] * 5, Verdict.HOLDS),
        (Criterion("c", "superiority"), [1.0] * 4, [2.0] * 4, Verdict.INCONCLUSIVE),  # four seeds decide nothing
        (Criterion("c", "exact", margin=1e-9), [1.0, 2.0], [1.0, 2.0 + 1e-10], Verdict.HOLDS),
        (Criterion("c", "exact", margin=1e-9), [1.0, 2.0], [1.0, 2.1], Verdict.FAILS),
        (Criterion("c", "exact", margin=0.1, relative=True), [1.0, 2.0], [1.0, 2.1], Verdict.HOLDS),
        (Criterion("c", "bound", margin=0.01), [Count(0, 100)] * 5, [], Verdict.HOLDS),
        (Criterion("c", "bound", margin=0.001), [Count(0, 100)] * 5, [], Verdict.INCONCLUSIVE),
        (Criterion("c", "bound", margin=0.01), [Count(20, 100)] * 5, [], Verdict.FAILS),
        (Criterion("c", "bound", margin=0.1), [[Count(0, 50)] * 6], [], Verdict.HOLDS),  # one seed, six units
        (Criterion("c", "trend", better="lower"), [Trend([0, 1], [1, 0])] * 5, [], Verdict.HOLDS),
        (Criterion("c", "trend", better="lower", margin=2), [Trend([0, 1], [1, 0])] * 5, [], Verdict.WEAKER),
        (Criterion("c", "trend", better="higher"), [Trend([0, 1], [1, 0])] * 5, [], Verdict.FAILS),
    ],
)
def test_verdict_by_the_table(criterion, ours, against, verdict):
    assert decide(criterion, ours, against).verdict is verdict


def test_units_are_the_replicates_and_seeds_are_averaged():
    rng = np.random.default_rng(0)
    ours, base = rng.normal(size=(3, 8)), rng.normal(2.0, 1.0, size=(3, 8))
    d = decide(Criterion("c", "superiority"), ours.tolist(), base.tolist())
    assert d.n == 8
    assert d.differences == tuple((base.mean(0) - ours.mean(0)).tolist())
    assert decide(Criterion("c", "superiority"), ours[0].tolist(), base[0].tolist()).n == 8


@pytest.mark.parametrize(
    ("criterion", "ours", "against", "says"),
    [
        (Criterion("mae", "superiority"), [1.0, float("nan")], [1.0, 1.0], "not a finite number"),
        (Criterion("mae", "superiority"), [1.0, 2.0], [1.0], "compared in pairs"),
        (Criterion("mae", "superiority"), [[1.0], [1.0, 2.0]], [1.0, 1.0], "same number of units"),
        (Criterion("mae", "superiority"), ["good", "bad"], [1.0, 1.0], "one number a seed"),
        (Criterion("mae", "superiority", margin=0.1, relative=True), [1.0, 2.0], [-1.0, 0.5], "needs a positive one"),
        (Criterion("mae", "bound", margin=0.1), [Count(3, 2)], [], "violations <= trials"),
        (Criterion("mae", "bound", margin=0.1), [0.5], [], "Count(violations, trials)"),
        (Criterion("mae", "trend"), [1.0], [], "Trend(x, y)"),
        (Criterion("mae", "trend"), [Trend([1, 1], [0, 2])], [], "two distinct x"),
        (Criterion("mae", "exact"), [1.0], [], "finite numbers in pairs"),
    ],
)
def test_values_that_cannot_be_decided_are_refused_by_name(criterion, ours, against, says):
    with pytest.raises(InputError, match="criterion 'mae'") as caught:
        decide(criterion, ours, against)
    assert says in str(caught.value)


# -- the rule that makes a claim of its criteria ------------------------------------------------------------------------------


def made(verdict):
    return Decision(verdict, f"because {verdict.value}", 0.0, 0.0, 0.0, 0.0, 5, ())


@pytest.mark.parametrize(
    ("criteria", "ablations", "why_none", "verdict"),
    [
        (["holds", "holds"], ["holds"], None, "holds"),
        (["holds", "weaker"], ["holds"], None, "weaker"),
        (["holds", "fails", "inconclusive"], ["holds"], None, "fails"),
        (["holds"], ["holds", "inconclusive"], None, "weaker"),
        (["holds"], ["fails"], None, "weaker"),
        (["fails"], ["fails"], None, "fails"),
        (["holds"], [], None, "weaker"),
        (["holds"], [], "a theorem has no part to leave out", "holds"),
        (["holds"], ["fails"], "a reason does not excuse a measured ablation", "weaker"),
    ],
)
def test_combination(criteria, ablations, why_none, verdict):
    got, reason = combine([made(Verdict(c)) for c in criteria], [made(Verdict(a)) for a in ablations], why_none)
    assert got is Verdict(verdict)
    assert reason


@pytest.mark.parametrize("kind", ["superiority", "noninferiority", "bound", "exact", "trend"])
def test_an_ablation_hurts_or_not_whatever_the_kind(kind):
    good = {"bound": Count(1, 100), "exact": 1.0, "trend": Trend([0, 1], [1, 0])}.get(kind, 1.0)
    bad = {"bound": Count(30, 100), "exact": 1.5, "trend": Trend([0, 1], [0, 0])}.get(kind, 2.0)
    criterion = Criterion("c", kind, margin=0.1)
    against = [1.0] * 5
    assert decide_ablation(criterion, [good] * 5, [bad] * 5, against).verdict is Verdict.HOLDS
    assert decide_ablation(criterion, [good] * 5, [good] * 5, against).verdict is not Verdict.HOLDS
    if kind != "exact":  # exact needs no replication: a single seed outside its tolerance decides
        assert decide_ablation(criterion, [good] * 3, [bad] * 3, against).verdict is not Verdict.HOLDS
