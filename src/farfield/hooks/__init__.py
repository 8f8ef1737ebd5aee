"""Hooks that ask a forecast whether to go on: for Optuna, Ray Tune, the Hugging Face Trainer, Lightning, Keras, your own loop.

Each lives in a module of its library's name, which imports that library; behind all of them stands `RunMonitor`.
"""

from farfield.hooks.monitor import Judge, RunAdvice, RunMonitor

__all__ = ["Judge", "RunAdvice", "RunMonitor"]
