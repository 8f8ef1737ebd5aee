"""Rep4Ex: intervention extrapolation when the state is hidden behind measurements (Saengkyongam et al. 2023, arXiv 2310.04295).

Measurements X = g(Z) of a hidden state Z that A moves linearly. An autoencoder is trained with a penalty on its code phi(X),

    mean |X - decode(phi(X))|^2  +  penalty * R(phi),    R = 1 / (n (n - 1)) sum_{i != j} r_i . r_j k(A_i, A_j),

r the residuals of the code on A by least squares, anew in every batch, k Gaussian (section 5: a maximum moment restriction).
R = 0 says E[phi(X) - its linear fit | A] = 0, and with reconstruction that makes phi an affine image of Z (section 4), on which the
control function of :mod:`farfield.shift.control` does what it would do on Z.

Defaults: bandwidth the median distance of A, batches of 512, the shared trainer; encoder and decoder are each a linear map, which
starts at the principal components, plus an ELU network of two hidden layers, which starts at zero. The penalty is chosen inside:
the restriction can be met at no cost in reconstruction, so that a penalty which costs some bends the code to noise, as it does
where A moves the state little. `auto` is the largest of 10, 1, 0.1 and 0 whose reconstruction error is at most 1.2 times that of 0.
Deviations: residuals are divided by the standard deviation of the code, which carries no gradient, since else shrinking the code
lowers R; R leaves the diagonal out, which biases it; the share of shifted states outside those observed is reported.

This module needs the 'torch' extra and is loaded only when it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError, MissingExtraError
from farfield.estimator import Parameters
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
    fitted = torch.linalg.solve(design.T @ design, design.T @ codes)  # lstsq's last digits differ from call to call
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


class _NearLinear(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A linear map plus a network that starts at zero."""

    def __init__(self, weight: FloatArray, width: int) -> None:
        super().__init__()
        outside, inside = weight.shape
        self.line, self.bend = nn.Linear(inside, outside), _layers([inside, width, width, outside])
        last = cast(nn.Linear, self.bend[-1])
        for zero in (self.line.bias, last.weight, last.bias):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.line.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.line(x) + self.bend(x))


PENALTIES = (10.0, 1.0, 0.1)  # tried by 'auto', from the largest
DEARER = 1.2  # largest reconstruction error, over that without a penalty


@dataclass(eq=False)
class Rep4Ex(Parameters):
    """Mean outcome under interventions outside those applied, from measurements of a hidden state.

    Parameters
    ----------
    n_latent : dimensions of the hidden state
    penalty : weight of the linear-invariance restriction; 0 is a plain autoencoder, ``auto`` chooses, by up to four fits
    width, steps, batch, learning_rate : of the autoencoder and its training
    random_state : seed, an integer

    Learned
    -------
    control_ : the control function on the codes; restriction_ : the restriction on (up to 1,000 rows of) the data; penalty_ :
    the one used; reconstruction_ : mean squared error of the measurements, each in units of its variance
    """

    n_latent: int = 2
    penalty: float | Literal["auto"] = "auto"
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
        if self.penalty != "auto" and not (isinstance(self.penalty, int | float) and 0 <= self.penalty < np.inf):
            raise InputError(f"penalty is {self.penalty!r}; allowed: a number from 0 up, or 'auto'")
        latent = checks.count("n_latent", self.n_latent)
        if latent > x.shape[1]:
            raise InputError(f"n_latent is {latent} and X has {x.shape[1]} columns; allowed: at most as many")
        self._middle, self._spread = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
        scaled = a / np.maximum(a.std(axis=0), 1e-12)
        if self.penalty == "auto":
            plain = self._autoencode(x, scaled, 0.0)
            tried = ((penalty, self._autoencode(x, scaled, penalty)) for penalty in PENALTIES)
            cheap = (fit for fit in tried if fit[1][1] <= DEARER * plain[1])  # lazily: smaller penalties are not fitted in vain
            self.penalty_, (self.encoder_, self.reconstruction_) = next(cheap, (0.0, plain))
        else:
            self.penalty_ = float(self.penalty)
            self.encoder_, self.reconstruction_ = self._autoencode(x, scaled, self.penalty_)
        codes = self.transform(x)
        self.restriction_ = linear_invariance(codes[:1000], a[:1000])
        self.control_ = ControlFunctionRegressor(random_state=self.random_state).fit(codes, a, Y)
        return self

    def _autoencode(self, x: FloatArray, a: FloatArray, penalty: float) -> tuple[nn.Module, float]:
        """The encoder trained on measurements and scaled exogenous values, and its reconstruction error."""
        xt, at = self._scaled(x), torch.as_tensor(a, dtype=torch.float32)
        bandwidth = float(torch.pdist(at[: min(len(a), 1000)]).median())
        _, size, rows = np.linalg.svd(xt.numpy().astype(np.float64), full_matrices=False)
        size = np.maximum(size[: self.n_latent, None] / np.sqrt(len(x)), 1e-6)
        first = rows[: self.n_latent]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            encoder, decoder = _NearLinear(first / size, self.width), _NearLinear((first * size).T, self.width)
        batch = min(checks.count("batch", self.batch, least=4), len(x))

        def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
            some = torch.as_tensor(rng.choice(len(x), batch, replace=False))
            codes = encoder(xt[some])
            value = ((decoder(codes) - xt[some]) ** 2).mean()
            return value + penalty * invariance_penalty(codes, at[some], bandwidth) if penalty else value

        train(nn.ModuleList([encoder, decoder]), loss, Recipe(self.steps, self.learning_rate), seed=self.random_state, quiet=True)
        with torch.no_grad():
            return encoder, float(((decoder(encoder(xt)) - xt) ** 2).mean())

    def _scaled(self, x: FloatArray) -> torch.Tensor:
        return torch.as_tensor((x - self._middle) / self._spread, dtype=torch.float32)

    def transform(self, X: ArrayLike) -> FloatArray:
        """(n, n_latent) codes of measurements (n, p)."""
        checks.fitted(self, "encoder_", "fit(X, A, Y)")
        x = checks.finite("X", X, shape=(None, len(self._middle)))
        with torch.no_grad():
            return np.asarray(self.encoder_(self._scaled(x)).numpy(), dtype=np.float64)

    def predict_do(self, A: ArrayLike) -> FloatArray:
        """(m,) mean outcome if A were set to each row of (m, k)."""
        checks.fitted(self, "control_", "fit(X, A, Y)")
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
