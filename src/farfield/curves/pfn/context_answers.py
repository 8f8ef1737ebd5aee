"""What the first network said about runs, each question put once.

A forecast in context asks the first network the same of the same runs again and again: for every asked run, and once more for every
fold of a backtest. Here an answer is kept by run, cut, position and planned end. What is going to be asked can be announced: then
all questions about a run, and about what was once seen of it, are put in one pass over it, which costs little more than one of
them: the network is causal.
"""

from __future__ import annotations

import numpy as np

from farfield.curves.pfn.architecture import FloatArray, IntArray
from farfield.curves.pfn.engine import Engine

# answers kept; with more, all are forgotten (about 100 MB)
_MOST = 200_000
_ROWS = 64
# a run is compared with so many of those whose first points are the same
_BEGINNING = 3
_MOST_COMPARED = 64

# a run's number, points seen, position asked, planned last step or 0
Question = tuple[int, int, float, float]


class Answers:
    """A first network that remembers what it said.

    engine : the network
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.arch = engine, engine.arch
        self._numbers: dict[bytes, int] = {}
        self._begun: dict[bytes, list[int]] = {}
        self._runs: list[tuple[FloatArray, FloatArray]] = []
        self._known: dict[Question, FloatArray] = {}
        self._wanted: dict[Question, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def numbers(self, x: FloatArray, z: FloatArray, count: IntArray) -> IntArray:
        """(n,) what to call runs x, z (n, m) of `count` points: the same number for the same values, and for their beginning."""
        return np.array([self._number(a[:k], b[:k]) for a, b, k in zip(x, z, count, strict=True)], dtype=np.int64)

    def _number(self, x: FloatArray, z: FloatArray) -> int:
        name = x.tobytes() + z.tobytes()
        if name not in self._numbers:
            self._numbers[name] = self._like(x, z)
        return self._numbers[name]

    def _like(self, x: FloatArray, z: FloatArray) -> int:
        """The number of a run that this one begins, or that begins it; a new one where there is none."""
        like = self._begun.setdefault(x[:_BEGINNING].tobytes() + z[:_BEGINNING].tobytes(), [])
        for number in like[:_MOST_COMPARED]:
            a, b = self._runs[number]
            k = min(a.size, x.size)
            if np.array_equal(a[:k], x[:k]) and np.array_equal(b[:k], z[:k]):
                if x.size > a.size:
                    self._runs[number] = (x.copy(), z.copy())
                return number
        like.append(len(self._runs))
        self._runs.append((x.copy(), z.copy()))
        return like[-1]

    def announce(self, number: IntArray, cut: IntArray, at: FloatArray, horizon: FloatArray) -> None:
        """Say that runs `number` (n,) will be asked at `at` (n, q), seen up to `cut` (n, q), with planned ends (n,)."""
        self._wanted.update((q, None) for q in _questions(number, cut, at, horizon) if q not in self._known)

    def __call__(
        self, number: IntArray, cut: IntArray, at: FloatArray, horizon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mixtures (weight, location, scale), (n, q, components) each, of what `announce` takes."""
        asked = _questions(number, cut, at, horizon)
        self._wanted.update((q, None) for q in asked if q not in self._known)
        if self._wanted:
            self._ask()
        found = np.array([self._known[q] for q in asked]).reshape(*at.shape, 3, self.arch.components)
        return found[:, :, 0], found[:, :, 1], found[:, :, 2]

    def forget(self) -> None:
        """Drop all answers where they have become too many; runs keep their numbers."""
        if len(self._known) > _MOST:
            self._known = {}

    def _ask(self) -> None:
        """Put what is wanted to the network, a row for each run and planned end, rows with about as many questions together."""
        rows: dict[tuple[int, float], list[Question]] = {}
        for q in self._wanted:
            rows.setdefault((q[0], q[3]), []).append(q)
        self._wanted = {}
        order = sorted(rows.items(), key=lambda item: len(item[1]))
        for start in range(0, len(order), _ROWS):
            part = order[start : start + _ROWS]
            size = max(len(qs) for _, qs in part)
            m = max(q[1] for _, qs in part for q in qs)
            x, z = np.ones((len(part), m)), np.zeros((len(part), m))
            cut, at = np.empty((len(part), size), dtype=np.int64), np.empty((len(part), size))
            horizon = np.array([h or np.nan for (_, h), _ in part])
            for i, ((number, _), qs) in enumerate(part):
                a, b = self._runs[number]
                k = min(a.size, m)
                x[i, :k], z[i, :k], x[i, k:] = a[:k], b[:k], a[k - 1]
                # rows with fewer questions repeat their last
                cut[i, : len(qs)], at[i, : len(qs)] = zip(*((q[1], q[2]) for q in qs), strict=True)
                cut[i, len(qs) :], at[i, len(qs) :] = qs[-1][1:3]
            values = np.stack(self.engine(x, z, cut, at, horizon), axis=2)
            for i, (_, qs) in enumerate(part):
                self._known.update(zip(qs, values[i], strict=False))


def _questions(number: IntArray, cut: IntArray, at: FloatArray, horizon: FloatArray) -> list[Question]:
    q = at.shape[1]
    numbers, ends = (np.repeat(v, q).tolist() for v in (number, np.where(np.isnan(horizon), 0.0, horizon)))
    return list(zip(numbers, cut.ravel().tolist(), at.ravel().tolist(), ends, strict=True))
