"""Several laws on one sweep: what each says of the next run, what they say together, and how they did where the top was hidden.

Laws that fit about equally well part company beyond the sweep, and no single law's interval shows that. So the refits of all laws
that are not decisively worse are pooled with equal weight. The backtest hides the top decade of compute, fits what is left and
predicts each hidden run; the horizon is the largest reach (compute over the largest seen) up to which the mean error stays within
the tolerance. A target beyond the horizon is answered with a warning.

Refits know of sampling alone: not of a law that bends beyond the runs, nor of scatter that grows with them. So the same is done
with half a decade, one and a half and two hidden, and where hidden runs missed their intervals, those of losses beyond the sweep
are widened by what the runs needed at the cut where that was most, each law's by its own, the pooled ones by the pooled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.laws.forms import FloatArray, form_of
from farfield.curves.laws.law import Allocation, ScalingLaw
from farfield.errors import InputError
from farfield.predictive import Samples
from farfield.seeds import Seed, child, root

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

TOLERANCE = 0.02
# a law is pooled while twice the rise of its cost, in robust units, stays below this ("very strong" for a Bayes factor is 10)
_DECISIVE = 10.0
# what the largest run is divided by to cut the sweep; the first is the backtest that is shown, the others only widen
_CUTS = (10.0, 10**0.5, 10**1.5, 100.0)


@dataclass(frozen=True)
class ScaleBacktest:
    """How the pooled laws did on runs above `cut` FLOPs, hidden from them.

    Attributes
    ----------
    cut : the largest compute seen; rows : one mapping a hidden run, by rising compute
    error : mean relative error; by_law : the same for each law; level, covered : of the intervals for logged losses
    horizon : largest reach up to which the mean error stays within `TOLERANCE`; 1 where it never does
    widening : what the intervals (of log loss, about the median) are multiplied by for `level` of the hidden runs to lie inside,
        the largest of `cuts`, >= 1; widening_by_law : the same for each law
    cuts : how far below the largest run the sweep was cut, as ratios of compute
    """

    cut: float
    rows: tuple[dict[str, float], ...]
    error: float
    by_law: dict[str, float]
    level: float
    covered: float
    horizon: float
    widening: float
    widening_by_law: dict[str, float]
    cuts: tuple[float, ...]

    def summary(self) -> str:
        """One line."""
        share = f"{100 * self.covered:.0f} % inside the {100 * self.level:g} % intervals"
        return (
            f"backtest: {len(self.rows)} runs above {self.cut:.3g} FLOPs hidden, mean error {100 * self.error:.2g} %, {share}, "
            f"supported up to {self.horizon:.3g}x the seen compute"
        )


@dataclass(frozen=True)
class Scaling:
    """Laws fitted to one sweep, side by side.

    Attributes
    ----------
    laws, pooled : the fitted laws, best first, and whether each takes part in what they say together
    x, loss : the runs, by column name, and (n,) losses; flops : (n,) compute
    flops_per : FLOPs per parameter and token
    level : of all intervals
    targets : rows for tables: target, law (or ``pooled``), params, tokens, loss with intervals, reach
    backtest : None where the sweep is too small for one
    warnings : what a reader must know
    """

    laws: tuple[ScalingLaw, ...]
    pooled: tuple[bool, ...]
    x: dict[str, FloatArray]
    loss: FloatArray
    flops: FloatArray
    flops_per: float
    level: float
    targets: tuple[dict[str, Any], ...]
    backtest: ScaleBacktest | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Scaling({self.loss.size} runs, laws {', '.join(law.form for law in self.laws)}, {len(self.warnings)} warnings)"

    def predict(self, columns: Mapping[str, ArrayLike], *, target: str = "latent") -> Samples:
        """Pooled distribution of the loss at points given by column, (n,) each."""
        kept = [law for law, keep in zip(self.laws, self.pooled, strict=True) if keep]
        draws = [law.predict(_table(columns, law), target=target).values for law in kept]  # type: ignore[arg-type]
        return Samples(np.concatenate(draws))

    def interval(self, columns: Mapping[str, ArrayLike], *, target: str = "latent") -> tuple[FloatArray, FloatArray]:
        """(low, high) of the loss at `level`, pooled; widened, as targets are, where the compute lies beyond the sweep's."""
        found = self.predict(columns, target=target)
        (low, high), middle = found.interval(self.level), found.median()
        compute = self.flops_per * np.asarray(columns["params"], dtype=np.float64) * np.asarray(columns["tokens"], dtype=np.float64)
        widening = np.where(compute > self.flops.max(), self.backtest.widening if self.backtest else 1.0, 1.0)
        return middle * (low / middle) ** widening, middle * (high / middle) ** widening

    def influential(self, k: int = 5) -> list[dict[str, float]]:
        """The k runs that move the best law most when left out."""
        effect = self.laws[0].influence()
        names = [*self.x, "loss"]
        values = [*self.x.values(), self.loss]
        rows = effect.largest(k)
        return [{n: float(v[i]) for n, v in zip(names, values, strict=True)} | {"shift_se": float(effect.shift[i])} for i in rows]

    def parameters(self) -> list[dict[str, Any]]:
        """One row a parameter of every law: value, interval, whether it is identified."""
        return [
            {
                "law": law.form,
                "pooled": keep,
                "parameter": name,
                **row,
                "identified": name not in law.identifiability_.not_identified,
            }
            for law, keep in zip(self.laws, self.pooled, strict=True)
            for name, row in law.to_dict(self.level)["parameters"].items()
        ]

    def to_frame(self) -> pl.DataFrame:
        """The targets, one row a target and law."""
        import polars as pl

        return pl.DataFrame(list(self.targets), infer_schema_length=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        b = self.backtest
        return {
            "runs": int(self.loss.size),
            "flops_max": float(self.flops.max()),
            "flops_per": self.flops_per,
            "level": self.level,
            "parameters": self.parameters(),
            "targets": [dict(row) for row in self.targets],
            "influential": self.influential(),
            "backtest": None
            if b is None
            else {**{k: v for k, v in vars(b).items() if k != "rows"}, "rows": [dict(r) for r in b.rows]},
            "warnings": list(self.warnings),
        }

    def summary(self) -> str:
        """The laws, the backtest and the warnings, a line each."""
        lines = [
            law.summary() + ("" if keep else " (not pooled: fits decisively worse)")
            for law, keep in zip(self.laws, self.pooled, strict=True)
        ]
        lines.append(self.backtest.summary() if self.backtest else "backtest: none")
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Lines of equal loss over compute and size, the runs, and the compute-optimal size with its interval."""
        from farfield.curves.laws.plot import plot_scaling

        return plot_scaling(self, ax)


def scaling(
    columns: Mapping[str, ArrayLike],
    loss: ArrayLike,
    *,
    targets: Sequence[Mapping[str, float]] = (),
    laws: Sequence[str] = ("chinchilla", "kaplan"),
    groups: ArrayLike | None = None,
    flops: ArrayLike | None = None,
    level: float = 0.9,
    n_boot: int = 1000,
    rng: Seed = 0,
) -> Scaling:
    """Fit laws to a sweep of finished runs, say what lies beyond, and test it by hiding the top decade of compute.

    Parameters
    ----------
    columns : (n,) values above 0 by name: params, tokens, and what else a law names (unique_tokens, bits)
    loss : (n,) losses above 0
    targets : what is asked: ``{"flops": C}`` for the compute-optimal run of a budget, ``{"params": N, "tokens": D}`` for one run,
        with the further columns of the laws
    laws : names of `farfield.curves.laws.LAWS`
    groups : (n,) labels of runs that are not independent
    flops : (n,) training compute; default 6 params tokens. The median of flops / (params tokens) is what budgets are split by
    level, n_boot, rng : of intervals, refits a law, seed

    Raises InputError as `ScalingLaw.fit` does, and for targets that name unknown or too few columns.
    """
    checks.level("level", level)
    checks.count("n_boot", n_boot, least=10)
    x = {name: checks.finite(name, values, ndim=1) for name, values in columns.items()}
    y = checks.finite("loss", loss, ndim=1)
    for name in ("params", "tokens"):
        if name not in x:
            raise InputError(f"columns holds {', '.join(x) or 'nothing'}; params and tokens are needed")
    if any(v.shape != y.shape for v in x.values()):
        raise InputError(f"columns and loss differ in length: {[v.size for v in x.values()]} and {y.size}")
    said: list[str] = []
    compute, per = _compute(x, None if flops is None else checks.finite("flops", flops, shape=(y.size,)), said)
    seed = root(rng)
    fitted, kept, told = _fit(x, y, laws, groups, n_boot, seed)
    said += told
    backtest = _backtest(x, y, compute, laws, groups, level, min(n_boot, 200), seed, said)
    found = Scaling(fitted, kept, x, y, compute, per, level, (), backtest, ())
    rows = [row for target in targets for row in _answer(found, dict(target), said)]
    return Scaling(fitted, kept, x, y, compute, per, level, tuple(rows), backtest, tuple(dict.fromkeys(said)))


def _compute(x: dict[str, FloatArray], flops: FloatArray | None, said: list[str]) -> tuple[FloatArray, float]:
    product = x["params"] * x["tokens"]
    if flops is None:
        return 6.0 * product, 6.0
    if (flops <= 0).any():
        raise InputError(f"flops is {flops.min():g} in row {int(flops.argmin())}; allowed: numbers above 0")
    ratio = flops / product
    per = float(np.median(ratio))
    low, high = np.quantile(ratio, [0.05, 0.95])
    if high > 1.1 * low:
        said.append(
            f"flops / (params tokens) runs from {low:.3g} to {high:.3g} over the sweep; budgets are split by its median {per:.3g}"
        )
    if not 4 <= per <= 12:
        said.append(f"flops / (params tokens) is {per:.3g} where training costs about 6: is the column the cost of a whole run?")
    return flops, per


def _table(columns: Mapping[str, ArrayLike], law: ScalingLaw) -> FloatArray:
    names = form_of(law.form).columns
    missing = [n for n in names if n not in columns]
    if missing:
        raise InputError(f"the {law.form} law needs {', '.join(missing)}; got {', '.join(columns)}")
    return np.stack([np.atleast_1d(np.asarray(columns[n], dtype=np.float64)) for n in names], axis=1)


def _fit(
    x: dict[str, FloatArray],
    y: FloatArray,
    laws: Sequence[str],
    groups: ArrayLike | None,
    n_boot: int,
    seed: np.random.SeedSequence,
) -> tuple[tuple[ScalingLaw, ...], tuple[bool, ...], list[str]]:
    """The laws, best first, whether each is pooled, and what the fits of those that are have to say."""
    if not laws:
        raise InputError("no law named; give one or more, such as ('chinchilla', 'kaplan')")
    fitted: list[tuple[ScalingLaw, list[str]]] = []
    for i, name in enumerate(dict.fromkeys(laws)):
        law = ScalingLaw(name, n_boot=n_boot, random_state=child(seed, i))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            law.fit(_table(x, law), y, groups)
        fitted.append((law, [str(w.message) for w in caught]))
    fitted.sort(key=lambda pair: pair[0].cost_)
    unit = fitted[0][0].cost_unit()
    # a law with more parameters pays for them as the Bayesian information criterion has it
    score = [2 * law.cost_ / unit + law.theta_.size * float(np.log(y.size)) for law, _ in fitted]
    kept = tuple(s - min(score) <= _DECISIVE for s in score)
    told = [line for (_, lines), keep in zip(fitted, kept, strict=True) if keep for line in lines]
    return tuple(law for law, _ in fitted), kept, told


def _backtest(
    x: dict[str, FloatArray],
    y: FloatArray,
    compute: FloatArray,
    laws: Sequence[str],
    groups: ArrayLike | None,
    level: float,
    n_boot: int,
    seed: np.random.SeedSequence,
    said: list[str],
) -> ScaleBacktest | None:
    least = 2 + max(len(form_of(name).parameters) for name in laws)
    everything = np.stack(list(x.values()), axis=1)

    def cut(ratio: float) -> NDArray[np.bool_]:
        return np.asarray(compute <= compute.max() / ratio)

    def settings(seen: NDArray[np.bool_]) -> int:
        return len(np.unique(everything[seen], axis=0))

    def refit(seen: NDArray[np.bool_], n_boot: int) -> tuple[Scaling, list[str]]:
        part = {name: values[seen] for name, values in x.items()}
        names = None if groups is None else np.asarray(groups)[seen]
        fitted, kept, told = _fit(part, y[seen], laws, names, n_boot, seed)
        return Scaling(fitted, kept, part, y[seen], compute[seen], 6.0, level, (), None, ()), told

    seen = cut(_CUTS[0])
    if settings(seen) < least:
        said.append(
            f"no backtest: {settings(seen)} settings lie a decade below the largest run, and {least} are needed; no horizon is "
            "supported"
        )
        return None
    found, told = refit(seen, n_boot)
    said += [f"in the backtest: {line}" for line in told]
    top = float(compute[seen].max())
    order = np.flatnonzero(~seen)[np.argsort(compute[~seen], kind="stable")]
    far = {name: values[order] for name, values in x.items()}
    pooled = found.predict(far, target="logged")
    (low, high), middle = pooled.interval(level), pooled.median()
    error = np.abs(middle / y[order] - 1)
    running = np.cumsum(error) / np.arange(1, error.size + 1)
    reach = compute[order] / top
    within = np.flatnonzero(running <= TOLERANCE)
    rows = [
        {"params": p, "tokens": d, "flops": c, "reach": r, "loss": a, "predicted": m, "low": lo, "high": hi}
        for p, d, c, r, a, m, lo, hi in zip(
            far["params"].tolist(), far["tokens"].tolist(), compute[order].tolist(), reach.tolist(), y[order].tolist(),
            middle.tolist(), low.tolist(), high.tolist(), strict=True,
        )
    ]  # fmt: skip
    by_law = {law.form: float(np.abs(law.expected(_table(far, law)) / y[order] - 1).mean()) for law in found.laws}
    covered = float(((low <= y[order]) & (y[order] <= high)).mean())
    horizon = float(reach[within[-1]]) if within.size else 1.0
    cuts = [ratio for ratio in _CUTS if settings(cut(ratio)) >= least]
    widening, by = 1.0, dict.fromkeys((law.form for law in found.laws), 1.0)
    for ratio in cuts:
        before = cut(ratio)
        other = found if ratio == _CUTS[0] else refit(before, min(n_boot, 100))[0]
        hidden = {name: values[~before] for name, values in x.items()}
        widening = max(widening, _needed(other.predict(hidden, target="logged"), y[~before], level))
        for law in other.laws:
            by[law.form] = max(by[law.form], _needed(law.predict(_table(hidden, law), target="logged"), y[~before], level))
    if widening > 1:
        said.append(
            f"loss intervals beyond the sweep are widened {widening:.2g}x (pooled): at the worst of {len(cuts)} cuts, the hidden "
            f"runs needed that to lie inside their {100 * level:g} % intervals"
        )
    return ScaleBacktest(top, tuple(rows), float(error.mean()), by_law, level, covered, horizon, widening, by, tuple(cuts))


def _needed(predicted: Samples, y: FloatArray, level: float) -> float:
    """What intervals of log loss about the median are multiplied by for a share `level` of the runs, of one more, to lie inside."""
    (low, high), middle = predicted.interval(level), predicted.median()
    side = np.where(y < middle, middle / low, high / middle)
    needed = np.sort(np.abs(np.log(y / middle)) / np.maximum(np.log(side), 1e-12))
    return float(needed[min(int(np.ceil(level * (y.size + 1))), y.size) - 1])


def _answer(found: Scaling, target: dict[str, float], said: list[str]) -> list[dict[str, Any]]:
    """Rows of one target: each law, then all that are pooled."""
    known = {"flops", *(c for law in found.laws for c in form_of(law.form).columns)}
    for name in target:
        if name not in known:
            raise InputError(f"target names {name!r}; allowed: {', '.join(sorted(known))}")
        checks.positive(f"target {name}", target[name])
    label = ", ".join(f"{name}={value:g}" for name, value in target.items())
    split = "flops" in target
    if split and ("params" in target or "tokens" in target):
        raise InputError(f"target {label}: allowed: flops to split, or params and tokens of one run, not both")
    rows: list[dict[str, Any]] = []
    draws: list[NDArray[np.float64]] = []
    compute = target["flops"] if split else found.flops_per * target.get("params", np.nan) * target.get("tokens", np.nan)
    reach = compute / float(found.flops.max())
    for law, keep in zip(found.laws, found.pooled, strict=True):
        if split:
            extra = {c: target[c] for c in form_of(law.form).columns[2:] if c in target}
            if not law.identifiability_.split:
                said.append(f"{law.form}: no split for {label}: {law.identifiability_.reason}")
                continue
            best: Allocation = law.minimise(compute, flops_per=found.flops_per, **extra)
            point, values = [best.params, best.tokens, best.loss], best.draws.values
        else:
            at = _table({k: np.array([v]) for k, v in target.items()}, law)
            losses = law.predict(at).values[:, 0]
            point = [target["params"], target["tokens"], float(law.expected(at)[0])]
            values = np.column_stack([np.full(losses.size, point[0]), np.full(losses.size, point[1]), losses])
        widening = found.backtest.widening_by_law[law.form] if found.backtest and reach > 1 else 1.0
        rows.append(_row(label, law.form, reach, point, values, found.level, widening))
        if keep:
            draws.append(values)
    if draws:
        together = np.concatenate(draws)
        widening = found.backtest.widening if found.backtest and reach > 1 else 1.0
        rows.append(_row(label, "pooled", reach, np.median(together, axis=0).tolist(), together, found.level, widening))
    if reach <= 1:
        said.append(f"{label} lies inside the seen range of compute (up to {found.flops.max():.3g}): this is interpolation")
    else:
        horizon = found.backtest.horizon if found.backtest else 1.0
        if reach > horizon:
            said.append(
                f"{label} is {reach:.3g}x the largest seen compute; hidden runs support {horizon:.3g}x, so neither the loss "
                "nor its interval is backed by evidence there"
            )
    return rows


def _row(
    label: str, law: str, reach: float, point: list[float], draws: FloatArray, level: float, widening: float
) -> dict[str, Any]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    out: dict[str, Any] = {"target": label, "law": law, "reach": float(reach)}
    for j, name in enumerate(("params", "tokens", "loss")):
        out |= {name: float(point[j]), f"{name}_low": float(low[j]), f"{name}_high": float(high[j])}
    for end in ("loss_low", "loss_high"):
        out[end] = out["loss"] * (out[end] / out["loss"]) ** widening
    return out
