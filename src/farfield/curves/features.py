"""Feature arrays of any size: a row a sample, in memory or in a file, and their means and covariances in chunks of rows.

A ``.npy`` file is mapped, not read, so that it may exceed memory; ``.npz``, ``.safetensors`` and Parquet are read whole, in their
own precision. Sums are float64, of differences from the mean of the first chunk, so that a large common offset costs no digits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.errors import FormatError, InputError, unknown_name

FloatArray = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]
Source: TypeAlias = "ArrayLike | str | os.PathLike[str]"

_LARGEST = 1e70  # of features: distances multiply two covariances
_CHUNK = 1 << 22  # numbers at a time: 32 MiB of float64
FORMATS = (".npy", ".npz", ".safetensors", ".parquet", ".pq")


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of `n` rows of width d; ddof 1, as is usual for Frechet distances.

    Attributes
    ----------
    n : rows; 0 where only the moments are known
    mean : (d,)
    cov : (d, d), or None where `factor` holds it
    factor : (d, n) with cov = factor @ factor.T, where n <= d: smaller, and exact although the covariance is singular
    """

    n: int
    mean: FloatArray
    cov: FloatArray | None = None
    factor: FloatArray | None = None

    @property
    def trace(self) -> float:
        """Sum of the variances."""
        return float(np.trace(self.cov)) if self.cov is not None else float((self.dense_factor() ** 2).sum())

    def dense_factor(self) -> FloatArray:
        """(d, rank) with cov = factor @ factor.T."""
        from farfield.linalg import psd_factor

        if self.factor is not None:
            return self.factor
        assert self.cov is not None
        return psd_factor("the covariance", self.cov)

    def dense_cov(self) -> FloatArray:
        """(d, d)."""
        return self.cov if self.cov is not None else self.dense_factor() @ self.dense_factor().T


def load(name: str, source: Source) -> NDArray[Any]:
    """The (n, d) numbers of `source`: an array as it is, a ``.npy`` file mapped, other files read.

    Parameters
    ----------
    name : what the caller calls it, for messages
    source : anything NumPy makes an array of, or the path of a file in one of `FORMATS`; ``FILE::NAME`` says which array of an
        ``.npz`` or ``.safetensors`` file, or which column of lists of a Parquet file, where there are several

    Raises InputError for what is not n >= 2 rows of d >= 1 real numbers; FormatError for a file that cannot be read.
    """
    try:
        array = read_array(os.fspath(source)) if isinstance(source, str | os.PathLike) else np.asarray(source)
    except RuntimeError as error:  # torch's, of features that still require a gradient
        raise InputError(f"{name} cannot be made an array: {error}") from None
    where = f"{name} ({os.fspath(source)})" if isinstance(source, str | os.PathLike) else name
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where} holds {array.dtype}; allowed: real numbers")
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise InputError(f"{where} has shape {array.shape}; allowed: (samples, features), at least two samples")
    return array


def moments(name: str, rows: NDArray[Any], index: Index | None = None) -> Moments:
    """Mean and covariance (ddof 1) of `rows` (n, d), or of those in `index`, a chunk at a time.

    Raises InputError naming the first row that is not finite.
    """
    n, width = rows.shape[0] if index is None else len(index), rows.shape[1]
    shift: FloatArray | None = None
    few = n <= width
    total, squares, kept = np.zeros(width), np.zeros((0, 0) if few else (width, width)), []
    for start, chunk in chunks(rows, index):
        if not np.isfinite(chunk.sum()):
            _refuse(name, rows, chunk, start, index)
        if shift is None:
            shift = chunk.mean(axis=0)
        chunk -= shift
        total += chunk.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            if few:
                kept.append(chunk)
            else:
                squares += chunk.T @ chunk
    assert shift is not None
    mean = total / n
    largest = max(float(np.abs(chunk).max()) for chunk in kept) if few else float(np.sqrt(np.trace(squares)))
    if not largest < _LARGEST:
        raise InputError(f"{name} holds numbers so large that their fourth powers overflow; allowed: features of ordinary size")
    if few:
        return Moments(n, shift + mean, factor=(np.concatenate(kept) - mean).T / np.sqrt(n - 1))
    return Moments(n, shift + mean, cov=(squares - n * np.outer(mean, mean)) / (n - 1))


def chunks(rows: NDArray[Any], index: Index | None = None) -> Iterator[tuple[int, FloatArray]]:
    """(position, rows as float64), so many at a time that they fit the cache or a little memory."""
    n = rows.shape[0] if index is None else len(index)
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, n, step):
        picked = rows[start : start + step] if index is None else rows[index[start : start + step]]
        yield start, picked.astype(np.float64)


def _refuse(name: str, rows: NDArray[Any], chunk: FloatArray, start: int, index: Index | None) -> None:
    bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1))
    if not bad.size:
        raise InputError(f"{name} holds numbers so large that their sum is not finite; allowed: features of ordinary size")
    row = start + int(bad[0]) if index is None else int(index[start + bad[0]])
    raise InputError(
        f"{name} holds values that are not finite; the first is in row {row} of {rows.shape[0]}; remove those rows"
    ) from None


def read_array(source: str) -> NDArray[Any]:
    """The array of a file, of any shape; ``FILE::NAME`` for one of several. Raises as :func:`load`."""
    shown, _, name = source.partition("::")
    path, key = Path(shown), name or None
    ending = path.suffix.casefold()
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; features of the samples in it are made by extract_features, on the command line by --features"
        )
    if ending not in FORMATS:
        raise InputError(f"cannot tell the format of {path} from its ending; allowed: {', '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if ending == ".npy":
            return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if ending == ".npz":
            # opened here: NumPy leaves the file open where it is no archive
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive[_only(path, list(archive.files), key)])
        if ending == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as tensors:
                return np.asarray(tensors.get_tensor(_only(path, list(tensors.keys()), key)))
        return _parquet(path, key)
    except (InputError, FormatError):
        raise
    except Exception as error:  # each reader has exceptions of its own for a damaged file
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise FormatError(f"{path} cannot be read as {ending[1:]}: {reason}") from error


def _only(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) != 1:
        raise InputError(
            f"{path} holds {len(names)} arrays ({', '.join(names[:6])}); say which: {path}::{names[0] if names else 'NAME'}"
        )
    if key is not None and key not in names:
        raise unknown_name(f"array of {path}", key, names)
    return names[0] if key is None else key


def _parquet(path: Path, key: str | None) -> NDArray[Any]:
    """One column of lists, or every column a feature."""
    import polars as pl

    frame = pl.read_parquet(path)
    if key is not None:
        frame = frame.select(_only(path, frame.columns, key))
    nested = [n for n, t in frame.schema.items() if isinstance(t, pl.List | pl.Array)]
    if len(nested) == 1 and (key is not None or frame.width == 1):
        lengths = frame[nested[0]].list.len() if isinstance(frame.schema[nested[0]], pl.List) else None
        if lengths is not None and lengths.n_unique() != 1:
            raise InputError(f"{path}: the lists in {nested[0]!r} differ in length; allowed: as many features in every row")
        return np.asarray(frame[nested[0]].explode().to_numpy()).reshape(frame.height, -1)
    text = [n for n, t in frame.schema.items() if not t.is_numeric()]
    if text:
        raise InputError(
            f"{path}: column {text[0]!r} holds no numbers; allowed: features alone, or {path}::NAME, one column of lists"
        )
    return np.asarray(frame.to_numpy())
