"""Checkpoints on disk: what reads, writes, verifies and compares them."""

from __future__ import annotations

from farfield.weights.checkpoint import Checkpoint, raw_dtype
from farfield.weights.compare import Diff, Verification, diff, verify
from farfield.weights.header import FLOAT_DTYPES, TensorInfo
from farfield.weights.writer import CheckpointWriter

__all__ = [
    "FLOAT_DTYPES",
    "Checkpoint",
    "CheckpointWriter",
    "Diff",
    "TensorInfo",
    "Verification",
    "diff",
    "raw_dtype",
    "verify",
]
