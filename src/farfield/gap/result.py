"""The result of measuring a gap: inside, reference, beyond, and the gap as the sum of difficulty and extrapolation.

    difficulty    = reference - inside     how much harder the rows beyond are for this learner once it has seen such rows
    extrapolation = beyond - reference     what not having seen them costs
    gap           = difficulty + extrapolation

Signs are such that positive is worse. Difficulty needs labels beyond, and it depends on the learner and on how many rows the
reference was fitted on: it is no property of the data alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.gap.scores import Score
from farfield.gap.training import Evidence

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]


class Estimate(NamedTuple):
    """A measured number with its interval; `n` counts the units (rows, or groups) it was measured on."""

    value: float
    low: float
    high: float
    n: int
    std_error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class GapStatus(Enum):
    """What the extrapolation's interval says; the value is the advice."""

    COSTS = "not having seen such rows costs something: collect some, or use a model that follows the trend"
    NONE_SHOWN = "no cost of extrapolation is shown; a gap that remains is difficulty, which more rows beyond would not mend"
    HELPS = "the model does better than the same learner that saw such rows: look for a leak, or for noise in what lies beyond"
    NO_REFERENCE = "without a reference the gap mixes difficulty and extrapolation; refit with reference='matched'"


_QUANTITIES = ("inside", "reference", "beyond", "gap", "difficulty", "extrapolation")


@dataclass(frozen=True, repr=False)
class GapResult:
    """What :func:`farfield.extrapolation_gap` measured.

    `inside`, `reference` and `beyond` are in the score's own units; `gap`, `difficulty` and `extrapolation` are positive where
    it is worse beyond. `reference`, `difficulty` and `extrapolation` are None without a reference.

    Attributes
    ----------
    model, scoring, split, seed : what was asked for
    inside, beyond, reference, gap, difficulty, extrapolation : values with intervals of coverage `level`
    unit : what was resampled, rows or groups; selection : on what the model's own choices were made
    regions : names of the regions, `per_split` has a row for each and every repeat
    per_row : a row for each scored row, None where the score is no mean over rows; draws : (n_boot, 3) resampled scores
    evidence, warnings : what the intervals rest on; what a reader must know
    """

    model: str
    scoring: Score
    inside: Estimate
    beyond: Estimate
    reference: Estimate | None
    gap: Estimate
    difficulty: Estimate | None
    extrapolation: Estimate | None
    level: float
    unit: str
    split: str
    regions: tuple[str, ...]
    selection: str
    seed: int | None
    warnings: tuple[str, ...]
    per_split: NDArray[Any]  # region, repeat, n_train, n_inside, n_beyond, inside, reference, beyond
    per_row: NDArray[Any] | None  # row, split, part (0 inside, 1 reference, 2 beyond), reach, loss; or None
    draws: FloatArray = field(compare=False)  # (n_boot, 3) inside, reference, beyond in each resample
    left_out: float | None = None  # the score on regions left out of what is seen, where the model is chosen by that
    evidence: Evidence | None = field(compare=False, default=None)  # losses and what was fitted on; None as per_row

    def __repr__(self) -> str:
        values = f"{self.inside.value:.4g} inside, {self.beyond.value:.4g} beyond"
        return f"GapResult({self.model}, {self.scoring.label}: {values}, {self.split})"

    @property
    def status(self) -> GapStatus:
        """What the extrapolation's interval says."""
        e = self.extrapolation
        if e is None:
            return GapStatus.NO_REFERENCE
        return GapStatus.COSTS if e.low > 0 else GapStatus.HELPS if e.high < 0 else GapStatus.NONE_SHOWN

    @property
    def about(self) -> str:
        """What the intervals are about: the learner on new training rows, or, from one repeat, the models as fitted."""
        repeats = int(self.per_split["repeat"].max()) + 1
        return "the learner at this training size" if repeats > 1 else "the models as fitted: one repeat says nothing of others"

    def summary(self) -> str:
        """The numbers in a few lines."""
        head = f"{self.model}, {self.scoring.label}, beyond {'; '.join(self.regions[:3])}{'; ...' if len(self.regions) > 3 else ''}"
        lines = [head, f"  inside {self.inside}   beyond {self.beyond}"]
        if self.difficulty is None or self.extrapolation is None:
            lines.append(f"  gap {self.gap}")
        else:
            lines[-1] += f"   reference {self.reference}"
            lines.append(f"  gap {self.gap} = difficulty {self.difficulty} + extrapolation {self.extrapolation}")
        lines.append(f"  {self.status.value}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the schema is in docs/gap.md."""
        found: dict[str, Any] = {"model": self.model, "scoring": self.scoring.name, "label": self.scoring.label}
        found |= {"lower_is_better": self.scoring.lower_is_better, "level": self.level, "unit": self.unit, "about": self.about}
        for name in _QUANTITIES:
            estimate = getattr(self, name)
            found[name] = None if estimate is None else estimate._asdict()
        found |= {
            "status": self.status.name.lower(),
            "advice": self.status.value,
            "split": self.split,
            "regions": list(self.regions),
        }
        found |= {"selection": self.selection, "left_out": self.left_out, "seed": self.seed, "warnings": list(self.warnings)}
        names = self.per_split.dtype.names or ()
        found["per_split"] = [dict(zip(names, row, strict=True)) for row in self.per_split.tolist()]
        return found

    def to_frame(self) -> pl.DataFrame:
        """One row a quantity: model, quantity, value, low, high, n, std_error."""
        import polars as pl

        rows = [(name, getattr(self, name)) for name in _QUANTITIES]
        return pl.DataFrame([{"model": self.model, "quantity": name, **e._asdict()} for name, e in rows if e is not None])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Inside, reference and beyond with their intervals, the gap split between them; into `ax`, or a new figure."""
        from farfield.gap.plot import plot_gaps

        return plot_gaps([self], ax)
