"""P045: given one data set's loss at 20 times the largest fitted compute, the loss on another set follows within about a per cent.

Data: the authors' sweeps on four training sets (budgets up to 4.84e19 FLOPs) and one 3.3 B model a set at 1e21. For every ordered
pair of sets, floors come from size-and-tokens laws fitted to each set's sweep, K and kappa from runs matched in size and tokens.
The floors are those of the law, separable (Chinchilla) or coupled (Kaplan), that fits the sweep at lower cost; what the coupled
law's floors would give is in the notes. The method is *told* the first set's loss at 1e21; the baseline, the better of two laws for
each set, is told nothing of that scale. What is compared is the twelve ordered pairs: there is no chance in the computation.
"""

from __future__ import annotations

import csv
import gzip

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.claims.data import data_file
from farfield.curves.laws import ScalingLaw
from farfield.curves.loss_to_loss import LossToLoss, pair_runs

FloatArray = NDArray[np.float64]
FORMS = ("chinchilla", "kaplan")


def load(name: str) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Training set -> params and tokens (n, 2) and losses (n,) on its own validation set."""
    with gzip.open(data_file(f"curves/loss_to_loss_{name}.csv.gz"), "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    out = {}
    for data in sorted({r["data"] for r in rows}):
        table = np.array([[float(r[k]) for k in ("params", "tokens", "val_loss")] for r in rows if r["data"] == data])
        out[data] = table[:, :2], table[:, 2]
    return out


def run(budget: str, seed: int) -> Measured:
    """Absolute errors at 1e21 FLOPs by ordered pair, in per cent of the loss."""
    sweep, far = load("sweep"), load("extrapolation_1e21")
    names = sorted(sweep)[:2] if budget == "tiny" else sorted(sweep)
    laws = {(d, form): ScalingLaw(form, n_boot=0).fit(*sweep[d]) for d in names for form in FORMS}
    alone = {key: 100 * abs(float(law.expected(far[key[0]][0])[0]) / far[key[0]][1][0] - 1) for key, law in laws.items()}
    floor = {d: min((laws[d, form] for form in FORMS), key=lambda law: law.cost_).parameters_["E"] for d in names}
    units: list[str] = []
    errors: dict[str, list[float]] = {"ours": [], "coupled": [], "baseline": [], "ablation": []}
    curves: list[Curve] = []
    for a in names:
        for b in names:
            if a == b:
                continue
            units.append(f"{a} to {b}")
            pairs = pair_runs(*sweep[a], *sweep[b])
            given, truth = far[a][1], float(far[b][1][0])
            coupled = (laws[d, "kaplan"].parameters_["E"] for d in (a, b))
            fit, other, plain = (
                LossToLoss(n_boot=0).fit(pairs.loss_a, pairs.loss_b, *floors)
                for floors in ((floor[a], floor[b]), coupled, (0.0, 0.0))
            )
            for name, curve in (("ours", fit), ("coupled", other), ("ablation", plain)):
                errors[name].append(100 * abs(float(curve.expected(given)[0]) / truth - 1))
            errors["baseline"].append(min(alone[b, form] for form in FORMS))
            if a == names[0] and not curves:
                at = np.linspace(given[0], pairs.loss_a.max(), 60)
                curves = [
                    Curve(".seen", pairs.loss_a.tolist(), pairs.loss_b.tolist()),
                    Curve(".beyond", given.tolist(), [float(truth)]),
                    Curve("shifted power law", at.tolist(), fit.expected(at).tolist()),
                    Curve("without floors", at.tolist(), plain.expected(at).tolist()),
                ]
    means = {f"{form}_alone_percent": float(np.mean([alone[d, form] for d in names])) for form in FORMS}
    return Measured(
        ours={"error": errors["ours"], "error_without_floors": errors["ours"]},
        baseline={"error": errors["baseline"]},
        ablation={"error_without_floors": errors["ablation"]},
        units=units,
        curves=curves,
        axes=(f"loss trained on {names[0]}", f"loss trained on {names[1]}"),
        notes={
            "mean_error_percent": float(np.mean(errors["ours"])),
            "mean_error_percent_with_coupled_floors": float(np.mean(errors["coupled"])),
            **means,
        },
    )
