"""What a caller gets wrong at the front doors: the refusal names the argument, what was got and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import farfield as ff
from farfield.curves.stopping import Adviser
from farfield.errors import InputError, unknown_name

STEPS = np.arange(1.0, 31.0)
CURVES = ff.Curves.from_points(["a"] * 30, STEPS, 0.3 + STEPS**-0.5, metric=ff.Metric("loss"))
FRAME = pl.DataFrame({"step": STEPS, "loss": 0.3 + STEPS**-0.5})
X, Y = np.random.default_rng(0).uniform(size=(40, 2)), np.arange(40.0)
READ = "allowed: Curves, which farfield.read_runs makes of logs and data frames"


class Line:
    def fit(self, X: Any, y: Any) -> Line:
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: ff.forecast("log.csv", to=60), f"^curves is 'log.csv'; {READ}$"),  # type: ignore[arg-type]
    (lambda: ff.forecast(FRAME, to=60), f"^curves is shape: .*; {READ}$"),  # type: ignore[arg-type]
    (lambda: ff.backtest(None), f"^curves is None; {READ}$"),  # type: ignore[arg-type]
    (lambda: ff.stop_advice({}), f"^curves is {{}}; {READ}$"),  # type: ignore[arg-type]
    (lambda: Adviser().update([CURVES]), "^curves is .Curves"),  # type: ignore[list-item]
    (lambda: ff.forecast(CURVES, to=60, context="examples/runs"), f"^context is 'examples/runs'; {READ}$"),  # type: ignore[arg-type]
    (lambda: ff.EnsembleForecaster(("last",)).fit(FRAME), "^curves is "),  # type: ignore[arg-type]
    (lambda: ff.EnsembleForecaster(("last",)).fit(CURVES).predict(FRAME, [60.0]), "^curves is "),  # type: ignore[arg-type]
    (lambda: ff.forecast(CURVES, to=60, estimate=3), "^estimate is 3; allowed: 'final', 'mean:k'"),  # type: ignore[arg-type]
    (lambda: ff.forecast(CURVES, to=60, method=None), "^unknown method None; allowed: a name such as auto, forms, context"),  # type: ignore[arg-type]
    (lambda: ff.forecast(CURVES, to=60, lr_schedule=0.1), "^schedule is 0.1; allowed: text such as cosine:10000"),  # type: ignore[arg-type]
    (lambda: ff.backtest(CURVES, reaches=2.0), "^reaches is 2.0; allowed: numbers above 1"),  # type: ignore[arg-type]
    (lambda: ff.stop_advice(CURVES, despite=3), "^despite is 3; allowed: names of caveats"),  # type: ignore[arg-type]
    (lambda: ff.stop_advice(CURVES, despite="decays"), "^unknown despite 'decays'; allowed: "),
    (lambda: ff.Metric("loss", lower=None), "^lower bound of metric 'loss' is None; allowed: real numbers"),  # type: ignore[arg-type]
    (lambda: ff.Metric("loss", goal=["min"]), r"^goal of metric 'loss' is \['min'\]; allowed: 'min', 'max'"),  # type: ignore[arg-type]
    (lambda: ff.read_runs(FRAME, metric=0), "^metric is 0; allowed: a name"),  # type: ignore[arg-type]
    (lambda: ff.read_runs(FRAME, runs=3), "^runs is 3; allowed: names or patterns of runs"),  # type: ignore[arg-type]
    (lambda: ff.RunMonitor(60).report(1, "low"), "^value is 'low'; allowed: a number"),  # type: ignore[arg-type]
    (lambda: ff.extrapolation_gap(Line(), X, Y, split=5), "^split is 5; allowed: a splitter of farfield's"),  # type: ignore[arg-type]
    (lambda: list(ff.RangeSplit(0, gap="a").regions(X, Y)), "^gap is 'a'; allowed: real numbers"),  # type: ignore[arg-type]
    (lambda: list(ff.RangeSplit(0, threshold="a").regions(X, Y)), "^threshold is 'a'; allowed: real numbers"),  # type: ignore[arg-type]
    (lambda: list(ff.RangeSplit(None).regions(X, Y)), "^column None; allowed: a name, or a number from -2 to 1"),  # type: ignore[arg-type]
    (lambda: list(ff.ClusterSplit(2, embed=3).regions(X, Y)), "^embed is 3; allowed: a function"),  # type: ignore[arg-type]
    (lambda: list(ff.LengthSplit(train_max=1).regions(Y, Y)), "^length fails on a sample with .*; give a function"),
    (lambda: ff.limit("fid", X), "^metric is 'fid'; allowed: a function"),  # type: ignore[arg-type]
    (lambda: ff.sobol_normal(10**400, 2, rng="x"), "^rng is 'x'; allowed: None"),  # type: ignore[arg-type]
    (lambda: ff.fid_infinity(X, X, level=10**400), "^level is 1000.*; allowed: a number between 0 and 1"),
]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_a_wrong_type_is_refused_by_name_and_briefly(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert len(str(refused.value)) < 300


def test_numpys_integers_are_integers() -> None:
    np.testing.assert_array_equal(ff.sobol_normal(np.int8(8), np.int64(2), rng=0), ff.sobol_normal(8, 2, rng=0))  # type: ignore[arg-type]
    rows = np.arange(600.0).reshape(300, 2)
    made = ff.extract_features(lambda batch: batch, rows, batch_size=np.int8(100), quiet=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(made, rows)


def test_a_data_frame_holds_a_sample_a_row() -> None:
    np.testing.assert_array_equal(ff.extract_features(lambda batch: batch, pl.DataFrame(X), quiet=True), X)


def test_one_caveat_need_not_be_in_a_list() -> None:
    assert Adviser(despite="decay").despite == frozenset({"decay"})


def test_an_unknown_name_is_shown_briefly() -> None:
    assert len(str(unknown_name("metric", "x" * 10_000, ["loss", "accuracy", "lr", "time"]))) < 200


@pytest.mark.extra("torch")
def test_tensors_that_require_gradients_are_refused_with_what_to_do() -> None:
    import torch

    wrong = torch.rand(40, 2, requires_grad=True)
    for call in (lambda: ff.fid(wrong, X), lambda: list(ff.RangeSplit(0).regions(wrong, Y)), lambda: ff.Gaussian(wrong, 1.0)):
        with pytest.raises(InputError, match=r"cannot be made an array: .*detach"):
            call()
