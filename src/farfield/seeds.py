"""Random generators: the same seed gives the same result, whatever the number of threads or chunks.

A function takes ``rng: int | Generator | None`` and calls :func:`generator` on it. Work on many items takes a :func:`root` once
and gives item `i` the generator ``child(root, i)``, which depends on the seed and on `i` alone.
"""

from __future__ import annotations

import operator
from typing import TypeAlias

import numpy as np

from farfield.errors import InputError, short

Seed: TypeAlias = int | np.random.Generator | None


def generator(rng: Seed = None) -> np.random.Generator:
    """A generator from a seed: a Generator is returned as it is, None is seeded by the system.

    Raises InputError for anything but None, a Generator or an integer from 0 up.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(_checked(rng))


def root(rng: Seed = None) -> np.random.SeedSequence:
    """What the generators of many items are derived from; a Generator is advanced, so that its next root differs."""
    if isinstance(rng, np.random.Generator):
        return np.random.SeedSequence([int(word) for word in rng.integers(2**32, size=4)])
    return np.random.SeedSequence(_checked(rng))


def child(parent: np.random.SeedSequence, *index: int) -> np.random.Generator:
    """The generator of item `index` (one integer an axis): a function of the parent's seed and of the index alone."""
    sequence = np.random.SeedSequence(parent.entropy, spawn_key=(*parent.spawn_key, *index), pool_size=parent.pool_size)
    return np.random.default_rng(sequence)


def _checked(rng: object) -> int | None:
    if rng is None:
        return None
    try:
        if isinstance(rng, bool | np.bool_):
            raise TypeError
        seed = operator.index(rng)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"rng is {short(rng)}; allowed: None, an integer from 0 up or a numpy.random.Generator") from None
    if seed < 0:
        raise InputError(f"rng is {seed}; allowed: None, an integer from 0 up or a numpy.random.Generator")
    return seed
