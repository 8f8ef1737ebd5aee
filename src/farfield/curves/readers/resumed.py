"""Runs that were resumed into a new log: W&B begins a file for every process, and files of one run id are parts of one run.

The parts are put in order of their beginnings. As within one log, a part that goes on from before the end of the earlier ones
supersedes what they logged at or beyond its first step, and what is left out is counted. A part that begins no later than the run
did would supersede all of it: the count was started anew, so it is left a run of its own, and both say so.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from farfield.curves.readers.record import RunLog, Series


def join(runs: Sequence[RunLog]) -> list[RunLog]:
    """The runs, those that are parts of one (`RunLog.part_of`) joined in the place of the first of them."""
    together: dict[str, list[RunLog]] = defaultdict(list)
    for run in runs:
        if run.part_of is not None:
            together[run.part_of].append(run)
    out: list[RunLog] = []
    for run in runs:
        if run.part_of is None:
            out.append(run)
        elif run.part_of in together:
            out += _joined(sorted(together.pop(run.part_of), key=lambda part: (part.began, part.source)))
    return out


def _joined(parts: Sequence[RunLog]) -> list[RunLog]:
    """The parts of one run as one; as several where the count of steps was started anew in between."""
    whole: list[list[RunLog]] = [[parts[0]]]
    for part in parts[1:]:
        if _first(part) > min(_first(earlier) for earlier in whole[-1]):
            whole[-1].append(part)
        else:
            whole.append([part])
    anew = f"{len(whole)} logs of this run id count from their first step: each is a run of its own"
    out = [_one(group) for group in whole]
    return out if len(out) == 1 else [dataclasses.replace(run, part_of=None, notes=(*run.notes, anew)) for run in out]


def _one(parts: Sequence[RunLog]) -> RunLog:
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part.metrics)
    starts = [_first(part) for part in parts[1:]] + [np.inf]
    ends = np.minimum.accumulate(starts[::-1])[::-1]  # where the first of the parts to come goes on
    bounded = list(zip(parts, ends, strict=True))
    metrics = {name: _series([(part.metrics[name], end) for part, end in bounded if name in part.metrics]) for name in names}
    return dataclasses.replace(
        parts[-1],
        metrics=metrics,
        config={k: v for part in parts for k, v in part.config.items()},
        planned={k: v for part in parts for k, v in part.planned.items()},
        began=parts[0].began,
        notes=(*parts[-1].notes, f"resumed: its points stand in {len(parts)} logs of one run id"),
    )


def _first(part: RunLog) -> float:
    """The first step that a part logged; infinity where it says none."""
    return min((float(s.step[0]) for s in part.metrics.values() if s.step.size and s.step[0] == s.step[0]), default=np.inf)


def _series(pieces: Sequence[tuple[Series, float]]) -> Series:
    """One quantity over the parts, each up to where a later part goes on."""
    kept = [(s, ~(s.step >= end)) for s, end in pieces]
    times = [s.time[keep] for s, keep in kept if s.time is not None]
    return Series(
        np.concatenate([s.step[keep] for s, keep in kept]),
        np.concatenate([s.value[keep] for s, keep in kept]),
        np.concatenate(times) if len(times) == len(kept) else None,
        sum(s.n_overlap + int((~keep).sum()) for s, keep in kept),
    )
