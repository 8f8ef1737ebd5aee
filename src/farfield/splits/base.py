"""What every splitter shares: held-out parts within what is seen, the matched reference beyond, checks, scikit-learn's contract.

A splitter says which rows are *seen* and which lie *beyond*. From that this module makes the regions of each repeat:

* ``train``: what a model is fitted on; ``inside``: rows held out within what is seen;
* ``beyond``: rows outside, with their distance from what is seen, 0 at its edge, in units of the seen extent; reach = 1 + distance;
* ``reference``: pairs (fit, score): the score parts make up ``beyond``, and each fit part, as large as ``train`` at most, is drawn
  from ``train`` and the *other* rows beyond, as many of each as in the two together. A model fitted so has seen the region, and
  what it still loses there is difficulty.

No scikit-learn is imported: it asks for ``split`` and ``get_n_splits``, and for ``get_metadata_routing`` where routing is on.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks, seeds
from farfield.errors import InputError, unknown_name
from farfield.estimator import Parameters
from farfield.splits.rows import FloatArray, IntArray, fingerprints, labels, n_rows


class RegionIndices(NamedTuple):
    """The rows of one region in one repeat, as int64 indices; disjoint, except that ``reference`` draws on train and beyond."""

    train: IntArray
    inside: IntArray
    beyond: IntArray
    reference: list[tuple[IntArray, IntArray]]
    distance: FloatArray
    tag: str

    @property
    def reach(self) -> FloatArray:
        """(n_beyond,) 1 at the edge of what is seen, 2 one seen extent past it; NaN where the region has no order."""
        return 1.0 + self.distance


class Part(NamedTuple):
    """What a splitter says of one region: rows seen, rows beyond, their distance, a name; strata to hold out from, blocks in time.

    ``reference`` replaces the matched reference where the design has its own.
    """

    seen: IntArray
    beyond: IntArray
    distance: FloatArray
    tag: str
    strata: IntArray | None = None
    ordered: bool = False
    inside: IntArray | None = None
    reference: list[tuple[IntArray, IntArray]] | None = None


class Table(NamedTuple):
    """The data a splitter sees: samples, target, groups, and an order that depends on no row's place."""

    X: Any
    y: Any
    groups: IntArray | None
    group_names: Any
    actions: Any
    n: int
    rank: IntArray  # position of each row in the order of fingerprints
    prints: Any


@dataclass(eq=False, kw_only=True)
class RegionSplitter(Parameters, ABC):
    """Base of the splitters; one that defines the regions themselves (`_parts`) is a splitter.

    Parameters, all by keyword
    --------------------------
    inside_size : share of the seen rows held out as ``inside``
    n_repeats : times the hold-out and the reference are drawn anew
    max_train : most rows of ``train``
    n_reference : parts into which ``beyond`` is cut for the reference
    random_state : int, Generator or RandomState; None differs from call to call
    """

    inside_size: float = 0.2
    n_repeats: int = 5
    max_train: int | None = None
    n_reference: int = 5
    random_state: Any = None

    needs_groups: ClassVar[bool] = False
    needs_y: ClassVar[bool] = False
    row_data: ClassVar[tuple[str, ...]] = ("groups",)
    part_per_repeat: ClassVar[bool] = False  # each repeat draws its own region

    def split(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> Iterator[tuple[IntArray, IntArray]]:
        """Pairs (train, beyond), which makes ``cross_val_score(..., cv=splitter)`` the score beyond."""
        for region in self.regions(X, y, groups, **metadata):
            yield region.train, region.beyond

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None, **metadata: Any) -> int:
        """Pairs that :meth:`split` yields; needs the data where the number of regions depends on them."""
        return self._n_regions(X, y, groups, **metadata) * checks.count("n_repeats", self.n_repeats)

    def regions(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> Iterator[RegionIndices]:
        """The regions, repeat after repeat.

        Raises InputError for an empty region, missing groups, rows that are all copies of one; warns where rows beyond are copies
        of seen rows and where a group has rows on both sides.
        """
        table = self._table(X, y, groups, metadata)
        root = seeds.root(self._seed())
        parts = self._checked_parts(table, root)
        for i, part in enumerate(parts):
            for repeat in range(1 if self.part_per_repeat else self.n_repeats):
                yield self._region(part, table, repeat, seeds.child(root, i, repeat))

    def seen_mask(self, X: Any, y: Any = None, groups: Any = None, **metadata: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(n_regions, n) which rows are seen in each region, hold-out included."""
        table = self._table(X, y, groups, metadata)
        parts = self._checked_parts(table, seeds.root(self._seed()))
        out = np.zeros((len(parts), table.n), dtype=bool)
        for i, part in enumerate(parts):
            out[i, part.seen] = True
        return out

    # -- what a splitter says -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        """The regions that this splitter sees in the data; what it draws comes from `rng`."""

    def _n_regions(self, X: Any, y: Any, groups: Any, **metadata: Any) -> int:
        """How many regions :meth:`_parts` yields, from as little of the data as tells."""
        return 1

    # -- scikit-learn's contract ----------------------------------------------------------------------------------------------

    def get_metadata_routing(self) -> Any:
        """What scikit-learn routes here when metadata routing is on; called by scikit-learn alone."""
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=self)
        for name in self.row_data:
            request.split.add_request(param=name, alias=True)
        return request

    # -- making the regions -----------------------------------------------------------------------------------------------------

    def _seed(self) -> seeds.Seed:
        state = self.random_state
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31))
        return state  # type: ignore[no-any-return]

    def _table(self, X: Any, y: Any, groups: Any, metadata: dict[str, Any]) -> Table:
        name = type(self).__name__
        for key in metadata:
            if key not in self.row_data:
                raise unknown_name(f"row data of {name}", key, self.row_data)
        checks.level("inside_size", self.inside_size)
        checks.count("n_repeats", self.n_repeats)
        checks.count("n_reference", self.n_reference, least=2)
        if self.max_train is not None:
            checks.count("max_train", self.max_train, least=2)
        n = n_rows(X)
        if n < 4:
            raise InputError(f"X has {n} rows; a split into seen and beyond needs at least 4")
        actions = metadata.get("actions")
        if "actions" in self.row_data and actions is None:
            actions, groups = groups, None  # cross_val_score has no other way to hand them over while routing is off
        names, codes = (None, None) if groups is None else labels("groups", groups, n)
        if self.needs_groups and codes is None:
            raise InputError(f"{name} needs groups=, one label a row: the environment each row comes from")
        if self.needs_y and y is None:
            raise InputError(f"{name} needs y: the region is a range of the target")
        if y is not None and n_rows(y) != n:
            raise InputError(f"y has {n_rows(y)} rows and X {n}; they must be as many")
        prints = fingerprints(X, y, codes)
        if (prints == prints[0]).all():
            raise InputError(f"all {n} rows are copies of one row; there is nothing beyond them")
        rank = np.empty(n, dtype=np.int64)
        rank[np.argsort(prints, kind="stable")] = np.arange(n)
        return Table(X, y, codes, names, actions, n, rank, prints)

    def _checked_parts(self, table: Table, root: np.random.SeedSequence) -> list[Part]:
        parts = list(self._parts(table, seeds.child(root)))
        for part in parts:
            if part.beyond.size == 0:
                raise InputError(f"the region {part.tag} is empty: no row lies beyond; widen it")
            if part.seen.size < 3:
                raise InputError(f"the region {part.tag} leaves {part.seen.size} of {table.n} rows to be seen; narrow it")
            if np.intersect1d(part.seen, part.beyond).size:
                raise InputError(f"the region {part.tag} has rows that are both seen and beyond")
            copies = int(np.isin(table.prints[part.beyond], table.prints[part.seen]).sum())
            if copies:
                warnings.warn(f"{copies} of {part.beyond.size} rows beyond ({part.tag}) are copies of seen rows", stacklevel=4)
            if table.groups is not None and not self.needs_groups:
                both = np.intersect1d(table.groups[part.seen], table.groups[part.beyond]).size
                if both:
                    warnings.warn(f"{both} groups have rows both seen and beyond ({part.tag})", stacklevel=4)
        return parts

    def _region(self, part: Part, table: Table, repeat: int, rng: np.random.Generator) -> RegionIndices:
        order = np.argsort(table.rank[part.beyond], kind="stable")
        beyond, distance = part.beyond[order], part.distance[order]
        seen = part.seen[np.argsort(table.rank[part.seen], kind="stable")]
        if part.inside is not None:
            inside = part.inside
            train = seen
        elif part.ordered:
            seen, beyond, distance = part.seen, part.beyond, part.distance
            size = self._hold_out(seen.size)
            start = int(rng.integers(1, max(2, seen.size - size)))  # never the end: that would be a horizon of its own
            inside = seen[start : start + size]
            train = np.concatenate([seen[:start], seen[start + size :]])
        else:
            held = np.zeros(seen.size, dtype=bool)
            strata = np.zeros(seen.size, dtype=np.int64) if part.strata is None else part.strata[seen]
            for stratum in np.unique(strata):
                members = np.flatnonzero(strata == stratum)
                held[members[self._drawn(members.size, table, seen[members], rng)]] = True
            inside, train = seen[held], seen[~held]
        if inside.size == 0 or train.size < 2:
            raise InputError(f"the region {part.tag} leaves {train.size} rows to train on and {inside.size} inside; narrow it")
        if self.max_train is not None and train.size > self.max_train:
            train = train[np.sort(rng.choice(train.size, self.max_train, replace=False))]
        reference = part.reference
        if reference is None:
            reference = self._reference(train, beyond, part, table, rng)
        return RegionIndices(train, inside, beyond, reference, distance, part.tag)

    def _hold_out(self, n: int) -> int:
        return min(max(1, round(self.inside_size * n)), n - 2)

    def _drawn(self, n: int, table: Table, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Positions of the rows held out, whole groups where there are groups that do not mark the region itself."""
        if n < 2:
            return np.zeros(0, dtype=np.int64)
        size = max(1, round(self.inside_size * n))
        if table.groups is None or self.needs_groups:
            return rng.permutation(n)[: min(size, n - 1)]
        codes = table.groups[rows]
        names, counts = np.unique(codes, return_counts=True)
        if names.size < 2:
            raise InputError("only one group is seen; whole groups are held out, so at least two must be")
        shuffled = rng.permutation(names.size)
        enough = int(np.searchsorted(np.cumsum(counts[shuffled]), size)) + 1
        return np.flatnonzero(np.isin(codes, names[shuffled[: min(enough, names.size - 1)]]))

    def _reference(
        self, train: IntArray, beyond: IntArray, part: Part, table: Table, rng: np.random.Generator
    ) -> list[tuple[IntArray, IntArray]]:
        unit = np.arange(beyond.size)
        whole = None if self.needs_groups else table.groups
        if whole is not None:
            unit = np.unique(whole[beyond], return_inverse=True)[1]
        n_units = int(unit.max()) + 1
        k = min(self.n_reference, n_units)
        if k < 2:
            return []
        fold = np.arange(n_units) * k // n_units
        if not part.ordered:
            fold = rng.permutation(fold)
        out = []
        for i in range(k):
            here = fold[unit] == i
            others = beyond[~here]
            n_others = max(1, round(train.size * others.size / (train.size + others.size)))  # as in the two together
            fit = np.concatenate(
                [
                    some[np.sort(_taken(some.size, size, None if whole is None else whole[some], rng))]
                    for some, size in ((train, train.size - n_others), (others, n_others))
                ]
            )
            if not part.ordered:
                fit = fit[np.argsort(table.rank[fit], kind="stable")]
            out.append((fit, beyond[here]))
        return out


def _taken(n: int, size: int, groups: IntArray | None, rng: np.random.Generator) -> IntArray:
    """`size` of n positions; group after group where there are groups, so that at most one is cut in two."""
    if groups is None:
        return rng.choice(n, size, replace=False)
    codes = np.unique(groups, return_inverse=True)[1]
    order = rng.permutation(int(codes.max()) + 1)[codes] if n else codes
    return np.lexsort((rng.random(n), order))[:size]


def as_actions(values: ArrayLike | None, n: int) -> FloatArray:
    """(n, k) finite actions."""
    if values is None:
        raise InputError("InterventionSplit needs actions=, one row of actions a sample (or groups= where routing is off)")
    out = checks.finite("actions", values)
    out = out[:, None] if out.ndim == 1 else out
    if out.shape[0] != n or out.ndim != 2:
        raise InputError(f"actions has shape {out.shape}; allowed: ({n}, k)")
    return out
