"""Forecasts to act on: which runs to stop, at what risk, what that saves, and what to run next."""

from farfield.curves.stopping.advice import Advice, StopStatus
from farfield.curves.stopping.adviser import Adviser, stop_advice
from farfield.curves.stopping.suggest import NextRuns, next_runs
from farfield.curves.stopping.sweep import Replay, as_of, ranking, replayed

__all__ = ["Advice", "Adviser", "NextRuns", "Replay", "StopStatus", "as_of", "next_runs", "ranking", "replayed", "stop_advice"]
