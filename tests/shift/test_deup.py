"""DEUP: density against SciPy, replicates and the smearing factor against slow loops, held-out errors, the loop, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import gaussian_kde, spearmanr

from farfield import seeds
from farfield.errors import InputError
from farfield.shift.deup import DEUPRegressor, _LogErrors, deup_search, log_density

pytestmark = pytest.mark.extra("sklearn")


def base() -> Any:
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor(min_samples_leaf=3)


def data(n: int = 120, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    return X, np.where(X[:, 0] > 0, np.sin(8 * X[:, 1]), 0.1 * X[:, 1]) + 0.05 * rng.normal(size=n)


def test_log_density_is_scipys_where_columns_are_independent() -> None:
    rng = np.random.default_rng(0)
    of = rng.normal(size=(50, 1)) * 3
    at = np.linspace(-12, 12, 9)[:, None]
    np.testing.assert_allclose(log_density(at, of), np.log(gaussian_kde(of.T)(at.T)), rtol=1e-10)
    wide = rng.normal(size=(40, 3)) * [1, 5, 0.1]
    slow = []
    h = 40 ** (-1 / 7) * wide.std(axis=0, ddof=1)
    for p in wide[:4] + 0.1:
        kernels = [np.prod(np.exp(-(((p - q) / h) ** 2) / 2) / (h * np.sqrt(2 * np.pi))) for q in wide]
        slow.append(np.log(np.mean(kernels)))
    np.testing.assert_allclose(log_density(wide[:4] + 0.1, wide), slow, rtol=1e-10)
    assert np.isfinite(log_density(np.array([[1e4]]), of)).all()


def test_pairs_are_errors_of_models_that_did_not_see_the_row() -> None:
    X, y = data()
    found = DEUPRegressor(base(), features=("density",), partitions=("random",), random_state=3).fit(X, y)
    features, errors = found._unseen
    assert errors.shape == (120,)
    # by hand: the same folds, in the order fold after fold
    fold = np.empty(120, dtype=int)
    fold[seeds.child(seeds.root(3), 1, 0).permutation(120)] = np.arange(120) * 3 // 120
    slow, density = [], []
    for f in range(3):
        model = base().set_params(random_state=int(seeds.child(seeds.root(3), 1, 0, f).integers(2**31)))
        model.fit(X[fold != f], y[fold != f])
        slow.append((model.predict(X[fold == f]) - y[fold == f]) ** 2)
        s = X.std(axis=0)
        density.append(log_density(X[fold == f] / s, X[fold != f] / s))
    np.testing.assert_allclose(errors, np.concatenate(slow), rtol=1e-12)
    np.testing.assert_allclose(features[:, 0], np.concatenate(density), rtol=1e-9)


def test_disagreement_and_spread_are_of_models_that_did_not_see_the_row() -> None:
    X, y = data(60)
    names = ("spread", "disagreement")
    found = DEUPRegressor(base(), features=names, partitions=("random", "directions"), folds=2, random_state=1).fit(X, y)
    answers = [m.predict(X) for m in found._fold_models]
    folds = [found._folds(kind, seeds.child(seeds.root(1), 1, p)) for p, kind in enumerate(found.partitions)]
    row = 0
    for p in range(2):
        for f in range(2):
            for i in np.flatnonzero(folds[p] == f):
                own, other = answers[2 * p + f][i], answers[2 * (1 - p) + folds[1 - p][i]][i]
                least = 1e-9 * y.var()
                want = np.log([(own - other) ** 2 / 2 + least, (own - other) ** 2 + least])
                np.testing.assert_allclose(found._unseen.features[row], want, rtol=1e-9)
                row += 1
    assert row == 120
    at = X + 0.1
    model, others = found.model_.predict(at), np.array([m.predict(at) for m in found._fold_models])
    np.testing.assert_allclose(found._at(at)[:, 1], np.log(((others - model) ** 2).mean(axis=0) + least), rtol=1e-9)


def test_folds_across_a_direction_are_slabs() -> None:
    X, y = data(90)
    found = DEUPRegressor(base(), features=("x",)).fit(X, y)
    rng = np.random.default_rng(0)
    fold = found._folds("directions", rng)
    assert list(np.bincount(fold)) == [30, 30, 30]
    # some direction separates fold 0 from 1 and 1 from 2: that of the means
    w = X[fold == 2].mean(axis=0) - X[fold == 0].mean(axis=0)
    ends = [np.quantile(X[fold == f] @ w, [0.1, 0.9]) for f in range(3)]
    assert ends[0][1] < ends[1][1] < ends[2][1]
    assert ends[0][1] < ends[2][0]


def test_the_smearing_factor_brings_back_the_mean() -> None:
    class Constant:
        def __init__(self) -> None:
            self.value = 0.0

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            return {}

        def fit(self, F: Any, t: Any) -> Constant:
            self.value = float(np.mean(t))
            return self

        def predict(self, F: Any) -> Any:
            return np.full(len(F), self.value)

    errors = np.random.default_rng(0).chisquare(1, size=500)
    found = _LogErrors(Constant(), 1e-12).fit(np.zeros((500, 1)), errors).predict(np.zeros((2, 1)))
    np.testing.assert_allclose(found, errors.mean(), rtol=1e-9)


def test_noise_from_replicates_is_the_pooled_variance_and_is_subtracted() -> None:
    rng = np.random.default_rng(0)
    X = np.repeat(rng.uniform(-1, 1, size=(60, 2)), 3, axis=0)
    y = X[:, 0] + rng.normal(0, 0.5, 180)
    found = DEUPRegressor(base(), features=("x", "density"), noise="replicates").fit(X, y)
    slow = sum(((y[3 * i : 3 * i + 3] - y[3 * i : 3 * i + 3].mean()) ** 2).sum() for i in range(60)) / 120
    assert found.noise_ == pytest.approx(slow, rel=1e-12)
    at = rng.uniform(-1, 1, size=(50, 2))
    np.testing.assert_allclose(found.epistemic(at), np.maximum(found.expected_error(at) - slow, 0))
    assert 0 <= found.clipped_share_ <= 1
    far = DEUPRegressor(base(), features=("x", "density"), noise=lambda X: 1e6 * np.ones(len(X))).fit(X, y)
    assert (far.epistemic(at) == 0).all()
    assert far.clipped_share_ == 1


def test_it_finds_where_the_function_is_hard_and_rows_do_not_depend_on_each_other() -> None:
    X, y = data(200)
    at, truth = data(400, 1)
    found = DEUPRegressor(base()).fit(X, y)
    answers, epistemic = found.predict(at, return_epistemic=True)
    assert spearmanr(epistemic, (answers - truth) ** 2).statistic > 0.25
    assert epistemic[at[:, 0] > 0].mean() > 3 * epistemic[at[:, 0] < 0].mean()
    np.testing.assert_allclose(found.epistemic(at[7:8]), epistemic[7:8], rtol=1e-9)
    np.testing.assert_array_equal(DEUPRegressor(base()).fit(X, y).epistemic(at), epistemic)


def test_seen_rows_are_known_to_be_seen() -> None:
    X, y = data(200)
    found = DEUPRegressor(base(), features=("x", "density", "gp")).fit(X, y)
    assert np.median(found.expected_error(X)) < np.median(found.expected_error(X + 1e-9))


def test_new_rows_enter_before_and_after_they_are_learned() -> None:
    X, y = data()
    found = DEUPRegressor(base(), features=("x", "density"), partitions=("random",)).fit(X, y)
    at, target = data(5, 9)
    before = (found.predict(at) - target) ** 2
    found.update(at, target)
    np.testing.assert_allclose(found._unseen.errors[-5:], before)
    assert found.X_.shape == (125, 2)
    with pytest.raises(InputError, match="'spread'"):
        DEUPRegressor(base()).fit(X, y).update(at, target)


@pytest.mark.parametrize("acquisition", ["improvement", "epistemic"])
def test_the_search_measures_each_candidate_once_and_finds_more_than_chance(acquisition: Any) -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 15), np.linspace(-2, 2, 15)), axis=-1).reshape(-1, 2)

    def bump(x: Any) -> float:
        return float(np.exp(-((x - 1) ** 2).sum() / 0.3))

    model = GaussianProcessRegressor(RBF(0.7), optimizer=None, alpha=1e-6)
    found = deup_search(bump, grid, model, n_steps=12, acquisition=acquisition, features=("x", "density"), rng=1)
    assert found.X.shape == (24, 2)
    assert np.unique(found.X, axis=0).shape == (24, 2)
    assert (np.diff(found.best) >= 0).all()
    if acquisition == "improvement":
        assert found.best[-1] == max(bump(x) for x in grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("x", "densty")}, "unknown features 'densty'"),
        ({"partitions": ("random",)}, "needs two partitions"),
        ({"partitions": ()}, "at least one name"),
        ({"folds": 1}, "from 2 up"),
        ({"noise": -1.0}, "noise is negative"),
        ({"noise": "replicates"}, "rows with equal x"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, Any], message: str) -> None:
    X, y = data(40)
    with pytest.raises(InputError, match=message):
        DEUPRegressor(base(), **change).fit(X, y)


def test_other_refusals() -> None:
    X, y = data(40)
    with pytest.raises(InputError, match="not fitted"):
        DEUPRegressor(base()).predict(X)
    with pytest.raises(InputError, match="at least 12"):
        DEUPRegressor(base()).fit(X[:5], y[:5])
    with pytest.raises(InputError, match="X has shape"):
        DEUPRegressor(base()).fit(X, y).predict(X[:, :1])
    with pytest.raises(InputError, match="10 candidates; 32"):
        deup_search(lambda x: 0.0, X[:10], base())
