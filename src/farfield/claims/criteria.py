"""What a claim has to show: the five kinds of criterion, and what one run of a claim measures.

A criterion is fixed in a paper's record before the first full run; a run returns a `Measured` with one value a criterion for the
method itself (*ours*), for what it is held against (*baseline*) and for the method without its key idea (*ablation*). This module
imports nothing heavy: the catalogue reads criteria from its records through it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from farfield.errors import InputError, unknown_name

Kind = Literal["superiority", "noninferiority", "bound", "exact", "trend"]
Better = Literal["lower", "higher"]
Side = Literal["ours", "baseline", "ablation"]
Budget = Literal["tiny", "full"]

KINDS: tuple[str, ...] = get_args(Kind)
SIDES: tuple[str, ...] = get_args(Side)
BUDGETS: tuple[str, ...] = get_args(Budget)


@dataclass(frozen=True)
class Criterion:
    """One measurable part of a claim.

    Attributes
    ----------
    name : key of the value in `Measured`, unique within a claim
    kind : what is to be shown, with d the improvement of ours over `against` (positive is better)

        - ``superiority``: d > margin
        - ``noninferiority``: d > -margin
        - ``bound``: violations / trials of ours is at most ``rate + margin``
        - ``exact``: ours equals `against` within `margin`, in every seed
        - ``trend``: the slope of ours rises (``better="higher"``) or falls (``"lower"``) by more than `margin` a unit of x

    better : whether lower or higher values are better (``trend``: the direction claimed; ``bound`` and ``exact``: unused)
    margin : >= 0, in the units of the value, or a fraction of `against` where `relative`
    relative : the margin is a fraction: superiority with margin 0.5 and lower better claims ours <= 0.5 times the baseline;
        with higher better ours >= 1.5 times; allowed for superiority, noninferiority and exact
    against : the side ours is held against
    rate : ``bound`` only: the stated violation rate, 0 to 1
    alpha : largest probability that a criterion that is false is called *holds* (one-sided)
    description : the criterion in words, for tables
    """

    name: str
    kind: Kind
    better: Better = "lower"
    margin: float = 0.0
    relative: bool = False
    against: Side = "baseline"
    rate: float = 0.0
    alpha: float = 0.05
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise InputError(f"criterion name is {self.name!r}; a criterion needs a name, such as 'mae'")
        where = f"criterion {self.name!r}"
        if self.kind not in KINDS:
            raise unknown_name(f"kind of {where}", str(self.kind), KINDS)
        if self.better not in ("lower", "higher"):
            raise InputError(f"{where}: better is {self.better!r}; allowed: 'lower', 'higher'")
        if self.against not in ("baseline", "ablation"):
            raise InputError(f"{where}: against is {self.against!r}; allowed: 'baseline', 'ablation'")
        for key in ("margin", "rate", "alpha"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{where}: {key} is {value!r}; allowed: a finite number")
        if self.margin < 0:
            raise InputError(f"{where}: margin is {self.margin}; allowed: 0 or more (noninferiority subtracts it itself)")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"{where}: alpha is {self.alpha}; allowed: between 0 and 0.5, such as 0.05")
        if not isinstance(self.relative, bool):
            raise InputError(f"{where}: relative is {self.relative!r}; allowed: true, false")
        if self.relative and self.kind in ("bound", "trend"):
            raise InputError(f"{where}: relative margins are for superiority, noninferiority and exact, not for {self.kind}")
        if self.relative and self.kind == "superiority" and self.better == "lower" and self.margin >= 1:
            raise InputError(
                f"{where}: relative margin is {self.margin}; 0.5 claims half the baseline, 1 or more cannot be reached"
            )
        if self.kind == "bound":
            if not 0 <= self.rate < 1 or not 0 < self.rate + self.margin < 1:
                raise InputError(
                    f"{where}: rate {self.rate} with margin {self.margin}; allowed: rate in [0, 1) and rate + margin in (0, 1). "
                    "'Never' is shown by no finite number of trials: state rate = 0 and as margin the rate to be excluded"
                )
        elif self.rate:
            raise InputError(f"{where}: rate is {self.rate} but the kind is {self.kind}; only a bound states a rate")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Criterion:
        """A criterion from a table of its fields; an unknown key or a missing name or kind is refused."""
        allowed = [f.name for f in fields(cls)]
        for key in data:
            if key not in allowed:
                raise unknown_name("key of a criterion", str(key), allowed)
        for key in ("name", "kind"):
            if key not in data:
                raise InputError(f"criterion {dict(data)!r} has no {key!r}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Every field, defaults too, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def text(self) -> str:
        """What is to be shown, in one phrase, from the fields alone."""
        of = f"the {self.against}"
        amount = f"{100 * self.margin:g} % of {of}" if self.relative else f"{self.margin:g}"
        match self.kind:
            case "superiority":
                return f"{self.name} {self.better} than {of}" + (f" by more than {amount}" if self.margin else "")
            case "noninferiority":
                worse = "higher" if self.better == "lower" else "lower"
                return f"{self.name} {worse} than {of} by less than {amount}"
            case "bound":
                return f"{self.name} violated in at most {100 * (self.rate + self.margin):g} % of trials"
            case "exact":
                return f"{self.name} equal to {of} within {amount}"
            case "trend":
                return f"{self.name} {'rises' if self.better == 'higher' else 'falls'} with a slope beyond {self.margin:g}"


@dataclass(frozen=True)
class Count:
    """Value of a ``bound``: how many of the trials violated it."""

    violations: int
    trials: int


@dataclass(frozen=True)
class Trend:
    """Value of a ``trend``: y (n_levels,) at x (n_levels,), at least two distinct x."""

    x: Sequence[float]
    y: Sequence[float]


# a plain number a seed; or one number a unit (data set, run, model family): the units, not the seeds, are then what is
# independent, and are averaged over seeds before they are compared; Count may come one a unit too
Value = float | Sequence[float] | Count | Sequence[Count] | Trend


@dataclass(frozen=True)
class Curve:
    """A line for the claim's figure: y (n,) against x (n,), with a name and, where there is one, a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Measured:
    """What one seed of a claim measured: values by criterion name, for ours and where they exist for baseline and ablation.

    Attributes
    ----------
    ours, baseline, ablation : criterion name -> value
    units : names of the units where values are sequences (for the results file only)
    curves : lines for the figure; the first seed's are drawn
    axes : labels of the figure's x and y axes; where x counts kinds, the label names them: ``0 ours, 1 theirs``
    notes : facts worth keeping beside the numbers, such as sizes
    """

    ours: Mapping[str, Value]
    baseline: Mapping[str, Value] = field(default_factory=dict)
    ablation: Mapping[str, Value] = field(default_factory=dict)
    units: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    axes: tuple[str, str] = ("", "")
    notes: Mapping[str, Any] = field(default_factory=dict)
