"""Thinned deltas by one compiled loop, raw bits in and raw bits out: to the bit what :class:`~farfield.weights.edits.Sparse` gives.

Entries kept by their magnitude or drawn at random, summed or elected, added to the base and rounded once. Every step is that of the
NumPy code, in its order, in blocks that stay in the processor's cache; random numbers are drawn by NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled
from farfield.weights.edits import Between, Drawn, Sparse, Thin

_BETWEEN, _DRAWN = range(2)


def applies(state: Sequence[Thin], sources: Sequence[str], dtype: str) -> bool:
    """Whether there is a compiled loop for what the edit prepared, for operands and a result of these formats."""
    if compiled.library() is None or not {*sources, dtype} <= set(compiled.FORMATS):
        return False
    return 0 < len(state) <= compiled.MOST_MODELS and all(isinstance(thin, Between | Drawn) for thin in state)


def combine(
    edit: Sparse, state: Sequence[Thin], raws: Sequence[Raw], sources: Sequence[str], dtype: str, offset: int
) -> Raw | None:
    """Raw bits of base + edit for corresponding raw bits of all operands, base first, from element `offset` on.

    None where a number is not finite: which NaN comes out is NumPy's business.
    """
    size = raws[0].size
    draws = [thin.draws(offset, size) if isinstance(thin, Drawn) and thin.key is not None else None for thin in state]
    models = []
    for weight, thin, drawn in zip(edit.weights, state, draws, strict=True):
        if isinstance(thin, Drawn):
            rest = math.nan if thin.rest is None else thin.rest
            where = None if drawn is None else drawn.ctypes.data
            models.append(compiled.Thinning(weight, thin.gain, thin.over, rest, where, thin.limit, _DRAWN))
        else:
            assert isinstance(thin, Between)
            models.append(compiled.Thinning(weight, thin.low, thin.high, 0.0, None, 0, _BETWEEN))
    out = np.empty(size, formats.format_named(dtype).raw_dtype)
    scale = edit.scale if edit.elect else edit.factor
    done = compiled.thinned(raws, sources, models, scale, edit.elect, edit.normalize, out, dtype)
    if done is None:
        return None
    left, values = done
    if left.size:
        out[left] = formats.round_to(values, dtype)
    return out
