"""Scaling laws of several variables: the forms, the one fitter, a fitted law, and laws side by side with their backtest."""

from farfield.curves.laws.law import LAWS, Allocation, Influence, ScalingLaw
from farfield.curves.laws.scaling import ScaleBacktest, Scaling, scaling

__all__ = ["LAWS", "Allocation", "Influence", "ScaleBacktest", "Scaling", "ScalingLaw", "scaling"]
