"""The deployed case: a model, the rows it was fitted on, and new rows without labels. How far out are they, what error to expect?

Without labels an error can only be foretold from what the learner did elsewhere at the same reach. So the far end of the seen
rows is hidden, the end on the side where the new rows lie: the learner is fitted on the core, and its losses on the hidden shell
are kept with the reach of the rows there from the core, in the same unit as the reach of the new rows. Shells are a tenth, a fifth
and three tenths of the rows; for what lies inside there is five-fold cross-validation. The mean loss in a bin of reach is the error
to expect of new rows of that reach. Past the reach that the hidden rows attained there is nothing to go by: such a row is
*unsupported*, and gets no figure.

The intervals hold what is by chance in that: fits and hidden rows are both drawn with replacement, for errors beyond the misfit is
added by which the losses of each shell differ from what the other fits foretell at the same reach, and for the mean over the new
rows the scatter of as many single losses.

What this cannot see: a change of what the target does with the inputs, a function that bends more beyond than it did within, and
errors that hang on other things than reach. It is about the learner, refitted on fewer rows than it has in the end.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.gap.models import answer, copied, fit, name_of
from farfield.gap.reach import Cloud, Embed, shells
from farfield.gap.result import Estimate
from farfield.gap.scores import SCORES, Score, Seen, get_score
from farfield.gap.targets import target_of
from farfield.intervals import resample_counts, wilson
from farfield.seeds import Seed, generator
from farfield.splits.rows import FloatArray, IntArray, n_rows, take_rows

if TYPE_CHECKING:
    import polars as pl

Status = Literal["inside", "beyond", "unsupported"]
SHARES = (0.1, 0.2, 0.3)
FOLDS = 5
LEAST = 20  # hidden rows that a bin of reach needs, and that must lie at or past the horizon
MOST_BINS = 5


class ReachBin(NamedTuple):
    """Reach from `low` to `high`: the error of `n` hidden rows there, with its interval, and how many new rows fall into it."""

    low: float
    high: float
    n: int
    expected: float
    expected_low: float
    expected_high: float
    n_new: int


@dataclass(frozen=True, repr=False)
class GapCheck:
    """What :func:`gap_check` found.

    `reach` (n_new,), `status` (n_new,) ``inside``, ``beyond`` or ``unsupported``; `bin` (n_new,) index into `bins` or -1; `answers`
    the model's predictions; `outside` what lies outside the seen range. `horizon` is the largest backtested reach. `expected` is
    the mean error to expect over the rows that are supported, None where none is; `beyond_share` the share beyond, unsupported
    rows included.
    """

    model: str
    scoring: Score
    level: float
    n_seen: int
    edge: float
    reach: FloatArray
    status: tuple[Status, ...]
    bin: IntArray
    bins: tuple[ReachBin, ...]
    horizon: float
    expected: Estimate | None
    beyond_share: Estimate
    answers: NDArray[Any] | None
    outside: tuple[str, ...]
    warnings: tuple[str, ...]
    new: Any = field(compare=False, default=None)

    def __repr__(self) -> str:
        return (
            f"GapCheck({self.model}: {self.n('beyond')} beyond, {self.n('unsupported')} unsupported, of {self.reach.size} new rows)"
        )

    def n(self, status: Status) -> int:
        """How many new rows have that status."""
        return self.status.count(status)

    @property
    def unsupported_share(self) -> float:
        """Share of the new rows for which no error can be foretold."""
        return self.n("unsupported") / self.reach.size

    def summary(self) -> str:
        """The answer in a few lines."""
        total, share = self.reach.size, self.beyond_share
        ends = f"{100 * share.value:.3g} % [{100 * share.low:.3g}, {100 * share.high:.3g}]"
        alike = f"of rows like those seen it would be {100 * (1 - self.edge):.3g} %"
        lines = [f"{round(share.value * total)} of {total} new rows ({ends}) lie beyond; {alike}"]
        label = self.scoring.label
        if self.expected is None:
            lines.append(f"expected {label}: unsupported for every row")
        else:
            lines.append(f"expected {label} of the {self.expected.n} supported rows: {self.expected}")
        if self.n("unsupported"):
            lines.append(f"unsupported: {self.n('unsupported')} rows; the backtest goes to reach {self.horizon:.3g}")
        return "\n".join(lines)

    def to_frame(self) -> pl.DataFrame:
        """One row a new row: row, reach, status, prediction, expected, expected_low, expected_high, outside."""
        import polars as pl

        known = self.bin >= 0
        columns: dict[str, Any] = {"row": np.arange(self.reach.size), "reach": self.reach, "status": list(self.status)}
        if self.answers is not None:
            columns["prediction"] = self.answers
        for name in ("expected", "expected_low", "expected_high"):
            values = np.array([getattr(b, name) for b in self.bins] + [np.nan])
            columns[name] = pl.Series(values[np.where(known, self.bin, -1)], dtype=pl.Float64).fill_nan(None)
        columns["outside"] = list(self.outside)
        return pl.DataFrame(columns)

    def to_bins(self) -> pl.DataFrame:
        """One row a bin of reach: reach_low, reach_high, n_new, expected, low, high, n_hidden."""
        import polars as pl

        names = ("reach_low", "reach_high", "n_new", "expected", "expected_low", "expected_high", "n_hidden")
        rows = [(b.low, b.high, b.n_new, b.expected, b.expected_low, b.expected_high, b.n) for b in self.bins]
        return pl.DataFrame(rows, schema=list(names), orient="row")

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the schema is in docs/gap.md."""
        return {
            "model": self.model, "scoring": self.scoring.name, "label": self.scoring.label, "level": self.level,
            "n_seen": self.n_seen, "n_new": self.reach.size, "n_inside": self.n("inside"), "n_beyond": self.n("beyond"),
            "n_unsupported": self.n("unsupported"), "beyond_share": self.beyond_share._asdict(), "horizon": self.horizon,
            "expected": None if self.expected is None else self.expected._asdict(), "bins": self.to_bins().to_dicts(),
            "warnings": list(self.warnings), "rows": self.to_frame().to_dicts(),
        }  # fmt: skip


def gap_check(
    model: Any,
    X: Any,
    y: ArrayLike,
    new: Any,
    *,
    scoring: str | Score = "neg_mean_absolute_error",
    k: int = 5,
    edge: float = 0.95,
    embed: Embed | None = None,
    columns: Sequence[str] | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    name: str | None = None,
    rng: Seed = 0,
) -> GapCheck:
    """How far new rows lie from those seen, and the error to expect of them, as far as a backtest supports one.

    Parameters
    ----------
    model : anything with ``predict``. With ``fit`` it is copied for the backtest; where it is not fitted yet, a copy fitted on all
        of X predicts. Without ``fit`` no backtest can be had, and every row is unsupported
    X, y : the rows the model was fitted on (array or data frame) and their targets (n,)
    new : rows without targets, with the columns of X
    scoring : a score that is a mean over rows, higher or lower better
    k, edge, embed, columns : what reach is measured by, see :class:`farfield.gap.reach.Cloud`
    level, n_boot, rng : of the intervals, which resample the hidden rows

    Raises
    ------
    InputError : other columns, too few rows, a score that is no mean over rows, a model that fails or predicts NaN
    """
    checks.level("level", level)
    checks.count("n_boot", n_boot, least=100)
    score = get_score(scoring)
    if score.rows is None:
        raise InputError(f"{score.label} is no mean over rows, so no error can be foretold of single rows; use another score")
    n, n_new = n_rows(X), n_rows(new)
    if n_new == 0:
        raise InputError("there are no new rows")
    target = target_of(y, n, score)
    label = name or name_of(model)
    if not hasattr(model, "predict"):
        raise InputError(f"the model is a {type(model).__name__}, which has no predict")
    generate = generator(rng)
    cloud = Cloud(X, k=k, edge=edge, embed=embed, columns=columns)
    reach, notes = cloud.reach(new), []
    beyond = reach > 1
    everything = np.arange(n_new)
    used = model
    if hasattr(model, "fit") and not _is_fitted(model):
        used, _ = fit(model, X, target, np.arange(n), score, repr(label))
    answers = answer(used, new, everything, score if score.needs == "predict" else SCORES["accuracy"], f"{label!r}, new rows")
    bins: tuple[ReachBin, ...] = ()
    place = np.full(n_new, -1, dtype=np.int64)
    horizon, expected = 0.0, None
    if hasattr(model, "fit"):
        out = np.flatnonzero(beyond & np.isfinite(reach))
        order = cloud.order(take_rows(new, out) if out.size else None)
        tests = _backtest(model, X, target, score, cloud, order, label, generate)
        bins, place, horizon, expected = _expected(tests, reach, score, level, n_boot, generate)
    else:
        notes.append("the model has no fit, so nothing can be hidden from it: no error can be foretold")
    status: tuple[Status, ...] = tuple(
        "unsupported" if b < 0 else "beyond" if far else "inside" for b, far in zip(place, beyond, strict=True)
    )
    unseen = int(np.isinf(reach).sum())
    if unseen:
        notes.append(f"{unseen} new rows hold a word that was not seen; no distance measures that, so they are unsupported")
    hits = int(beyond.sum())
    low, high = (float(v) for v in wilson(hits, n_new, level))
    share = Estimate(hits / n_new, low, high, n_new, float(np.sqrt(hits / n_new * (1 - hits / n_new) / n_new)))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return GapCheck(
        label, score, level, n, edge, reach, status, place, bins, horizon, expected, share,
        answers if answers.ndim == 1 else None, tuple(cloud.outside(new)), tuple(notes), new,
    )  # fmt: skip


def _is_fitted(model: Any) -> bool:
    if "sklearn" in sys.modules and hasattr(model, "get_params"):
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(model)
        except NotFittedError:
            return False
        except TypeError:  # not an estimator of scikit-learn's
            pass
        else:
            return True
    return any(key.endswith("_") and not key.startswith("_") for key in vars(model)) if hasattr(model, "__dict__") else False


class _Hidden(NamedTuple):
    """What one fit of the backtest lost on the rows hidden from it; `shell`: the far end, or else a fold."""

    rows: IntArray
    reach: FloatArray
    loss: FloatArray
    shell: bool


def _backtest(
    model: Any, X: Any, y: NDArray[Any], score: Score, cloud: Cloud, order: FloatArray, label: str, rng: np.random.Generator
) -> list[_Hidden]:
    n = y.shape[0]
    fold = rng.permutation(np.arange(n) * FOLDS // n)
    parts = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]
    parts += shells(order, SHARES)
    whole = Seen(float(y.mean()), float(y.var()), np.empty(0)) if score.numeric else None
    out = []
    for i, (core, hidden) in enumerate(parts):
        if not score.numeric and np.unique(y[core]).size < 2:
            continue
        where = f"{label!r}, {'cross-validation' if i < FOLDS else 'backtest'}"
        fitted, seen = fit(copied(model), X, y, core, score, where)
        answers = answer(fitted, X, hidden, score, where)
        assert score.rows is not None
        losses = score.rows(y[hidden], answers, seen if whole is None else whole)
        out.append(_Hidden(hidden, cloud.between(hidden, core), losses, i >= FOLDS))
    if not out:
        raise InputError("every part of the backtest leaves one class to be seen")
    return out


def _expected(
    tests: list[_Hidden], reach: FloatArray, score: Score, level: float, n_boot: int, rng: np.random.Generator
) -> tuple[tuple[ReachBin, ...], IntArray, float, Estimate | None]:
    """The bins of reach, the bin of each new row (-1: unsupported), the horizon, and the mean over the supported rows."""
    finish: Callable[[Any], Any] = score.finish or (lambda v: v)
    at = np.concatenate([t.reach for t in tests])
    out = np.sort(at[np.isfinite(at) & (at > 1)])
    horizon = float(out[-LEAST]) if out.size >= LEAST else 1.0
    n_bins = min(MOST_BINS, out.size // LEAST)
    edges = np.unique(np.r_[0.0, 1.0, np.quantile(out, np.linspace(0, 1, n_bins + 1))[1:-1] if n_bins else [], np.inf])
    if not n_bins:
        edges = np.array([0.0, 1.0])
    count = edges.size - 1
    sums = _sums_by_bin(tests, edges, bool(n_bins))
    n_hidden = (sums[:, :, 1] > 0).any(axis=0).sum(axis=0)
    total = sums.sum(axis=(0, 1))
    value = total[0] / total[1]
    is_shell = np.array([t.shell for t in tests])
    draws = _double_bootstrap(sums, is_shell, n_boot, rng)
    draws[:, 1:] += _misfit(sums, is_shell) * rng.standard_t(len(SHARES), size=(n_boot, 1))
    losses = np.concatenate([t.loss for t in tests])
    least = 0.0 if (losses >= 0).all() else -np.inf
    draws = np.maximum(draws, least)
    place = np.where(reach <= horizon, np.searchsorted(edges[1:-1], reach, side="left"), -1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = np.nanquantile(finish(draws), tails, axis=0)
    new = np.bincount(place[place >= 0], minlength=count)
    bins = tuple(
        ReachBin(float(edges[b]), min(float(edges[b + 1]), horizon), int(n_hidden[b]), float(finish(value[b])), float(ends[0, b]),
                 float(ends[1, b]), int(new[b]))
        for b in range(count)
    )  # fmt: skip
    if not new.sum():
        return bins, place, horizon, None
    share = new / new.sum()
    used = share > 0
    # what is foretold is the mean over these new rows, whose own losses scatter about the mean of their bin
    which = np.searchsorted(edges[1:-1], at, side="left")
    spread = np.array([losses[np.isfinite(at) & (which == b)].std() if used[b] else 0.0 for b in range(count)])
    scatter = float(np.sqrt((spread**2 * new).sum()) / new.sum())
    mean = finish(np.maximum(draws[:, used] @ share[used] + scatter * rng.normal(size=n_boot), least))
    low, high = (float(v) for v in np.nanquantile(mean, tails))
    overall = Estimate(float(finish(value[used] @ share[used])), low, high, int(new.sum()), float(np.nanstd(mean, ddof=1)))
    return bins, place, horizon, overall


def _misfit(sums: FloatArray, shell: NDArray[np.bool_]) -> float:
    """How far the losses beyond of each shell are from what the other fits' losses at the same reach foretell.

    The root of the mean square over the shells, less what the shells' own rows make by chance; 0 where none can be foretold.
    """
    found = []
    for i in np.flatnonzero(shell):
        others = np.delete(sums, i, axis=0).sum(axis=(0, 1))[:, 1:]
        loss, number = sums[i, :, 0, 1:], sums[i, :, 1, 1:]
        known = (others[1] > 0) & (number.sum(axis=0) > 0)
        if not known.any():
            continue
        away = (loss - number * others[0] / np.maximum(others[1], 1.0))[:, known].sum(axis=1)
        n = number[:, known].sum()
        found.append(away.sum() ** 2 / n**2 - ((away[number[:, known].any(axis=1)] - away.sum() / n) ** 2).sum() / n**2)
    return float(np.sqrt(max(np.mean(found), 0.0))) if found else 0.0


def _sums_by_bin(tests: list[_Hidden], edges: FloatArray, beyond: bool) -> FloatArray:
    """(n_tests, n_rows, 2, n_bins) sum and number of each row's losses in each bin."""
    n = max(int(t.rows.max()) for t in tests) + 1
    sums = np.zeros((len(tests), n, 2, edges.size - 1))
    for i, t in enumerate(tests):
        which = np.searchsorted(edges[1:-1], t.reach, side="left")
        kept = np.isfinite(t.reach) & ((t.reach <= 1) | beyond)
        np.add.at(sums[i, :, 0], (t.rows[kept], which[kept]), t.loss[kept])
        np.add.at(sums[i, :, 1], (t.rows[kept], which[kept]), 1.0)
    return sums


def _double_bootstrap(sums: FloatArray, shell: NDArray[np.bool_], n_boot: int, rng: np.random.Generator) -> FloatArray:
    """(n_boot, n_bins) mean loss of each bin when fits, the folds' and the shells' apart, and rows are drawn with replacement."""
    n_tests, n, _, n_bins = sums.shape
    flat = sums.transpose(1, 0, 2, 3).reshape(n, -1)
    some = np.flatnonzero(flat.any(axis=1))
    by_row = np.concatenate([counts @ flat[some] for counts in resample_counts(some.size, n_boot, rng)])
    weights = np.zeros((n_boot, n_tests))
    for kind in (~shell, shell):
        here = np.flatnonzero(kind)
        if here.size:
            weights[:, here] = np.concatenate(list(resample_counts(here.size, n_boot, rng)))
    total = np.einsum("bt,btkc->bkc", weights, by_row.reshape(n_boot, n_tests, 2, n_bins))
    return np.asarray(total[:, 0] / np.where(total[:, 1] > 0, total[:, 1], np.nan))
