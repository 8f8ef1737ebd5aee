"""Resampling units of a gap: ratios of sums, and scores of whole regions, in every resample at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from farfield.intervals import resample_counts
from farfield.splits.rows import FloatArray


class Resamples(NamedTuple):
    """Ratios of sums in every resample, and what their standard errors within each resample need."""

    ratios: FloatArray  # (n_boot, k)
    totals: FloatArray  # (n_boot, k) the denominators
    moments: FloatArray  # (n_boot, 2 k, 2 k) sums of products of the columns
    whole: tuple[FloatArray, FloatArray, FloatArray]  # the same of the data themselves, n_boot = 1


def resampled(sums: FloatArray, n_boot: int, rng: np.random.Generator) -> Resamples:
    """sum(num) / sum(den) over units drawn with replacement; `sums` (n, 2 k) holds the k nums and then the k dens."""
    columns = sums.shape[1]
    k = columns // 2
    first, second = np.triu_indices(columns)
    wide = np.concatenate([sums, sums[:, first] * sums[:, second]], axis=1)

    def parts(total: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        dens = np.where(total[:, k:columns] > 0, total[:, k:columns], np.nan)
        moments = np.empty((total.shape[0], columns, columns))
        moments[:, first, second] = moments[:, second, first] = total[:, columns:]
        return total[:, :k] / dens, dens, moments

    blocks = [counts @ wide for counts in resample_counts(sums.shape[0], n_boot, rng)]
    return Resamples(*parts(np.concatenate(blocks)), parts(wide.sum(axis=0, keepdims=True)))


def linear_error(ratios: FloatArray, totals: FloatArray, moments: FloatArray, weights: FloatArray) -> FloatArray:
    """(b,) standard error of the sum of `weights` (b, k) times the ratios, by the delta method, units being independent."""
    over = np.where(weights == 0, 0.0, weights / totals)
    v = np.concatenate([over, np.where(weights == 0, 0.0, -over * ratios)], axis=1)
    return np.asarray(np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", v, moments, v), 0.0)))
