"""The context network: what is not known cannot leak, runs are asked the same question, and rows stand alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import special

from farfield.curves.data import Curves, Metric
from farfield.curves.pfn import LCPFN
from farfield.curves.pfn.context import ContextPFN, _spread, nearest
from farfield.curves.pfn.context_answers import Answers
from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.context_engine import ContextEngine
from farfield.curves.pfn.context_scoring import SITUATIONS, runs_of, score_on_sweeps
from farfield.curves.pfn.questions import Asked, Runs, ask
from farfield.curves.pfn.stored import save_network
from farfield.curves.priors import SweepPrior
from farfield.errors import FormatError, InputError

FIRST = LCPFN.load("wide")
ARCH = ContextArchitecture.on(
    FIRST.engine.arch, width=16, hidden=16, heads=2, pair_hidden=4, pointers=2, pointer_width=4, components=2
)


def tensors(arch: ContextArchitecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, named and laid out as in the torch network."""
    rng = np.random.default_rng(seed)
    tokens, asked, pairs = arch.inputs
    width, pointers = arch.width, arch.pointers * arch.pointer_width
    maps = {
        "tokens.0": (tokens, width), "tokens.2": (width, width), "asked.0": (asked, width), "asked.2": (width, width),
        "pairs.0": (pairs, arch.pair_hidden), "pairs.2": (arch.pair_hidden, arch.biases),
        "pointer_query": (width, pointers), "pointer_key": (width, pointers),
        "head.0": (arch.head_inputs, arch.hidden), "head.2": (arch.hidden, arch.outputs),
    }  # fmt: skip
    norms = ["norm_tokens", "norm_asked"]
    for i in range(arch.layers):
        maps |= {
            f"layers.{i}.query": (width, width),
            f"layers.{i}.key_value": (width, 2 * width),
            f"layers.{i}.out": (width, width),
        }
        maps |= {f"layers.{i}.perceptron.0": (width, arch.hidden), f"layers.{i}.perceptron.2": (arch.hidden, width)}
        norms += [f"layers.{i}.norm_attention", f"layers.{i}.norm_perceptron"]
    out = {f"{k}.weight": rng.normal(0, 0.7 / np.sqrt(a), (b, a)) for k, (a, b) in maps.items()}
    out |= {f"{k}.bias": rng.normal(0, 0.1, b) for k, (_, b) in maps.items()}
    return out | {f"{k}.weight": np.ones(width) for k in norms} | {f"{k}.bias": np.zeros(width) for k in norms}


@pytest.fixture(scope="module")
def model() -> ContextPFN:
    return ContextPFN("random", ContextEngine.of(ARCH, tensors(ARCH), np.float64), LCPFN.load("wide", double=True), {}, most_runs=6)


def some(n: int = 5, points: int = 16, seed: int = 3) -> tuple[Runs, np.ndarray]:
    sweeps = SweepPrior().sample(2, n, points, seed)
    return runs_of(sweeps, sweeps.horizon), sweeps.x


def questions(runs: Runs, x: np.ndarray, seen: np.ndarray, cut: int = 6, asked: int = 11) -> Asked:
    n = runs.x.shape[1]
    return ask(FIRST.engine, runs, seen, x[:, cut - 1 : cut], x[:, asked : asked + 1], np.arange(2), ~np.eye(n, dtype=bool)[:2])


def curves(n: int, points: int, seed: int, name: str = "r") -> Curves:
    rng = np.random.default_rng(seed)
    x = np.arange(1.0, points + 1)
    y = 0.3 + rng.uniform(0.2, 0.5, (n, 1)) * x ** -rng.uniform(0.3, 0.9, (n, 1)) + 0.003 * rng.normal(size=(n, points))
    rows = [{"run": f"{name}{i}", "config.lr": float(v)} for i, v in enumerate(np.exp(rng.normal(0, 2, n)))]
    return Curves.from_points(
        [f"{name}{i}" for i in range(n) for _ in range(points)], np.tile(x, n), y.ravel(), attributes=rows,
        metric=Metric("val_loss", "min", 0.0),
    )  # fmt: skip


# -- questions ----------------------------------------------------------------------------------------------------------------


def test_what_is_not_seen_changes_nothing() -> None:
    runs, x = some()
    seen = np.full((2, 5, 1), 6)
    seen[:, 3], seen[:, 4] = 9, 16
    before = questions(runs, x, seen)
    hidden = np.arange(16) >= seen
    moved = dataclasses.replace(runs, y=np.where(hidden, 0.123, runs.y), z=np.where(hidden, 0.321, runs.z))
    after = questions(moved, x, seen)
    for field in dataclasses.fields(Asked):
        a, b = getattr(before, field.name), getattr(after, field.name)
        if field.name in ("tokens", "pairs", "guesses"):
            # what no asked run is shown may be anything
            shown = before.shown.any(axis=1) if field.name == "tokens" else before.shown
            a, b = a[shown], b[shown]
        np.testing.assert_array_equal(a, b, err_msg=field.name)
    known = questions(runs, x, np.where(np.arange(5)[None, :, None] == 3, 16, seen))
    assert not np.array_equal(known.tokens, before.tokens)


def test_a_finished_run_answers_the_question_and_the_others_the_one_before() -> None:
    runs, x = some()
    seen = np.full((2, 5, 1), 6)
    seen[:, 2] = 16
    asked = questions(runs, x, seen)
    # tokens: answers at the asked position, then answers at the cut
    ahead, back = asked.shown[:, :, :5], asked.shown[:, :, 5:]
    assert ahead[:, :, 2].all()
    assert not ahead[:, :, [0, 1, 3, 4]].any()
    # c^2 / x must leave a point: else nobody was asked that question
    c, x_ = x[:, 5], x[:, 11]
    np.testing.assert_array_equal(back.all(axis=(1, 2)), x[:, 0] <= c**2 / x_)
    # the first network's answer for the finished run, cut where the question is asked
    weight, loc, scale = FIRST.engine(runs.x[:, 2], runs.z[:, 2], np.full((2, 1), 6), x_[:, None], runs.horizon[:, 2])
    deviation = np.sqrt((weight * (scale**2 + loc**2)).sum(-1) - (weight * loc).sum(-1) ** 2)
    error = (runs.z[:, 2, 11] - (weight * loc).sum(-1)[:, 0]) / deviation[:, 0]
    place = asked.tokens.shape[2] - 10 - 2 - 4
    np.testing.assert_allclose(asked.tokens[:, 2, place], np.arcsinh(error), rtol=1e-4)


def test_a_run_is_never_its_own_finished_context() -> None:
    runs, x = some()
    asked = questions(runs, x, np.full((2, 5, 1), 16))
    for i in range(2):
        assert not asked.shown[:, i, i].any()


def test_the_order_of_the_other_runs_means_nothing() -> None:
    runs, x = some()
    order = np.array([0, 1, 4, 2, 3])
    flat = (np.arange(2)[:, None] * 5 + order).ravel()
    turned = Runs(
        *(getattr(runs, k)[:, order] for k in ("x", "y", "z", "count")), runs.normaliser[flat], runs.settings[:, order],
        runs.horizon[:, order],
    )  # fmt: skip
    seen = np.full((2, 5, 1), 16)
    engine = ContextEngine.of(ARCH, tensors(ARCH), np.float64)
    for a, b in zip(engine(questions(runs, x, seen)), engine(questions(turned, x, seen)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# -- forecasts ----------------------------------------------------------------------------------------------------------------


def test_a_forecast_depends_on_its_run_and_the_context_alone(model: ContextPFN) -> None:
    asked, others = curves(4, 12, 1), curves(5, 30, 2, "o")
    whole = model.forecast(asked, [20.0, 28.0], others)
    assert whole.shape == (4, 2)
    for i in range(4):
        np.testing.assert_allclose(
            model.forecast(asked.take([i]), [20.0, 28.0], others).median(), whole.median()[i : i + 1], atol=1e-9
        )
    again = model.forecast(asked, [20.0, 28.0], others.take([3, 1, 0, 4, 2]))
    np.testing.assert_allclose(again.median(), whole.median(), atol=1e-9)
    other = model.forecast(asked, [20.0, 28.0], curves(5, 30, 7, "o"))
    assert np.abs(other.median() - whole.median()).max() > 1e-6


def test_a_runs_own_namesake_is_no_context(model: ContextPFN) -> None:
    finished = curves(3, 30, 1)
    # its settings are known anyway, and are part of what settings are compared with
    finished = dataclasses.replace(finished, attributes=finished.attributes.drop("config.lr"))
    seen = finished.upto(10.0)
    alone = model.forecast(seen.take([0]), [30.0], finished.take([1, 2]))
    np.testing.assert_allclose(model.forecast(seen.take([0]), [30.0], finished).median(), alone.median(), atol=1e-9)


def test_groups_are_contexts_of_their_own(model: ContextPFN) -> None:
    asked, others = curves(2, 12, 1), curves(10, 30, 2, "o")
    named = [dataclasses.replace(c, attributes=c.attributes.with_columns(group=pl.Series(g, dtype=pl.String)))
             for c, g in ((asked, ["a", "b"]), (others, [*"aaaabbbb", "c", None]))]  # fmt: skip
    found = model.forecast(named[0], [25.0], named[1])
    for i, rows in enumerate(([0, 1, 2, 3], [4, 5, 6, 7])):
        np.testing.assert_allclose(
            found.median()[i], model.forecast(asked.take([i]), [25.0], others.take(rows)).median()[0], atol=1e-9
        )


def test_odd_contexts(model: ContextPFN) -> None:
    asked = curves(2, 12, 1)
    nothing = model.forecast(asked, [20.0], curves(3, 30, 2).take([]))
    assert np.isfinite(nothing.median()).all()
    # one run; runs of one point; steps that start at 0; more runs than are read
    for others in (curves(1, 30, 2, "o"), curves(3, 1, 2, "o"), curves(9, 30, 2, "o")):
        assert np.isfinite(model.forecast(asked, [20.0], others).interval(0.8)).all()
    zero = dataclasses.replace(asked, x=asked.x - 1)
    assert np.isfinite(model.forecast(zero, [20.0], curves(4, 30, 2, "o")).median()).all()
    flat = dataclasses.replace(asked, y=0 * asked.y)
    assert np.isfinite(model.forecast(flat, [20.0], flat.concat(flat)).median()).all()


def test_bad_input_is_refused(model: ContextPFN, tmp_path: Path) -> None:
    asked, others = curves(2, 12, 1), curves(4, 30, 2, "o")
    with pytest.raises(InputError, match="beyond"):
        model.forecast(asked, [12.0], others)
    with pytest.raises(InputError, match="goals differ"):
        model.forecast(asked, [20.0], dataclasses.replace(others, metric=Metric("acc", "max")))
    with pytest.raises(InputError, match="shape"):
        model.forecast(asked, np.ones((3, 2)) * 20, others)
    with pytest.raises(InputError, match="no file"):
        ContextPFN.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="context"):
        ContextPFN.load("contex")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a network")
    with pytest.raises(FormatError, match="not a context network"):
        ContextPFN.load(bad)


def test_a_saved_network_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    weights = {k: v.astype(np.float16) for k, v in tensors(ARCH).items()}
    save_network(path, "mine", ARCH, weights, {"base": "wide"})
    found = ContextPFN.load(path)
    assert found.name == "mine"
    assert found.engine.arch == ARCH
    same = ContextEngine.of(ARCH, weights)
    runs, x = some()
    asked = questions(runs, x, np.full((2, 5, 1), 16))
    for a, b in zip(found.engine(asked), same(asked), strict=True):
        np.testing.assert_array_equal(a, b)
    broken = {k: v for k, v in weights.items() if k != "head.2.bias"}
    save_network(path, "mine", ARCH, broken, {"base": "wide"})
    with pytest.raises(FormatError, match=r"head\.2\.bias"):
        ContextPFN.load(path)


def test_the_nearest_runs_are_like_it_in_settings_or_course(model: ContextPFN) -> None:
    from farfield.curves.pfn.context import _Table

    others, asked = curves(40, 30, 2, "o"), curves(1, 12, 1)
    twin = dataclasses.replace(asked, runs=("twin",), attributes=asked.attributes.with_columns(run=pl.lit("twin")))
    context = _Table.of(FIRST, others.concat(twin), Answers(FIRST.engine))
    places = np.zeros((41, 10))
    places[:40, 0] = np.arange(40) + 1.0
    found = nearest(_Table.of(FIRST, asked, Answers(FIRST.engine)), context, np.zeros(10), places, np.ones(41, dtype=bool), 7)
    assert found.size == 7
    assert 40 in found
    assert set(found) & {0, 1, 2}


def test_intervals_are_widened_until_they_hold_on_the_other_runs() -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(3, 400))
    found = _spread(v * np.array([1.0, 2.0, 0.3])[:, None])
    np.testing.assert_allclose(found, [1, 2, 1], atol=0.25)
    size = np.sort(np.abs(v[0, :19]))
    # of 19 scores the 16th
    assert _spread(v[0, :19]) == pytest.approx(max(size[15] / special.ndtri(0.9), 1))
    few = np.where(np.arange(400) < 9, 5.0, np.nan)
    np.testing.assert_array_equal(_spread(np.stack([few, np.full(400, np.nan), np.full(400, 99.0)])), [1, 1, 4])
    assert _spread(np.ones((2, 0))).tolist() == [1, 1]


def test_scores_on_sweeps_name_every_situation(model: ContextPFN) -> None:
    found = score_on_sweeps(model, n=6, curves=3, points=12, rng=0)
    assert [s.situation for s in found] == list(SITUATIONS)
    assert all(np.isfinite(s.log_likelihood) for s in found)
    assert found[0].first == pytest.approx(found[1].first, abs=1e-6)
    json.dumps([dataclasses.asdict(s) for s in found])
    with pytest.raises(InputError, match="two or more"):
        score_on_sweeps(model, n=6, curves=1)


# -- answers of the first network -----------------------------------------------------------------------------------------------


def test_a_question_is_put_once_and_all_about_a_run_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    engine = LCPFN.load("wide", double=True).engine
    x, z, count = np.tile(np.arange(1.0, 21), (4, 1)), rng.uniform(0.2, 0.8, (4, 20)), np.array([20, 12, 20, 7])
    z[2] = z[0]
    cut = np.stack([np.minimum(count, 5), np.minimum(count, 12)], axis=1)
    at, horizon = np.array([[30.0, 25.0]] * 4), np.array([np.nan, 40.0, np.nan, np.nan])
    calls: list[tuple[int, int]] = []
    whole = type(engine).__call__
    monkeypatch.setattr(type(engine), "__call__", lambda self, *a: (calls.append(a[2].shape), whole(self, *a))[1])
    answers = Answers(engine)
    number = answers.numbers(x, z, count)
    assert number.tolist() == [0, 1, 0, 2]
    # a beginning of a run is that run, which may grow; another course is another run
    assert answers.numbers(x[:1], z[:1], np.array([9])).tolist() == [0]
    assert answers.numbers(x[3:], z[3:], np.array([15])).tolist() == [2]
    turned = np.where(np.arange(20) < 15, z[:1], 0.5)
    assert answers.numbers(x[:1], turned, np.array([20])).tolist() == [3]
    answers.announce(number, cut, at, horizon)
    answers.announce(number[:1], cut[:1], at[:1] + 1, horizon[:1])
    assert not calls
    found = answers(number, cut, at, horizon)
    # the third run is the first, which was asked at two more positions
    assert calls == [(3, 4)]
    for i in range(4):
        k = count[i]
        alone = whole(engine, x[i : i + 1, :k], z[i : i + 1, :k], cut[i : i + 1], at[i : i + 1], horizon[i : i + 1])
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a[i], b[0], atol=1e-9)
    for a, b in zip(answers(number, cut, at, horizon), found, strict=True):
        np.testing.assert_array_equal(a, b)
    answers(number[:1], cut[:1], at[:1] + 1, horizon[:1])
    assert calls == [(3, 4)]
    # another planned end is another question
    other = answers(number[:1], cut[:1], at[:1], np.array([60.0]))
    assert len(calls) == 2
    assert np.abs(other[1] - found[1][:1]).max() > 1e-6


def test_answers_are_dropped_when_they_are_too_many(model: ContextPFN, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, others = curves(4, 12, 1), curves(9, 30, 2, "o")
    kept = Answers(model.first.engine)
    before = model.forecast(asked, [20.0, 28.0], others, kept).median()
    assert len(kept)
    monkeypatch.setattr("farfield.curves.pfn.context_answers._MOST", 10)
    monkeypatch.setattr("farfield.curves.pfn.context._BLOCK", 1)
    dropped = Answers(model.first.engine)
    np.testing.assert_allclose(model.forecast(asked, [20.0, 28.0], others, dropped).median(), before, atol=1e-9)
    assert not len(dropped)
    np.testing.assert_array_equal(model.forecast(asked, [20.0, 28.0], others, kept).median(), before)
