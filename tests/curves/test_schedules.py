"""Schedules: what is parsed, read from settings and from logged rates, and what is carried on beyond the seen part."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.curves.data import Curves
from farfield.curves.schedule_sources import from_config, from_observed, schedules_of
from farfield.curves.schedules import (
    constant,
    decay_to_come,
    decaying,
    fall_of,
    inverse_sqrt,
    parse_schedule,
    steps,
    unknown,
)
from farfield.errors import InputError
from tolerances import assert_close

X = np.linspace(0.0, 1000.0, 401)


def exact(name: str, x: np.ndarray) -> np.ndarray:
    """Rates by their closed forms, warmup 100, end 1000, written without the module under test."""
    t, d = (x - 100) / 900, np.clip((x - 800) / 200, 0, 1)
    after = {
        "constant": np.ones_like(x),
        "cosine": 0.1 + 0.9 * (1 + np.cos(np.pi * t)) / 2,
        "linear": 1 - t,
        "wsd": 1 - d,
        "wsd-sqrt": 1 - np.sqrt(d),
        "wsd-exp": 0.01**d,
        "wsd-cosine": (1 + np.cos(np.pi * d)) / 2,
        "step": np.where(x < 400, 1.0, np.where(x < 700, 0.5, 0.25)),
        "inverse-sqrt": np.sqrt(100 / np.maximum(x, 1)),
    }[name]
    return np.where(x < 100, x / 100, after)


SPECS = {
    "constant": "constant:warmup=100",
    "cosine": "cosine:1k,warmup=100,final=0.1",
    "linear": "linear:1000,warmup=0.1",
    "wsd": "wsd:1000,0.2,warmup=100",
    "wsd-sqrt": "WSD:1e3, 200, shape=sqrt, warmup=100",
    "wsd-exp": "wsd:1000,200,shape=exp,warmup=100",
    "wsd-cosine": "wsd:1_000,200,shape=cosine,warmup=100",
    "step": "step:400,700,gamma=0.5,warmup=100",
    "inverse-sqrt": "inverse_sqrt:100",
}


@pytest.mark.parametrize("name", SPECS)
def test_parsed_rates_follow_their_closed_form(name: str) -> None:
    schedule = parse_schedule(SPECS[name])
    assert schedule.kind == name.removesuffix("-exp").removesuffix("-sqrt" if name == "wsd-sqrt" else "").removesuffix("-cosine")
    assert schedule.source == "spec"
    assert schedule.warmup == 100
    # curved shapes are tabulated at 257 knots: (pi / 256)^2 / 16 for the cosine, (ln 100 / 256)^2 / 8 for the exponential
    curved = name not in ("constant", "linear", "wsd", "step")
    np.testing.assert_allclose(schedule.relative(X), exact(name, X), atol=5e-5 if curved else 1e-12, rtol=0)


def test_rates_are_not_known_far_beyond_the_end() -> None:
    schedule = parse_schedule("cosine:1000")
    assert_close(schedule.relative([1000.0, 1005.0]), [0.0, 0.0])
    assert np.isnan(schedule.relative(1500.0))
    assert_close(parse_schedule("constant").relative([0.0, 1e9]), [1.0, 1.0])


def test_lr_is_the_peak_times_the_ratio_and_scaling_x_moves_everything() -> None:
    schedule = decaying("wsd", 1000, start=800, warmup=100, peak=0.3)
    assert_close(schedule.lr([50.0, 500.0, 900.0]), [0.15, 0.3, 0.15])
    tokens = schedule.scaled(2048.0)
    assert_close(tokens.lr(2048.0 * X), schedule.lr(X))
    assert (tokens.planned_end, tokens.decay_start) == (2048000, 1638400)
    assert "wsd" in repr(schedule)
    assert "from spec" in repr(schedule)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cosin:100", "nearest: cosine"),
        ("cosine", "allowed: cosine:T"),
        ("cosine:100,200", "2 numbers"),
        ("cosine:-5", "'-5' is not a finite number"),
        ("cosine:nan", "'nan' is not a finite number"),
        ("cosine:1e999", "'1e999' is not a finite number"),
        ("cosine:0", "allowed: 0 <= warmup"),
        ("cosine:100,warmup=200", "allowed: 0 <= warmup"),
        ("cosine:100,final=1.5", "at least 0 and below 1"),
        ("cosine:100,shape=linear", "option 'shape' is not one of its own; allowed: cosine:T"),
        ("cosine:100,final=0.1,final=0.2", "twice"),
        ("wsd:1000", "1 numbers before the options; allowed: wsd:T,D"),
        ("wsd:1000,2000", "does not fit"),
        ("wsd:1000,100,shape=cubic", "unknown decay shape 'cubic'"),
        ("wsd:1000,100,shape=exp,final=0", "above 0 for shape exp"),
        ("step:500,400", "rising milestones"),
        ("step:500,gamma=2", "gamma between 0 and 1"),
        ("inverse-sqrt:0", "above 0"),
        ("", "unknown schedule ''"),
    ],
)
def test_a_malformed_spec_is_refused_with_what_is_allowed(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_schedule(spec)


@given(st.text(max_size=30))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    for spec in (text, f"cosine:{text}", f"wsd:1000,{text}", f"step:{text}"):
        with contextlib.suppress(InputError):
            assert np.isfinite(parse_schedule(spec).at).all()


# -- the decay to come ----------------------------------------------------------------------------------------------------------


def test_decay_to_come() -> None:
    wsd = parse_schedule("wsd:1000,200")
    assert decay_to_come(wsd, 500, 1000).coming is True
    assert decay_to_come(wsd, 500, 1000).fall == pytest.approx(1.0, abs=1e-12)
    assert decay_to_come(wsd, 900, 1000).fall == pytest.approx(0.5, abs=1e-12)
    assert decay_to_come(wsd, 300, 700) == dataclasses.replace(decay_to_come(wsd, 300, 700), coming=False, fall=0.0)
    assert decay_to_come(constant(), 10, 1e6).coming is False
    assert decay_to_come(unknown(), 10, 20).coming is None
    assert np.isnan(decay_to_come(wsd, 500, 2000).fall)


# -- settings -------------------------------------------------------------------------------------------------------------------

CONFIGS = {
    "transformers cosine": (
        {"lr_scheduler_type": "cosine", "max_steps": 1000, "warmup_ratio": 0.1, "warmup_steps": 0, "learning_rate": 3e-4},
        "cosine:1000,warmup=100",
    ),
    "transformers wsd": (
        {
            "config.lr_scheduler_type": "SchedulerType.warmup_stable_decay",
            "config.lr_scheduler_kwargs": '{"num_decay_steps": 200, "min_lr_ratio": 0.1, "decay_type": "1-sqrt"}',
            "config.max_steps": 1000.0,
            "config.warmup_steps": 100,
        },
        "wsd:1000,200,shape=sqrt,warmup=100,final=0.1",
    ),
    "nanogpt": (
        {"decay_lr": True, "lr_decay_iters": 1000, "warmup_iters": 100, "learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 2000},
        "cosine:1000,warmup=100,final=0.1",
    ),
    "megatron": (
        {
            "lr-decay-style": "WSD", "train-iters": 1000, "lr-wsd-decay-iters": 200, "lr-wsd-decay-style": "exponential",
            "min-lr": 0.01, "lr": 1.0,
        },
        "wsd:1000,200,shape=exp,final=0.01",
    ),
    "nested": (
        {"optimizer": {"lr_schedule": {"schedule": "linear", "total_steps": 1000, "warmup_frac": 0.1}}},
        "linear:1000,warmup=100",
    ),
    "fractions": ({"schedule": "trapezoidal", "steps": 1000, "cooldown_frac": 0.2, "warmup": 0.1}, "wsd:1000,200,warmup=100"),
    "stable": ({"scheduler": "WSD", "n_steps": 1000, "warmup_steps": 100, "stable_steps": 700}, "wsd:1000,200,warmup=100"),
    "constant": ({"lr_scheduler_type": "constant_with_warmup", "num_warmup_steps": 100}, "constant:warmup=100"),
    "inverse": ({"lr_scheduler": "InverseSqrt", "warmup_steps": 100}, "inverse-sqrt:100"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_of_usual_trainers(name: str) -> None:
    config, spec = CONFIGS[name]
    read, want = from_config(config), parse_schedule(spec)
    assert read is not None
    assert (read.kind, read.source) == (want.kind, "config"), read.note
    np.testing.assert_allclose(read.relative(X), want.relative(X), atol=1e-12)


def test_settings_in_other_units_and_without_a_length() -> None:
    tokens = from_config({"schedule": "cosine", "max_steps": 1000, "warmup_steps": 100}, planned_end=9.9e9, x_per_step=1e6)
    assert tokens is not None
    assert (tokens.planned_end, tokens.warmup) == (1e9, 1e8)
    epochs = from_config({"schedule": "cosine", "max_steps": -1}, planned_end=30.0, x_per_step=np.nan)
    assert epochs is not None
    assert (epochs.kind, epochs.planned_end) == ("cosine", 30.0)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "not one that can be followed"),
        ({"schedule": "cosine"}, "without the number of steps"),
        ({"schedule": "wsd", "max_steps": 1000}, "without the length of its decay"),
        ({"schedule": "wsd", "max_steps": 1000, "decay_steps": 2000}, "allowed: 0 <= warmup"),
        ({"schedule": "wsd", "max_steps": 1000, "decay_steps": 100, "decay_shape": "wavy"}, "'wavy'"),
        ({"schedule": "inverse_sqrt"}, "above 0"),
    ],
)
def test_settings_that_do_not_suffice_say_so(config: dict[str, object], why: str) -> None:
    read = from_config(config)
    assert read is not None
    assert read.kind == "unknown"
    assert why in read.note


def test_settings_without_a_schedule_give_none() -> None:
    assert from_config({"learning_rate": 0.1, "width": 64, "config": None, "text": "{not json", "max_steps": True}) is None


def test_lengths_in_steps_need_a_conversion() -> None:
    read = from_config({"schedule": "cosine", "warmup_steps": 100}, planned_end=30.0, x_per_step=np.nan)
    assert read is not None
    assert "cannot be told" in read.note


# -- logged rates ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "wsd-sqrt", "wsd-cosine"])
@pytest.mark.parametrize("every", [5, 20])
def test_a_decay_under_way_is_carried_on_to_its_end(name: str, every: int) -> None:
    x = np.arange(every, 1001.0, every)
    seen = x <= (600 if name in ("cosine", "linear") else 920)
    lr = np.round(3e-4 * exact(name, x), 10)
    read = from_observed(x[seen], lr[seen], planned_end=1000)
    assert read.kind == name.removesuffix("-sqrt").removesuffix("-cosine")
    assert read.source == "column"
    np.testing.assert_allclose(read.lr(x), 3e-4 * exact(name, x), atol=0.01 * 3e-4)


def test_the_truth_beyond_the_seen_part_is_not_used() -> None:
    x = np.arange(10.0, 1001.0, 10)
    lr = 0.1 * exact("cosine", x)
    whole = Curves.from_points(["a"] * 100, x, 1 / x, covariates={"lr": lr}, attributes=[{"run": "a", "planned_end": 1000.0}])
    bent = Curves.from_points(
        ["a"] * 100, x, 1 / x, covariates={"lr": np.where(x > 600, 7.0, lr)}, attributes=[{"run": "a", "planned_end": 1000.0}]
    )
    (a,), (b,) = schedules_of(whole.upto(600)), schedules_of(bent.upto(600))
    assert (a.at == b.at).all()
    assert (a.ratio == b.ratio).all()


def test_a_rate_that_is_constant_so_far_is_not_carried_on() -> None:
    x = np.arange(10.0, 1001.0, 10)
    read = from_observed(x[:70], exact("wsd", x)[:70], planned_end=1000)
    assert (read.kind, read.known_to) == ("observed", 700)
    assert "constant so far" in read.note
    assert decay_to_come(read, 700, 1000).coming is None
    assert from_observed(x, exact("constant", x), planned_end=1000).kind == "constant"
    assert from_observed(x, exact("constant", x)).kind == "observed"


def test_rates_that_leave_a_doubt_are_only_observed() -> None:
    x = np.arange(10.0, 1001.0, 10)
    early = exact("cosine", x)[:18]
    assert from_observed(x[:18], early, planned_end=1000).kind == "observed"
    endless = from_observed(x[:60], exact("cosine", x)[:60])
    assert (endless.kind, endless.known_to) == ("observed", 600)
    assert "without a planned end" in endless.note
    wavy = 1 + 0.5 * np.sin(x / 50)
    assert from_observed(x, wavy, planned_end=2000).kind == "observed"
    assert "rising" in from_observed(x[:5], exact("wsd", x)[:5], planned_end=1000).note
    stepped = from_observed(x[:80], exact("step", x)[:80], planned_end=1000)
    assert (stepped.kind, stepped.decay_start) == ("observed", 390)
    assert "steps" in stepped.note


def test_an_inverse_square_root_is_recognised() -> None:
    x = np.arange(10.0, 1001.0, 10)
    read = from_observed(x[:40], 0.02 * exact("inverse-sqrt", x)[:40])
    assert read.kind == "inverse-sqrt"
    np.testing.assert_allclose(read.lr(x), 0.02 * exact("inverse-sqrt", x), rtol=2e-3)


def test_unusable_rates() -> None:
    assert from_observed([1.0, 2.0], [np.nan, 0.1]).kind == "unknown"
    assert from_observed([1.0, 2.0], [0.0, 0.0]).kind == "unknown"
    assert from_observed([1.0, 2.0], [0.1, -0.1]).kind == "unknown"


# -- sets of runs ---------------------------------------------------------------------------------------------------------------


def runs(lr: bool = True, x_name: str = "step", **config: object) -> Curves:
    """Two runs of 70 points: one that decays from 800 to 1000 on, one constant; planned end 1000."""
    x = np.tile(np.arange(10.0, 701.0, 10), 2)
    rates = 0.01 * exact("wsd", x)
    rows = [{"run": n, "planned_end": 1000.0, **{f"config.{k}": v for k, v in config.items()}} for n in ("a", "b")]
    names = np.repeat(["a", "b"], 70).tolist()
    return Curves.from_points(names, x, 1 / x, covariates={"lr": rates} if lr else {}, attributes=rows, x_name=x_name)


def test_what_is_said_wins_over_settings_over_logged_rates() -> None:
    settings = {"schedule": "wsd", "decay_fraction": 0.2, "warmup_steps": 100, "max_steps": 1000}
    said = schedules_of(runs(**settings), "cosine:1000")
    assert [s.kind for s in said] == ["cosine"] * 2
    assert "differ from the schedule given" in said[0].note
    from_settings = schedules_of(runs(**settings))
    assert [(s.kind, s.source, s.note) for s in from_settings] == [("wsd", "config", "")] * 2
    assert from_settings[0].peak == pytest.approx(0.01)
    from_rates = schedules_of(runs())
    assert [(s.kind, s.source) for s in from_rates] == [("observed", "column")] * 2
    nothing = schedules_of(runs(lr=False))
    assert [s.kind for s in nothing] == ["unknown"] * 2
    assert nothing[0].planned_end == 1000


def test_settings_that_contradict_the_logged_rates_are_set_aside() -> None:
    (read, _) = schedules_of(runs(schedule="cosine", max_steps=1000, warmup_steps=100))
    assert (read.kind, read.source) == ("observed", "column")
    assert "differ from the schedule of the configuration" in read.note
    assert "constant so far" in read.note


def test_settings_in_steps_are_converted_to_x() -> None:
    curves = runs(lr=False, x_name="tokens", schedule="wsd", max_steps=100, decay_steps=20, warmup_steps=10)
    (by_end, _) = schedules_of(curves)
    assert (by_end.kind, by_end.planned_end, by_end.decay_start) == ("wsd", 1000, 800)
    counted = dataclasses.replace(curves, covariates={"step": curves.x / 5})
    (by_column, _) = schedules_of(counted)
    assert (by_column.planned_end, by_column.warmup) == (500, 50)
    no_end = dataclasses.replace(curves, attributes=curves.attributes.with_columns(planned_end=pl.lit(None, dtype=pl.Float64)))
    assert schedules_of(no_end)[0].kind == "unknown"


def test_builders_refuse_what_is_no_schedule() -> None:
    with pytest.raises(InputError, match="warmup is -1"):
        constant(warmup=-1)
    with pytest.raises(InputError, match="milestones"):
        steps([])
    with pytest.raises(InputError, match="above 0"):
        inverse_sqrt(-3)


def test_every_decay_starts_at_the_peak_and_ends_at_the_final_rate() -> None:
    for shape in ("linear", "cosine", "sqrt", "exp"):
        assert_close(fall_of(shape, np.array([0.0, 1.0]), 0.05), [1.0, 0.0])
