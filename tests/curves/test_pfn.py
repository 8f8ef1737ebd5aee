"""LC-PFN: what no curve may do to it, what it knows, and that it keeps its word (no leak, rows alone, units)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import farfield as ff
from farfield.cli import cli
from farfield.curves.data import Curves, Metric
from farfield.curves.normalised import Normalised
from farfield.curves.normalize import Normaliser
from farfield.curves.pfn import LCPFN, MODELS
from farfield.curves.pfn.architecture import Architecture, context_inputs, units
from farfield.curves.pfn.scoring import score_on_prior
from farfield.errors import FormatError, InputError
from farfield.predictive import Mixture

X = np.arange(1.0, 31.0)
Y = 0.9 - 0.6 * X**-0.7


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> LCPFN:
    return LCPFN.load(request.param)


def same(a: Mixture, b: Mixture, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(a.quantile([0.1, 0.5, 0.9]), b.quantile([0.1, 0.5, 0.9]), atol=tolerance)


def test_shipped_networks_reach_the_papers_small_one_on_its_prior() -> None:
    """Table 3: the network of 0.7 M parameters, trained on 10 M curves, has 1.58, 1.99, 2.28 and 2.43."""
    scores = score_on_prior(LCPFN.load("domhan"), "domhan", n=300, rng=1)
    for score, published in zip(scores, (1.58, 1.99, 2.28, 2.43), strict=True):
        assert score.log_likelihood > published - 2 * score.standard_error
        assert 0.76 < score.coverage_80 < 0.84
    assert sum(s.log_likelihood for s in scores) > 1.58 + 1.99 + 2.28 + 2.43


def test_a_network_of_another_prior_does_worse() -> None:
    """The ablation of the claim: a mismatched prior hurts, on either side."""
    ours = score_on_prior(LCPFN.load("domhan"), "domhan", n=200, rng=2)
    other = score_on_prior(LCPFN.load("wide"), "domhan", n=200, rng=2)
    assert all(a.log_likelihood > b.log_likelihood + 2 * a.standard_error for a, b in zip(ours, other, strict=True))


def test_it_follows_a_curve_it_has_seen_most_of(model: LCPFN) -> None:
    found = model.predict(X[:20], Y[:20], X[20:])
    assert found.shape == (1, 10)
    assert np.abs(found.median()[0] - Y[20:]).max() < 0.02
    low, high = found.interval(0.9)
    assert (high - low)[0].max() < 0.1


def test_it_cannot_see_what_is_not_shown(model: LCPFN) -> None:
    """A curve's tail changes nothing: inputs of a token depend on the points up to its own."""
    arch = model.engine.arch
    y = np.tile(Y, (2, 1))
    y[1, 12:] = 0.1
    x = np.tile(X, (2, 1))
    inputs = context_inputs(x, y, arch)
    np.testing.assert_array_equal(inputs[0, :12], inputs[1, :12])
    np.testing.assert_array_equal(units(y, arch)[0, :12], units(y, arch)[1, :12])
    cut, at = np.full((2, 3), 12), np.tile([14.0, 20.0, 30.0], (2, 1))
    for part in model.engine(x, y, cut, at, np.full(2, np.nan)):
        np.testing.assert_allclose(part[0], part[1], atol=1e-5)


def test_one_pass_answers_for_every_beginning(model: LCPFN) -> None:
    """The encoder is causal: a curve asked at several cuts at once gives what each beginning gives alone."""
    cuts = np.array([[1, 4, 11, 29]])
    at = np.full((1, 4), 30.0)
    weights, loc, scale = model.engine(X[None], Y[None], cuts, at, np.array([np.nan]))
    for j, cut in enumerate(cuts[0]):
        alone = model.predict(X[:cut], Y[:cut], [30.0])
        same(Mixture(weights[:, j : j + 1], loc[:, j : j + 1], scale[:, j : j + 1]), alone)


def test_a_row_is_what_it_is_alone(model: LCPFN) -> None:
    lengths = [1, 2, 7, 30, 12]
    xs, ys = [X[:n] for n in lengths], [Y[:n] for n in lengths]
    at = np.array([[31.0, 40.0]])
    together = model.predict(xs, ys, at[0])
    for i in range(len(lengths)):
        same(together[i : i + 1], model.predict(xs[i], ys[i], at[0]))


@pytest.mark.parametrize(
    "y", [np.full(30, 0.5), np.zeros(30), np.ones(30), np.r_[np.nan, Y[1:]], np.where(np.arange(30) % 2 == 0, 0.0, 1.0)]
)
def test_odd_curves_get_numbers(model: LCPFN, y: np.ndarray) -> None:
    found = model.predict(X, y, [40.0, 90.0])
    assert np.isfinite(found.quantile([0.001, 0.5, 0.999])).all()
    assert np.isfinite(found.log_prob(0.5)).all()


def test_one_seen_point_is_enough(model: LCPFN) -> None:
    found = model.predict([1.0], [0.3], [2.0, 50.0])
    assert np.isfinite(found.median()).all()
    low, high = found.interval(0.8)
    assert ((high - low)[0] > 0.02).all()


def test_the_wide_network_does_not_care_for_the_unit_of_x() -> None:
    model = LCPFN.load("wide")
    same(model.predict(X, Y, [45.0]), model.predict(X * 1e6, Y, [45e6]))


def test_long_curves_are_thinned_and_long_steps_refused() -> None:
    x = np.arange(1.0, 1001.0)
    y = 0.9 - 0.6 * x**-0.7
    found = LCPFN.load("wide").predict(x, y, [1500.0])
    assert abs(float(found.median()[0, 0]) - (0.9 - 0.6 * 1500**-0.7)) < 0.02
    with pytest.raises(InputError, match="steps 1 to 100"):
        LCPFN.load("domhan").predict(X, Y, [150.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0.5], [3.0]), "2 positions and 1 values"),
        (([1.0, 1.0], [0.5, 0.5], [3.0]), "strictly rising"),
        (([0.0, 1.0], [0.5, 0.5], [3.0]), "above 0"),
        (([1.0, 2.0], [np.nan, np.nan], [3.0]), "no seen value"),
        (([1.0, 2.0], [0.5, 0.5], [2.0]), "beyond its last seen x"),
        (([1.0, 2.0], [50.0, 60.0], [3.0]), "normalised ones"),
        (([1.0, 2.0], [0.5, 0.5], [[3.0], [4.0]]), "at has shape"),
    ],
)
def test_bad_input_is_named(model: LCPFN, arguments: tuple[object, object, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(*arguments)  # type: ignore[arg-type]


def test_unknown_networks_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="domhan"):
        LCPFN.load("domhann")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(FormatError, match="not a learning-curve network"):
        LCPFN.load(path)


def losses() -> Curves:
    rng = np.random.default_rng(0)
    run, x, y = [], [], []
    for i, n in enumerate((8, 15, 25)):
        steps = np.arange(0.0, n) * 100
        run += [f"r{i}"] * n
        x += steps.tolist()
        y += (1.5 + 2.0 * (1 + steps / 100) ** -0.5 + 0.01 * rng.normal(size=n)).tolist()
    return Curves.from_points(run, x, y, metric=Metric("loss", "min", 0.0))


def test_runs_are_forecast_in_their_own_units() -> None:
    curves = losses()
    found = LCPFN.load("wide").forecast(curves, curves.last_x[:, None] * [1.5, 2.0])
    truth = 1.5 + 2.0 * (1 + curves.last_x[:, None] * [1.5, 2.0] / 100) ** -0.5
    assert isinstance(found, Normalised)
    assert np.abs(found.median() - truth).max() < 0.25
    low, high = found.interval(0.99)
    assert ((low > 0) & (low < truth) & (truth < high)).all()


def test_lcpfn_is_a_method_of_forecast() -> None:
    curves = losses()
    found = ff.forecast(curves, to=4000.0, method="lcpfn", with_backtest=False)
    assert found.members == ("lcpfn",)
    assert np.isfinite(found.predictive.quantile([0.1, 0.9])).all()


# -- the image of a mixture under a normaliser -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "bounds"), [("min", (0.0, 0.0, 2.0, np.inf)), ("max", (0.0, 0.0, 1.0, 1.0)), ("max", (-np.inf, -1.0, 3.0, np.inf))]
)
def test_the_image_of_a_mixture(goal: str, bounds: tuple[float, ...]) -> None:
    """Density against the derivative of the cdf, moments and ranked score against draws."""
    maps = Normaliser(goal, *(np.array([b]) for b in bounds))  # type: ignore[arg-type]
    found = Normalised(Mixture([[0.3, 0.7]], [[0.4, 0.7]], [[0.05, 0.1]]), maps)
    y = found.quantile(np.linspace(0.05, 0.95, 7))
    step = 1e-6
    slope = (found.cdf(y + step) - found.cdf(y - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(found.log_prob(y)), slope, rtol=1e-6)
    np.testing.assert_allclose(found.cdf(y)[:, 0], np.linspace(0.05, 0.95, 7), atol=1e-9)
    draws = found.sample(200_000, 0)[:, 0]
    error = draws.std() / np.sqrt(draws.size)
    assert abs(found.mean()[0] - draws.mean()) < 4 * error
    assert found.std()[0] == pytest.approx(draws.std(), rel=0.01)
    at = float(found.median()[0]) + 0.3
    pairs = np.abs(draws[::2] - draws[1::2]).mean()
    assert found.crps(at)[0] == pytest.approx(np.abs(draws - at).mean() - pairs / 2, rel=0.02)


def test_what_no_value_can_be_has_no_density() -> None:
    found = Normalised(Mixture([[1.0]], [[0.4]], [[0.05]]), Normaliser("min", *(np.array([b]) for b in (0.0, 0.0, 2.0, np.inf))))
    assert found.log_prob(-0.1)[0] == -np.inf
    assert found.cdf(-0.1)[0] == 0.0
    assert found.cdf(np.inf)[0] == 1.0
    assert np.isnan(found.log_prob(np.nan))[0]


# -- the command -----------------------------------------------------------------------------------------------------------------


def test_the_command_lists_and_scores() -> None:
    listed = CliRunner().invoke(cli, ["pfn", "list", "--csv"])
    assert listed.exit_code == 0
    assert {line.split(",")[0] for line in listed.output.splitlines()[1:]} == {*MODELS, "context"}
    scored = CliRunner().invoke(cli, ["pfn", "score", "domhan", "--curves", "20", "--csv"])
    assert scored.exit_code == 0
    assert len(scored.output.splitlines()) == 5


def test_architectures_are_checked() -> None:
    with pytest.raises(InputError, match="clock"):
        Architecture(clock="wall")
    with pytest.raises(FormatError, match="not the architecture"):
        Architecture.from_dict({"depth": 3})
