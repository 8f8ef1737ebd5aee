"""Input checks: each takes the name of an argument and its value, and returns the value ready to use or refuses it.

A refusal is an :class:`~farfield.errors.InputError` that says which argument it was, what was got and what is allowed, so that
no function needs a sentence of its own for the same mistake.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.errors import InputError, short, unknown_name

FloatArray = NDArray[np.float64]


def numbers(name: str, value: ArrayLike, *, ndim: int | None = None, shape: Sequence[int | None] | None = None) -> FloatArray:
    """`value` as a float64 array of real numbers, NaN and infinities allowed.

    Parameters
    ----------
    name : what the caller calls the argument
    value : anything NumPy makes a real array of; text, complex numbers and ragged lists are refused
    ndim : number of axes required
    shape : lengths required, None where any length will do
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        out = array.astype(np.float64)
    except RuntimeError as error:  # torch's, of a tensor that requires a gradient or lies on another device
        raise InputError(f"{name} cannot be made an array: {error}") from None
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {short(value)}; allowed: real numbers") from None
    if ndim is not None and out.ndim != ndim:
        raise InputError(f"{name} has shape {out.shape}; allowed: {ndim} {'axis' if ndim == 1 else 'axes'}")
    if shape is not None and (
        out.ndim != len(shape) or any(w is not None and w != n for w, n in zip(shape, out.shape, strict=True))
    ):
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        raise InputError(f"{name} has shape {out.shape}; allowed: ({wanted})")
    return out


def fitted(estimator: object, learned: str, fit: str) -> None:
    """Refuse an estimator that has not learned its attribute `learned` yet; `fit` is the call that it needs."""
    if not hasattr(estimator, learned):
        raise InputError(f"this {type(estimator).__name__} is not fitted; call {fit} first")


def finite(name: str, value: ArrayLike, *, ndim: int | None = None, shape: Sequence[int | None] | None = None) -> FloatArray:
    """As :func:`numbers`, and every entry finite; the refusal says how many are not and where the first is."""
    out = numbers(name, value, ndim=ndim, shape=shape)
    bad = ~np.isfinite(out)
    if bad.any() and out.ndim == 0:
        raise InputError(f"{name} is {out}; allowed: a finite number")
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"the first is {out[first]} at index {first[0] if len(first) == 1 else first}"
        raise InputError(
            f"{name} holds {int(bad.sum())} values that are not finite (of {out.size}); {where}; remove or replace them"
        )
    return out


def level(name: str, value: Any) -> float:
    """A probability strictly between 0 and 1, as of an interval or a quantile."""
    out = _scalar(name, value, "a number between 0 and 1, for example 0.8")
    if not 0.0 < out < 1.0:
        percent = f" (did you mean {out / 100:g}?)" if 1.0 < out < 100.0 else ""
        raise InputError(f"{name} is {out:g}; allowed: above 0 and below 1{percent}")
    return out


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    out = _scalar(name, value, "a number above 0")
    if not (np.isfinite(out) and out > 0):
        raise InputError(f"{name} is {out:g}; allowed: a finite number above 0")
    return out


def count(name: str, value: Any, *, least: int = 1) -> int:
    """An integer not below `least`; floats and booleans are refused even where they equal one."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        out = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {short(value)}; allowed: an integer from {least} up") from None
    if out < least:
        raise InputError(f"{name} is {out}; allowed: an integer from {least} up")
    return out


def choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """One of the names in `allowed`; an unknown one is answered with the nearest three."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise unknown_name(name, value, names)
    return value


def _scalar(name: str, value: Any, allowed: str) -> float:
    try:
        if isinstance(value, str | bytes | bool | np.bool_):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {short(value)}; allowed: {allowed}") from None
