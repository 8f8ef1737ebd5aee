"""Regions of a cloud of samples: far from its centre or its neighbours, outside its hull, a cluster of it, removed neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import comb
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.errors import InputError
from farfield.splits.base import Part, RegionSplitter, Table, as_actions
from farfield.splits.hull import hull_distance
from farfield.splits.rows import FloatArray, IntArray, extent, matrix, neighbour_distance

Embed = Callable[[Any], ArrayLike]
_METRICS = ("cosine", "euclidean")


def _space(X: Any, embed: Embed | None, metric: str) -> FloatArray:
    """Points whose Euclidean distance is the metric: of unit length for ``cosine``, each column scaled for ``euclidean``."""
    checks.choice("metric", metric, _METRICS)
    points = matrix(X, embed)
    if metric == "cosine":
        length = np.sqrt((points**2).sum(axis=1, keepdims=True))
        return np.asarray(points / np.where(length > 0, length, 1.0))
    spread = points.std(axis=0)
    return np.asarray((points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def away(points: FloatArray, beyond: IntArray, seen: IntArray) -> FloatArray:
    """Distance to the nearest seen row over the extent of the seen rows."""
    wide = extent(points[seen])
    if wide == 0 or beyond.size == 0:
        return np.full(beyond.size, np.nan)
    return neighbour_distance(points[beyond], points[seen]) / wide


@dataclass(eq=False)
class ClusterSplit(RegionSplitter):
    """Beyond: the samples of the clusters left out, each in turn (the retrieval resampling ReSTTest).

    Parameters
    ----------
    n_clusters : clusters of k-means
    embed : function X -> (n, d), where the samples are not numbers themselves
    metric : ``cosine`` (unit vectors) or ``euclidean`` (columns scaled)
    leave_out : clusters left out at a time
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Distance: to the nearest seen row over the extent of the seen rows. Source: Zhan et al. 2022 (arXiv 2204.11447), section 3.
    """

    n_clusters: int = 5
    embed: Embed | None = field(default=None, kw_only=True)
    metric: Literal["cosine", "euclidean"] = field(default="cosine", kw_only=True)
    leave_out: int = field(default=1, kw_only=True)

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        points = _space(table.X, self.embed, self.metric)
        labels = k_means(points, checks.count("n_clusters", self.n_clusters, least=2), table.rank, rng)
        for chosen in _choices(self.n_clusters, self.leave_out, "clusters"):
            out = np.isin(labels, chosen)
            beyond, seen = np.flatnonzero(out), np.flatnonzero(~out)
            yield Part(seen, beyond, away(points, beyond, seen), f"cluster {'+'.join(map(str, chosen))}")

    def _n_regions(self, X: Any, y: Any, groups: Any, **metadata: Any) -> int:
        return comb(self.n_clusters, self.leave_out)


def k_means(points: FloatArray, k: int, rank: IntArray, rng: np.random.Generator) -> IntArray:
    """(n,) labels of k-means, the best of ten starts; clusters numbered by size, largest first."""
    from scipy.cluster.vq import ClusterError, kmeans2

    n = points.shape[0]
    if np.unique(points, axis=0).shape[0] < k:
        raise InputError(f"fewer than {k} different samples; k-means cannot make {k} clusters of them")
    order = np.empty(n, dtype=np.int64)
    order[rank] = np.arange(n)
    best, labels = np.inf, np.zeros(n, dtype=np.int64)
    for _ in range(10):
        try:
            centres, found = kmeans2(points[order], k, iter=50, minit="++", missing="raise", rng=rng)
        except ClusterError:  # a cluster ran empty: another start
            continue
        inertia = float(((points[order] - centres[found]) ** 2).sum())
        if inertia < best:
            best, labels = inertia, found
    if not np.isfinite(best):
        raise InputError(f"k-means left a cluster empty in ten starts; use fewer than {k} clusters")
    by_size = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    number = np.empty(k, dtype=np.int64)
    number[by_size] = np.arange(k)
    out = np.empty(n, dtype=np.int64)
    out[order] = number[labels]
    return out


@dataclass(eq=False)
class NeighborResample(RegionSplitter):
    """One test set, two training sets of equal size: with its neighbours, and with them removed (the resampling ReSTrain).

    Parameters
    ----------
    n_neighbors : how many of the nearest training rows of each test row are its neighbours
    mode : ``both``: :meth:`split` gives the pair (without, test) and then (with, test) of each repeat; ``far`` or ``near``: one
    embed, metric : as in :class:`ClusterSplit`
    test : indices of the test rows, or a share of the rows (None: a fifth), drawn in each repeat
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    In :meth:`regions` the rows beyond are the test rows, ``train`` is the set without their neighbours and ``reference`` the set
    with them, so that *extrapolation* is a paired difference over the same test rows. Source: Zhan et al. 2022, section 3.
    """

    n_neighbors: int
    mode: Literal["both", "near", "far"] = field(default="both", kw_only=True)
    embed: Embed | None = field(default=None, kw_only=True)
    metric: Literal["cosine", "euclidean"] = field(default="cosine", kw_only=True)
    test: Any = field(default=None, kw_only=True)

    part_per_repeat: ClassVar[bool] = True

    def split(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> Iterator[tuple[IntArray, IntArray]]:
        """Pairs (train, test): both training sets of each repeat, or the one that `mode` names."""
        checks.choice("mode", self.mode, ("both", "near", "far"))
        for region in self.regions(X, y, groups, **metadata):
            if self.mode != "near":
                yield region.train, region.beyond
            if self.mode != "far":
                yield region.reference[0]

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None, **metadata: Any) -> int:
        """Pairs that :meth:`split` yields."""
        return self.n_repeats * (2 if self.mode == "both" else 1)

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        points = _space(table.X, self.embed, self.metric)
        k = checks.count("n_neighbors", self.n_neighbors)
        for _ in range(self.n_repeats):
            yield self._once(points, k, table, rng)

    def _once(self, points: FloatArray, k: int, table: Table, rng: np.random.Generator) -> Part:
        order = np.argsort(table.rank)
        if self.test is None or isinstance(self.test, float):
            share = 0.2 if self.test is None else checks.level("test", self.test)
            test = order[np.sort(rng.permutation(table.n)[: max(1, round(share * table.n))])]
        else:
            test = np.unique(np.asarray(self.test, dtype=np.int64))
            if test.size == 0 or test[0] < 0 or test[-1] >= table.n:
                raise InputError(f"test holds row numbers outside 0 to {table.n - 1}, or none")
        rest = np.setdiff1d(order, test)
        if k > rest.size:
            raise InputError(f"n_neighbors is {k}; allowed: up to {rest.size}, the rows outside the test set")
        from scipy.spatial import cKDTree

        near = np.zeros(rest.size, dtype=bool)
        near[np.unique(cKDTree(points[rest]).query(points[test], k=k)[1])] = True
        far = rest[~near]
        if far.size < 3:
            raise InputError(f"{far.size} of {rest.size} rows are no neighbours of a test row; lower n_neighbors or the test set")
        distance = away(points, test, far)
        return Part(far, test, distance, f"{k} neighbours removed", reference=[(rest[near], test)])

    def _region(self, part: Part, table: Table, repeat: int, rng: np.random.Generator) -> Any:
        region = super()._region(part, table, repeat, rng)
        assert part.reference is not None
        near = part.reference[0][0]
        size = region.train.size
        if near.size < size:  # the neighbours, and as many others as make the two sets equal
            near = np.concatenate([near, rng.choice(region.train, size - near.size, replace=False)])
        elif near.size > size:
            near = rng.choice(near, size, replace=False)
        fit = near[np.argsort(table.rank[near], kind="stable")]
        return region._replace(reference=[(fit, region.beyond)])


@dataclass(eq=False)
class EnvironmentSplit(RegionSplitter):
    """Beyond: whole environments, each left out in turn; `groups` says which row belongs to which.

    Parameters
    ----------
    leave_out : environments left out at a time
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    A share of every seen environment is held out inside (DomainBed's in/out split; Gulrajani & Lopez-Paz 2021, section 4).
    Distance: to the nearest seen row over the extent of the seen rows where the samples are numbers, else NaN.
    """

    leave_out: int = 1

    needs_groups: ClassVar[bool] = True

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        assert table.groups is not None
        n_groups = len(table.group_names)
        if n_groups <= checks.count("leave_out", self.leave_out):
            raise InputError(f"{n_groups} environments and leave_out={self.leave_out}; at least one must stay to be seen")
        try:
            points = _space(table.X, None, "euclidean")
        except InputError:
            points = None
        for chosen in _choices(n_groups, self.leave_out, "environments"):
            out = np.isin(table.groups, chosen)
            beyond, seen = np.flatnonzero(out), np.flatnonzero(~out)
            distance = np.full(beyond.size, np.nan) if points is None else away(points, beyond, seen)
            yield Part(seen, beyond, distance, "+".join(str(table.group_names[c]) for c in chosen), strata=table.groups)

    def _n_regions(self, X: Any, y: Any, groups: Any, **metadata: Any) -> int:
        if groups is None:
            raise InputError("EnvironmentSplit needs groups= to count its splits")
        return comb(np.unique(np.asarray(groups)).size, self.leave_out)


@dataclass(eq=False)
class DistanceSplit(RegionSplitter):
    """Beyond: the samples farthest from the others.

    Parameters
    ----------
    metric : ``mahalanobis``: from the mean, in the covariance of all rows; ``knn``: from the k-th nearest other row
    k : which neighbour
    quantile : share of the rows beyond
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Distance: how much larger the measure is than its largest seen value, over that value.
    """

    metric: Literal["mahalanobis", "knn"] = field(default="mahalanobis", kw_only=True)
    k: int = field(default=5, kw_only=True)
    quantile: float = field(default=0.2, kw_only=True)

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        checks.choice("metric", self.metric, ("mahalanobis", "knn"))
        points = matrix(table.X)
        if self.metric == "mahalanobis":
            measure = mahalanobis(points)
        else:
            k = checks.count("k", self.k)
            if k >= table.n:
                raise InputError(f"k is {k}; allowed: below the number of rows, {table.n}")
            scaled = _space(table.X, None, "euclidean")
            measure = neighbour_distance(scaled, scaled, k + 1)  # the nearest of each row is the row itself
        edge = float(np.quantile(measure, 1 - checks.level("quantile", self.quantile)))
        beyond, seen = np.flatnonzero(measure > edge), np.flatnonzero(measure <= edge)
        most = float(measure[seen].max())
        distance = measure[beyond] / most - 1.0 if most > 0 else np.full(beyond.size, np.nan)
        yield Part(seen, beyond, distance, f"{self.metric}>{edge:.3g}")


def mahalanobis(points: FloatArray, of: FloatArray | None = None) -> FloatArray:
    """(n,) Mahalanobis distance from the mean of the rows `of` (the points themselves), directions without spread left out."""
    base = points if of is None else of
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(base, rowvar=False)))
    keep = values > 1e-12 * max(float(values[-1]), 1e-300)
    scaled = (points - base.mean(axis=0)) @ axes[:, keep] / np.sqrt(values[keep])
    return np.asarray(np.sqrt((scaled**2).sum(axis=1)))


@dataclass(eq=False)
class HullSplit(RegionSplitter):
    """Beyond: the held-out samples outside the convex hull of the training samples; those within it are inside.

    Parameters
    ----------
    components : principal components in which the hull is taken; needed for more than about ten columns, where nearly every
        sample is outside
    beyond_only : False lets :meth:`split` test on all held-out rows
    n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    `inside_size` is the share held out in all. Distance: to the hull over the extent of the training samples.
    """

    components: int | None = field(default=None, kw_only=True)
    beyond_only: bool = field(default=True, kw_only=True)

    part_per_repeat: ClassVar[bool] = True

    def split(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> Iterator[tuple[IntArray, IntArray]]:
        """Pairs (train, beyond), or (train, all held out) without `beyond_only`."""
        for r in self.regions(X, y, groups, **metadata):
            yield r.train, r.beyond if self.beyond_only else np.concatenate([r.inside, r.beyond])

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        points = matrix(table.X)
        if self.components is not None:
            d = checks.count("components", self.components)
            centred = points - points.mean(axis=0)
            points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:d].T
        order = np.argsort(table.rank)
        for _ in range(self.n_repeats):
            held = np.zeros(table.n, dtype=bool)
            held[self._drawn(table.n, table, order, rng)] = True
            train, out = order[~held], order[held]
            distance = hull_distance(points[out], points[train])
            far = distance > 0
            if not far.any() or far.all():
                share = "no" if not far.any() else "every"
                raise InputError(f"{share} held-out row lies outside the hull of the others; {_HULL_ADVICE[bool(far.all())]}")
            wide = extent(points[train])
            yield Part(train, out[far], distance[far] / wide, "outside hull", inside=out[~far])


_HULL_ADVICE = {False: "hold out more (inside_size=) or use DistanceSplit", True: "use fewer dimensions: components="}


@dataclass(eq=False)
class InterventionSplit(RegionSplitter):
    """Beyond: actions outside the support of those seen; `actions` (n, k) comes with the data, as groups do.

    Parameters
    ----------
    support : ``box``: every action within `scale` standard deviations of its median; ``ball``: Mahalanobis distance from the
        mean up to `scale` sqrt(k); ``hull``: in the convex hull of the rows in that ball
    scale : size of the support
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Distance: outside the support of the seen actions, over their extent.
    """

    support: Literal["box", "ball", "hull"] = field(default="box", kw_only=True)
    scale: float = field(default=1.0, kw_only=True)

    row_data: ClassVar[tuple[str, ...]] = ("groups", "actions")

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        checks.choice("support", self.support, ("box", "ball", "hull"))
        scale = checks.positive("scale", self.scale)
        actions = as_actions(table.actions, table.n)
        spread = actions.std(axis=0)
        if not (spread > 0).all():
            raise InputError(f"action {int(np.argmin(spread))} is constant; leave it out")
        z = (actions - np.median(actions, axis=0)) / spread
        if self.support == "box":
            inside = (np.abs(z) <= scale).all(axis=1)
        else:
            inside = mahalanobis(actions) <= scale * np.sqrt(actions.shape[1])
        if not inside.any():
            raise InputError(f"no action lies in the {self.support} of scale={scale:g}; enlarge it")
        if self.support == "hull":
            inside |= hull_distance(z, z[inside]) == 0
        beyond, seen = np.flatnonzero(~inside), np.flatnonzero(inside)
        if self.support == "hull":
            wide = extent(z[seen]) or np.nan
            distance = hull_distance(z[beyond], z[seen]) / wide
        else:
            distance = away(z, beyond, seen)
        yield Part(seen, beyond, distance, f"actions outside the {self.support} of scale {scale:g}")


def _choices(n: int, leave_out: int, what: str) -> Iterator[tuple[int, ...]]:
    if not 1 <= checks.count("leave_out", leave_out) < n:
        raise InputError(f"leave_out is {leave_out}; allowed: 1 to {n - 1} of {n} {what}")
    if comb(n, leave_out) > 1000:
        raise InputError(f"leave_out={leave_out} of {n} {what} makes {comb(n, leave_out)} regions; allowed: up to 1000")
    yield from itertools.combinations(range(n), leave_out)
