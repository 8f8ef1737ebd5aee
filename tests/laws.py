"""Laws: properties that every member of a protocol obeys, run over registries, so that a new class is covered by being registered.

A law is a function of a member and a random generator that raises AssertionError where the member breaks it. `FORECASTER_LAWS` and
`PREDICTIVE_LAWS` are the lists, `forecasters()` and `predictives()` the members: the first are derived from the names that
`farfield.curves.forecaster.make_forecaster` knows, the second from the kinds that `farfield.predictive` registers.
`test_laws.py` runs them and shows, by members broken on purpose, that each law catches what it is for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pytest

from farfield import predictive
from farfield.curves.data import Curves, Metric
from farfield.curves.edged import Edged
from farfield.curves.normalised import Normalised
from farfield.curves.normalize import Normaliser
from farfield.curves.rescored import Rescored
from farfield.errors import InputError
from farfield.predictive import Bars, Gaussian, Mixture, Predictive, Samples

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
# predictives may be found by root finding to this relative accuracy; equality that needs no search is asked for exactly
RTOL = 1e-9
PROTECTED = re.compile(r"0x[0-9a-f]{6,}|object at|\n")


@dataclass(frozen=True)
class Member:
    """One member of a protocol, made anew for every use.

    Attributes
    ----------
    name, make : its name and what makes it
    least_points : declared: a run with fewer points is refused by name
    declared : further laws it says it obeys: "scale y", "shift y", "scale x"
    at_cut : (member, curves, cut, at) -> prediction of the runs cut there: how it is used in a backtest
    """

    name: str
    make: Callable[[], Any]
    least_points: int = 3
    declared: frozenset[str] = frozenset()
    at_cut: Callable[[Any, Curves, float, np.ndarray], Predictive] | None = None


# -- what the laws are tried on ------------------------------------------------------------------------------------------------


def curves(rng: np.random.Generator, n_runs: int = 5, *, prefix: str = "run") -> Curves:
    """Falling curves with noise, of different lengths, x from 1."""
    run, x, y = [], [], []
    for i in range(n_runs):
        n = int(rng.integers(9, 15))
        steps = np.arange(1, n + 1) * 10.0
        values = rng.uniform(0.2, 0.5) + rng.uniform(0.5, 2.0) * steps ** -rng.uniform(0.3, 1.0) + 0.01 * rng.normal(size=n)
        run += [f"{prefix}{i}"] * n
        x += steps.tolist()
        y += values.tolist()
    rows = [{"run": f"{prefix}{i}", "group": f"group{i // 2}", "status": "finished"} for i in range(n_runs)]
    return Curves.from_points(run, x, y, attributes=rows, metric=Metric("loss", "min"))


def fitted(member: Member, rng: np.random.Generator) -> Any:
    return member.make().fit(curves(rng, 6, prefix="other"))


def ends(c: Curves) -> np.ndarray:
    return np.stack([c.last_x * 1.5, c.last_x * 2.0], axis=1)


def quantiles(prediction: Predictive) -> np.ndarray:
    return np.asarray(prediction.quantile(LEVELS))


def digest(*arrays: Any) -> str:
    out = hashlib.sha256()
    for a in arrays:
        out.update(np.ascontiguousarray(a).tobytes() if isinstance(a, np.ndarray) else repr(a).encode())
    return out.hexdigest()


def fingerprint(c: Curves) -> str:
    return digest(c.runs, c.offsets, c.x, c.y, sorted(c.covariates), *c.covariates.values(), c.attributes.to_dicts(), c.metric)


def same(a: np.ndarray, b: np.ndarray, why: str, *, exact: bool = True) -> None:
    assert a.shape == b.shape, f"{why}: shapes {a.shape} and {b.shape}"
    if exact:
        np.testing.assert_array_equal(a, b, err_msg=why)
    else:
        largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=RTOL * largest, err_msg=why)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """NumPy's global generator in another state, put back afterwards."""
    before = np.random.get_state()  # noqa: NPY002 (the law is about this very state)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


# -- laws of a forecaster ------------------------------------------------------------------------------------------------------


def shape_law(member: Member, rng: np.random.Generator) -> None:
    """(n_at,) or (n_runs, n_at) in, a Predictive of (n_runs, n_at) out, with finite quantiles that rise."""
    f, c = fitted(member, rng), curves(rng)
    far = np.array([400.0, 900.0])
    for at in (far, np.broadcast_to(far, (len(c), 2)).copy()):
        prediction = f.predict(c, at)
        assert isinstance(prediction, Predictive), type(prediction)
        assert prediction.shape == (len(c), 2)
        q = quantiles(prediction)
        assert np.isfinite(q).all()
        assert (np.diff(q, axis=0) >= 0).all(), "quantiles fall"


def row_law(member: Member, rng: np.random.Generator) -> None:
    """The prediction of a run does not depend on the rest of the batch, nor on its place in it."""
    f, c = fitted(member, rng), curves(rng)
    together = quantiles(f.predict(c, ends(c)))
    for i in range(len(c)):
        one = c.take([i])
        same(quantiles(f.predict(one, ends(one)))[:, 0], together[:, i], f"run {i} alone and in the batch", exact=False)
    back = c.take(np.arange(len(c))[::-1])
    same(quantiles(f.predict(back, ends(back)))[:, ::-1], together, "the batch in another order", exact=False)


def column_law(member: Member, rng: np.random.Generator) -> None:
    """The prediction at one x does not depend on what else is asked."""
    f, c = fitted(member, rng), curves(rng)
    at = ends(c)
    together = quantiles(f.predict(c, at))
    for j in range(at.shape[1]):
        same(quantiles(f.predict(c, at[:, j : j + 1]))[..., 0], together[..., j], f"column {j} alone", exact=False)


def hidden_law(member: Member, rng: np.random.Generator) -> None:
    """Altering what lies beyond the cut leaves the prediction bit-identical."""
    whole, cut = curves(rng), 60.0
    beyond = whole.x > cut
    altered = dataclasses.replace(whole, y=np.where(beyond, rng.permutation(whole.y) * 3 + 1, whole.y))
    assert fingerprint(whole) != fingerprint(altered)
    at = np.array([100.0, 300.0])

    def predicted(c: Curves) -> np.ndarray:
        if member.at_cut is not None:
            return quantiles(member.at_cut(member.make(), c, cut, at))
        seen = c.upto(cut)
        return quantiles(member.make().fit(context).predict(seen, at))

    context = curves(rng, 6, prefix="other")
    same(predicted(whole), predicted(altered), "values beyond the cut changed the prediction")


def refit_law(member: Member, rng: np.random.Generator) -> None:
    """Fitting twice is fitting once, and what was fitted before leaves no trace."""
    c, one, two = curves(rng), curves(rng, 6, prefix="one"), curves(rng, 7, prefix="two")
    f = member.make()
    assert f.fit(one) is f, "fit must return the forecaster itself"
    first = quantiles(f.predict(c, ends(c)))
    same(quantiles(f.fit(one).predict(c, ends(c))), first, "fitted twice")
    same(quantiles(f.fit(two).fit(one).predict(c, ends(c))), first, "fitted on other runs in between")
    same(quantiles(member.make().fit(one).predict(c, ends(c))), first, "a fresh one")


def predict_law(member: Member, rng: np.random.Generator) -> None:
    """Predicting changes nothing: the same question has the same answer, whatever was asked in between."""
    f, c, other = fitted(member, rng), curves(rng), curves(rng, 4, prefix="else")
    first = quantiles(f.predict(c, ends(c)))
    f.predict(other, ends(other) * 2)
    same(quantiles(f.predict(c, ends(c))), first, "asked again")


def input_law(member: Member, rng: np.random.Generator) -> None:
    """Curves and positions are left as they are."""
    context, c = curves(rng, 6, prefix="other"), curves(rng)
    at = ends(c)
    before = fingerprint(context), fingerprint(c), digest(at)
    member.make().fit(context).predict(c, at)
    assert (fingerprint(context), fingerprint(c), digest(at)) == before, "fit or predict changed its input"


def seed_law(member: Member, rng: np.random.Generator) -> None:
    """Two made alike predict alike, whatever the state of the global generator, and leave that state alone."""
    context, c = curves(rng, 6, prefix="other"), curves(rng)
    got = []
    for seed in (1, 2):
        with global_seed(seed):
            before = digest(np.random.get_state()[1])  # noqa: NPY002
            prediction = member.make().fit(context).predict(c, ends(c))
            got.append((quantiles(prediction), prediction.sample(3, 7)))
            assert digest(np.random.get_state()[1]) == before, "the global generator was used"  # noqa: NPY002
    same(got[0][0], got[1][0], "predictions with the global generator in another state")
    same(got[0][1], got[1][1], "draws with the same seed")


def repr_law(member: Member, rng: np.random.Generator) -> None:
    """One line that begins with the name of the class, before and after fitting, without an address in memory."""
    f = member.make()
    for text in (repr(f), repr(f.fit(curves(rng, 6, prefix="other")))):
        assert text.startswith(type(f).__name__ + "("), text
        assert text.endswith(")"), text
        assert not PROTECTED.search(text), text
        assert len(text) <= 500, text


def save_law(member: Member, rng: np.random.Generator) -> None:
    """A prediction goes through strict JSON, and where a member can be saved, so does it: no pickle is needed."""
    f, c = fitted(member, rng), curves(rng)
    prediction = f.predict(c, ends(c))
    text = json.dumps(prediction.to_dict(), allow_nan=False)
    same(quantiles(predictive.from_dict(json.loads(text))), quantiles(prediction), "prediction after JSON")
    if hasattr(f, "to_dict"):
        back = type(f).from_dict(json.loads(json.dumps(f.to_dict(), allow_nan=False)))
        same(quantiles(back.predict(c, ends(c))), quantiles(prediction), "forecaster after JSON")


def refusal_law(member: Member, rng: np.random.Generator) -> None:
    """Too few points, positions that are not beyond the last, or of the wrong shape: refused by name, with what is allowed."""
    f, c = fitted(member, rng), curves(rng)
    for n in range(1, member.least_points):
        short = c.where(np.arange(c.x.size) - c.offsets[:-1][c.run_index] < np.where(c.run_index == 2, n, 99))
        with pytest.raises(InputError) as caught:
            f.predict(short, np.array([1e4]))
        assert "run2" in str(caught.value), str(caught.value)
        assert str(member.least_points) in str(caught.value), str(caught.value)
    for bad in (np.array([c.last_x[1]]), np.array([1.0]), np.array([np.nan])):
        with pytest.raises(InputError) as caught:
            f.predict(c, bad)
        assert "at" in str(caught.value).split(), str(caught.value)
    with pytest.raises(InputError) as caught:
        f.predict(c, np.full((len(c) + 1, 1), 1e4))
    assert f"({len(c)}, n_at)" in str(caught.value), str(caught.value)


def declared_law(member: Member, rng: np.random.Generator) -> None:
    """What a member declares: values scaled or shifted, positions scaled, give predictions scaled or shifted alike."""
    context, c = curves(rng, 6, prefix="other"), curves(rng)
    base = quantiles(member.make().fit(context).predict(c, ends(c)))

    def again(change: Callable[[Curves], Curves], at: np.ndarray) -> np.ndarray:
        return quantiles(member.make().fit(change(context)).predict(change(c), at))

    for name, change, factor, expected in (
        ("scale y", lambda v: dataclasses.replace(v, y=8.0 * v.y), 1.0, 8.0 * base),
        ("shift y", lambda v: dataclasses.replace(v, y=v.y + 2.0), 1.0, base + 2.0),
        ("scale x", lambda v: dataclasses.replace(v, x=4.0 * v.x), 4.0, base),
    ):
        if name in member.declared:
            got = again(change, factor * ends(c))
            # a shift changes the last bits of every value, and with them where a flat search stops: by up to 5e-4 for m4
            rtol = 2e-3 if name == "shift y" else 1e-6
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * float(np.abs(base).max()), err_msg=name)


FORECASTER_LAWS: tuple[Callable[[Member, np.random.Generator], None], ...] = (
    shape_law,
    row_law,
    column_law,
    hidden_law,
    refit_law,
    predict_law,
    input_law,
    seed_law,
    repr_law,
    save_law,
    refusal_law,
    declared_law,
)


def backtest_law(backtest: Callable[[Curves, float], pl.DataFrame], rng: np.random.Generator) -> None:
    """Nested: altering what one group hides leaves the forecasts of that group bit-identical.

    Forecasts of other groups may change, since what a group hides from itself is evidence for them. `backtest` takes curves and a
    reach, and gives one row a forecast with the columns run, cut, median, low80, high80.
    """
    whole, reach = curves(rng, 12), 2.0
    before = backtest(whole, reach)
    cuts = dict(before.select("run", "cut").iter_rows())
    forecast = ["run", "cut", "median", "low80", "high80"]
    assert before.height >= 10, "hardly a run was scored"
    for group in ("group0", "group3"):
        mine = [r for r, g in zip(whole.runs, whole.column("group"), strict=True) if g == group]
        cut = np.array([cuts.get(r, np.inf) for r in whole.runs])[whole.run_index]
        hidden = np.isin(np.array(whole.runs)[whole.run_index], mine) & (whole.x > cut)
        assert hidden.sum() >= 4, "nothing is hidden"
        altered = dataclasses.replace(whole, y=np.where(hidden, 2.0 + rng.uniform(size=whole.y.size), whole.y))
        after = backtest(altered, reach)
        rows = pl.col("run").is_in(mine)
        got, expected = (t.filter(rows).select(forecast).sort("run") for t in (after, before))
        assert got.equals(expected), f"forecasts of {group} changed with what it hides:\n{expected}\n{got}"


def forecasters() -> dict[str, Member]:
    """Every method a user can name, by name; one that is registered there is covered here."""
    from farfield.curves.ensemble import NAIVE, NETWORK
    from farfield.curves.forecaster import LEAST_POINTS, make_forecaster
    from farfield.curves.forms import FORMS

    def member(name: str) -> Member:
        form = FORMS.get(name)
        declared = {"scale y"}
        if name in NAIVE or (form is not None and form.offset):
            declared.add("shift y")
        if name in NAIVE or (form is not None and form.scale_free):
            declared.add("scale x")
        return Member(name, lambda: make_forecaster(name), LEAST_POINTS, frozenset(declared))

    return {name: member(name) for name in ("auto", "forms", NETWORK, *FORMS, *NAIVE)}


# -- laws of a predictive ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One kind of predictive: what makes an example of shape (3, 2), the arrays it is made of, the largest jump of its cdf."""

    make: Callable[..., Predictive]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    jump: float = 0.0

    def __call__(self) -> Predictive:
        return self.make(**self.arrays)


def predictives() -> dict[str, Batch]:
    """An example of every kind; `kinds()` says which there have to be."""
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(3, 2, 4)), np.exp(rng.normal(size=(3, 2, 4)))
    return {
        "Gaussian": Batch(Gaussian, {"loc": loc[..., 0], "scale": scale[..., 0]}),
        "Samples": Batch(Samples, {"values": rng.normal(size=(50, 3, 2))}, jump=1 / 50),
        "Bars": Batch(Bars, {"borders": np.linspace(-3, 3, 9), "log_mass": rng.normal(size=(3, 2, 8))}),
        "Mixture": Batch(Mixture, {"weights": rng.uniform(size=(3, 2, 4)), "loc": loc, "scale": scale}),
        "Edged": Batch(
            lambda weights, loc, scale, edge: Edged(weights, loc, scale, lower=-3.0, upper=4.0, edge=edge),
            {"weights": rng.uniform(size=(3, 2, 4)), "loc": loc, "scale": scale, "edge": rng.uniform(0.0, 0.5, (3, 2))},
            jump=0.08,
        ),
        "Normalised": Batch(
            lambda weights, loc, scale: Normalised.by_run(
                Mixture(weights, loc, scale),
                Normaliser("min", np.zeros(3) - 6.0, np.zeros(3) - 6.0, np.arange(2.0, 5.0), np.full(3, np.inf)),
            ),
            {"weights": rng.uniform(size=(3, 2, 4)), "loc": 0.4 + 0.1 * loc, "scale": 0.1 * scale},
        ),
        "Rescored": Batch(
            lambda weights, loc, scale, spread: Rescored(
                Mixture(weights, 0.4 + 0.1 * loc, 0.1 * scale), Mixture(weights, loc, scale), spread
            ),
            {"weights": rng.uniform(size=(3, 2, 4)), "loc": loc, "scale": scale, "spread": rng.uniform(0.5, 2.0, (3, 2))},
        ),
    }


def kinds() -> set[str]:
    """The names of all kinds of predictive that farfield defines."""

    def below(cls: type) -> Iterator[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    return {c.__name__ for c in below(Predictive) if c.__module__.startswith("farfield.")}


def batch_law(make: Batch) -> None:
    """Entry i of every result is that of the batch with entry i alone."""
    p = make()
    y = np.linspace(-2, 2, 6).reshape(p.shape)
    whole = (p.mean(), p.std(), p.median(), p.cdf(y), p.log_prob(y), p.crps(y), *p.quantile(LEVELS), *p.interval(0.8))
    for i in range(p.shape[0]):
        one = p[i : i + 1]
        alone = (one.mean(), one.std(), one.median(), one.cdf(y[i : i + 1]), one.log_prob(y[i : i + 1]), one.crps(y[i : i + 1]))
        for a, b in zip((*alone, *one.quantile(LEVELS), *one.interval(0.8)), whole, strict=True):
            same(a[0], b[i], f"entry {i} alone and in the batch", exact=False)


def quantile_law(make: Batch) -> None:
    """Quantiles rise with the level, the cdf rises, and the cdf at a quantile is not below its level."""
    p = make()
    q = p.quantile(LEVELS)
    assert (np.diff(q, axis=0) >= 0).all(), "quantiles fall"
    y = np.linspace(-5, 5, 41)
    assert (np.diff(p.cdf(np.broadcast_to(y[:, None, None], (41, *p.shape))), axis=0) >= 0).all(), "cdf falls"
    assert (p.cdf(q + 1e-6) >= LEVELS[:, None, None] - make.jump - 1e-9).all(), "cdf at a quantile is below its level"
    assert (p.cdf(q - 1e-6) <= LEVELS[:, None, None] + make.jump + 1e-9).all(), "cdf just below a quantile is above its level"


def proper_law(make: Batch) -> None:
    """The crps is never negative and is worse far away; infinite values and NaN are handled."""
    p = make()
    near, far = p.crps(p.median()), p.crps(p.median() + 100.0)
    assert (near >= 0).all()
    assert (far > near).all()
    assert np.isnan(p.cdf(np.nan)).all()
    same(p.cdf(np.full(p.shape, np.inf)), np.ones(p.shape), "cdf at infinity")


def draw_law(make: Batch) -> None:
    """Draws depend on the seed and on nothing else, and are distributed as the cdf says (Kolmogorov, 0.1 %)."""
    p = make()
    with global_seed(1):
        one = p.sample(400, 3)
    with global_seed(2):
        same(p.sample(400, 3), one, "the same seed")
    assert not np.array_equal(p.sample(400, 4), one), "another seed gives the same draws"
    at = np.sort(one, axis=0)
    ranks = np.arange(1, 401)[:, None, None] / 400
    gap = np.maximum(np.abs(p.cdf(at) - ranks), np.abs(p.cdf(at - 1e-9) - ranks + 1 / 400)).max()
    assert gap < 1.95 / np.sqrt(400) + make.jump, f"draws are {gap:.3f} off the cdf"


def array_law(make: Batch) -> None:
    """Asking changes neither the arrays it was made of nor the answers."""
    before = digest(*make.arrays.values())
    p = make()

    def answers() -> str:
        return digest(p.quantile(LEVELS), p.sample(5, 0), p.crps(0.0), p.log_prob(0.0), p.cdf(0.0), p.mean(), p.std())

    first = answers()
    assert answers() == first, "asked again, it answers differently"
    assert digest(*make.arrays.values()) == before, "an input array was changed"


def text_law(make: Batch) -> None:
    """A short repr without addresses, and a round trip through strict JSON."""
    p = make()
    text = repr(p)
    assert text.startswith(type(p).__name__ + "("), text
    assert not PROTECTED.search(text), text
    assert len(text) <= 200, text
    back = predictive.from_dict(json.loads(json.dumps(p.to_dict(), allow_nan=False)))
    assert type(back) is type(p)
    same(back.quantile(LEVELS), p.quantile(LEVELS), "quantiles after JSON")


def level_law(make: Batch) -> None:
    """Levels outside their range, and values that do not fit the batch, are refused with what is allowed."""
    p = make()
    for ask in (lambda: p.quantile(1.5), lambda: p.quantile(np.nan), lambda: p.interval(1.0), lambda: p.cdf(np.zeros(7))):
        with pytest.raises(InputError) as caught:
            ask()
        assert len(str(caught.value)) > 20, str(caught.value)


PREDICTIVE_LAWS: tuple[Callable[[Batch], None], ...] = (
    batch_law,
    quantile_law,
    proper_law,
    draw_law,
    array_law,
    text_law,
    level_law,
)
