"""P014: the strength of Hex agents on the next larger board follows from smaller ones.

Agents are tree search with random play-outs and 1, 2, 4, ... 256 simulations a move; their compute is simulations times cells. On
each board they and a perfect player meet those at most two places stronger or weaker, with both colours from the empty board; Elo
ratings by maximum likelihood count perfect play as 0. Perfect play is exact on boards 3 and 4, and on 5 as first player. As second
player on 5 it finds a mistake of the first where a proof takes at most 1,000 positions of search; otherwise, and where it is lost,
tree search with 512 simulations moves.

The law is fitted to boards 3 and 4 and held against board 5 (tiny: 2 and 3, against 4). The residual variance is the sum of squared
errors over the sum of squared ratings. The baseline is a straight line in log compute through the same points, capped at 0; the
ablation is the law without size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.curves.frontier import FrontierLaw, frontier
from farfield.evals.hex.tournament import Agent, Perfect, Searcher, ladder, play
from farfield.seeds import child, root

FloatArray = NDArray[np.float64]
NODES = {2: None, 3: None, 4: None, 5: 1000}


def run(budget: str, seed: int) -> Measured:
    """Residual variances on the hidden boards."""
    tiny = budget == "tiny"
    sizes = (2, 3, 4) if tiny else (3, 4, 5)
    simulations = 2 ** np.arange(5 if tiny else 9)
    start = root(seed)
    points: dict[int, tuple[FloatArray, FloatArray]] = {}
    raw: dict[int, FloatArray] = {}
    notes: dict[str, object] = {}
    for size in sizes:
        strongest = Searcher(64 if tiny else 512)
        perfect = Perfect(size, nodes=NODES[size], otherwise=strongest, opening=True)
        agents: list[Agent] = [*(Searcher(int(n)) for n in simulations), perfect]
        played = play(agents, ladder(len(agents)), 4 if tiny else 16, size, rng=child(start, size))
        ratings = played.ratings(anchor=len(agents) - 1)
        compute, elo, error = simulations * float(size**2), ratings.elo[:-1], ratings.error[:-1]
        best = frontier(compute, elo, np.zeros(len(compute)), error=error, points=len(compute), rng=child(start, size, 1))
        points[size], raw[size] = (best.compute, best.score), elo
        notes[f"ratings on {size}"] = np.round(elo).tolist()
        notes[f"standard errors on {size}"] = np.round(error).tolist()
        notes[f"mean optimism on {size}"] = round(float(best.optimism.mean()), 1)
        notes[f"positions not proved on {size}"] = perfect.unproved

    hidden, seen = sizes[-1], sizes[:-1]
    compute, score = (np.concatenate([points[s][i] for s in seen]) for i in range(2))
    of_size = np.repeat(seen, len(simulations))
    at, truth = points[hidden]
    law = FrontierLaw(n_boot=0).fit(compute, of_size, score)
    line = np.polyfit(np.log10(compute), score, 1)
    found = {
        "law": law.expected(at, hidden),
        "line": np.minimum(0.0, np.polyval(line, np.log10(at))),
        "law without size": FrontierLaw(sized=False, n_boot=0).fit(compute, of_size, score).expected(at, hidden),
    }
    ours, baseline, ablation = (float(((v - truth) ** 2).sum() / (truth**2).sum()) for v in found.values())
    names = ("residual_variance", "residual_variance_without_size", "residual_variance_limit")
    return Measured(
        ours=dict.fromkeys(names, ours),
        baseline={"residual_variance": baseline, "residual_variance_limit": 0.2},
        ablation={"residual_variance_without_size": ablation},
        curves=[
            *(Curve(f".board {s}", np.log10(points[s][0]).tolist(), raw[s].tolist()) for s in sizes),
            *(Curve(f"{name}, board {hidden} hidden", np.log10(at).tolist(), v.tolist()) for name, v in found.items()),
        ],
        axes=("log10 compute (simulations x cells)", "Elo, perfect play 0"),
        notes={**notes, "law": {k: round(v, 1) for k, v in law.parameters_.items()}},
    )
