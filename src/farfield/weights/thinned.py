"""Thinned deltas by one compiled loop, raw bits in and raw bits out: to the bit what :class:`~farfield.weights.edits.Sparse` gives.

Entries kept by their magnitude or drawn at random, summed or elected, added to the base and rounded once. Every step is that of the
NumPy code, in its order, in blocks that stay in the processor's cache.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled
from farfield.weights.edits import Between, Drawn, Sparse, Thin

_BETWEEN, _DRAWN, _ALL = range(3)


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
    models = [_thinning(weight, thin) for weight, thin in zip(edit.weights, state, strict=True)]
    out = np.empty(raws[0].size, formats.format_named(dtype).raw_dtype)
    scale = edit.scale if edit.elect else edit.factor
    done = compiled.thinned(raws, sources, models, offset, scale, edit.elect, edit.normalize, out, dtype)
    if done is None:
        return None
    left, values = done
    if left.size:
        out[left] = formats.round_to(values, dtype)
    return out


def _thinning(weight: float, thin: Thin) -> compiled.Thinning:
    if isinstance(thin, Between):
        return compiled.Thinning(weight=weight, low=thin.low, high=thin.high, kind=_BETWEEN)
    assert isinstance(thin, Drawn)
    rest = math.nan if thin.rest is None else thin.rest
    if thin.key is None:
        return compiled.Thinning(weight=weight, low=thin.gain, high=thin.over, kind=_ALL)
    key = struct.unpack("<2Q", thin.key)
    return compiled.Thinning(weight=weight, low=thin.gain, high=thin.over, rest=rest, key=key, limit=thin.limit, kind=_DRAWN)
