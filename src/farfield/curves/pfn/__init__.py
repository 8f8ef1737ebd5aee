"""Learning curves extrapolated by networks trained on a prior (LC-PFN); see :mod:`farfield.curves.pfn.model`."""

from farfield.curves.pfn.model import LCPFN, MODELS

__all__ = ["LCPFN", "MODELS"]
