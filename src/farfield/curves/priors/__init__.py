"""Priors over learning curves and sweeps, to train networks on and to sample posteriors of: LC-PFN's, Domhan's, a wider one."""

from farfield.curves.priors.domhan import DomhanPrior
from farfield.curves.priors.drawn import PriorCurves
from farfield.curves.priors.eleven import FlatPrior
from farfield.curves.priors.sweeps import SweepPrior, Sweeps
from farfield.curves.priors.wide import WidePrior

__all__ = ["DomhanPrior", "FlatPrior", "PriorCurves", "SweepPrior", "Sweeps", "WidePrior"]
