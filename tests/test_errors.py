"""Errors: what they are caught as, and what they say."""

from __future__ import annotations

import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.errors import (
    ConvergenceWarning,
    FarfieldError,
    FormatError,
    InputError,
    MissingExtraError,
    installed,
    nearest,
    require,
    unknown_name,
)

FORMS = ["pow2", "pow3", "pow4", "exp2", "exp3", "ilog2", "janoschek", "vapour_pressure"]


@pytest.mark.parametrize(
    ("error", "also"),
    [(InputError("x"), ValueError), (FormatError("x"), ValueError), (MissingExtraError("torch", "this"), ImportError)],
)
def test_each_error_is_caught_as_farfields_and_as_the_builtin(error: Exception, also: type[Exception]) -> None:
    assert isinstance(error, FarfieldError)
    assert isinstance(error, also)


def test_a_warning_is_no_error() -> None:
    assert issubclass(ConvergenceWarning, UserWarning)
    assert not issubclass(ConvergenceWarning, FarfieldError)


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("ray", "forecast_dataset")
    assert error.extra == "ray"
    assert str(error) == "forecast_dataset needs the 'ray' extra, which is not installed; run: pip install 'farfield[ray]'"


@pytest.mark.parametrize(
    ("typed", "meant"), [("pwo3", "pow3"), ("POW4", "pow4"), ("vapor_pressure", "vapour_pressure"), ("Janoscheck", "janoschek")]
)
def test_a_slip_of_the_keyboard_finds_what_was_meant(typed: str, meant: str) -> None:
    found = nearest(typed, FORMS)
    assert found[0] == meant
    assert len(found) == 3


def test_names_that_differ_in_case_alone_are_both_found() -> None:
    assert set(nearest("loss", ["Loss", "loss", "acc"], n=2)) == {"Loss", "loss"}


@given(st.text(), st.lists(st.text(), unique=True), st.integers(1, 5))
def test_nearest_returns_allowed_names_once_each(typed: str, allowed: list[str], n: int) -> None:
    found = nearest(typed, allowed, n)
    assert len(found) == len(set(found)) == min(n, len(allowed))
    assert set(found) <= set(allowed)


def test_a_name_that_is_allowed_comes_first() -> None:
    for name in FORMS:
        assert nearest(name, FORMS)[0] == name


def test_unknown_name_lists_few_and_counts_many() -> None:
    assert str(unknown_name("goal", "low", ["min", "max"])) == "unknown goal 'low'; allowed: min, max"
    assert str(unknown_name("metric", "loss", [])) == "unknown metric 'loss'; allowed: none"
    assert str(unknown_name("form", "pow", FORMS)).endswith("(8 are allowed)")
    assert str(unknown_name("form", "pow", FORMS)).startswith("unknown form 'pow'; nearest: pow")
    assert isinstance(unknown_name("form", "pow", FORMS), InputError)


def test_what_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not there
    assert not installed("torch")
    with pytest.raises(MissingExtraError, match=r"this needs the 'torch' extra, .* pip install 'farfield\[torch\]'"):
        require("torch", "this")
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # put in by hand: it has no spec
    require("torch", "this")
