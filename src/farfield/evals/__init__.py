"""Evals: what language models can do, and how that is measured."""
