"""What watching costs: 200 live runs, one point a second each, in CSV, lines of JSON and TensorBoard event files.

    python benchmarks/watch.py [--seconds 60] [--runs 200] [--formats csv,jsonl,tensorboard]

A writer in a process of its own appends the points; the watch runs here, in the loop of `farfield watch`. Counted is this process's
processor time over the window, after the first reading and the first round; after every look it is counted how many points of a
few runs are written and not yet seen (what is written while it looks counts too: on a busy machine a look takes longer than its
processor time). Forty further runs have ended before. The row goes to results/bench_watch.json.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import farfield
from farfield.curves.follow import LogFolder
from farfield.curves.follow.journal import Journal
from farfield.curves.follow.watch import Watch
from farfield.curves.readers.crc import crc32c_reference
from farfield.curves.stopping import Adviser

HERE = Path(__file__).resolve().parent.parent
BAR = 0.30
N_ENDED, SEEN, END = 40, 60, 1200
NAMES = {"csv": "metrics.csv", "jsonl": "metrics.jsonl", "tensorboard": "events.out.tfevents.1.host"}

METRICS = {"csv": "val_loss", "jsonl": "val_loss", "tensorboard": "val/loss"}


def curve(i: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    k = np.arange(1, END + 1)
    return rng.uniform(0.1, 1.0) + rng.uniform(1, 2) * k ** -rng.uniform(0.3, 0.7) + 0.01 * rng.standard_normal(END)


def masked(data: bytes) -> bytes:
    crc = crc32c_reference(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def event(step: int, value: float) -> bytes:
    """One TFRecord with a scalar, as writers of event files lay it out."""
    tag = b"val/loss"
    scalar = b"\x0a" + bytes((len(tag),)) + tag + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes((len(scalar),)) + scalar
    number, count = b"", step
    while count > 0x7F:
        number, count = number + bytes((count & 0x7F | 0x80,)), count >> 7
    body = (
        b"\x09" + struct.pack("<d", time.time()) + b"\x10" + number + bytes((count,)) + b"\x2a" + bytes((len(summary),)) + summary
    )
    length = struct.pack("<Q", len(body))
    return length + masked(length) + body + masked(body)


def line(kind: str, step: int, value: float) -> bytes:
    if kind == "tensorboard":
        return event(step, value)
    if kind == "csv":
        return f"{step},{value:.6g},{value * 0.9:.6g},0.001\n".encode()
    return json.dumps({"step": step, "val_loss": value, "train_loss": value * 0.9, "lr": 0.001}).encode() + b"\n"


def begin(root: Path, kind: str, n_runs: int) -> None:
    for i in range(N_ENDED + n_runs):
        folder = root / f"run-{i:03}"
        folder.mkdir(parents=True)
        (folder / "params.json").write_text(json.dumps({"max_steps": END, "seed": i, "lr_scheduler_type": "constant"}))
        head = b"step,val_loss,train_loss,lr\n" if kind == "csv" else b""
        y = curve(i)[: END if i < N_ENDED else SEEN]
        (folder / NAMES[kind]).write_bytes(head + b"".join(line(kind, k + 1, v) for k, v in enumerate(y)))


def write(root: Path, kind: str, n_runs: int, seconds: float) -> None:
    """One point a run and second, the runs spread over the second."""
    paths = [root / f"run-{i:03}" / NAMES[kind] for i in range(N_ENDED, N_ENDED + n_runs)]
    values = [curve(i) for i in range(N_ENDED, N_ENDED + n_runs)]
    start, step = time.monotonic(), SEEN
    while time.monotonic() - start < seconds and step < END:
        for at in range(0, n_runs, 10):
            time.sleep(max(0.0, start + (step - SEEN) + at / n_runs - time.monotonic()))
            for i in range(at, min(at + 10, n_runs)):
                with paths[i].open("ab") as file:
                    file.write(line(kind, step + 1, float(values[i][step])))
        step += 1


def measure(kind: str, n_runs: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "runs"
        begin(root, kind, n_runs)
        to = None if kind != "tensorboard" else float(END)  # event files have no sidecar that says where they end
        began = time.process_time()
        folder = LogFolder([root])
        watch = Watch(folder, Adviser(to=to), Journal(root / ".journal.json"), metric=METRICS[kind], background=True)
        watch.step()
        first = time.process_time() - began
        writer = subprocess.Popen([sys.executable, __file__, "--write", str(root), kind, str(n_runs), str(seconds + 8)])
        time.sleep(3)  # it has begun
        for _ in range(3):
            watch.step()
            time.sleep(1)
        start, used = time.monotonic(), time.process_time()
        behind, longest, stops, spent = [], 0.0, 0, 0.0
        looks: dict[bool, list[float]] = {False: [], True: []}  # with a round of forecasts or without
        last = watch.advice
        tick = start
        while time.monotonic() - start < seconds:
            began, cpu = time.monotonic(), time.process_time()
            events = watch.step()
            longest = max(longest, time.monotonic() - began)
            looks[watch.advice is not last].append(time.process_time() - cpu)
            last = watch.advice
            stops += sum(e["event"] == "stop" for e in events)
            check = time.process_time()
            behind.append(unseen(watch, root, kind))
            spent += time.process_time() - check
            tick = max(tick + 1.0, time.monotonic())
            time.sleep(max(0.0, tick - time.monotonic()))
        taken, window = time.process_time() - used - spent, time.monotonic() - start
        writer.terminate()
        writer.wait()
        watch.close()
        watch.journal.close()
    return {
        "format": kind, "runs": n_runs, "seconds": window, "cpu_seconds": taken, "share_of_a_core": taken / window,
        "first_reading_cpu_seconds": first, "rounds": len(looks[True]), "stops": stops, "longest_look_s": longest,
        "look_cpu_ms": 1e3 * float(np.median(looks[False])), "round_cpu_ms": 1e3 * float(np.median(looks[True])),
        "points_behind_most": int(max(behind)), "points_behind_mean": float(np.mean(behind)),
    }  # fmt: skip


def unseen(watch: Watch, root: Path, kind: str) -> int:
    """The most points of any of a few runs that are written and not seen."""
    metric = METRICS[kind]
    out = 0
    for run in watch.folder.runs()[N_ENDED::29]:
        data = (root / run.name / NAMES[kind]).read_bytes()
        written = len(data) // len(event(200, 1.0)) if kind == "tensorboard" else data.count(b"\n") - (kind == "csv")
        out = max(out, written - int(run.metrics[metric].step.size))
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--formats", default="csv,jsonl,tensorboard")
    parser.add_argument("--write", nargs=4)
    asked = parser.parse_args()
    if asked.write:
        root, kind, n_runs, seconds = asked.write
        write(Path(root), kind, int(n_runs), float(seconds))
        return
    rows = []
    for kind in asked.formats.split(","):
        rows.append(measure(kind, asked.runs, asked.seconds))
        print(json.dumps(rows[-1]), flush=True)
    row = {
        "name": "watch",
        "bar": BAR,
        "met": all(r["share_of_a_core"] <= BAR for r in rows),
        "formats": rows,
        "cores": os.cpu_count(),
        "load_after": os.getloadavg()[0],
        "versions": {"farfield": farfield.__version__, "numpy": np.__version__},
    }
    (HERE / "results" / "bench_watch.json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
