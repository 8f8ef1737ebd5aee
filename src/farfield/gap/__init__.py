"""How much worse a model is beyond what it saw, and how much of that is just harder data."""

from farfield.gap.compare import (
    Comparison,
    compare,
    effective_robustness,
    extrapolation_horizon,
    score_by_group,
    score_by_reach,
    worst_group,
)
from farfield.gap.measure import extrapolation_gap
from farfield.gap.result import Estimate, GapResult, GapStatus
from farfield.gap.scores import SCORES, Score, get_score

__all__ = [
    "SCORES",
    "Comparison",
    "Estimate",
    "GapResult",
    "GapStatus",
    "Score",
    "compare",
    "effective_robustness",
    "extrapolation_gap",
    "extrapolation_horizon",
    "get_score",
    "score_by_group",
    "score_by_reach",
    "worst_group",
]
