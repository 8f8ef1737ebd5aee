"""Rep4Ex: intervention extrapolation when the state is hidden behind measurements (Saengkyongam et al. 2023, arXiv 2310.04295).

Measurements X = g(Z) of a hidden state Z that A moves linearly. An autoencoder is trained with a penalty on its code phi(X),

    mean |X - decode(phi(X))|^2  +  penalty * R(phi),    R = 1 / (n (n - 1)) sum_{i != j} r_i . r_j k(A_i, A_j),

r the residuals of the code on A by least squares, anew in every batch, k Gaussian (section 5: a maximum moment restriction).
R = 0 says E[phi(X) - its linear fit | A] = 0, and with reconstruction that makes phi an affine image of Z (section 4), on which the
control function of :mod:`farfield.shift.control` does what it would do on Z.

Defaults: penalty 10, bandwidth the median distance of A, ELU networks of two hidden layers, batches of 512, the shared trainer.
Deviations: residuals are divided by the standard deviation of the code, which carries no gradient, since else shrinking the code
lowers R; R leaves the diagonal out, which biases it; the share of shifted states outside those observed is reported.

This module needs the 'torch' extra and is loaded only when it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError, MissingExtraError
from farfield.shift.control import ControlFunctionRegressor, linear_invariance

try:
    import torch
    from torch import nn
except ImportError:
    raise MissingExtraError("torch", "Rep4Ex") from None

from farfield.nn.trainer import Recipe, train

FloatArray = NDArray[np.float64]


def invariance_penalty(codes: torch.Tensor, A: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """The restriction of :func:`farfield.shift.control.linear_invariance` on a batch, differentiable; codes (n, d), A (n, k)."""
    design = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
    fitted = torch.linalg.lstsq(design, codes).solution
    residual = (codes - design @ fitted) / codes.detach().std(dim=0, unbiased=False)
    kernel = torch.exp(-((A[:, None] - A[None]) ** 2).sum(-1) / (2 * bandwidth**2))
    product = (residual @ residual.T) * kernel
    n = len(A)
    return cast(torch.Tensor, (product.sum() - product.diagonal().sum()) / (n * (n - 1)))


def _layers(sizes: list[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inside, outside in itertools.pairwise(sizes):
        parts += [nn.Linear(inside, outside), nn.ELU()]
    return nn.Sequential(*parts[:-1])


@dataclass(eq=False)
class Rep4Ex:
    """Mean outcome under interventions outside those applied, from measurements of a hidden state.

    Parameters
    ----------
    n_latent : dimensions of the hidden state
    penalty : weight of the linear-invariance restriction; 0 is a plain autoencoder
    width, steps, batch, learning_rate : of the autoencoder and its training
    random_state : seed, an integer

    Learned
    -------
    control_ : the control function on the codes; restriction_ : the restriction on (up to 1,000 rows of) the data
    """

    n_latent: int = 2
    penalty: float = 10.0
    width: int = 64
    steps: int = 1500
    batch: int = 512
    learning_rate: float = 3e-3
    random_state: int = 0

    def fit(self, X: ArrayLike, A: ArrayLike, Y: ArrayLike) -> Self:
        """Fit on measurements (n, p), exogenous values (n, k) and outcomes (n,); InputError as the control function."""
        x, a = checks.finite("X", X, ndim=2), checks.finite("A", A, ndim=2)
        if len(x) != len(a) or len(x) < 10:
            raise InputError(f"X has {len(x)} rows and A {len(a)}; allowed: as many, 10 at least")
        if not np.isfinite(self.penalty) or self.penalty < 0:
            raise InputError(f"penalty is {self.penalty}; allowed: a number from 0 up")
        latent = checks.count("n_latent", self.n_latent)
        self._middle, self._spread = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        xt, at = self._scaled(x), torch.as_tensor(a / np.maximum(a.std(axis=0), 1e-12), dtype=torch.float32)
        some = at[: min(len(a), 1000)]
        bandwidth = float(torch.pdist(some).median())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.encoder_ = _layers([x.shape[1], self.width, self.width, latent])
            decoder = _layers([latent, self.width, self.width, x.shape[1]])
        size = min(checks.count("batch", self.batch, least=4), len(x))

        def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
            rows = torch.as_tensor(rng.choice(len(x), size, replace=False))
            codes = self.encoder_(xt[rows])
            value = ((decoder(codes) - xt[rows]) ** 2).mean()
            return value + self.penalty * invariance_penalty(codes, at[rows], bandwidth) if self.penalty else value

        train(nn.ModuleList([self.encoder_, decoder]), loss, Recipe(self.steps, self.learning_rate), seed=self.random_state)
        codes = self.transform(x)
        self.restriction_ = linear_invariance(codes[:1000], a[:1000])
        self.control_ = ControlFunctionRegressor().fit(codes, a, Y)
        return self

    def _scaled(self, x: FloatArray) -> torch.Tensor:
        return torch.as_tensor((x - self._middle) / self._spread, dtype=torch.float32)

    def transform(self, X: ArrayLike) -> FloatArray:
        """(n, n_latent) codes of measurements (n, p)."""
        x = checks.finite("X", X, shape=(None, len(self._middle)))
        with torch.no_grad():
            return np.asarray(self.encoder_(self._scaled(x)).numpy(), dtype=np.float64)

    def predict_do(self, A: ArrayLike) -> FloatArray:
        """(m,) mean outcome if A were set to each row of (m, k)."""
        return self.control_.predict_do(A)

    def outside(self, A: ArrayLike) -> FloatArray:
        """(m,) share of shifted codes outside the hull of those observed."""
        return self.control_.outside(A)


def fit_network(
    A: ArrayLike, Y: ArrayLike, *, width: int = 64, steps: int = 1500, learning_rate: float = 3e-3, seed: int = 0
) -> Callable[[ArrayLike], FloatArray]:
    """A network fitted to outcomes (n,) on exogenous values (n, k), as a function of (m, k): what has no reason to hold outside."""
    a, y = checks.finite("A", A, ndim=2), checks.finite("Y", Y, ndim=1)
    at, middle, spread = torch.as_tensor(a, dtype=torch.float32), float(y.mean()), float(y.std()) or 1.0
    yt = torch.as_tensor((y - middle) / spread, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _layers([a.shape[1], width, width, 1])

    def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        rows = torch.as_tensor(rng.choice(len(a), min(512, len(a)), replace=False))
        return cast(torch.Tensor, ((model(at[rows])[:, 0] - yt[rows]) ** 2).mean())

    train(network, loss, Recipe(steps, learning_rate), seed=seed, quiet=True)

    def predict(new: ArrayLike) -> FloatArray:
        with torch.no_grad():
            found = network(torch.as_tensor(checks.finite("A", new, shape=(None, a.shape[1])), dtype=torch.float32))
        return np.asarray(found[:, 0].numpy() * spread + middle, dtype=np.float64)

    return predict
