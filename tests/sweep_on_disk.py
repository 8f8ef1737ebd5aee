"""A small sweep on disk that grows: power laws of which some end well before the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

END = 60


def values(i: int) -> list[float]:
    """What run i logs, step by step; the lower its number, the better it ends."""
    rng = np.random.default_rng(i)
    k = np.arange(1, END + 1)
    return list(0.1 + 0.08 * i + (1.5 + 0.1 * i) * k**-0.5 + 0.003 * rng.standard_normal(END))


def log(root: Path, i: int, upto: int, after: int = 0) -> None:
    """Append the steps after .. upto of run i."""
    folder = root / f"run-{i:02}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps({"max_steps": END, "lr_scheduler_type": "constant", "lr": 0.1 * (i + 1)}))
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": k + 1, "val_loss": values(i)[k]}) + "\n" for k in range(after, upto))


def sweep(root: Path, ended: int = 16, going: int = 4, seen: int = 20) -> list[str]:
    """Runs of which `ended` have ended and `going` are at `seen`; the names of those still going."""
    for i in range(ended):
        log(root, 2 * i + 2, END)
    for i in range(going):
        log(root, 2 * i + 1, seen)
    return [f"run-{2 * i + 1:02}" for i in range(going)]
