"""P041: decoders learn three-digit addition from far fewer examples when every digit is a token than when three digits are.

Two-layer decoders, each with the same number of updates, are trained on growing sets of different sums in base 10 (ours), base 1000
(baseline), and base 10 whose operands' digits are each one of 100 synonyms, as rare as the tokens of base 1000 (ablation). Examples
needed for 90 % exact match are read off the curve over log size; what never gets there counts as twice the largest size of all.
"""

from __future__ import annotations

import math

from farfield.claims.criteria import Curve, Measured
from farfield.numbers.numerals import ArithmeticTask, DataScaling, data_scaling

LEVEL = 0.9
SIZES = {"ours": (500, 1000, 2000, 4000), "baseline": (4000, 16000), "ablation": (16000,)}
LARGEST = 16000


def _log2_samples(found: DataScaling) -> float:
    needed = found.samples_for(LEVEL)
    return math.log2(needed if math.isfinite(needed) else 2 * LARGEST)


def _forecast(found: DataScaling) -> dict[str, float]:
    """Exact match at the largest size, forecast from the smaller ones: the middle, an 80 % interval, and what came."""
    import farfield

    frame = found.to_frame()
    metric = farfield.Metric("exact_match", "max", 0.0, 1.0)
    curves = farfield.Curves.from_points(frame["run"].to_list()[:-1], frame["step"][:-1], frame["exact_match"][:-1], metric=metric)
    said = farfield.forecast(curves, to=float(found.sizes[-1]), with_backtest=False).predictive
    low, high = said.interval(0.8)
    middle = float(said.median()[0, 0])
    return {"middle": middle, "low": float(low[0, 0]), "high": float(high[0, 0]), "came": float(found.exact_match[-1])}


def run(budget: str, seed: int) -> Measured:
    """log2_samples: of the examples needed for 90 % exact match."""
    tiny = budget == "tiny"
    task = ArithmeticTask("addition", (2, 2) if tiny else (3, 3))
    sizes = dict.fromkeys(SIZES, (2000,)) if tiny else SIZES
    config = recipe = None
    if tiny:
        from farfield.nn.decoder import DecoderConfig
        from farfield.nn.trainer import Recipe

        config, recipe = DecoderConfig(vocab=1, heads=2, width=32), Recipe(200, 1e-2, weight_decay=0.1, betas=(0.9, 0.98))
    found = {
        "ours": data_scaling(task, sizes["ours"], 10, config=config, recipe=recipe, seed=seed),
        "baseline": data_scaling(task, sizes["baseline"], 1000, config=config, recipe=recipe, seed=seed),
        "ablation": data_scaling(task, sizes["ablation"], 10, synonyms=100, config=config, recipe=recipe, seed=seed),
    }
    names = {"ours": "base 10", "baseline": "base 1000", "ablation": "base 10, tokens as rare as in base 1000"}
    value = {side: {"log2_samples": _log2_samples(curve)} for side, curve in found.items()}
    return Measured(
        ours=value["ours"],
        baseline=value["baseline"],
        ablation=value["ablation"],
        curves=[
            Curve(names[side], [math.log2(n) for n in curve.sizes], curve.exact_match.tolist()) for side, curve in found.items()
        ],
        axes=("log2 training examples", "exact match"),
        notes={
            **{f"largest exact match, {names[side]}": float(curve.exact_match.max()) for side, curve in found.items()},
            **{f"largest token accuracy, {names[side]}": float(curve.token_accuracy.max()) for side, curve in found.items()},
            **(
                {}
                if tiny
                else {f"base 10 at {SIZES['ours'][-1]} forecast from less, {k}": v for k, v in _forecast(found["ours"]).items()}
            ),
        },
    )
