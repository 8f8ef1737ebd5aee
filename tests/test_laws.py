"""Every registered member obeys the laws of its protocol, and each law catches a member that was broken to violate it."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import laws
from tests.laws import FORECASTER_LAWS, PREDICTIVE_LAWS, Batch, Member

import farfield
from farfield.curves.data import Curves
from farfield.errors import InputError
from farfield.predictive import Gaussian

FORECASTERS = laws.forecasters()
PREDICTIVES = laws.predictives()


@pytest.mark.parametrize("law", FORECASTER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", FORECASTERS)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32 - 1))
def test_forecaster(name, law, seed):
    law(FORECASTERS[name], np.random.default_rng(seed))


@pytest.mark.parametrize("method", ["auto", "pow3"])
def test_backtest(method):
    def run(curves, reach):
        return farfield.backtest(curves, method=method, reaches=[reach], n_boot=20).rows

    laws.backtest_law(run, np.random.default_rng(0))


@pytest.mark.parametrize("law", PREDICTIVE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", PREDICTIVES)
def test_predictive(kind, law):
    law(PREDICTIVES[kind])


def test_every_kind_of_predictive_has_an_example():
    assert set(PREDICTIVES) == laws.kinds()


# -- the laws catch what they are for ------------------------------------------------------------------------------------------


class Honest:
    """The last value with a spread from the other runs: obeys every law. The broken ones below change one thing each."""

    def __init__(self):
        self.spread = None

    def __repr__(self):
        return f"{type(self).__name__}(spread={self.spread})"

    def fit(self, curves):
        self.spread = 0.1 + float(np.mean([curves.y[curves.points(i)].std() for i in range(len(curves))]))
        return self

    def centre(self, curves, at):
        return curves.last_y[:, None] + 0.0 * at

    def predict(self, curves, at):
        at = np.asarray(at, dtype=float)
        at = np.broadcast_to(at, (len(curves), at.size)) if at.ndim == 1 else at
        if len(at) != len(curves):
            raise InputError(f"at has shape {at.shape}; allowed: ({len(curves)}, n_at)")
        if (curves.lengths < 3).any():
            short = int(np.argmax(curves.lengths < 3))
            raise InputError(f"run {curves.runs[short]!r} has {curves.lengths[short]} points; needed: 3")
        if not (at > curves.last_x[:, None]).all():
            raise InputError("at does not lie beyond the last point")
        return self.distribution(self.centre(curves, at), self.spread)

    def distribution(self, centre, spread):
        return Gaussian(centre, np.full(centre.shape, spread))


class WrongShape(Honest):
    def distribution(self, centre, spread):
        return super().distribution(centre.T, spread)


class BatchMean(Honest):
    """Predictions lean on the rest of the batch."""

    def centre(self, curves, at):
        return super().centre(curves, at) + 1e-6 * curves.last_y.mean()


class ColumnMean(Honest):
    def centre(self, curves, at):
        return super().centre(curves, at) + 1e-6 * at.mean(axis=1, keepdims=True)


class Accumulates(Honest):
    """A second fit adds to the first."""

    def fit(self, curves):
        before = self.spread or 0.0
        super().fit(curves)
        self.spread += before
        return self


class Forgetful(Honest):
    def fit(self, curves):
        super().fit(curves)
        return Honest().fit(curves)


class Learns(Honest):
    """Predicting changes what was fitted."""

    def centre(self, curves, at):
        self.spread *= 1.01
        return super().centre(curves, at)


class Scribbles(Honest):
    def centre(self, curves, at):
        out = super().centre(curves, at).copy()
        curves.y[:] -= 0.1
        return out


class ScribblesAt(Honest):
    def predict(self, curves, at):
        out = super().predict(curves, at)
        np.asarray(at)[...] = 0
        return out


class Gambles(Honest):
    def centre(self, curves, at):
        return super().centre(curves, at) + np.random.normal()  # noqa: NPY002


class Address(Honest):
    __repr__ = object.__repr__


class Essay(Honest):
    def __repr__(self):
        return "Essay(\n)"


class Silent(Honest):
    """Answers what it should refuse."""

    def predict(self, curves, at):
        at = np.broadcast_to(np.asarray(at, dtype=float), (len(curves), np.shape(at)[-1]))
        return self.distribution(self.centre(curves, at), self.spread)


class Curt(Honest):
    def predict(self, curves, at):
        try:
            return super().predict(curves, at)
        except InputError:
            raise InputError("bad input") from None


class Unsaved(Gaussian):
    def to_dict(self):
        return super().to_dict() | {"loc": (self.loc + 1e-9).tolist()}


class SavesWrong(Honest):
    def distribution(self, centre, spread):
        return Unsaved(centre, np.full(centre.shape, spread))


class Offset(Honest):
    """Declares that it scales with y, and adds a constant."""

    def centre(self, curves, at):
        return super().centre(curves, at) + 1.0


def peek(forecaster, curves: Curves, cut, at):
    """A backtest that scales by all values, those beyond the cut too."""
    forecaster.fit(curves)
    return forecaster.predict(curves.upto(cut), at)


BROKEN = {
    "shape_law": Member("wrong shape", WrongShape),
    "row_law": Member("batch mean", BatchMean),
    "column_law": Member("column mean", ColumnMean),
    "hidden_law": Member("peeks", Honest, at_cut=peek),
    "refit_law": Member("accumulates", Accumulates),
    "predict_law": Member("learns", Learns),
    "input_law": Member("scribbles", Scribbles),
    "seed_law": Member("gambles", Gambles),
    "repr_law": Member("address", Address),
    "save_law": Member("saves wrong", SavesWrong),
    "refusal_law": Member("silent", Silent),
    "declared_law": Member("offset", Offset, declared=frozenset({"scale y"})),
}
MORE_BROKEN = [
    ("refit_law", Member("forgetful", Forgetful)),
    ("input_law", Member("scribbles on at", ScribblesAt)),
    ("repr_law", Member("essay", Essay)),
    ("refusal_law", Member("curt", Curt)),
    ("declared_law", Member("not shifted", Honest, declared=frozenset({"scale x", "scale y"}))),
]


@pytest.mark.parametrize("law", FORECASTER_LAWS, ids=lambda law: law.__name__)
def test_an_honest_member_passes_every_law(law):
    law(Member("honest", Honest, declared=frozenset({"shift y", "scale x"})), np.random.default_rng(0))


@pytest.mark.parametrize(("name", "member"), [*BROKEN.items(), *MORE_BROKEN], ids=lambda v: getattr(v, "name", v))
def test_a_broken_member_is_caught(name, member):
    (law,) = [law for law in FORECASTER_LAWS if law.__name__ == name]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(member, np.random.default_rng(0))


def test_every_law_has_a_member_that_breaks_it():
    assert set(BROKEN) == {law.__name__ for law in FORECASTER_LAWS}


def cut_in_half(curves, reach, *, context):
    """Backtest by the honest forecaster; `context` picks the runs that a run's forecast is fitted on."""
    rows = []
    for i, run in enumerate(curves.runs):
        cut = float(curves.last_x[i] / reach)
        p = Honest().fit(context(curves, i)).predict(curves.take([i]).upto(cut), curves.last_x[i : i + 1])
        low, high = p.interval(0.8)
        rows.append({"run": run, "cut": cut, "median": p.median()[0, 0], "low80": low[0, 0], "high80": high[0, 0]})
    return pl.DataFrame(rows)


def test_a_backtest_that_is_not_nested_is_caught():
    def others(curves, i):  # the run itself stays out, but not the rest of its group
        return curves.take([j for j in range(len(curves)) if j != i])

    def other_groups(curves, i):
        groups = curves.column("group").to_list()
        return curves.take([j for j in range(len(curves)) if groups[j] != groups[i]])

    rng = np.random.default_rng(0)
    laws.backtest_law(partial(cut_in_half, context=other_groups), rng)
    for context in (others, lambda curves, i: curves):
        with pytest.raises(AssertionError, match="changed with what it hides"):
            laws.backtest_law(partial(cut_in_half, context=context), rng)


class Leans(Gaussian):
    def mean(self):
        return super().mean() + super().mean().sum()


class Falls(Gaussian):
    def _quantile(self, q):
        return super()._quantile(1 - q)


class Negative(Gaussian):
    def crps(self, y):
        return super().crps(y) - 1.0


class Lucky(Gaussian):
    def sample(self, n, rng=None):
        return super().sample(n, None)


class Narrow(Gaussian):
    def sample(self, n, rng=None):
        return 0.5 * (super().sample(n, rng) - self.loc) + self.loc


class Wears(Gaussian):
    def std(self):
        self.loc[...] += 1
        return super().std()


class Mute(Gaussian):
    __repr__ = object.__repr__


class Lax(Gaussian):
    def quantile(self, q):
        return super().quantile(np.clip(np.nan_to_num(q), 0, 1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("batch_law", Leans),
        ("quantile_law", Falls),
        ("proper_law", Negative),
        ("draw_law", Lucky),
        ("draw_law", Narrow),
        ("array_law", Wears),
        ("text_law", Mute),
        ("level_law", Lax),
    ],
)
def test_a_broken_predictive_is_caught(name, kind):
    (law,) = [law for law in PREDICTIVE_LAWS if law.__name__ == name]
    rng = np.random.default_rng(0)
    arrays = {"loc": rng.normal(size=(3, 2)), "scale": np.exp(rng.normal(size=(3, 2)))}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(Batch(kind, arrays))
