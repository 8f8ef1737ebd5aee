"""Hex: boards in batches, perfect play on small ones, tree search, a small learner, tournaments."""
