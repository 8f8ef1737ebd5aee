"""Random projections from a few coordinates to all the weights of a model: dense, sparse, and Fastfood in linear memory.

P (n_params, d) of independent directions of length one, about orthogonal to each other as long as d is well below n_params:

- *dense*: Gaussian entries, every column divided by its norm; time and memory O(D d);
- *sparse*: an entry is not zero with probability 1/sqrt(D), and then +-1/sqrt(number of those in its column) (Li, Hastie & Church
  2006); O(d sqrt(D)), and never an empty column;
- *Fastfood* (Le, Sarlos & Smola 2013): D cut into blocks of m = 2^ceil(log2 d), each H G Pi H B z with z padded by zeros, B random
  signs, H the Walsh-Hadamard matrix, Pi a permutation, G Gaussian numbers; O(D log d) time, O(D) memory. A column's squared length
  over whole blocks is m * sum of G^2 exactly; where D is no multiple of m the cut of the last block leaves length one on average.

Li et al. 2018 (arXiv 1804.08838, appendix S7) take one Fastfood block as long as all weights, O(D log D), and their code draws
sparse entries tensor by tensor; here columns run over all tensors in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.seeds import Seed, generator

_RADIX = 64  # factors of the Walsh-Hadamard matrix are applied as matrix products of this size, which BLAS does fast


class Projection(Protocol):
    """A fixed linear map from (d,) to (n_params,); columns have length one."""

    @property
    def shape(self) -> tuple[int, int]: ...  # (n_params, d)

    @property
    def nbytes(self) -> int: ...  # memory it keeps

    def forward(self, z: ArrayLike) -> NDArray[Any]:
        """P z, (n_params,)."""
        ...

    def transpose(self, g: ArrayLike) -> NDArray[Any]:
        """P' g, (d,): the gradient for z, given that for the weights."""
        ...


@lru_cache(maxsize=8)
def hadamard(n: int) -> NDArray[np.float64]:
    """The Walsh-Hadamard matrix (n, n) of signs in natural order, n a power of two."""
    out = np.ones((1, 1))
    while len(out) < n:
        out = np.block([[out, out], [out, -out]])
    return out


def walsh_hadamard(x: Any, factor: Callable[[int], Any]) -> Any:
    """H x along the last axis, unnormalised, of a NumPy array or a torch tensor; `factor(n)` gives :func:`hadamard` alike.

    H of length 2^k is a Kronecker product, so it is applied factor by factor: O(n log n).
    """
    shape = x.shape
    done, size = 1, shape[-1]
    while done < size:
        n = min(_RADIX, size // done)
        x = x.reshape(-1, n) @ factor(n) if done == 1 else factor(n) @ x.reshape(-1, n, done)
        done *= n
    return x.reshape(shape)


def fwht(x: ArrayLike) -> NDArray[np.float64]:
    """The fast Walsh-Hadamard transform along the last axis, natural order, unnormalised: applied twice it multiplies by n.

    x : (..., n) finite, n a power of two. Raises InputError for other lengths.
    """
    values = checks.finite("x", x)
    n = values.shape[-1] if values.ndim else 0
    if n < 1 or n & (n - 1):
        raise InputError(f"x has {n} entries on its last axis; allowed: a power of two; pad with zeros")
    return np.asarray(walsh_hadamard(values, hadamard), dtype=np.float64)


@dataclass(frozen=True)
class Dense:
    """Gaussian directions of length one; `matrix` (n_params, d)."""

    matrix: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def forward(self, z: ArrayLike) -> NDArray[Any]:
        return np.asarray(self.matrix @ _vector("z", z, self.shape[1], self.matrix.dtype))

    def transpose(self, g: ArrayLike) -> NDArray[Any]:
        return np.asarray(self.matrix.T @ _vector("g", g, self.shape[0], self.matrix.dtype))


@dataclass(frozen=True)
class Sparse:
    """Directions of a few signs each: entry i stands at (rows[i], columns[i]) with values[i]."""

    shape: tuple[int, int]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.columns.nbytes + self.values.nbytes

    def forward(self, z: ArrayLike) -> NDArray[Any]:
        weights = self.values * _vector("z", z, self.shape[1], self.values.dtype)[self.columns]
        return np.bincount(self.rows, weights, self.shape[0]).astype(self.values.dtype)

    def transpose(self, g: ArrayLike) -> NDArray[Any]:
        weights = self.values * _vector("g", g, self.shape[0], self.values.dtype)[self.rows]
        return np.bincount(self.columns, weights, self.shape[1]).astype(self.values.dtype)


@dataclass(frozen=True)
class Fastfood:
    """Blocks H G Pi H B; `signs`, `order`, `gauss` (n_blocks, m), `order` counting through all blocks, `gauss` scaled."""

    shape: tuple[int, int]
    signs: NDArray[np.int8]
    order: NDArray[np.int32]
    gauss: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return self.signs.nbytes + self.order.nbytes + self.gauss.nbytes

    def forward(self, z: ArrayLike) -> NDArray[Any]:
        x = np.zeros(self.gauss.shape[1], self.gauss.dtype)
        x[: self.shape[1]] = _vector("z", z, self.shape[1], self.gauss.dtype)
        return np.asarray(spread(x, self.signs, self.order, self.gauss, self._factor)[: self.shape[0]])

    def transpose(self, g: ArrayLike) -> NDArray[Any]:
        x = np.zeros(self.gauss.size, self.gauss.dtype)
        x[: self.shape[0]] = _vector("g", g, self.shape[0], self.gauss.dtype)
        return np.asarray(gather(x, self.signs, self.order, self.gauss, self._factor)[: self.shape[1]])

    def _factor(self, n: int) -> NDArray[Any]:
        return hadamard(n).astype(self.gauss.dtype, copy=False)


def spread(x: Any, signs: Any, order: Any, gauss: Any, factor: Callable[[int], Any]) -> Any:
    """H G Pi H B x of every block, (m,) -> (n_blocks * m,), in NumPy or torch."""
    mixed = walsh_hadamard(signs * x, factor).reshape(-1)[order.reshape(-1)].reshape(gauss.shape)
    return walsh_hadamard(mixed * gauss, factor).reshape(-1)


def gather(x: Any, signs: Any, order: Any, gauss: Any, factor: Callable[[int], Any]) -> Any:
    """The transpose of :func:`spread`, (n_blocks * m,) -> (m,), in NumPy or torch."""
    mixed = (walsh_hadamard(x.reshape(gauss.shape), factor) * gauss).reshape(-1)
    back = mixed * 0
    back[order.reshape(-1)] = mixed
    return (walsh_hadamard(back.reshape(gauss.shape), factor) * signs).sum(0)


def _dense(n: int, d: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> Dense:
    matrix = rng.standard_normal((n, d), dtype=dtype)
    matrix /= np.sqrt(np.einsum("ij,ij->j", matrix, matrix))
    return Dense(matrix)


def _sparse(n: int, d: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> Sparse:
    counts = np.maximum(rng.binomial(n, 1 / np.sqrt(n), d), 1)
    rows = np.concatenate([rng.choice(n, k, replace=False) for k in counts]).astype(np.int32)
    values = np.repeat(1 / np.sqrt(counts), counts) * rng.choice([-1.0, 1.0], counts.sum())
    return Sparse((n, d), rows, np.repeat(np.arange(d, dtype=np.int32), counts), values.astype(dtype))


def _fastfood(n: int, d: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> Fastfood:
    m = 1 << (d - 1).bit_length()
    blocks = -(-n // m)
    signs = rng.integers(0, 2, (blocks, m), dtype=np.int8) * np.int8(2) - np.int8(1)
    order = np.arange(blocks * m, dtype=np.int32).reshape(blocks, m)
    rng.permuted(order, axis=1, out=order)
    gauss = rng.standard_normal((blocks, m), dtype=dtype)
    # the squared length of a column over all blocks is m * sum(gauss^2), of which n rows of blocks * m are kept
    gauss /= np.sqrt(m * np.sum(gauss**2, dtype=np.float64) * n / (blocks * m)).astype(dtype)
    return Fastfood((n, d), signs, order, gauss)


PROJECTIONS: dict[str, Callable[[int, int, np.random.Generator, np.dtype[Any]], Projection]] = {
    "dense": _dense,
    "sparse": _sparse,
    "fastfood": _fastfood,
}


def projection(kind: str, n_params: int, d: int, rng: Seed = None, dtype: DTypeLike = np.float64) -> Projection:
    """A random projection from d coordinates to n_params weights.

    Parameters
    ----------
    kind : ``dense``, ``sparse`` or ``fastfood``
    n_params, d : rows and columns, 1 <= d <= n_params < 2^31
    rng : seed or generator
    dtype : float32 or float64, of what it keeps and returns

    Raises InputError for other kinds and sizes. Source: arXiv 1804.08838, appendix S7.
    """
    checks.choice("projection", kind, PROJECTIONS)
    n, columns = checks.count("n_params", n_params), checks.count("d", d)
    if columns > n:
        raise InputError(f"d is {columns} and there are {n} parameters; allowed: d from 1 to {n}")
    if n >= 2**31 - columns:
        raise InputError(f"n_params is {n}; allowed: below 2^31")
    kept = np.dtype(dtype)
    if kept not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"dtype is {kept}; allowed: float32, float64")
    return PROJECTIONS[kind](n, columns, generator(rng), kept)


def _vector(name: str, value: ArrayLike, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return checks.finite(name, value, shape=(n,)).astype(dtype, copy=False)
