"""Forecasts to act on: which runs to stop, at what risk, and what that saves."""

from farfield.curves.stopping.advice import Advice, StopStatus
from farfield.curves.stopping.adviser import Adviser, stop_advice

__all__ = ["Advice", "Adviser", "StopStatus", "stop_advice"]
