"""Weights: checkpoints as points on a ray, read and written as streams."""
