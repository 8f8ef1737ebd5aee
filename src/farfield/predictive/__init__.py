"""Predictive distributions: one vocabulary (mean, quantile, cdf, log_prob, crps, sample, interval) over batches of forecasts."""

from farfield.predictive.bars import Bars
from farfield.predictive.base import Predictive, from_dict, stack
from farfield.predictive.gaussian import Gaussian
from farfield.predictive.mixture import Mixture
from farfield.predictive.samples import Samples

__all__ = ["Bars", "Gaussian", "Mixture", "Predictive", "Samples", "from_dict", "stack"]
