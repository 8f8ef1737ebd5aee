"""farfield: extrapolation you can check.

Fit on what was seen, say what lies beyond with intervals that hold, and prove it by hiding the far end. Public names are
imported on first use, so that ``import farfield`` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module that defines it; the one list of what farfield re-exports
_EXPORTS = {
    "FarfieldError": "farfield.errors",
    "InputError": "farfield.errors",
    "FormatError": "farfield.errors",
    "MissingExtraError": "farfield.errors",
    "ConvergenceWarning": "farfield.errors",
    "Curves": "farfield.curves.data",
    "Metric": "farfield.curves.data",
    "read_runs": "farfield.curves.readers",
    "list_runs": "farfield.curves.readers",
    "forecast": "farfield.curves.forecasting",
    "backtest": "farfield.curves.backtesting",
    "EnsembleForecaster": "farfield.curves.forecaster",
    "Forecast": "farfield.curves.results",
    "ForecastStatus": "farfield.curves.results",
    "Backtest": "farfield.curves.results",
    "ContextPFN": "farfield.curves.pfn.context",
    "LCPFN": "farfield.curves.pfn",
    "stop_advice": "farfield.curves.stopping",
    "Adviser": "farfield.curves.stopping",
    "Advice": "farfield.curves.stopping",
    "StopStatus": "farfield.curves.stopping",
    "RunMonitor": "farfield.hooks.monitor",
    "Limit": "farfield.curves.limits",
    "limit": "farfield.curves.limits",
    "extract_features": "farfield.curves.extraction",
    "fid": "farfield.curves.image_scores",
    "fid_infinity": "farfield.curves.image_scores",
    "is_infinity": "farfield.curves.image_scores",
    "sobol_normal": "farfield.curves.image_scores",
    "ScalingLaw": "farfield.curves.laws",
    "scaling": "farfield.curves.laws",
    "LossToLoss": "farfield.curves.loss_to_loss",
    "MixtureScaling": "farfield.curves.mixtures",
    "FrontierLaw": "farfield.curves.frontier",
    "CapabilityAxis": "farfield.curves.benchmarks",
    "GameMaster": "farfield.evals.dialogue",
    "clemscore": "farfield.evals.dialogue",
    "size_effect": "farfield.evals.size_effect",
    "NumeralTokenizer": "farfield.numbers.numerals",
    "ArithmeticTask": "farfield.numbers.numerals",
    "data_scaling": "farfield.numbers.numerals",
    "Predictive": "farfield.predictive",
    "Gaussian": "farfield.predictive",
    "Mixture": "farfield.predictive",
    "Samples": "farfield.predictive",
    "Bars": "farfield.predictive",
    "extrapolation_gap": "farfield.gap",
    "GapResult": "farfield.gap",
    "GapStatus": "farfield.gap",
    "gap_check": "farfield.gap.check",
    "GapCheck": "farfield.gap.check",
    "score_by_reach": "farfield.gap",
    "extrapolation_horizon": "farfield.gap",
    "effective_robustness": "farfield.gap",
    "RangeSplit": "farfield.splits",
    "TargetRangeSplit": "farfield.splits",
    "ClusterSplit": "farfield.splits",
    "NeighborResample": "farfield.splits",
    "EnvironmentSplit": "farfield.splits",
    "InterventionSplit": "farfield.splits",
    "LengthSplit": "farfield.splits",
    "HorizonSplit": "farfield.splits",
    "DistanceSplit": "farfield.splits",
    "HullSplit": "farfield.splits",
    "ConditionSplit": "farfield.splits",
    "LeaveRegionOut": "farfield.splits",
    "RegionIndices": "farfield.splits",
    "resttest": "farfield.shift.retrieval",
    "restrain": "farfield.shift.retrieval",
    "InvariantSubset": "farfield.shift.invariance",
    "pac_environments": "farfield.shift.invariance",
    "LinearSEM": "farfield.shift.sem",
    "ControlFunctionRegressor": "farfield.shift.control",
    "Rep4Ex": "farfield.shift.rep4ex",
    "DEUPRegressor": "farfield.shift.deup",
    "deup_search": "farfield.shift.deup",
    "PairPredictor": "farfield.shift.pairs",
    "second_order_calibration_error": "farfield.shift.pairs",
    "Checkpoint": "farfield.weights.io",
    "CheckpointWriter": "farfield.weights.io",
    "extrapolate": "farfield.weights.extrapolate",
    "read_recipe": "farfield.weights.recipes",
    "riemann_gap": "farfield.weights.riemann",
    "RobustWeightSignature": "farfield.weights.signature",
    "intrinsic_dimension": "farfield.weights.intrinsic",
    "subspace": "farfield.weights.intrinsic",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'farfield' has no attribute {name!r}; public names: {', '.join(_EXPORTS)}")


def __dir__() -> list[str]:
    return sorted(__all__)
