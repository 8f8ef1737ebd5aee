"""Reading TensorBoard scalars: farfield's reader against TensorBoard's own EventAccumulator, in one process, taking turns.

    python benchmarks/read_tensorboard.py [--points 20000] [--repeats 9] [-o results/bench_read_tensorboard.json]

Both read the same event file, written here by torch's SummaryWriter: farfield to arrays of step, wall time and value, the
accumulator, which keeps every scalar (size guidance 0), to its own lists. The values must agree to the bit before anything is
timed. Wanted: a median ratio of 1.5. Needs torch and tensorboard. Each call appends one row to the output.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield import __version__
from farfield.curves.readers.record import Where
from farfield.curves.readers.tensorboard import read_tensorboard
from farfield.files import write_atomic

Scalars = dict[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]
WANTED = 1.5


def write_log(folder: Path, n_points: int) -> Path:
    """An event file with `n_points` scalars in eight tags of different lengths."""
    from torch.utils.tensorboard import SummaryWriter

    tags = [
        "loss",
        "train/loss",
        "val/loss",
        "train/lr",
        "val/accuracy",
        "train/grad_norm",
        "layers/0/weight_norm",
        "layers/1/weight_norm",
    ]
    rng = np.random.default_rng(0)
    with SummaryWriter(folder) as writer:
        for step in range(n_points // len(tags)):
            for tag, value in zip(tags, rng.random(len(tags)), strict=True):
                writer.add_scalar(tag, value, step)
    return next(folder.glob("events.out.tfevents.*"))


def ours(file: Path) -> Scalars:
    (run,) = read_tensorboard([(str(file), file.read_bytes())], Where(str(file), "run"))
    return {
        tag: (s.step, s.time if s.time is not None else np.full_like(s.step, np.nan), s.value) for tag, s in run.metrics.items()
    }


def theirs(file: Path) -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


def arrays(events: dict[str, list[Any]]) -> Scalars:
    """The accumulator's lists as arrays of step, wall time and value."""
    out: Scalars = {}
    for tag, scalars in events.items():
        step, wall, value = np.array([(e.step, e.wall_time, e.value) for e in scalars], dtype=np.float64).T
        out[tag] = (step, wall, value)
    return out


def check_equal(a: Scalars, b: Scalars) -> None:
    if set(a) != set(b):
        raise SystemExit(f"different tags: {sorted(set(a) ^ set(b))}")
    for tag in a:
        for x, y in zip(a[tag], b[tag], strict=True):
            np.testing.assert_array_equal(x, y, err_msg=tag)


def measure(n_points: int, repeats: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        file = write_log(Path(scratch), n_points)
        check_equal(ours(file), arrays(theirs(file)))
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for i in range(repeats):
            turns = [("ours", ours), ("peer", theirs)]
            for name, read in turns if i % 2 == 0 else turns[::-1]:
                gc.collect()
                begin = time.perf_counter()
                read(file)
                seconds[name].append(time.perf_counter() - begin)
    ratios = [p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    return {
        "name": "read_tensorboard",
        "ours_s": statistics.median(seconds["ours"]),
        "peer_s": statistics.median(seconds["peer"]),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "wanted": WANTED,
        "n": n_points,
        "repeats": repeats,
        "versions": {
            "python": platform.python_version(),
            "farfield": __version__,
            **{p: version(p) for p in ("numpy", "tensorboard", "torch")},
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("-o", "--output", default="results/bench_read_tensorboard.json")
    arguments = parser.parse_args()
    row = measure(arguments.points, arguments.repeats)
    output = Path(arguments.output)
    rows = json.loads(output.read_text()) if output.exists() else []
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, (json.dumps([*rows, row], indent=2) + "\n").encode())
    times = f"ours {row['ours_s']:.4f} s, EventAccumulator {row['peer_s']:.4f} s"
    print(f"{row['n']} points: {times}, ratio {row['ratio']:.1f} (wanted {WANTED})")
    return 0 if float(str(row["ratio"])) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
