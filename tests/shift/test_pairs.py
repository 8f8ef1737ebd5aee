"""Pairs: a table against exact sums, the bound on wrong answers by enumeration, calibration and intervals against slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from farfield.errors import InputError
from farfield.shift.pairs import PairPredictor, _floor, beta_interval, pair_products, second_order_calibration_error

pytestmark = pytest.mark.extra("sklearn")

# true probabilities of three answers at four inputs, of which the model tells only the pairs (0, 1) and (2, 3) apart
TRUTH = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])


def table() -> Any:
    """A classifier that counts: the frequencies of labels at each value of x // 2."""
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_leaf_nodes=2, random_state=0)


def exact() -> tuple[Any, Any, Any]:
    """Every pair of answers at every input as often as its probability says, in hundredths."""
    x, a, b = [], [], []
    for i, p in enumerate(TRUTH):
        for j in range(3):
            for k in range(3):
                times = round(100 * p[j] * p[k])
                x += [i // 2] * times
                a += [j] * times
                b += [k] * times
    return np.array(x)[:, None], np.array(list("xyz"))[a], np.array(list("xyz"))[b]


def test_a_perfect_model_of_pairs_has_the_exact_variance() -> None:
    X, y1, y2 = exact()
    model = PairPredictor(table()).fit(X, y1, y2)
    at = np.array([[0], [1]])
    cells = TRUTH.reshape(2, 2, 3)
    mean = cells.mean(axis=1)
    np.testing.assert_allclose(model.predict_proba(at), mean, atol=1e-12)
    np.testing.assert_allclose(model.epistemic_variance(at), cells.var(axis=1), atol=1e-12)
    slow = np.array([sum(np.outer(p - m, p - m) for p in cell) / 2 for cell, m in zip(cells, mean, strict=True)])
    np.testing.assert_allclose(model.covariance(at), slow, atol=1e-12)
    joint = model.joint(at)
    np.testing.assert_array_equal(joint, joint.transpose(0, 2, 1))
    np.testing.assert_allclose(joint.sum(axis=(1, 2)), 1.0)
    assert list(model.predict(at)) == ["x", "z"]


def test_confidence_is_first_over_second_and_bounds_impossible_answers() -> None:
    X, y1, y2 = exact()
    model = PairPredictor(table()).fit(X, y1, y2)
    at = np.array([[1]] * 3)
    p = TRUTH[2:].mean(axis=0)
    again = (TRUTH[2:] ** 2).mean(axis=0) / p
    np.testing.assert_allclose(model.confidence(at, np.array(list("xyz"))), p / again, atol=1e-12)
    # an answer is impossible at no larger a share of inputs than one minus its confidence, whatever the table
    rng = np.random.default_rng(0)
    for _ in range(200):
        cell = rng.dirichlet([0.5] * 3, size=6) * (rng.uniform(size=(6, 1)) > 0.3)
        share = (cell == 0).mean(axis=0)
        assert (share <= 1 - cell.mean(axis=0) ** 2 / np.maximum((cell**2).mean(axis=0), 1e-300) + 1e-12).all()


def test_products_of_pairs_are_unbiased_for_the_squared_error() -> None:
    p, truth = np.array([[0.5, 0.3, 0.2]]), TRUTH[1]
    mean = sum(truth[a] * truth[b] * pair_products(p, [a], [b])[0] for a in range(3) for b in range(3))
    np.testing.assert_allclose(mean, (truth - p[0]) ** 2, atol=1e-15)


def test_calibration_error_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    v, s = rng.uniform(size=100), rng.uniform(size=100)
    order = sorted(range(100), key=lambda i: v[i])
    slow = 0.0
    for start in range(0, 100, 25):
        some = order[start : start + 25]
        slow += 0.25 * abs(sum(v[i] - s[i] for i in some) / 25)
    assert second_order_calibration_error(v, s, bins=4) == pytest.approx(slow, rel=1e-12)


def test_beta_intervals_are_scipys() -> None:
    p, v = np.array([[0.3, 0.9]]), np.array([[0.02, 0.05]])
    low, high = beta_interval(p, v, 0.9)
    for i in range(2):
        size = p[0, i] * (1 - p[0, i]) / v[0, i] - 1
        law = stats.beta(p[0, i] * size, (1 - p[0, i]) * size)
        assert law.mean() == pytest.approx(p[0, i])
        assert law.var() == pytest.approx(v[0, i])
        assert (low[0, i], high[0, i]) == pytest.approx(law.interval(0.9), rel=1e-9)


def test_chebyshev_intervals_hold_and_calibration_gives_them_a_width() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4000))
    p = 1 / (1 + np.exp(-1.5 * x))
    y = (rng.uniform(size=(2, 3, 4000)) < p).astype(int)
    model = PairPredictor(LogisticRegression()).fit(x[0][:, None], y[0, 0], y[1, 0])
    at = x[2][:, None]
    before = model.epistemic_variance(at)
    model.calibrate(x[1][:, None], y[0, 1], y[1, 1])
    after = model.epistemic_variance(at)
    assert (before == 0).any()
    assert (after > 0).all()
    low, high = model.interval(at, 0.9)
    assert ((low[:, 1] <= p[2]) & (p[2] <= high[:, 1])).mean() >= 0.9
    np.testing.assert_array_equal(model.epistemic_variance(at[:1]), after[:1])


def test_the_floor_is_the_mean_of_a_variance_that_is_not_negative() -> None:
    rng = np.random.default_rng(0)
    raw, products = rng.uniform(size=4000), rng.normal(size=4000)
    products[raw > 0.4] += 1.0
    edge, floor = _floor(raw, products, 2)
    # slow: every prefix of at least 100 rows, half of which are new where there are two answers
    order = sorted(range(4000), key=lambda i: raw[i])
    best = (np.inf, 0.0, 0.0, 0.0)
    for n in range(100, 4001, 1):
        some = products[order[:n]]
        mean, error = some.mean(), some.std() / np.sqrt(n / 2)
        best = min(best, (max(mean, 0.0) + error, raw[order[n - 1]], mean, error))
    assert edge == best[1]
    _, _, mean, error = best
    assert floor == pytest.approx(stats.truncnorm(-mean / error, np.inf, mean, error).mean(), rel=1e-8)
    assert 0.3 < edge < 0.45  # those that show nothing lie together


def test_what_pairs_cannot_resolve_is_not_called_known() -> None:
    from sklearn.dummy import DummyClassifier

    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, (4, 1000))  # a coin: the model is right, but 1,000 pairs do not show that its variance is 0
    model = PairPredictor(DummyClassifier()).fit(np.zeros((1000, 1)), y[0], y[1]).calibrate(np.zeros((1000, 1)), y[2], y[3])
    assert 0.1 * 0.25 / np.sqrt(1000) < model.resolution_ < 4 * 0.25 / np.sqrt(1000)
    assert (model.epistemic_variance(np.zeros((3, 1))) == model.resolution_).all()


def test_copies_are_pointed_out() -> None:
    X, y1, _ = exact()
    with pytest.warns(UserWarning, match="not copies"):
        model = PairPredictor(table()).fit(X, y1, y1)
    v, p = model.epistemic_variance(X[:1]), model.predict_proba(X[:1])
    np.testing.assert_allclose(v, p * (1 - p), atol=1e-12)


@pytest.mark.parametrize(
    ("y1", "y2", "message"),
    [
        (["a", "b"], ["a"], "must be paired"),
        (["a", "a"], ["a", "a"], "every answer is 'a'"),
        ([[1], [2]], [1, 2], "y1 has shape"),
        ([1.0, np.nan], [1.0, 2.0], "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(y1: Any, y2: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PairPredictor(table()).fit(np.zeros((2, 1)), y1, y2)


def test_other_refusals() -> None:
    X, y1, y2 = exact()
    with pytest.raises(InputError, match="not fitted"):
        PairPredictor(table()).joint(X)
    model = PairPredictor(table()).fit(X, y1, y2)
    with pytest.raises(InputError, match="answer 'q' was not seen"):
        model.confidence(X[:1], ["q"])
    with pytest.raises(InputError, match="2 answers for 1 rows"):
        model.confidence(X[:1], ["x", "y"])
    with pytest.raises(InputError, match="unknown shape"):
        model.interval(X[:1], shape="round")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 20"):
        second_order_calibration_error(np.zeros(5), np.zeros(5))
