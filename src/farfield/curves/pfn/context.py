"""Learning curves in the context of other runs: a second network on top of the first, in the manner of FT-PFN (2404.16795).

The first network reads a run by itself. The second one reads what it answered to questions whose answers are known, from other runs
and from the run's own beginning (:mod:`questions`), and moves, widens or narrows its answer. It was trained on sweeps drawn from
`farfield.curves.priors.SweepPrior`, on top of the network `wide`, which stays as it is. Where ten or more other runs know the
answer to the question, or to the one before, each of them is forecast from the rest, and intervals are widened until they hold
there. Which runs are context is the caller's choice; of runs with groups, only those of the same group are used, where there are
four or more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.curves.data import Curves
from farfield.curves.normalised import Normalised
from farfield.curves.normalize import Normaliser, from_seen
from farfield.curves.pfn.architecture import FloatArray, IntArray
from farfield.curves.pfn.context_answers import Answers
from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.context_engine import ContextEngine
from farfield.curves.pfn.model import LCPFN, shift_of
from farfield.curves.pfn.questions import Asked, Places, Runs, announce, ask, places
from farfield.curves.pfn.stored import WEIGHTS, file_of, read_about, read_network
from farfield.curves.priors.sweeps import MOST_SETTINGS
from farfield.curves.rescored import Rescored, normal_scores
from farfield.errors import FormatError, InputError
from farfield.predictive import Mixture

CONTEXT_MODELS = ("context",)
# asked runs at a time, and so many times that before the first network is asked
_CHUNK = 32
_BLOCK = 128
# questions times other runs up to which all of them are asked ahead
_MOST_AHEAD = 20_000
# settings of an asked run are read as at most so many deviations from those of the context
_FARTHEST = 4.0
# numbers above 0 that span more than this factor are read by their logarithm
_WIDE = 20.0
# a text-valued setting with more levels says nothing here
_MOST_LEVELS = 4
# with fewer runs of its group a run is read in the context of all
_LEAST_OF_GROUP = 4
# with so many known answers of other runs intervals are widened until, on these, they hold at this level; at most so much
_LEAST_KNOWN = 10
_LEVEL = 0.8
_MOST_SPREAD = 4.0
_BOUNDS = ("hard_low", "soft_low", "soft_high", "hard_high")


@dataclass(frozen=True, eq=False, repr=False)
class ContextPFN:
    """A trained context network and the network it stands on.

    Attributes
    ----------
    name : what it is called
    engine : the network
    first : the network that reads single runs
    card : what it was trained on and how it scores, as plain values
    most_runs : runs of context a question; of more, those nearest in settings and course
    """

    name: str
    engine: ContextEngine
    first: LCPFN
    card: Mapping[str, Any] = field(default_factory=dict)
    most_runs: int = 48

    @classmethod
    def load(cls, name: str | os.PathLike[str] = "context", *, double: bool = False) -> Self:
        """A context network that ships (`CONTEXT_MODELS`), or one that was trained and saved, by its path.

        double : compute in double precision; the first network stays in single, in which it answers the same in every batch

        Raises InputError for an unknown name, FormatError for a file that is not a context network of farfield's.
        """
        path = file_of(name, CONTEXT_MODELS, ContextArchitecture.kind)
        return cls._shipped(path, double) if path.parent == WEIGHTS else cls._read(path, double)

    @staticmethod
    def is_one(name: str | os.PathLike[str]) -> bool:
        """Whether `name` is a context network that ships, or a file of one."""
        if isinstance(name, str) and name in CONTEXT_MODELS:
            return True
        return "base" in (read_about(name) or {})

    @classmethod
    @cache
    def _shipped(cls, path: Path, double: bool) -> Self:
        return cls._read(path, double)

    @classmethod
    def _read(cls, path: Path, double: bool) -> Self:
        about, tensors = read_network(path, ContextArchitecture)
        if "base" not in about:
            raise FormatError(f"{path} does not name the network it stands on; allowed: a file of `farfield pfn train`")
        engine = ContextEngine.of(about.pop("architecture"), tensors, np.float64 if double else np.float32)
        return cls(about.pop("name"), engine, LCPFN.load(str(about["base"])), about)

    def __repr__(self) -> str:
        return f"ContextPFN({self.name!r}, {self.engine.arch.layers} layers of width {self.engine.arch.width}, on {self.first})"

    def forecast(self, curves: Curves, at: ArrayLike, others: Curves, answers: Answers | None = None) -> Normalised:
        """Posterior predictive of later points of runs in the units of their metric, (n_runs, n_at).

        Parameters
        ----------
        curves : the runs, each with what is seen of it
        at : (n_at,) or (n_runs, n_at), beyond each run's last x
        others : runs of the same metric as far as they are known, finished or not; a run's own namesake among them is left out
        answers : of `first`, kept from other calls

        A forecast depends on its own run and on `others`, not on the other runs of `curves`. Raises what `LCPFN.forecast` raises,
        and InputError where the goals differ.
        """
        if others.metric.goal != curves.metric.goal:
            raise InputError(f"the goals differ: {curves.metric.goal} and {others.metric.goal}; context is runs of one metric")
        asked = checks.finite("at", at)
        if asked.ndim == 1:
            asked = np.broadcast_to(asked, (len(curves), asked.size))
        if asked.ndim != 2 or len(asked) != len(curves) or not asked.shape[1]:
            raise InputError(f"at has shape {np.shape(at)}; allowed: (n_at,) or ({len(curves)}, n_at)")
        near = ~(asked > curves.last_x[:, None])
        if near.any():
            i = int(np.argmax(near.any(axis=1)))
            raise InputError(f"run {curves.runs[i]!r} is asked at {asked[i].min():g}; allowed: beyond {curves.last_x[i]:g}")
        known = others.take(others.lengths >= 2)
        base, scores = (
            tuple(np.empty((*asked.shape, k)) for _ in range(3)) for k in (self.engine.arch.mixture, self.engine.arch.components)
        )
        spread = np.ones(asked.shape)
        answers = Answers(self.first.engine) if answers is None else answers
        table = _Table.of(self.first, curves, answers)
        for rows, context in _by_group(curves, known):
            own, theirs = _settings(curves.take(rows), context)
            theirs_known, names = _Table.of(self.first, context, answers), [curves.runs[i] for i in rows]
            self._answer(table.take(rows), asked[rows] + table.shift[rows, None], own, theirs_known, theirs, context.runs, names,
                         rows, answers, (*base, *scores, spread))  # fmt: skip
        return Normalised.by_run(Rescored(Mixture(*base), Mixture(*scores), spread), table.normaliser)

    def announce(self, curves: Curves, at: FloatArray, others: Curves, answers: Answers) -> None:
        """Let `answers` know what forecasts of `curves` at `at` (n_runs, n_at), each from some of `others`, will ask."""
        known = others.take(others.lengths >= 2)
        own, context = (_Table.of(self.first, c, answers) for c in (curves, known))
        nowhere = np.zeros((len(known) + len(curves), MOST_SETTINGS))
        alike = _alike(own, at + own.shift[:, None])
        if len(known) * len(alike) > _MOST_AHEAD:
            return
        for asked, part in alike:
            runs = _Table.joined(context, own.take(part)).runs(nowhere[: len(known) + part.size])
            _Set(part, np.ones((part.size, len(known)), dtype=bool), runs, asked).announce(answers)

    def _answer(
        self, own: _Table, at: FloatArray, place: FloatArray, context: _Table, theirs: FloatArray, names: Sequence[str],
        asked_names: Sequence[str], rows: IntArray, answers: Answers, out: tuple[FloatArray, ...],
    ) -> None:  # fmt: skip
        """Mixtures of runs that share a context, and of their scores, into `out` at `rows`."""
        visible = np.array([[a != b for b in names] for a in asked_names], dtype=bool).reshape(len(asked_names), len(names))
        everyone = np.arange(len(names))
        many = everyone.size > self.most_runs
        step = 1 if many else _CHUNK
        parts = [(asked, same[i : i + step]) for asked, same in _alike(own, at) for i in range(0, same.size, step)]
        for start in range(0, len(parts), _BLOCK):
            sets = []
            for asked, part in parts[start : start + _BLOCK]:
                some = everyone
                if many:
                    some = nearest(own.take(part), context, place[part], theirs, visible[part[0]], self.most_runs)
                runs = _Table.joined(context.take(some), own.take(part)).runs(np.concatenate([theirs[some], place[part]]))
                sets.append(_Set(part, visible[part][:, some], runs, asked))
            for one in sets:
                one.announce(answers)
            for one in sets:
                for whole, values in zip(out, self._of_set(one, answers), strict=True):
                    whole[rows[one.part]] = values
            answers.forget()

    def _of_set(self, one: _Set, answers: Answers) -> tuple[FloatArray, ...]:
        """Mixtures, of runs and of their scores, and spreads of the asked runs of a set, (p, q, ...) each."""
        n, p = one.visible.shape[::-1]
        # the other runs are asked as well, each by all others, to see how that goes
        shown = np.zeros((n + p, n + p), dtype=bool)
        shown[:n, :n], shown[n:, :n] = ~np.eye(n, dtype=bool), one.visible
        everyone = np.arange(n + p, dtype=np.int64)
        question = ask(answers, one.runs, one.seen, one.c, one.x, everyone, shown, one.places)
        scores = self.engine(question)
        v = _second_scores(question, scores)[:, None, :n]
        known = np.isfinite(v).sum(axis=2) >= _LEAST_KNOWN
        if n >= _LEAST_KNOWN and not known.all():
            before = ask(answers, one.runs, one.seen, one.c**2 / one.x, one.c, everyone[:n], shown[:n])
            v = np.where(known[:, :, None], v, _second_scores(before, self.engine(before))[:, None])
        v = np.where(one.visible, v, np.nan)
        found = (question.weight, question.loc, question.scale, *scores)
        return *(np.moveaxis(values[:, n:], 0, 1) for values in found), _spread(v).T


class _Set:
    """Runs that are asked the same, with their context before them.

    part : which they are; visible : (p, n) which runs of the context each may use
    runs : n of context and p asked; asked : (1 + q,) up to where these are seen, and the positions
    """

    def __init__(self, part: IntArray, visible: NDArray[np.bool_], runs: Runs, asked: FloatArray) -> None:
        self.part, self.visible, self.runs = part, visible, runs
        self.x = asked[None, 1:]
        self.c = np.broadcast_to(asked[0], self.x.shape)
        self.seen = np.repeat(runs.count[:, :, None], self.x.shape[1], axis=2)
        self.places: Places = places(runs, self.seen, self.c, self.x)

    def announce(self, answers: Answers) -> None:
        """Let `answers` know what will be asked."""
        announce(answers, self.runs, self.places)
        n = self.visible.shape[1]
        if n >= _LEAST_KNOWN and (self.places.valid[0][:, :n].sum(axis=1) < _LEAST_KNOWN).any():
            announce(answers, self.runs, places(self.runs, self.seen, self.c**2 / self.x, self.c))


def _alike(own: _Table, at: FloatArray) -> list[tuple[FloatArray, IntArray]]:
    """Runs that are as far and are asked at the same places, which share their questions: last x and positions, and rows."""
    asked, code = np.unique(np.concatenate([own.last[:, None], at], axis=1), axis=0, return_inverse=True)
    return [(row, np.flatnonzero(code.ravel() == k)) for k, row in enumerate(asked)]


def _second_scores(asked: Asked, scores: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    """(B, p) Phi^-1 of the predicted probability below what came, NaN where that is not known."""
    g = normal_scores(asked.truth, asked.weight, asked.loc, asked.scale)
    return normal_scores(g, *scores)


def _spread(v: FloatArray) -> FloatArray:
    """(...) what makes 80 % intervals hold on held-out runs with scores v (..., n), NaN where unknown; 1 where few are known.

    The conformal quantile: of n scores the ceil(0.8 (n + 1))-th in size, over what it is where all is well.
    """
    count = np.isfinite(v).sum(axis=-1)
    size = np.sort(np.where(np.isfinite(v), np.abs(v), np.inf), axis=-1)
    rank = np.minimum(np.ceil(_LEVEL * (count + 1)).astype(np.int64), np.maximum(count, 1)) - 1
    found = (
        np.take_along_axis(size, np.minimum(rank, v.shape[-1] - 1)[..., None], axis=-1)[..., 0]
        if v.shape[-1]
        else np.ones(count.shape)
    )
    return np.where(count >= _LEAST_KNOWN, np.clip(found / special.ndtri(0.5 + _LEVEL / 2), 1.0, _MOST_SPREAD), 1.0)


@dataclass(frozen=True, eq=False)
class _Table:
    """Runs as padded arrays (n, m), beyond their end their last values; x is shifted above 0 by `shift`; `number` is theirs."""

    x: FloatArray
    y: FloatArray
    count: IntArray
    shift: FloatArray
    horizon: FloatArray
    number: IntArray
    normaliser: Normaliser

    @classmethod
    def of(cls, first: LCPFN, curves: Curves, answers: Answers) -> Self:
        runs = [first.thinned(curves.x[curves.points(i)], curves.y[curves.points(i)]) for i in range(len(curves))]
        count = np.array([x.size for x, _ in runs], dtype=np.int64)
        index = np.minimum(np.arange(int(count.max(initial=1))), count[:, None] - 1)
        x, y = (np.array([r[k][i] for r, i in zip(runs, index, strict=True)]).reshape(index.shape) for k in range(2))
        shift = np.array([shift_of(curves.x[curves.points(i)]) for i in range(len(curves))])
        planned = curves.column("planned_end").fill_null(np.nan).to_numpy() + shift
        normaliser = from_seen(y, curves.metric)
        number = answers.numbers(x + shift[:, None], normaliser.forward(y).clip(0.0, 1.0), count)
        return cls(x + shift[:, None], y, count, shift, planned, number, normaliser)

    @property
    def last(self) -> FloatArray:
        return self.x[:, -1]

    def take(self, index: IntArray) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def joined(cls, a: Self, b: Self) -> Self:
        m = max(a.x.shape[1], b.x.shape[1])
        x, y = (np.concatenate([_widened(getattr(t, k), m) for t in (a, b)]) for k in ("x", "y"))
        count, shift, horizon, number = (
            np.concatenate([getattr(a, k), getattr(b, k)]) for k in ("count", "shift", "horizon", "number")
        )
        one, two = a.normaliser, b.normaliser
        bounds = (np.concatenate([getattr(one, k), getattr(two, k)]) for k in _BOUNDS)
        return cls(x, y, count, shift, horizon, number, Normaliser(one.goal, *bounds))

    def runs(self, settings: FloatArray) -> Runs:
        """As one set."""
        z = self.normaliser.forward(self.y).clip(0.0, 1.0)
        return Runs(
            self.x[None], self.y[None], z[None], self.count[None], self.normaliser, settings[None], self.horizon[None],
            self.number[None],
        )  # fmt: skip


def _widened(values: FloatArray, m: int) -> FloatArray:
    return np.concatenate([values, np.repeat(values[:, -1:], m - values.shape[1], axis=1)], axis=1)


def nearest(own: _Table, context: _Table, place: FloatArray, places: FloatArray, visible: NDArray[np.bool_], most: int) -> IntArray:
    """Indices of the `most` runs of context nearest to one run: every other by its settings, the others by its course so far."""
    index = np.array([np.searchsorted(x[:k], own.x[0], side="right") - 1 for x, k in zip(context.x, context.count, strict=True)])
    there = (index >= 0) & (own.x[0] <= context.last[:, None])
    z = own.normaliser.forward(np.take_along_axis(context.y, np.maximum(index, 0), axis=1).reshape(1, -1)).reshape(index.shape)
    square = np.where(there, np.square(z.clip(-0.5, 1.5) - own.normaliser.forward(own.y).clip(0, 1)), 0.0).sum(axis=1)
    course = np.where(there.any(axis=1) & visible, square / np.maximum(there.sum(axis=1), 1), np.inf)
    gap = np.where(visible, np.square(places - place).sum(axis=1), np.inf)
    order = np.stack([np.argsort(gap, kind="stable"), np.argsort(course, kind="stable")], axis=1).ravel()
    if not (places != 0).any():
        order = np.argsort(course, kind="stable")
    first = np.sort(np.unique(order, return_index=True)[1])[:most]
    return np.sort(order[first])


def _by_group(curves: Curves, known: Curves) -> Iterator[tuple[IntArray, Curves]]:
    """Rows of `curves` with the runs that are their context: those of their group, or all where it has fewer than four."""
    groups, theirs = (np.array(["" if g is None else f"g{g}" for g in c.column("group")], dtype=object) for c in (curves, known))
    left = np.ones(len(curves), dtype=bool)
    for name in dict.fromkeys(groups.tolist()):
        same = theirs == name
        if name and same.sum() >= _LEAST_OF_GROUP:
            left &= groups != name
            yield np.flatnonzero(groups == name), known.take(same)
    if left.any():
        yield np.flatnonzero(left), known


def _settings(curves: Curves, context: Curves) -> tuple[FloatArray, FloatArray]:
    """(n, MOST_SETTINGS) and (n_context, MOST_SETTINGS): settings that vary in the context, standardised there.

    Numbers above 0 that span more than a factor of 20 enter by their logarithm, texts with few levels by one 0 or 1 a level;
    what is not known, and what is left of the columns, is 0.
    """
    columns: list[tuple[FloatArray, FloatArray]] = []
    for name, dtype in context.attributes.schema.items():
        if not name.startswith("config.") or name not in curves.attributes.columns:
            continue
        pair = [c.column(name) for c in (curves, context)]
        if dtype.is_numeric() or dtype == pl.Boolean:
            own, theirs = (s.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy() for s in pair)
            some = theirs[np.isfinite(theirs)]
            if some.size and some.min() > 0 and some.max() > _WIDE * some.min():
                own, theirs = (np.log(np.where(v > 0, v, np.nan)) for v in (own, theirs))
            columns.append((own, theirs))
        elif dtype == pl.String:
            levels = pair[1].drop_nulls().unique().sort().to_list()
            if 2 <= len(levels) <= _MOST_LEVELS:
                columns += [
                    ((pair[0] == v).fill_null(False).to_numpy() * 1.0, (pair[1] == v).fill_null(False).to_numpy() * 1.0)
                    for v in levels[1:]
                ]
    varied = [c for c in columns if np.isfinite(c[1]).any() and np.ptp(c[1][np.isfinite(c[1])]) > 0][:MOST_SETTINGS]
    own, theirs = np.zeros((len(curves), MOST_SETTINGS)), np.zeros((len(context), MOST_SETTINGS))
    for k, (a, b) in enumerate(varied):
        middle, width = np.nanmean(b), np.nanstd(b)
        own[:, k], theirs[:, k] = (np.nan_to_num((v - middle) / width, nan=0.0, posinf=0.0, neginf=0.0) for v in (a, b))
    return own.clip(-_FARTHEST, _FARTHEST), theirs
