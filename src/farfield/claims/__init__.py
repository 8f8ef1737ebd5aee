"""Claims: one sentence of a paper that can be measured, run over seeds, and turned into a verdict.

`criteria` says what a claim has to show, `verdict` decides it from numbers, `worker` and `harness` produce the numbers, `results`
and `table` keep and show them. A paper's own program is ``claims/p018_capability_fit.py``: ``run(budget, seed) -> Measured``.
"""
