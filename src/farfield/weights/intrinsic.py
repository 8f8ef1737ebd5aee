"""How many directions a problem needs: training in a random subspace of the weights (P102, arXiv 1804.08838).

Measuring the Intrinsic Dimension of Objective Landscapes (Li and others 2018): the D weights of a model move only along d random
directions from where they started,

    theta = theta_0 + P z,      z in R^d, from 0; P (D, d) drawn once, its columns of length one over all layers together,

and d is raised. The *intrinsic dimension* d_int90 is the smallest d whose score reaches 90 % of that of the same training without a
subspace (section 2). A linear problem of c independent constraints needs c of them: the paper's toy has D = 1000 weights in ten
blocks whose sums are to be 1, ..., 10, and is solved from d = 10 on and never before.

Deviations. The learning rate in the subspace is that of full training times sqrt(D / d), so that a first step of Adam moves the
weights equally far (the paper tunes it anew). The score is averaged over seeds before it is compared, each seed with its own
start, directions and batches; the bootstrap resamples seeds. `crossing` interpolates in log d. Buffers (running means) are
trained as usual.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield import checks, seeds
from farfield.errors import InputError, require
from farfield.progress import progress
from farfield.weights.projections import Dense, Fastfood, Projection, Sparse, gather, hadamard, projection, spread

if TYPE_CHECKING:
    import polars as pl
    import torch
    from matplotlib.axes import Axes
    from torch import nn

    from farfield.nn.trainer import Recipe

FloatArray = NDArray[np.float64]
Training = Callable[[int | None, int], float]  # d, or None for all weights, and a seed -> score, higher is better
TOY_PARAMS, TOY_CONSTRAINTS = 1000, 10
TOY_TARGET = 1 - 1e-9  # the toy is solved or it is not; 90 % of exp(-loss) is reached at d = 9 by 4 % of draws


class IntrinsicStatus(Enum):
    """What a sweep found; the value is the advice."""

    FOUND = "the dimension lies within the sweep"
    EDGE = "the smallest dimension tried suffices already: try smaller ones"
    NOT_REACHED = "no dimension tried suffices: try larger ones, or more steps"


@dataclass(frozen=True)
class IntrinsicDimension:
    """A sweep over subspace dimensions.

    Attributes
    ----------
    dims : (n_dims,) dimensions tried, ascending
    scores : (n_seeds, n_dims) score of each training, higher is better
    full : (n_seeds,) score of training all weights
    target : share of the mean of `full` to be reached
    dimension : the smallest of `dims` whose mean score reaches it; infinity where none does
    low, high : percentile bootstrap over seeds of `dimension`, at `level`
    crossing : where the mean score first reaches it, interpolated in log d between two of `dims`
    n_params : D, None where not known
    """

    dims: NDArray[np.int64]
    scores: FloatArray
    full: FloatArray
    target: float
    dimension: float
    low: float
    high: float
    level: float
    crossing: float
    n_params: int | None = None

    @property
    def status(self) -> IntrinsicStatus:
        if math.isinf(self.dimension):
            return IntrinsicStatus.NOT_REACHED
        return IntrinsicStatus.EDGE if self.dimension == self.dims[0] > 1 else IntrinsicStatus.FOUND

    def __repr__(self) -> str:
        return f"IntrinsicDimension({self.dimension:g}, {self.status.name.lower()}, {len(self.dims)} dimensions tried)"

    def summary(self) -> str:
        """One line: the dimension, its interval, and what it is a share of."""
        if self.status is IntrinsicStatus.NOT_REACHED:
            found = f"intrinsic dimension above {self.dims[-1]}"
        else:
            ends = " to ".join("beyond the sweep" if math.isinf(v) else f"{v:g}" for v in (self.low, self.high))
            found = f"intrinsic dimension {self.dimension:g} ({100 * self.level:g} % over {len(self.full)} seeds: {ends})"
        of = "" if self.n_params is None else f" of {self.n_params:,} parameters"
        reached = f"at {100 * self.target:.6g} % of the score {self.full.mean():.4g} of training all"
        return f"{found}{of}, {reached}; {self.status.value}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; infinity stays infinity."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {k: v.tolist() for k, v in out.items() if isinstance(v, np.ndarray)}
        return {**out, **lists, "status": self.status.name.lower(), "advice": self.status.value}

    def to_frame(self) -> pl.DataFrame:
        """A row a dimension: mean score, its least and largest over seeds, share of full training, whether it suffices."""
        import polars as pl

        mean = self.scores.mean(0)
        share = mean / self.full.mean()
        return pl.DataFrame(
            {
                "d": self.dims, "score": mean, "least": self.scores.min(0), "largest": self.scores.max(0), "share": share,
                "reached": mean >= self.target * self.full.mean(),
            }
        )  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Axes:
        """Score against dimension, seeds in light, with what is to be reached and the dimension that reaches it."""
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 3.6), layout="constrained").subplots()
        for i, row in enumerate(self.scores):
            ax.plot(self.dims, row, color="0.75", linewidth=0.8, label="a seed" if i == 0 else None)
        ax.plot(self.dims, self.scores.mean(0), "o-", color="#0072b2", markersize=4, label="mean score")
        wanted = self.target * float(self.full.mean())
        ax.axhline(wanted, color="0.3", linestyle="--", linewidth=1, label=f"{100 * self.target:.4g} % of training all")
        if math.isfinite(self.dimension):
            if math.isfinite(self.low):
                ends = (self.low, min(self.high, float(self.dims[-1])))
                ax.axvspan(*ends, color="#d55e00", alpha=0.15, linewidth=0, label=f"{100 * self.level:g} % over seeds")
            ax.axvline(self.dimension, color="#d55e00", label=f"d = {self.dimension:g}")
        if self.dims[-1] > 30 * self.dims[0]:
            ax.set_xscale("log")
        ax.set_xlabel("d: random directions trained")
        ax.set_ylabel("score")
        ax.legend(frameon=False, fontsize="small")
        return ax


def first_reach(dims: NDArray[np.int64], means: FloatArray, wanted: FloatArray) -> FloatArray:
    """The smallest dimension whose mean reaches what is wanted, infinity where none does.

    dims : (n_dims,) ascending; means : (..., n_dims); wanted : (...). Returns (...).
    """
    reached = means >= wanted[..., None]
    return np.where(reached.any(-1), dims[reached.argmax(-1)].astype(float), np.inf)


def intrinsic_dimension(
    train: Training,
    dims: Sequence[int],
    *,
    n_seeds: int = 3,
    target: float = 0.9,
    level: float = 0.9,
    n_boot: int = 2000,
    n_params: int | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> IntrinsicDimension:
    """The smallest subspace dimension in which training reaches a share of what it reaches with all weights.

    Parameters
    ----------
    train : called with (d, seed) and, for training all weights, (None, seed); returns the score, higher is better, above 0 for
        full training. :func:`subspace_training` makes one of a torch model
    dims : dimensions tried
    n_seeds : trainings of each, seeded seed, seed + 1, ...
    target : share of full training's mean score that is to be reached, 0.9 in the paper
    level, n_boot : of the bootstrap over seeds; one seed gives an interval without width
    n_params : number of weights, for the report
    quiet : no progress bar

    Raises InputError for dimensions that repeat or fall below 1 and for scores that are not finite or, with all weights, not above
    0.
    Source: arXiv 1804.08838, section 2.
    """
    tried = np.array(sorted(checks.count("dims", d) for d in dims), dtype=np.int64)
    if not len(tried) or (np.diff(tried) == 0).any():
        raise InputError(f"dims is {list(dims)[:8]}; allowed: at least one dimension, each once")
    if not 0 < target <= 1:
        raise InputError(f"target is {target}; allowed: a share of the full score, above 0 and up to 1")
    n, boots = checks.count("n_seeds", n_seeds), checks.count("n_boot", n_boot)
    checks.level("level", level)
    scores = np.empty((n, len(tried) + 1))
    with progress("subspaces", scores.size, quiet=quiet) as advance:
        for i in range(n):
            for j, d in enumerate([None, *tried.tolist()]):
                scores[i, j] = value = float(train(d, seed + i))
                if not math.isfinite(value) or (d is None and value <= 0):
                    where = "all weights" if d is None else f"d = {d}"
                    raise InputError(
                        f"the score is {value} with {where}, seed {seed + i}; it must be finite, for all weights above 0"
                    )
                advance(1)
    full, swept = scores[:, 0], scores[:, 1:]
    draws = seeds.generator(seed).integers(n, size=(boots, n))
    drawn = first_reach(tried, swept[draws].mean(1), target * full[draws].mean(1))
    # ends that are draws themselves: infinities do not interpolate
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    mean, wanted = swept.mean(0), target * full.mean()
    dimension = float(first_reach(tried, mean, np.asarray(wanted)))
    crossing = _crossing(tried, mean, wanted)
    return IntrinsicDimension(tried, swept, full, target, dimension, float(low), float(high), level, crossing, n_params)


def _crossing(dims: NDArray[np.int64], mean: FloatArray, wanted: float) -> float:
    reached = np.flatnonzero(mean >= wanted)
    if not len(reached):
        return math.inf
    j = int(reached[0])
    if j == 0:
        return float(dims[0])
    share = (wanted - mean[j - 1]) / (mean[j] - mean[j - 1])
    a, b = np.log(dims[j - 1 : j + 1])
    return float(np.exp(a + share * (b - a)))


def toy_training(kind: str = "fastfood", *, n_params: int = TOY_PARAMS, constraints: int = TOY_CONSTRAINTS) -> Training:
    """The paper's toy, solved exactly in the subspace by least squares; the score is exp(-loss).

    The weights lie in `constraints` blocks of equal length; the loss is the sum of (sum of block k - k)^2. Its intrinsic dimension
    is `constraints`, with ``target=TOY_TARGET``. Source: arXiv 1804.08838, section 2.
    """
    if n_params % checks.count("constraints", constraints):
        raise InputError(f"{n_params} parameters do not make {constraints} blocks of equal length")
    blocks = np.kron(np.eye(constraints), np.ones(n_params // constraints))
    wanted = np.arange(1.0, constraints + 1)

    def train(d: int | None, seed: int) -> float:
        root = seeds.root(seed)
        start = wanted - blocks @ seeds.child(root, 0).standard_normal(n_params)
        if d is None:
            reduced = blocks
        else:
            p = projection(kind, n_params, d, seeds.child(root, 1))
            reduced = np.stack([p.transpose(row) for row in blocks])
        z = np.linalg.lstsq(reduced, start, rcond=None)[0]
        return float(np.exp(-np.sum((reduced @ z - start) ** 2)))

    return train


# -- torch ------------------------------------------------------------------------------------------------------------


def subspace(module: nn.Module, d: int, kind: str = "fastfood", rng: seeds.Seed = None) -> nn.Module:
    """A module with d trainable numbers, `z`: the given one with its weights moved along random directions from where they are.

    Parameters
    ----------
    module : left alone; a frozen copy of it, as `base`, holds theta_0, and buffers such as running means. Parameters that require
        no gradient are not moved. All that are moved share one dtype (float32 or float64) and device
    d, kind, rng : as in :func:`farfield.weights.projections.projection`

    The module returned is called like the one given; `n_params` is D, and `weights()` gives the moved weights by name.
    """
    require("torch", "training in a subspace")
    import torch
    from torch import nn

    base = copy.deepcopy(module)
    moved = {name: p for name, p in base.named_parameters() if p.requires_grad}
    kinds = {(p.dtype, p.device) for p in moved.values()}
    if len(kinds) != 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
        what = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
        raise InputError(f"trainable parameters are {what}; allowed: at least one, all float32 or all float64, on one device")
    ((dtype, device),) = kinds
    sizes = [p.numel() for p in moved.values()]
    drawn = projection(kind, sum(sizes), d, rng, np.float32 if dtype == torch.float32 else np.float64)
    move = _in_torch(drawn, device)
    for p in moved.values():
        p.requires_grad_(False)

    class Subspace(nn.Module):  # type: ignore[misc, unused-ignore]
        n_params = sum(sizes)
        projection_nbytes = drawn.nbytes

        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.z = nn.Parameter(torch.zeros(d, dtype=dtype, device=device))

        def weights(self) -> dict[str, torch.Tensor]:
            steps = torch.split(move(self.z), sizes)
            return {name: p + s.view_as(p) for (name, p), s in zip(moved.items(), steps, strict=True)}

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.base, self.weights(), args, kwargs)

    return Subspace()


def _in_torch(p: Projection, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """z -> P z on a device, with a gradient that keeps nothing but P."""
    import torch

    def there(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    if isinstance(p, Dense):
        matrix = there(p.matrix)
        return lambda z: matrix @ z
    n_params, d = p.shape
    if isinstance(p, Sparse):
        rows, columns, values = there(p.rows), there(p.columns), there(p.values)
        return lambda z: z.new_zeros(n_params).index_add(0, rows, values * z[columns])
    assert isinstance(p, Fastfood)
    blocks, m = p.gauss.shape
    held = there(p.signs), there(p.order), there(p.gauss)
    factors: dict[int, torch.Tensor] = {}

    def factor(n: int) -> torch.Tensor:
        if n not in factors:
            factors[n] = there(hadamard(n).astype(p.gauss.dtype))
        return factors[n]

    class Move(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
        @staticmethod
        def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
            moved: torch.Tensor = spread(torch.nn.functional.pad(z, (0, m - d)), *held, factor)[:n_params]
            return moved

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            back: torch.Tensor = gather(torch.nn.functional.pad(gradients[0], (0, blocks * m - n_params)), *held, factor)[:d]
            return back

    return lambda z: Move.apply(z)  # type: ignore[no-untyped-call, unused-ignore]


Problem = tuple["nn.Module", Callable[..., "torch.Tensor"], Callable[..., float]]


def subspace_training(make: Callable[[], Problem], recipe: Recipe, kind: str = "fastfood") -> Training:
    """What :func:`intrinsic_dimension` calls, of a torch model trained by :func:`farfield.nn.trainer.train`.

    Parameters
    ----------
    make : called anew for each training, torch's generator seeded; returns (model, loss, score): the model as it starts,
        loss(model, rng) the loss of a batch drawn from a NumPy generator, score(model) a number above 0, higher is better
    recipe : of training all weights; in a subspace its learning rate is multiplied by sqrt(D / d)
    kind : of the projection
    """

    def train(d: int | None, seed: int) -> float:
        import torch

        from farfield.nn import trainer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, loss, score = make()
        used = recipe
        if d is not None:
            model = subspace(model, d, kind, seeds.child(seeds.root(seed), d))
            scale = math.sqrt(int(model.n_params) / d)  # type: ignore[arg-type, unused-ignore]
            used = dataclasses.replace(recipe, learning_rate=recipe.learning_rate * scale)
        trainer.train(model, loss, used, seed=seed, quiet=True)
        with torch.no_grad():
            return float(score(model))

    return train
