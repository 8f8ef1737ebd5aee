"""The gap: analytic answers, the identity, intervals that cover, scores against scikit-learn, real data, refusals."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest

from farfield.errors import InputError
from farfield.gap import (
    GapResult,
    GapStatus,
    compare,
    effective_robustness,
    extrapolation_gap,
    extrapolation_horizon,
    get_score,
    score_by_group,
    score_by_reach,
    worst_group,
)
from farfield.gap.resample import linear_error, resampled
from farfield.splits import EnvironmentSplit, RangeSplit
from gap_models import Coin, Fixed, Line, Mean, data


def measured(model: Any = None, seed: int = 0, **kw: Any) -> GapResult:
    X, y = data()
    options: dict[str, Any] = {"split": RangeSplit(0, random_state=seed), "n_boot": 400, **kw}
    return extrapolation_gap(model or Line(), X, y, **options)


def test_a_constant_model_on_a_square_has_the_gap_of_the_integrals() -> None:
    # y = x^2, x uniform on [0, 1], beyond x > 0.8, model 0: the MSE inside is mean of x^4 = 0.8^4 / 5, beyond (1 - 0.8^5) / 5 / 0.2
    x = (np.arange(20000) + 0.5)[:, None] / 20000
    split = RangeSplit(0, threshold=0.8, n_repeats=40, random_state=0)
    with pytest.warns(UserWarning, match="no fit"):
        r = extrapolation_gap(Fixed(0.0), x, x[:, 0] ** 2, split=split, scoring="mse", n_boot=100)
    assert r.beyond.value == pytest.approx((1 - 0.8**5) / 5 / 0.2, rel=1e-6)
    assert r.inside.value == pytest.approx(0.8**4 / 5, rel=0.02)
    assert r.gap.value == pytest.approx(r.beyond.value - r.inside.value)
    assert r.reference is None
    assert r.status is GapStatus.NO_REFERENCE


def test_the_parts_are_what_a_slow_loop_finds() -> None:
    X, y = data()
    r = measured()
    inside, beyond, reference = [], [], []
    for s in RangeSplit(0, random_state=0).regions(X, y):
        model = Line().fit(X[s.train], y[s.train])
        inside.append(np.abs(model.predict(X[s.inside]) - y[s.inside]).mean())
        beyond.append(np.abs(model.predict(X[s.beyond]) - y[s.beyond]).mean())
        errors = [np.abs(Line().fit(X[f], y[f]).predict(X[t]) - y[t]) for f, t in s.reference]
        reference.append(np.concatenate(errors).mean())
    assert r.inside.value == pytest.approx(np.mean(inside), rel=1e-12)
    assert r.beyond.value == pytest.approx(np.mean(beyond), rel=1e-12)
    assert r.reference is not None
    assert r.reference.value == pytest.approx(np.mean(reference), rel=1e-12)
    np.testing.assert_allclose(r.per_split["reference"], reference)
    assert r.inside.n <= 240
    assert r.beyond.n == 60


@pytest.mark.parametrize("scoring", ["mae", "mse", "rmse", "r2", "median"])
def test_the_gap_is_difficulty_plus_extrapolation_and_positive_is_worse(scoring: str) -> None:
    r = measured(scoring=scoring)
    assert r.difficulty is not None
    assert r.extrapolation is not None
    assert r.gap.value == r.difficulty.value + r.extrapolation.value
    assert r.extrapolation.low > 0  # a line on a parabola
    assert r.status is GapStatus.COSTS
    for e in (r.inside, r.beyond, r.gap, r.difficulty, r.extrapolation):
        assert e.low <= e.value <= e.high
    assert "= difficulty" in r.summary()
    assert "\n" not in repr(r)
    assert r.to_frame()["quantity"].to_list() == ["inside", "reference", "beyond", "gap", "difficulty", "extrapolation"]


def test_r2_beyond_is_measured_against_what_was_seen() -> None:
    X, y = data()
    r = measured(scoring="r2", split=RangeSplit(0, n_repeats=1, random_state=0))
    [s] = RangeSplit(0, n_repeats=1, random_state=0).regions(X, y)
    model = Line().fit(X[s.train], y[s.train])
    assert r.beyond.value == pytest.approx(1 - np.mean((model.predict(X[s.beyond]) - y[s.beyond]) ** 2) / y[s.train].var())


def test_a_seed_gives_the_same_and_the_order_of_the_rows_does_not_matter() -> None:
    X, y = data()
    a, b = measured(), measured()
    assert a.to_dict() == b.to_dict()
    shuffle = np.random.default_rng(1).permutation(len(y))
    c = extrapolation_gap(Line(), X[shuffle], y[shuffle], split=RangeSplit(0, random_state=0), n_boot=400)
    np.testing.assert_allclose([c.gap.value, c.inside.value], [a.gap.value, a.inside.value], rtol=1e-12)


def test_what_lies_beyond_never_reaches_the_model_inside() -> None:
    X, y = data()
    changed = np.where(X[:, 0] > np.quantile(X[:, 0], 0.8), y + 100, y)
    split = RangeSplit(0, threshold=float(np.quantile(X[:, 0], 0.8)), random_state=0)
    a = extrapolation_gap(Line(), X, y, split=split, n_boot=100, reference=None)
    b = extrapolation_gap(Line(), X, changed, split=split, n_boot=100, reference=None)
    rows_a, rows_b = a.per_row, b.per_row
    assert rows_a is not None
    assert rows_b is not None
    assert b.beyond.value > 90
    # the hold-out is drawn by what stands in the seen rows, which did not change
    assert np.array_equal(np.sort(rows_a["loss"][rows_a["part"] == 0]), np.sort(rows_b["loss"][rows_b["part"] == 0]))


def test_resampling_all_at_once_is_resampling_one_by_one() -> None:
    rng = np.random.default_rng(0)
    sums = rng.uniform(1, 2, size=(40, 6))
    found = resampled(sums, 3000, np.random.default_rng(1))
    fast = found.ratios
    slow = []
    for _ in range(3000):
        pick = rng.integers(40, size=40)
        total = sums[pick].sum(axis=0)
        slow.append(total[:3] / total[3:])
    np.testing.assert_allclose(fast.mean(axis=0), np.mean(slow, axis=0), rtol=6e-3)  # four standard errors
    np.testing.assert_allclose(fast.std(axis=0), np.std(slow, axis=0), rtol=0.08)
    weights = np.array([[1.0, -1.0, 0.0]])
    by_jackknife = []
    for i in range(40):
        total = np.delete(sums, i, axis=0).sum(axis=0)
        by_jackknife.append(total[0] / total[3] - total[1] / total[4])
    jackknife = np.sqrt(39 / 40 * ((by_jackknife - np.mean(by_jackknife)) ** 2).sum())
    assert linear_error(*found.whole, weights)[0] == pytest.approx(jackknife, rel=0.03)


@pytest.mark.extra("sklearn")
def test_scores_of_whole_regions_agree_with_scikit_learn_in_every_resample() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, size=80)
    p = np.round(np.clip(0.3 * y + rng.uniform(size=80) * 0.7, 0, 1), 1)  # with ties
    counts = rng.multinomial(80, np.full(80, 1 / 80), size=6).astype(float)
    auc, balanced = get_score("auc").whole, get_score("balanced_accuracy").whole
    assert auc is not None
    assert balanced is not None
    two = np.c_[1 - p, p]
    hit = (p > 0.5).astype(int)
    for b, row in enumerate(counts.astype(int)):
        index = np.repeat(np.arange(80), row)
        assert auc(y, two, counts)[b] == pytest.approx(metrics.roc_auc_score(y[index], p[index]), abs=1e-12)
        assert balanced(y, hit, counts)[b] == pytest.approx(metrics.balanced_accuracy_score(y[index], hit[index]), abs=1e-12)


@pytest.mark.extra("sklearn")
def test_scorers_of_scikit_learn_are_scores_by_name_and_as_objects() -> None:
    from sklearn import metrics
    from sklearn.linear_model import LogisticRegression, Ridge

    X, y = data()
    split = RangeSplit(0, n_repeats=1, random_state=0)
    [s] = split.regions(X, y)
    model = Ridge().fit(X[s.train], y[s.train])
    options: dict[str, Any] = {"split": split, "n_boot": 100}
    for scoring in ("neg_max_error", metrics.make_scorer(metrics.max_error, greater_is_better=False)):
        r = extrapolation_gap(Ridge(), X, y, scoring=scoring, **options)
        assert r.beyond.value == pytest.approx(metrics.max_error(y[s.beyond], model.predict(X[s.beyond])))
        assert r.scoring.lower_is_better
    assert get_score(metrics.get_scorer("neg_mean_absolute_error")) is get_score("mae")
    c = np.where(np.sin(17 * X[:, 1]) > 0, 1, 0)
    [s] = split.regions(X, c)
    classes = LogisticRegression().fit(X[s.train], c[s.train])
    r = extrapolation_gap(LogisticRegression(), X, c, scoring="average_precision", **options)
    assert r.beyond.value == pytest.approx(metrics.average_precision_score(c[s.beyond], classes.predict_proba(X[s.beyond])[:, 1]))
    with pytest.raises(InputError, match="asks a model for decision_function"):
        get_score(metrics.make_scorer(metrics.hinge_loss, response_method="decision_function"))
    with pytest.raises(InputError, match="average_precision_score failed with ValueError: pos_label=1"):
        extrapolation_gap(LogisticRegression(), X, np.where(c, "yes", "no"), scoring="average_precision", **options)


@pytest.mark.extra("sklearn")
def test_scorers_of_numbers_are_told_from_those_of_classes() -> None:
    X, y = data()
    steps = np.where(X[:, 0] > 0.7, 3, np.round(2 * X[:, 1]))  # the same number everywhere beyond is no class
    found = extrapolation_gap(Line(), X, steps, split=RangeSplit(0, random_state=0), scoring="neg_max_error", n_boot=100)
    assert np.isfinite(found.beyond.value)
    with pytest.raises(InputError, match=r"y holds words, such as '[ab]', and max error needs numbers"):
        extrapolation_gap(Line(), X, np.where(y > 2, "a", "b"), split=RangeSplit(0), scoring="neg_max_error")
    numeric = {name: get_score(name).numeric for name in ("neg_mean_poisson_deviance", "explained_variance", "f1_macro", "jaccard")}
    assert list(numeric.values()) == [True, True, False, False]


@pytest.mark.extra("sklearn")
def test_row_scores_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, size=60)
    p = rng.uniform(0.05, 0.95, size=60)
    from farfield.gap.scores import Seen

    seen = Seen(0.0, 1.0, np.array([0, 1]))
    loss, brier = get_score("log_loss").rows, get_score("brier").rows
    assert loss is not None
    assert brier is not None
    assert loss(y, np.c_[1 - p, p], seen).mean() == pytest.approx(metrics.log_loss(y, p))
    assert brier(y, np.c_[1 - p, p], seen).mean() == pytest.approx(2 * metrics.brier_score_loss(y, p))


@pytest.mark.parametrize("scoring", ["auc", "accuracy", "balanced_accuracy", "log_loss", "brier"])
def test_classification(scoring: str) -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(300, 2))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    r = extrapolation_gap(Coin(), X, y, split=RangeSplit(1, random_state=0, n_repeats=2), scoring=scoring, n_boot=200)
    assert 0 < r.inside.value < 1
    assert r.beyond.low < r.beyond.high
    assert r.extrapolation is not None
    assert r.extrapolation.value == pytest.approx(0, abs=1e-12)  # Coin learns nothing, so it has nothing to miss


def test_a_function_of_ones_own_is_a_score() -> None:
    def negative_worst(y: Any, p: Any) -> float:
        return -float(np.max(np.abs(y - p)))

    r = measured(scoring=negative_worst, n_boot=100)
    assert r.gap.value > 0
    assert r.per_row is None
    with pytest.raises(InputError, match="no mean over rows"):
        score_by_reach(r)


@pytest.mark.parametrize("design", ["row", "group", "repeated"])
def test_intervals_cover_a_known_gap(design: str) -> None:
    # y = x + noise beyond 0.8 twice as loud, group effects; model 0 without fit: the losses' means are integrals
    hits = 0
    n_trials = 100
    rng = np.random.default_rng(11)
    for _ in range(n_trials):
        x = rng.uniform(size=500)
        if design == "group":
            centre = np.repeat(rng.uniform(size=200), 5)
            x, groups = centre, np.repeat(np.arange(200), 5)
            noise = np.repeat(rng.normal(size=200), 5) * 0.7 + rng.normal(size=1000) * 0.7
        else:
            groups, noise = None, rng.normal(size=500)
        scale = np.where(x > 0.8, 2.0, 1.0)
        y = scale * noise
        truth = (4.0 - 1.0) * (0.98 if design == "group" else 1.0)
        split = RangeSplit(0, threshold=0.8, n_repeats=5 if design == "repeated" else 1, inside_size=0.4, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            X = np.c_[x, rng.normal(size=x.size)]
            r = extrapolation_gap(Fixed(0.0), X, y, split=split, scoring="mse", groups=groups, n_boot=300, rng=rng)
        hits += r.gap.low <= truth <= r.gap.high
    assert hits / n_trials > 0.86, hits / n_trials


def test_rows_that_are_scored_and_trained_on_count_once_with_what_they_do_in_both() -> None:
    # a mean, fitted on rows of which some lie beyond: such a row moves the extrapolation by its score and, as much again, by what
    # it does to the reference. The standard error must be that of the values over data sets; the rows' own is about half of it
    rng = np.random.default_rng(3)
    values, errors, own, compared = [], [], [], []
    for _ in range(60):
        x = np.r_[rng.uniform(0, 0.8, 200), rng.uniform(0.8, 1, 50)]
        y = x + 0.5 * rng.normal(size=250)
        options: dict[str, Any] = {"split": RangeSplit(0, threshold=0.8, random_state=0), "scoring": "mse", "n_boot": 100}
        r, other = (extrapolation_gap(m, x[:, None], y, name=n, **options) for m, n in ((Mean(), "mean"), (Line(), "line")))
        assert r.extrapolation is not None
        values.append(r.extrapolation.value)
        errors.append(r.extrapolation.std_error)
        assert r.evidence is not None
        sums = r.evidence.sums()
        influence = sums[:, :3] - sums[:, :3].sum(axis=0) * sums[:, 3:]
        own.append(np.sqrt(((influence[:, 2] - influence[:, 1]) ** 2).sum()))
        [e] = [e for m, q, e in compare([r, other]).differences if q == "extrapolation"]
        compared.append((e.value, e.std_error))
    spread = np.std(values)
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) / spread < 1.35
    assert np.sqrt(np.mean(np.square(own))) / spread < 0.6
    differences, their_errors = np.array(compared).T
    assert 0.8 < np.sqrt(np.mean(their_errors**2)) / np.std(differences) < 1.5


def test_threads_change_nothing() -> None:
    one, two, all_cores = (measured(n_jobs=n) for n in (None, 2, -1))
    assert one.to_dict() == two.to_dict() == all_cores.to_dict()
    both = [measured(Line(), name="line"), measured(Mean(), name="mean")]
    assert compare(both).to_frame().equals(compare(both, n_jobs=2).to_frame())
    with pytest.raises(InputError, match="fit failed"):
        measured(Fails(), n_jobs=2)
    with pytest.raises(InputError, match="n_jobs is 0"):
        measured(n_jobs=0)


def test_a_model_can_be_chosen_by_a_region_left_out_of_what_is_seen() -> None:
    X, y = data()
    kept, mean = (measured(m, name=n, selection="leave_region_out") for m, n in ((Line(), "line"), (Mean(), "mean")))
    seen = X[:, 0] <= np.quantile(X[:, 0], 0.8)
    out = seen & (X[:, 0] > np.quantile(X[seen, 0], 0.8))
    model = Line().fit(X[seen & ~out], y[seen & ~out])
    assert kept.left_out == pytest.approx(np.abs(model.predict(X[out]) - y[out]).mean())
    assert compare([mean, kept], selection="leave_region_out").selected == "line"
    with pytest.raises(InputError, match="line, mean: measured without"):
        compare([measured(Line(), name="line"), measured(Mean(), name="mean")], selection="leave_region_out")
    changed = np.where(seen, y, y + 100)  # what lies beyond is not read
    split = RangeSplit(0, threshold=float(np.quantile(X[:, 0], 0.8)), random_state=0)
    a, b = (extrapolation_gap(Line(), X, t, split=split, n_boot=100, selection="leave_region_out") for t in (y, changed))
    assert a.left_out == b.left_out


# -- beyond one number -------------------------------------------------------------------------------------------------


def test_loss_by_reach_rises_for_a_line_on_a_parabola_and_the_horizon_says_where() -> None:
    r = measured()
    table = score_by_reach(r, 4)
    assert table["n"].sum() == 60
    assert table["value"].is_sorted()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert (table["reference"] < table["value"])[-1]
    near, far = extrapolation_horizon(r, 0.1), extrapolation_horizon(r, 100.0)
    assert 1.0 <= near < far == pytest.approx(table["reach_high"].max())


def test_groups_beyond_the_worst_first_and_none_without_rows() -> None:
    X, _ = data()
    groups = np.where(X[:, 0] > 0.9, "far", np.where(X[:, 0] > 0.8, "near", "inside only"))
    table = score_by_group(measured(), groups)
    assert table["group"].to_list()[0] == "far"
    assert worst_group(measured(), groups)["group"] == "far"
    if "inside only" in table["group"].to_list():  # rows between the quantile and 0.8
        assert table.filter(pl.col("group") == "inside only")["n"][0] > 0


def test_models_are_compared_on_the_same_resamples() -> None:
    line, mean = measured(Line(), name="line"), measured(Mean(), name="mean")
    c = compare([mean, line])
    assert c.selected == "line"
    [beyond] = [e for m, q, e in c.differences if q == "beyond"]
    assert beyond.value == pytest.approx(mean.beyond.value - line.beyond.value)
    unpaired = np.hypot(mean.beyond.std_error, line.beyond.std_error)
    assert beyond.std_error < unpaired
    assert "minus line, beyond" in c.summary()
    with pytest.warns(UserWarning, match="oracle"):
        assert compare([mean, line], selection="oracle").selection == "oracle"
    with pytest.raises(InputError, match="not measured on the same regions"):
        compare([line, measured(Mean(), seed=1, name="mean")])
    with pytest.raises(InputError, match="at least two"):
        compare([line])


def test_effective_robustness_is_the_distance_from_the_others_line() -> None:
    import dataclasses

    base = measured()

    def model(name: str, inside: float, beyond: float) -> GapResult:
        score = get_score("accuracy")
        return dataclasses.replace(
            base, model=name, scoring=score, inside=base.inside._replace(value=inside), beyond=base.beyond._replace(value=beyond)
        )

    some = [model("a", 0.6, 0.4), model("b", 0.7, 0.5), model("c", 0.8, 0.6), model("d", 0.75, 0.65)]
    found = effective_robustness(some, "identity")
    assert found["d"] == pytest.approx(0.1)  # the line of a, b, c is inside - 0.2
    assert effective_robustness(some)["d"] > 0
    with pytest.raises(InputError, match="at least four"):
        effective_robustness(some[:3])


def test_environments_each_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [50, 100, 150])
    X = rng.normal(size=(300, 2)) + groups[:, None]
    y = X[:, 0] + groups * 2 + rng.normal(size=300)
    r = extrapolation_gap(Line(), X, y, split=EnvironmentSplit(n_repeats=2, random_state=0), groups=groups, n_boot=200)
    assert r.regions == ("0", "1", "2")
    assert r.unit == "row"
    assert r.beyond.value == pytest.approx(np.mean([r.per_split["beyond"][r.per_split["region"] == g].mean() for g in "012"]))


def test_the_figure_holds_what_was_measured() -> None:
    from matplotlib import pyplot as plt

    ax = measured(name="line").plot()
    said = " ".join(t.get_text() for t in ax.texts)
    assert "extrapolation" in said
    assert [t.get_text() for t in ax.get_yticklabels()] == ["line"]
    plt.close(ax.figure)


# -- real data ------------------------------------------------------------------------------------------------------------


def _holds(r: GapResult, gap: float, difficulty: float, extrapolation: float) -> None:
    assert r.difficulty is not None
    assert r.extrapolation is not None
    for e, known in ((r.gap, gap), (r.difficulty, difficulty), (r.extrapolation, extrapolation)):
        assert e.low <= known <= e.high, (known, e)


@pytest.mark.data
@pytest.mark.extra("sklearn")
def test_heavy_cars_are_easier_and_unseen() -> None:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Ridge

    cars = pl.read_csv(f"{os.environ['FARFIELD_DATA']}/gap/cars.csv", infer_schema_length=None).drop_nulls("Miles_per_Gallon")
    X = (
        cars.select("Weight_in_lbs", "Displacement", "Horsepower", "Acceleration")
        .fill_null(strategy="mean")
        .to_numpy()
        .astype(float)
    )
    y = cars["Miles_per_Gallon"].to_numpy()
    split = RangeSplit(0, random_state=0)
    forest = extrapolation_gap(RandomForestRegressor(30, random_state=0), X, y, split=split)
    _holds(forest, -0.81, -1.49, 0.68)
    assert forest.difficulty is not None
    assert forest.gap.value < 0
    assert forest.difficulty.high < 0
    _holds(extrapolation_gap(Ridge(), X, y, split=split), 2.04, -1.11, 3.15)


@pytest.mark.extra("sklearn")
def test_diabetes_with_large_bmi() -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    X, y = load_diabetes(return_X_y=True)
    split = RangeSplit(2, random_state=0)
    _holds(extrapolation_gap(RandomForestRegressor(30, random_state=0), X, y, split=split), 15.0, 3.8, 11.2)
    _holds(extrapolation_gap(LinearRegression(), X, y, split=split), 5.5, 5.0, 0.5)


# -- refusals -------------------------------------------------------------------------------------------------------------


class Fails(Mean):
    def fit(self, X: Any, y: Any) -> Fails:
        raise RuntimeError("singular\nmatrix")


class Nan(Mean):
    def predict(self, X: Any) -> Any:
        return np.full(len(X), np.nan)


class Short(Mean):
    def predict(self, X: Any) -> Any:
        return np.zeros(1)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Fails(), {}, r"model 'Fails', region column 0>.*: fit failed with RuntimeError: singular$"),
        (Nan(), {}, "model 'Nan', .* predicted .* NaN or infinite"),
        (Short(), {}, r"gave answers of shape \(1,\)"),
        (Line(), {"scoring": "maee"}, "unknown score 'maee'; nearest: mae"),
        (Line(), {"scoring": "auc"}, "has no predict_proba"),
        (Line(), {"groups": [1, 2]}, "groups has shape"),
        (Line(), {"unit": np.zeros(3)}, "unit has shape"),
        (Line(), {"level": 95}, "did you mean 0.95"),
        (Line(), {"n_boot": 5}, "from 100 up"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(model: Any, options: dict[str, Any], message: str) -> None:
    X, y = data()
    binary = (X[:, 1] > 0.5).astype(float) if options.get("scoring") == "auc" else y
    with pytest.raises(InputError, match=message):
        extrapolation_gap(model, X, binary, split=RangeSplit(0, random_state=0), **options)


def test_a_region_of_one_class_has_no_auc() -> None:
    X, _ = data()
    y = ((X[:, 0] > 0.5) & (X[:, 0] < 0.75)).astype(int)
    with pytest.raises(InputError, match=r"the beyond rows of the region .* are all of one class, 0"):
        extrapolation_gap(Coin(), X, y, split=RangeSplit(0, threshold=0.8, random_state=0), scoring="auc")


def test_few_units_widen_the_intervals_and_say_so() -> None:
    X, y = data(60)
    with pytest.warns(UserWarning, match="only 12 rows in a part"):
        r = extrapolation_gap(Line(), X, y, split=RangeSplit(0, random_state=0), n_boot=200)
    assert any("only 12 rows" in w for w in r.warnings)


def test_the_guide_runs() -> None:
    import re
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs" / "gap.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/gap.md", "exec"), {})
