"""Resampling units of a gap: ratios of sums, and scores of whole regions, in every resample at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from farfield.intervals import poisson_counts, resample_counts
from farfield.splits.rows import FloatArray, IntArray

MANY = 1000  # units from which on counts are Poisson


class Resamples(NamedTuple):
    """Ratios of sums in every resample, and what their standard errors within each resample need."""

    ratios: FloatArray  # (n_boot, k)
    totals: FloatArray  # (n_boot, k) the denominators
    moments: FloatArray  # (n_boot, 2 k, 2 k) sums of products of the columns
    whole: tuple[FloatArray, FloatArray, FloatArray]  # the same of the data themselves, n_boot = 1


def resampled(sums: FloatArray, n_boot: int, rng: np.random.Generator) -> Resamples:
    """sum(num) / sum(den) over units drawn with replacement; `sums` (n, 2 k) holds the k nums and then the k dens.

    All resamples are one matrix product of counts with the columns and their products, each different one once: parts that share no
    unit have products of zero, and parts of the same units the same dens.
    """
    n, columns = sums.shape
    k = columns // 2
    first, second = np.triu_indices(columns)
    wide = np.concatenate([sums, sums[:, first] * sums[:, second]], axis=1)
    different, place = _different(wide)

    def parts(total: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        dens = np.where(total[:, k:columns] > 0, total[:, k:columns], np.nan)
        moments = np.empty((total.shape[0], columns, columns))
        moments[:, first, second] = moments[:, second, first] = total[:, columns:]
        return total[:, :k] / dens, dens, moments

    counts = (poisson_counts if n >= MANY else resample_counts)(n, n_boot, rng)
    blocks = np.concatenate([c @ different for c in counts])
    blocks = np.concatenate([blocks, np.zeros((blocks.shape[0], 1))], axis=1)
    return Resamples(*parts(blocks[:, place]), parts(wide.sum(axis=0, keepdims=True)))


def _different(columns: FloatArray) -> tuple[FloatArray, IntArray]:
    """The columns that are different and not zero, and where each column is among them (-1: zero)."""
    kept: list[int] = []
    place = np.full(columns.shape[1], -1, dtype=np.int64)
    for i, column in enumerate(columns.T):
        if column.any():
            same = [p for p, j in enumerate(kept) if np.array_equal(columns[:, j], column)]
            place[i] = same[0] if same else len(kept)
            if not same:
                kept.append(i)
    return np.ascontiguousarray(columns[:, kept]), place


def linear_error(ratios: FloatArray, totals: FloatArray, moments: FloatArray, weights: FloatArray) -> FloatArray:
    """(b,) standard error of the sum of `weights` (b, k) times the ratios, by the delta method, units being independent."""
    over = np.where(weights == 0, 0.0, weights / totals)
    v = np.concatenate([over, np.where(weights == 0, 0.0, -over * ratios)], axis=1)
    return np.asarray(np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", v, moments, v), 0.0)))
