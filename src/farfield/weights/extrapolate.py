"""ExPO: a tuned model moved further along the step that tuned it, and how far by a score of the user's own.

    theta(alpha) = tuned + alpha (tuned - base)

Model Extrapolation Expedites Alignment (arXiv 2404.16792), equation 2: base is the checkpoint before a short alignment run (SFT),
tuned the one after it (DPO, RLHF). If the step is an ascent direction of the objective and the tuned model is not yet at the
optimum along the ray, a further step helps, without a gradient. alpha = 0 is the tuned model, -1 the base, between them lies the
interpolation. The paper chooses alpha by a score on held-out prompts; its optimum falls with the amount of training, and answers
tend to grow longer.

Deviations: every element is the exact result rounded once (the authors' script computes in bfloat16); integers and booleans are
copied from the tuned model; alpha is also searched by golden section, and reported on a separate test score.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.errors import FormatError, InputError
from farfield.files import write_atomic
from farfield.formats import Rounding
from farfield.seeds import Seed
from farfield.weights.algebra import Plan, execute, open_operands, plan, write_plan
from farfield.weights.edits import Linear
from farfield.weights.modules import ModulePoints, is_module
from farfield.weights.recipes import patterns

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from torch import nn

FloatArray = NDArray[np.float64]
ScoreValue = float | Sequence[float] | FloatArray
PathLike = str | os.PathLike[str]
GRID = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


def extrapolate(
    base: PathLike,
    tuned: PathLike,
    out: PathLike,
    *,
    alpha: float,
    dtype: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rounding: Rounding = "nearest",
    seed: int = 0,
    low: PathLike | None = None,
    threads: int | None = None,
) -> Path:
    """Write tuned + alpha (tuned - base) to `out`, every element rounded once from the exact result; returns the path.

    Parameters
    ----------
    base, tuned : checkpoints (a ``.safetensors`` file or a directory) with the same tensors; `tuned` may be a LoRA adapter
    alpha : how far beyond `tuned`, in steps from `base` to `tuned`; finite. Taken as the float64 number it is
    dtype : of the output's float tensors; by default as the inputs
    include, exclude : regular expressions searched in tensor names; tensors that are not included, or excluded, are copied from
        `tuned`, as are integers, booleans and the files beside the weights
    rounding, seed : ``stochastic`` rounds to one of the two neighbours, the nearer the likelier: steps below the spacing of a short
        format then move the weights on average
    low : where to write, as another checkpoint, what rounding loses; `out` + `low` is the result to twice the digits
    threads : how many work at a time, by default two where there are two processors; the result is the same

    Raises InputError, before a byte is written, where the checkpoints do not fit together or the output cannot be written.
    Source: arXiv 2404.16792, equation 2.
    """
    prepared = plan_extrapolation(base, tuned, alpha, dtype=dtype, include=include, exclude=exclude, rounding=rounding, seed=seed)
    return write_plan(prepared, out, low=low, threads=threads)


def plan_extrapolation(
    base: PathLike,
    tuned: PathLike,
    alpha: float,
    *,
    dtype: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rounding: Rounding = "nearest",
    seed: int = 0,
) -> Plan:
    """What :func:`extrapolate` would write, checked; nothing is written."""
    step = float(checks.finite("alpha", alpha, ndim=0))
    wanted, unwanted = patterns("include", include), patterns("exclude", exclude)
    edit = Linear((-step,))

    def choose(name: str) -> Linear | None:
        kept = not wanted or any(p.search(name) for p in wanted)
        return edit if kept and not any(p.search(name) for p in unwanted) else None

    return plan(open_operands([tuned, base], base=1), choose, dtype=dtype, rounding=rounding, seed=seed)


class SweepStatus(Enum):
    """How a sweep ended; the value is the advice."""

    GAIN = "take best_alpha: it scores higher than the tuned model"
    UNSURE = "best_alpha scores higher, but the interval of the gain includes 0: score more examples before relying on it"
    NO_GAIN = "keep the tuned model (alpha = 0): no step further scores higher"
    EDGE = "the best alpha is the largest tried: sweep further out"


@dataclass(frozen=True)
class Sweep:
    """Scores along the ray through two checkpoints.

    Attributes
    ----------
    alphas : (n,) increasing; 0, the tuned model, is among them
    scores : (n,) mean dev scores, higher is better
    best_alpha : of the highest dev score, the smallest in magnitude if several
    test : mean test scores of the tuned model and of `best_alpha`, or None where no test score was given
    gain : score at `best_alpha` less that at 0, on the test examples where there are any; the dev gain is of a chosen maximum
    interval : 95 % paired bootstrap interval of the gain over examples, or None where scores are single numbers
    status : the advice
    """

    alphas: FloatArray
    scores: FloatArray
    best_alpha: float
    test: tuple[float, float] | None
    gain: float
    interval: tuple[float, float] | None
    status: SweepStatus

    def summary(self) -> str:
        """One line: the best alpha, its gain and the advice."""
        where = "test" if self.test is not None else "dev, where it was chosen"
        between = f" (95 % {self.interval[0]:.4g} to {self.interval[1]:.4g})" if self.interval else ""
        return f"best alpha {self.best_alpha:g}, gain {self.gain:+.4g}{between} on {where}; {self.status.value}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "alphas": self.alphas.tolist(),
            "scores": self.scores.tolist(),
            "best_alpha": self.best_alpha,
            "test": None if self.test is None else {"tuned": self.test[0], "best": self.test[1]},
            "gain": self.gain,
            "interval": None if self.interval is None else list(self.interval),
            "status": self.status.name.lower(),
            "advice": self.status.value,
        }

    def to_frame(self) -> pl.DataFrame:
        """One row an alpha: alpha, score, part (base side, tuned, beyond)."""
        import polars as pl

        part = ["tuned" if a == 0 else "beyond" if a > 0 else "interpolation" if a >= -1 else "before base" for a in self.alphas]
        return pl.DataFrame({"alpha": self.alphas, "score": self.scores, "part": part})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Score against alpha: the interpolation between base and tuned shaded, the tuned model and the best step marked."""
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 3.6), layout="constrained").subplots()
        ax.axvspan(-1, 0, color="0.92", label="between base and tuned")
        ax.plot(self.alphas, self.scores, "o-", color="#0072b2", label="dev score")
        ax.plot([0], self.scores[self.alphas == 0], "s", color="0.2", label="tuned model")
        best = self.scores[self.alphas == self.best_alpha]
        ax.plot([self.best_alpha], best, "*", markersize=14, color="#d55e00", label=f"best, alpha = {self.best_alpha:g}")
        ax.set_xlim(min(-1.0, float(self.alphas.min())) - 0.05, max(0.5, float(self.alphas.max())) * 1.05)
        ax.set_xlabel("alpha: steps beyond the tuned model")
        ax.set_ylabel("score")
        ax.legend(frameon=False, fontsize="small")
        return ax


def sweep(
    base: PathLike | Mapping[str, Any] | nn.Module,
    tuned: PathLike | Mapping[str, Any] | nn.Module,
    score: Callable[[Any], ScoreValue],
    *,
    alphas: Sequence[float] = GRID,
    search: str = "grid",
    evaluations: int = 8,
    test: Callable[[Any], ScoreValue] | None = None,
    scratch: PathLike | None = None,
    state: PathLike | None = None,
    identity: str = "",
    dtype: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    threads: int | None = None,
    rng: Seed = 0,
) -> Sweep:
    """Score tuned + alpha (tuned - base) for several alpha and choose.

    Parameters
    ----------
    base, tuned : checkpoints, mappings from names to arrays, or torch modules (then nothing is written)
    score : called with the path of a checkpoint, which is removed afterwards, with a mapping of float64 arrays, or with `tuned`
        itself, holding the point's weights until it returns; gives a number or one number an example, higher is better
    alphas : the grid; for ``golden`` only their least and largest matter, and the maximum is sought between them
    search : ``grid``, or ``golden`` for a golden-section search of `evaluations` scores, right for a score with one maximum
    test : as `score`, on other examples; called for alpha = 0 and for the best
    scratch : directory for the one checkpoint that exists at a time; by default a temporary one
    state : a JSON file that keeps scores, so that an interrupted sweep of the same checkpoints and `identity` (say what the scores
        measure) goes on where it was
    rng : of the bootstrap

    alpha = 0 is always scored. Raises InputError for scores that are not finite numbers, for per-example scores of different
    numbers, for inputs that do not fit together or where the disk lacks the space.
    """
    checks.choice("search", search, ("grid", "golden"))
    grid = sorted({0.0, *checks.finite("alphas", list(alphas), ndim=1).tolist()})
    if isinstance(base, Mapping) != isinstance(tuned, Mapping) or is_module(base) != is_module(tuned):
        raise InputError("base and tuned must both be checkpoints, both be mappings or both be modules")
    options = {"dtype": dtype, "include": include, "exclude": exclude}
    if isinstance(base, Mapping) and isinstance(tuned, Mapping):
        points: _Points = _InMemory(base, tuned)
        label = identity
    elif is_module(base):
        points = ModulePoints(base, tuned)
        label = identity
    else:
        points = _OnDisk(os.fspath(base), os.fspath(tuned), options, scratch, threads)  # type: ignore[arg-type]
        label = f"{identity} {plan_extrapolation(base, tuned, 0.0, **options).fingerprint} {options}"  # type: ignore[arg-type]
    kept = _State(None if state is None else Path(state), label)
    dev: dict[float, FloatArray] = {}

    def at(alpha: float) -> float:
        if alpha not in dev:
            dev[alpha] = kept.score("dev", alpha, partial(_scored, "score", points, alpha, score))
        return float(dev[alpha].mean())

    if search == "grid":
        for alpha in grid:
            at(alpha)
    else:
        _golden(at, grid[0], grid[-1], checks.count("evaluations", evaluations, least=4))
        at(0.0)
    tried = sorted(dev)
    scores = np.array([at(a) for a in tried])
    best = min((a for a in tried if at(a) == scores.max()), key=abs)
    first, last = dev[0.0], dev[best]
    means = None
    if test is not None:
        first, last = (kept.score("test", a, partial(_scored, "test", points, a, test)) for a in (0.0, best))
        means = float(first.mean()), float(last.mean())
    if first.shape != last.shape:
        raise InputError(f"{first.size} scores at alpha = 0 and {last.size} at {best:g}; score the same examples for every alpha")
    interval = _interval(last, first, rng) if first.size > 1 else None
    gain = float(last.mean() - first.mean())
    return Sweep(np.array(tried), scores, best, means, gain, interval, _status(best, tried, gain, interval))


def _status(best: float, tried: Sequence[float], gain: float, interval: tuple[float, float] | None) -> SweepStatus:
    if best == 0 or gain <= 0:
        return SweepStatus.NO_GAIN
    if interval is not None and interval[0] <= 0:
        return SweepStatus.UNSURE
    return SweepStatus.EDGE if best == tried[-1] else SweepStatus.GAIN


def _interval(last: FloatArray, first: FloatArray, rng: Seed) -> tuple[float, float]:
    from farfield.intervals import bootstrap_difference

    low, high = bootstrap_difference(last, first, rng=rng)
    return float(low), float(high)


def _golden(at: Callable[[float], float], low: float, high: float, evaluations: int) -> None:
    """Golden-section search for a maximum; ends and 0 count as evaluations."""
    if not low < high:
        raise InputError(f"a golden-section search needs two different ends; got {low:g} to {high:g}")
    at(low), at(high)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    for _ in range(evaluations - 3):
        if at(left) >= at(right):
            high, right = right, left
            left = high - _GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)


def _scored(name: str, points: _Points, alpha: float, score: Callable[[Any], ScoreValue]) -> FloatArray:
    out = np.atleast_1d(checks.finite(name, points.evaluate(alpha, score)))
    if out.ndim != 1 or not out.size:
        raise InputError(f"{name} gave shape {out.shape}; allowed: a number, or one number an example")
    return out


class _Points(Protocol):
    """Where points of the ray are made and scored."""

    def evaluate(self, alpha: float, score: Callable[[Any], ScoreValue]) -> ScoreValue: ...


class _InMemory:
    def __init__(self, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> None:
        if set(base) != set(tuned):
            raise InputError(f"base and tuned hold different names: {sorted(set(base) ^ set(tuned))[:3]}")
        self.base, self.tuned = ({k: np.asarray(v) for k, v in m.items()} for m in (base, tuned))
        for name, value in self.base.items():
            if value.shape != self.tuned[name].shape:
                raise InputError(f"{name!r} has shape {value.shape} in base and {self.tuned[name].shape} in tuned")

    def evaluate(self, alpha: float, score: Callable[[Any], ScoreValue]) -> ScoreValue:
        out: dict[str, Any] = {}
        for name, value in self.tuned.items():
            if value.dtype.kind == "f":
                wide = value.astype(np.float64)
                out[name] = wide + alpha * (wide - self.base[name].astype(np.float64))
            else:
                out[name] = value
        return score(out)


class _OnDisk:
    def __init__(self, base: str, tuned: str, options: Mapping[str, Any], scratch: PathLike | None, threads: int | None) -> None:
        self.base, self.tuned, self.options, self.threads = base, tuned, dict(options), threads
        self.scratch = None if scratch is None else Path(scratch)
        if self.scratch is not None and not self.scratch.is_dir():
            raise InputError(f"there is no directory {scratch} for temporary checkpoints; make it first")

    def evaluate(self, alpha: float, score: Callable[[Any], ScoreValue]) -> ScoreValue:
        folder = Path(tempfile.mkdtemp(prefix="farfield-sweep-", dir=self.scratch))
        try:
            # what a power cut destroys here is made again, so nothing is synced
            point = plan_extrapolation(self.base, self.tuned, alpha, **self.options)
            return score(execute(point, folder / "model", threads=self.threads, sync=False))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _State:
    """Scores that were made before, in a JSON file that is replaced after each."""

    def __init__(self, path: Path | None, label: str) -> None:
        self.path = path
        self.label = hashlib.sha256(label.encode()).hexdigest()
        self.scores: dict[str, dict[str, list[float]]] = {"dev": {}, "test": {}}
        if path is None or not path.exists():
            return
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            label_there, scores = document["sweep"], {k: dict(document["scores"][k]) for k in self.scores}
            for kind in scores.values():
                for values in kind.values():
                    checks.finite("scores", values, ndim=1)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} is not the state of a sweep; remove it or name another file") from error
        if label_there != self.label:
            raise InputError(f"{path} holds the scores of another sweep; remove it or name another file")
        self.scores = scores

    def score(self, kind: str, alpha: float, make: Callable[[], FloatArray]) -> FloatArray:
        key = repr(float(alpha))
        if key not in self.scores[kind]:
            self.scores[kind][key] = make().tolist()
            if self.path is not None:
                write_atomic(self.path, (json.dumps({"sweep": self.label, "scores": self.scores}, indent=1) + "\n").encode())
        return np.array(self.scores[kind][key])
