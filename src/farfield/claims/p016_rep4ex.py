"""P016: with a code forced to be linear in A the mean outcome is predicted far outside the interventions applied.

Z = M A + V in two dimensions, A uniform on [-1, 1]^2, V normal with standard deviation 1.5; eight measurements by a random
injective network; outcome l(Z) + U with U a function of V and noise. The error is the mean squared error of the mean outcome under
do(A = a), a on the diagonal from 1 to 3 on both sides, truth by Monte Carlo. Baseline: a network fitted to the outcome on A.
Ablation: the same autoencoder without the penalty, and the same control function on its codes. V is wide so that shifted states
stay among those observed; by the same token A explains a tenth of the state, and the restriction says little about the code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.shift.control import ControlFunctionRegressor

FloatArray = NDArray[np.float64]
SPREAD = 1.5


def outcome(z: FloatArray) -> FloatArray:
    """l(z), the effect of states (..., 2)."""
    return np.asarray(0.5 * z[..., 0] * z[..., 1] + 0.5 * z[..., 1] ** 2 - np.tanh(2 * z[..., 0]))


def simulated(n: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """A, Z, X, Y (n rows each) and M (2, 2)."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    m = turn @ np.diag([1.2, 0.8])
    a, v = rng.uniform(-1, 1, (n, 2)), SPREAD * rng.normal(size=(n, 2))
    z = a @ m + v
    hidden = z @ rng.normal(size=(2, 8)) * 0.7 + rng.normal(size=8)
    x = np.where(hidden > 0, hidden, 0.3 * hidden) @ np.linalg.qr(rng.normal(size=(8, 8)))[0] + rng.normal(scale=0.01, size=(n, 8))
    y = outcome(z) + v[:, 0] + 0.5 * (v[:, 1] ** 2 - SPREAD**2) + rng.normal(scale=0.2, size=n)
    return {"A": a, "Z": z, "X": x, "Y": y, "M": m}


def run(budget: str, seed: int) -> Measured:
    """error_beyond and error_beyond_unconstrained: of Rep4Ex; error_observed_state: of the control function on the state itself."""
    from farfield.shift.rep4ex import Rep4Ex, fit_network

    n, steps = (800, 150) if budget == "tiny" else (12_000, 1000)
    rng = np.random.default_rng([1, seed])  # 1: the draws before these were looked at
    data = simulated(n, rng)
    a, x, y = data["A"], data["X"], data["Y"]
    line = np.concatenate([np.linspace(-3, -1, 9), np.linspace(1, 3, 9)])
    beyond = np.column_stack([line, line])
    v = SPREAD * rng.normal(size=(100_000, 2))
    truth = np.array([outcome(row @ data["M"] + v).mean() for row in beyond])
    constrained, plain = (Rep4Ex(penalty=p, steps=steps, random_state=seed).fit(x, a, y) for p in ("auto", 0.0))
    predicted = {
        "Rep4Ex": constrained.predict_do(beyond),
        "plain autoencoder": plain.predict_do(beyond),
        "state observed": ControlFunctionRegressor().fit(data["Z"], a, y).predict_do(beyond),
        "network on A": fit_network(a, y, steps=steps, seed=seed)(beyond),
    }
    error = {name: float(np.mean((value - truth) ** 2)) for name, value in predicted.items()}
    return Measured(
        ours={
            "error_beyond": error["Rep4Ex"],
            "error_beyond_unconstrained": error["Rep4Ex"],
            "error_observed_state": error["state observed"],
        },
        baseline={"error_beyond": error["network on A"], "error_observed_state": error["network on A"]},
        ablation={"error_beyond_unconstrained": error["plain autoencoder"]},
        curves=[Curve(name, line.tolist(), value.tolist()) for name, value in {"truth": truth, **predicted}.items()],
        axes=("A set to (a, a)", "mean outcome"),
        notes={
            "penalty": constrained.penalty_,
            "restriction, constrained": constrained.restriction_,
            "restriction, plain": plain.restriction_,
            "share of shifted codes outside at 3": float(constrained.outside(np.array([[3.0, 3.0]]))[0]),
        },
    )
