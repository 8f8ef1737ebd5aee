"""Rows of whatever holds samples: columns by name or number, a numeric matrix, a part of the rows, and a fingerprint of each row.

A fingerprint depends on what stands in the row and not on where the row stands. Rows ordered by it are in the same order however
the data were shuffled, so that a split with a seed does not depend on the order of the rows; and equal ones are copies.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.errors import InputError, short, unknown_name

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_GOLDEN = 0x9E3779B97F4A7C15
_NAN = np.float64(np.nan).view(np.uint64)


def n_rows(X: Any) -> int:
    """How many rows `X` has; InputError for what has no rows."""
    shape = getattr(X, "shape", None)
    try:
        return int(shape[0]) if shape else len(X)
    except TypeError:
        raise InputError(f"X is {type(X).__name__}; allowed: an array, a data frame or a list, one row a sample") from None


def take_rows(X: Any, index: IntArray) -> Any:
    """The rows `index` of an array, a sparse matrix, a data frame or a list, of the same kind."""
    if hasattr(X, "iloc"):
        return X.iloc[index]
    if isinstance(X, list | tuple):
        return [X[i] for i in index]
    return X[index]


def is_frame(X: Any) -> bool:
    """Whether `X` has named columns."""
    return not isinstance(X, np.ndarray) and hasattr(X, "columns")


def column(X: Any, feature: int | str) -> NDArray[Any]:
    """(n,) one column of an array, by number, or of a data frame, by name or number; InputError where there is none such."""
    if is_frame(X):
        import narwhals as nw

        frame = nw.from_native(X, eager_only=True)
        if isinstance(feature, str) and feature not in frame.columns:
            raise unknown_name("column", feature, frame.columns)
        name = feature if isinstance(feature, str) else frame.columns[_position(feature, len(frame.columns))]
        return np.asarray(frame[name].to_numpy())
    array = np.asarray(X)
    if isinstance(feature, str):
        raise InputError(f"X has no named columns, so {feature!r} cannot be found; give a data frame or a column number")
    if array.ndim == 1:
        return array
    return np.asarray(array[:, _position(feature, array.shape[1])])


def numeric_column(X: Any, feature: int | str, what: str = "the region") -> FloatArray:
    """As :func:`column`, as float64 with NaN where missing; InputError for text."""
    values = column(X, feature)
    if values.dtype.kind == "M":
        days = values.astype("datetime64[s]").astype(np.float64) / 86400.0
        return np.where(np.isnat(values), np.nan, days)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        example = next((v for v in values if isinstance(v, str)), values[0])
        raise InputError(f"column {feature!r} holds text ({example!r}); {what} needs numbers") from None


def matrix(X: Any, embed: Any = None) -> FloatArray:
    """(n, d) finite numbers: `X` itself, or what `embed` makes of it.

    Raises InputError for text columns and missing values, naming them; `embed` is the way out.
    """
    if embed is not None and not callable(embed):
        raise InputError(f"embed is {short(embed)}; allowed: a function X -> array")
    source = X if embed is None else embed(X)
    if hasattr(source, "toarray"):
        source = source.toarray()
    if is_frame(source):
        names = [str(c) for c in source.columns]
        out = np.column_stack([numeric_column(source, c, "a distance") for c in names]) if names else np.empty((n_rows(source), 0))
    else:
        names = []
        try:
            out = np.asarray(source, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                "X holds text or rows of unequal length; a distance needs numbers: give embed=, a function X -> array"
            ) from None
        out = out.reshape(out.shape[0], -1)
    bad = ~np.isfinite(out)
    if bad.any():
        first = int(np.flatnonzero(bad.any(axis=0))[0])
        shown = repr(names[first]) if names else str(first)
        raise InputError(
            f"{int(bad.sum())} values of X are missing or infinite, the first in column {shown}; fill them or give embed="
        )
    if out.shape[0] != n_rows(X):
        raise InputError(f"embed gave {out.shape[0]} rows for {n_rows(X)}; it must give one a sample")
    return out


def fingerprints(*parts: Any) -> NDArray[np.uint64]:
    """(n,) 64-bit fingerprints of rows across `parts` (arrays, frames, lists; None is left out): equal rows have equal ones."""
    total: NDArray[np.uint64] | None = None
    position = 0
    for part in parts:
        if part is None:
            continue
        for values in _columns(part):
            position += 1
            mixed = _mix(_bits(values) + np.uint64(position * _GOLDEN % 2**64))
            total = mixed if total is None else total + mixed
    return _mix(total if total is not None else np.zeros(0, dtype=np.uint64))


def _columns(part: Any) -> list[NDArray[Any]]:
    if is_frame(part):
        return [column(part, i) for i in range(len(part.columns))]
    if hasattr(part, "tocsc"):
        part = part.tocsc()
        return [part[:, [j]].toarray().ravel() for j in range(part.shape[1])]
    try:
        array = np.asarray(part)
    except RuntimeError as error:  # torch's, of a tensor that requires a gradient
        raise InputError(f"rows cannot be made an array: {error}") from None
    except ValueError:
        array = np.empty(len(part), dtype=object)
        array[:] = list(part)
    array = array.reshape(array.shape[0], -1)
    return list(array.T)


def _bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64) + 0.0  # one zero, not two
        return np.where(np.isnan(numbers), _NAN, numbers.view(np.uint64))
    if values.dtype.kind in "mM":
        return values.astype(np.int64).view(np.uint64)
    _, codes = np.unique(np.array([repr(v) for v in values.tolist()]), return_inverse=True)
    return codes.astype(np.uint64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _position(feature: int, n: int) -> int:
    try:
        at = operator.index(feature)
    except TypeError:
        raise InputError(f"column {short(feature)}; allowed: a name, or a number from {-n} to {n - 1}") from None
    if not -n <= at < n:
        raise InputError(f"column {feature} of {n}; allowed: {-n} to {n - 1}")
    return at


def extent(points: FloatArray) -> float:
    """The extent of a cloud (n, d): twice the largest distance from the middle of its box; for one column, its range."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return 2.0 * float(np.sqrt(((points - middle) ** 2).sum(axis=1).max()))


def neighbour_distance(points: FloatArray, to: FloatArray, k: int = 1) -> FloatArray:
    """(n,) Euclidean distance of each of `points` to its k-th nearest in `to`."""
    from scipy.spatial import cKDTree

    if points.shape[1] <= 12:
        found, _ = cKDTree(to).query(points, k=[k])
        return np.asarray(found[:, 0], dtype=np.float64)
    squares = (to**2).sum(axis=1)
    out = np.empty(points.shape[0])
    step = max(1, (1 << 23) // to.shape[0])
    for start in range(0, points.shape[0], step):
        block = points[start : start + step]
        d2 = (block**2).sum(axis=1)[:, None] + squares - 2.0 * block @ to.T
        out[start : start + step] = np.sqrt(np.maximum(np.partition(d2, k - 1, axis=1)[:, k - 1], 0.0))
    return out


def labels(name: str, values: ArrayLike, n: int) -> tuple[NDArray[Any], IntArray]:
    """(distinct values, code of each row) of one label a row; InputError for another length or missing labels."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise InputError(f"{name} has shape {array.shape}; allowed: ({n},), one label a row")
    missing = np.array([v is None or v != v for v in array.tolist()])
    if missing.any():
        raise InputError(f"{name} is missing for {int(missing.sum())} of {n} rows; give every row one, or leave those rows out")
    names, codes = np.unique(array if array.dtype.kind != "O" else array.astype(str), return_inverse=True)
    return names, codes.astype(np.int64)
