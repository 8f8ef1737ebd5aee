"""Write `examples/sweep.csv`: a simulated sweep for trying `farfield scale`, whose truth is known.

    python examples/make_sweep.py

Eight budgets from 1e18 to 3e21 FLOPs, six sizes each; losses from the law that Besiroglu et al. 2024 (arXiv 2404.10102) fitted to
Hoffmann's points (E 1.8172, A 482.01, B 2085.43, alpha 0.3478, beta 0.3658) with normal scatter of 0.4 %. Nothing was trained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def sweep(seed: int = 2404) -> pl.DataFrame:
    """params, tokens, flops, loss: one row a run."""
    flops = np.repeat(np.geomspace(1e18, 3e21, 8), 6)
    params = np.round(0.09 * np.sqrt(flops) * np.tile(2.0 ** np.linspace(-2, 2, 6), 8), -5)
    tokens = np.round(flops / 6 / params, -6)
    reducible = TRUTH["A"] * params ** -TRUTH["alpha"] + TRUTH["B"] * tokens ** -TRUTH["beta"]
    loss = (TRUTH["E"] + reducible) * np.exp(np.random.default_rng(seed).normal(0, 0.004, flops.size))
    return pl.DataFrame({"params": params, "tokens": tokens, "flops": 6 * params * tokens, "loss": np.round(loss, 4)})


if __name__ == "__main__":
    sweep().write_csv(Path(__file__).parent / "sweep.csv")
