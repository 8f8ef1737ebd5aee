"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, in an order of their own for every seed: real data on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.errors import require


def shuffled(rng: np.random.Generator, paper: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels (1797, 64) from 0 to 1 and labels (1797,), permuted by `rng`.

    Raises MissingExtraError, which names `paper`, where scikit-learn is not installed.
    """
    require("sklearn", f"the claim of {paper}")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    return images[order] / 16, labels[order].astype(np.int64)
