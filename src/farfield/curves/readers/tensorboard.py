"""TensorBoard folders: all event files of one folder are one run, in the order of their first event.

A restart writes a further file; it may declare the step it starts from (`purge_step`), which supersedes what was logged at or
beyond it, and otherwise its steps fall back, which :func:`farfield.curves.readers.record.settle` resolves. Folders below are
runs of their own. The hyperparameter plugin of PyTorch writes a sub-folder with the configuration and single final values;
:func:`merge_hparams` hands that configuration to the run above.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from farfield.curves.readers.record import RunLog, Series, Where, settle
from farfield.curves.readers.tfevents import Chunk, Events, read_events


def read_tensorboard(files: Sequence[tuple[str, bytes]], where: Where) -> list[RunLog]:
    """The run in the event files (shown path, bytes) of one folder; none if they hold no scalar and no configuration."""
    return run_of([read_events(data, path) for path, data in files], where)


def run_of(files: Sequence[Events], where: Where) -> list[RunLog]:
    """As :func:`read_tensorboard`, from what the event files of one folder hold."""
    parsed = sorted(files, key=_first_time)
    chunks: dict[str, list[Chunk]] = defaultdict(list)
    starts: list[tuple[int, int]] = []
    base = 0
    for events in parsed:
        for tag, (order, step, wall, value) in events.scalars.items():
            chunks[tag].append((order + base, step, wall, value))
        starts += [(order + base, step) for order, step in events.starts]
        base += events.n_events
    metrics = {}
    for tag in sorted(chunks, key=lambda t: int(chunks[t][0][0][0])):
        if not tag.startswith("_hparams_/"):
            metrics[tag or "value"] = _series(chunks[tag], starts)
    config = {k: v for events in parsed for k, v in events.config.items()}
    if not metrics and not config:
        return []
    group = next((e.group for e in parsed if e.group), None)
    return [RunLog(where.name, where.path, metrics, config=config, group=group, folder=where.folder)]


def _first_time(events: Events) -> float:
    return min((float(np.nanmin(wall)) for _, _, wall, _ in events.scalars.values() if not np.isnan(wall).all()), default=np.inf)


def _series(chunks: list[Chunk], starts: list[tuple[int, int]]) -> Series:
    order, step, wall, value = (np.concatenate([c[k] for c in chunks]) for k in range(4))
    keep = np.ones(order.size, dtype=bool)
    for at, from_step in starts:
        keep &= ~((order < at) & (step >= from_step))
    return settle(step[keep], value[keep], wall[keep], n_overlap=int((~keep).sum()))


def merge_hparams(runs: list[RunLog]) -> list[RunLog]:
    """Runs that hold only a configuration and single values, one folder below another run, give it their configuration."""
    folders = {run.source: i for i, run in enumerate(runs)}
    out: list[RunLog | None] = list(runs)
    for i, run in enumerate(runs):
        parent = folders.get(os.path.dirname(run.source))
        above = None if parent is None else out[parent]
        if run.config and above is not None and parent is not None and all(s.value.size <= 1 for s in run.metrics.values()):
            out[parent] = dataclasses.replace(above, config={**run.config, **above.config})
            out[i] = None
    return [run for run in out if run is not None and run.metrics]
