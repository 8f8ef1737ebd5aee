"""Choosing among models without reading what lies beyond: a further region of the same kind is left out of what is seen.

The rule is known from domain generalisation, where each seen domain is left out in turn (Gulrajani & Lopez-Paz 2021, section 4).
Where the region is a range, its seen end on the same side is left out; where it is one of several clusters or environments, each of
those that are seen. Only seen rows are ever passed in, so nothing of what lies beyond is read, not even where it lies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from farfield import checks
from farfield.errors import InputError
from farfield.splits.base import RegionSplitter
from farfield.splits.clouds import ClusterSplit, DistanceSplit
from farfield.splits.condition import Both, Condition, ConditionSplit, parse
from farfield.splits.ranges import HorizonSplit, LengthSplit, RangeSplit, TargetRangeSplit
from farfield.splits.rows import IntArray, n_rows


class LeaveRegionOut:
    """Pairs (fit, score) within seen rows, for choosing among models that are to go beyond; scikit-learn takes it as ``cv``.

    Parameters
    ----------
    outer : the splitter that says what lies beyond
    share : of the seen rows that is left out, where the region is a range

    ``GridSearchCV(model, grid, cv=LeaveRegionOut(split))``, measured with ``split``, chooses by what it loses in a region that it
    did not see. InputError where the region is told by words, which say nothing of others.
    """

    def __init__(self, outer: RegionSplitter, share: float = 0.2) -> None:
        self.outer, self.share = outer, share

    def __repr__(self) -> str:
        return f"LeaveRegionOut({self.outer!r}, share={self.share!r})"

    def split(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> Iterator[tuple[IntArray, IntArray]]:
        """Pairs (fit, score) of row numbers of X, which holds seen rows alone."""
        for region in self._inner(X).regions(X, y, groups, **metadata):
            yield np.sort(np.concatenate([region.train, region.inside])), region.beyond

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None, **metadata: Any) -> int:
        """Pairs that :meth:`split` yields; needs the data where the number of regions depends on them."""
        return self._inner(X).get_n_splits(X, y, groups, **metadata)

    def _inner(self, X: Any) -> RegionSplitter:
        outer, share = self.outer, checks.level("share", self.share)
        change: dict[str, Any] = {"n_repeats": 1}
        if isinstance(outer, RangeSplit | TargetRangeSplit):
            change |= {"threshold": None, "quantile": share}
        elif isinstance(outer, DistanceSplit):
            change |= {"quantile": share}
        elif isinstance(outer, HorizonSplit):
            change |= {"cutoff": f"q{100 * (1 - share):g}", "horizons": (np.inf,)}
        elif isinstance(outer, ClusterSplit):
            change |= {"n_clusters": max(2, outer.n_clusters - outer.leave_out)}
        elif isinstance(outer, LengthSplit) and X is not None and n_rows(X):
            lengths = outer.lengths(X)
            longest = float(np.quantile(lengths, 1 - share, method="lower"))
            change |= {"train_max": longest, "buckets": (max(float(lengths.max()), np.nextafter(longest, np.inf)),)}
        elif isinstance(outer, ConditionSplit):
            change |= {"beyond": _moved(parse(outer.beyond), share)}
        return dataclasses.replace(outer, **change)


def _moved(condition: Condition, share: float) -> str:
    """The condition in words, with that share of the seen rows past each number."""
    if isinstance(condition, Both):
        return f" {condition.word} ".join(f"({_moved(part, share)})" for part in condition.parts)
    if condition.op in ("==", "!="):
        raise InputError(
            f"the region {condition} is told by one value, which no seen rows are nearer to than others; choose inside"
        )
    quantile = 100 * (1 - share if condition.op[0] == ">" else share)
    return f"`{condition.column}` {condition.op} q{quantile:g}"
