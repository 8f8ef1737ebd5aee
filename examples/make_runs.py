"""Train the small models whose learning curves ship in ``examples/runs``: NumPy only, one Parquet file per sweep.

    OMP_NUM_THREADS=1 python examples/make_runs.py [--sweep NAME] [--out examples/runs] [--cache build/example_runs]

Three sweeps of real models on real data that needs no network: a character-level language model, a classifier of handwritten
digits and a regression of disease progression. Every finished run is kept in the cache folder, so a killed script goes on where
it stopped. Needs NumPy, polars and scikit-learn (for the two tables it bundles).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[Any]
Batch = tuple[Array, Array]


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, how long, and where it is stopped."""

    sweep: str
    schedule: str  # constant | cosine | wsd
    lr: float
    steps: int
    seed: int = 0
    width: int = 96
    batch: int = 16
    optimizer: str = "adam"  # adam | sgd (momentum 0.9)
    warmup: int = 100
    decay_fraction: float = 0.2  # wsd only: the last part of the run
    decay_shape: str = "linear"  # wsd only: linear | sqrt
    final_ratio: float = 0.0  # final learning rate over peak, cosine and wsd
    weight_decay: float = 0.0
    log_every: int = 50
    status: str = "finished"  # finished | running | pruned | killed; `diverged` is decided by the curve
    stop_at: float = 1.0  # fraction of the planned steps after which the run was stopped

    @property
    def group(self) -> str:
        """The setting without its seed: runs of one group differ in nothing else."""
        decay = (
            f"-d{self.decay_fraction:g}{'' if self.decay_shape == 'linear' else self.decay_shape}" if self.schedule == "wsd" else ""
        )
        decoupled = f"-wd{self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.sweep}/{self.schedule}{decay}-T{self.steps}-lr{self.lr:g}-w{self.width}-b{self.batch}{decoupled}"

    @property
    def name(self) -> str:
        return f"{self.group.split('/')[1]}-s{self.seed}"

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step` (1 to `steps`)."""
        if step < self.warmup:
            return self.lr * step / self.warmup
        fall = 1.0
        if self.schedule == "cosine":
            fall = 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))
        elif self.schedule == "wsd":
            done = max(0.0, (step - (1 - self.decay_fraction) * self.steps) / (self.decay_fraction * self.steps))
            fall = 1 - math.sqrt(done) if self.decay_shape == "sqrt" else 1 - done
        return self.lr * (self.final_ratio + (1 - self.final_ratio) * fall)


# -- data: real, bundled with Python or scikit-learn ------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Training batches, a fixed validation set and the shape of the network."""

    draw: Callable[[np.random.Generator, int], Batch]
    valid: Batch
    n_train: int
    n_in: int
    n_out: int
    vocabulary: int = 0  # > 0: inputs are integers that are embedded first
    regression: bool = False


MANUAL_SHA256 = (
    "5782935fa936828578013e32368938cda82bc6eee1c7afbb56d3bf1088b9eb54"  # of Python 3.11.7; other versions ship another text
)


def manual() -> bytes:
    """The chapters of the Python manual that `help()` shows."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[k] for k in sorted(topics)).encode("ascii", "replace")
    if hashlib.sha256(text).hexdigest() != MANUAL_SHA256:
        print("note: this Python ships another manual than 3.11.7; the curves of char_lm will differ", file=sys.stderr)
    return text


def char_task() -> Task:
    """Next character of the Python manual from the eight before it."""
    codes = np.frombuffer(manual(), dtype=np.uint8)
    alphabet, ids = np.unique(codes, return_inverse=True)
    context, n_valid = 8, 40_000
    train, held = ids[:-n_valid], ids[-n_valid:]
    window = np.arange(context + 1)

    def draw(rng: np.random.Generator, batch: int) -> Batch:
        rows = train[rng.integers(0, train.size - context, batch)[:, None] + window]
        return rows[:, :-1], rows[:, -1]

    rows = held[np.arange(0, held.size - context, 16)[:, None] + window]
    return Task(draw, (rows[:, :-1], rows[:, -1]), train.size, context, alphabet.size, vocabulary=alphabet.size)


def digits_task() -> Task:
    """Handwritten digits, 8 x 8 pixels, each training batch shifted by up to a pixel and blurred with noise."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8) / 8.0 - 0.6).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, labels = x[order], labels[order]
    train, held = x[:1200], x[1200:]
    padded = np.pad(train, ((0, 0), (1, 1), (1, 1)), constant_values=-0.6)

    def draw(rng: np.random.Generator, batch: int) -> Batch:
        which = rng.integers(0, len(train), batch)
        down, right = rng.integers(0, 3, (2, batch))
        rows = down[:, None, None] + np.arange(8)[None, :, None]
        cols = right[:, None, None] + np.arange(8)[None, None, :]
        moved = padded[which[:, None, None], rows, cols].reshape(batch, 64)
        return moved + rng.normal(0, 0.6, moved.shape).astype(np.float32), labels[which]

    rng = np.random.default_rng(1)
    noisy = np.concatenate([held] * 4).reshape(-1, 64)
    noisy = noisy + rng.normal(0, 0.6, noisy.shape).astype(np.float32)
    return Task(draw, (noisy, np.concatenate([labels[1200:]] * 4)), len(train), 64, 10)


def diabetes_task() -> Task:
    """Disease progression after a year from ten measurements of 442 patients: little data, so long runs overfit."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order] / x.std(0)).astype(np.float32)
    y = ((y[order] - y.mean()) / y.std()).astype(np.float32)

    def draw(rng: np.random.Generator, batch: int) -> Batch:
        which = rng.integers(0, 280, batch)
        return x[which], y[which]

    return Task(draw, (x[280:], y[280:]), 280, 10, 1, regression=True)


TASKS: dict[str, Callable[[], Task]] = {"char_lm": char_task, "digits_mlp": digits_task, "diabetes_mlp": diabetes_task}
EMBEDDING = 12


# -- the network: one hidden layer, gradients by hand ------------------------------------------------------------------------


def initial(task: Task, width: int, rng: np.random.Generator) -> dict[str, Array]:
    """Weights drawn with He's scale."""
    n_in = task.n_in * EMBEDDING if task.vocabulary else task.n_in
    weights = {
        "w1": rng.normal(0, math.sqrt(2 / n_in), (n_in, width)),
        "b1": np.zeros(width),
        "w2": rng.normal(0, math.sqrt(1 / width), (width, task.n_out)),
        "b2": np.zeros(task.n_out),
    }
    if task.vocabulary:
        weights["embedding"] = rng.normal(0, 1, (task.vocabulary, EMBEDDING))
    return {k: v.astype(np.float32) for k, v in weights.items()}


def forward(w: dict[str, Array], task: Task, x: Array) -> tuple[Array, Array, Array]:
    """Inputs after embedding, hidden activations, outputs."""
    features = w["embedding"][x].reshape(len(x), -1) if task.vocabulary else x
    hidden = np.maximum(features @ w["w1"] + w["b1"], 0)
    return features, hidden, hidden @ w["w2"] + w["b2"]


def losses(out: Array, y: Array, task: Task) -> tuple[Array, Array]:
    """Loss of every row and its gradient by the outputs."""
    if task.regression:
        error = out[:, 0] - y
        return error**2, 2 * error[:, None]
    out = out - out.max(1, keepdims=True)
    p = np.exp(out)
    total = p.sum(1, keepdims=True)
    p /= total
    rows = np.arange(len(y))
    loss = np.log(total[:, 0]) - out[rows, y]
    p[rows, y] -= 1
    return loss, p


def gradients(w: dict[str, Array], task: Task, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
    features, hidden, out = forward(w, task, x)
    loss, d_out = losses(out, y, task)
    d_out = d_out / np.float32(len(y))
    d_hidden = (d_out @ w["w2"].T) * (hidden > 0)
    grads = {"w1": features.T @ d_hidden, "b1": d_hidden.sum(0), "w2": hidden.T @ d_out, "b2": d_out.sum(0)}
    if task.vocabulary:
        d_features = (d_hidden @ w["w1"].T).reshape(-1, EMBEDDING)
        # the sum over repeated characters as a product with their one-hot rows, far quicker than np.add.at
        one_hot = (x.reshape(1, -1) == np.arange(task.vocabulary)[:, None]).astype(np.float32)
        grads["embedding"] = one_hot @ d_features
    return float(loss.mean()), grads


def train(run: Run, task: Task) -> dict[str, list[float]]:
    """The logged curve of one run; it ends where the run was stopped or three logged losses in a row were not finite."""
    rng = np.random.default_rng([run.seed, zlib.crc32(run.group.encode())])
    w = initial(task, run.width, rng)
    first = {k: np.zeros_like(v) for k, v in w.items()}
    second = {k: np.zeros_like(v) for k, v in w.items()}
    log: dict[str, list[float]] = {k: [] for k in ("step", "samples", "epoch", "lr", "train_loss", "val_loss", "val_accuracy")}
    recent: list[float] = []
    broken = 0
    for step in range(1, round(run.steps * run.stop_at) + 1):
        lr = run.lr_at(step)
        loss, grads = gradients(w, task, *task.draw(rng, run.batch))
        recent.append(loss)
        for k, g in grads.items():
            if run.optimizer == "adam":
                first[k] += np.float32(0.1) * (g - first[k])
                second[k] += np.float32(0.01) * (g * g - second[k])
                scale = math.sqrt(1 - 0.99**step) / (1 - 0.9**step)
                move = np.float32(scale) * first[k] / (np.sqrt(second[k]) + np.float32(1e-7))
            else:
                first[k] *= np.float32(0.9)
                first[k] += g
                move = first[k]
            w[k] -= np.float32(lr) * (move + np.float32(run.weight_decay) * w[k])
        if step % run.log_every == 0:
            _, _, out = forward(w, task, task.valid[0])
            held, _ = losses(out, task.valid[1], task)
            right = math.nan if task.regression else float((out.argmax(1) == task.valid[1]).mean())
            row = (step, step * run.batch, step * run.batch / task.n_train, lr, float(np.mean(recent)), float(held.mean()), right)
            for k, value in zip(log, row, strict=True):
                log[k].append(value)
            recent = []
            broken = 0 if math.isfinite(row[5]) else broken + 1
            if broken == 3:
                break
    return log


# -- the sweeps ---------------------------------------------------------------------------------------------------------------


def planned_runs() -> list[Run]:
    """Every run of the three sweeps, in the order they are written."""
    return [*_char_runs(), *_digits_runs(), *_diabetes_runs()]


def _grid(base: dict[str, Any], schedules: dict[str, dict[str, Any]], rates: tuple[float, float, float]) -> Iterator[Run]:
    """Schedules x three learning rates x three lengths; two seeds at the middle rate."""
    for schedule, options in schedules.items():
        for rate in rates:
            for steps in (3000, 6000, 12000):
                for seed in range(2 if rate == rates[1] else 1):
                    yield Run(**base, **options, schedule=schedule, lr=rate, steps=steps, seed=seed, log_every=steps // 60)


def _char_runs() -> Iterator[Run]:
    base: dict[str, Any] = {"sweep": "char_lm", "optimizer": "adam", "batch": 32}
    wide = {**base, "width": 128}
    cosine = {"final_ratio": 0.1}
    yield from _grid(wide, {"wsd": {}, "cosine": cosine}, (0.002, 0.004, 0.008))
    for steps in (3000, 6000):
        yield Run(**base, width=48, schedule="wsd", lr=0.004, steps=steps, log_every=50)
        yield Run(**base, width=48, schedule="cosine", lr=0.004, steps=steps, log_every=50, **cosine)
    yield Run(**{**wide, "batch": 64}, schedule="wsd", lr=0.004, steps=6000, log_every=100)
    yield Run(**{**wide, "batch": 64}, schedule="cosine", lr=0.004, steps=6000, log_every=100, **cosine)
    for steps in (6000, 12000):
        yield Run(**wide, schedule="wsd", decay_fraction=0.1, decay_shape="sqrt", lr=0.004, steps=steps, log_every=100)
    for rate, steps, seed in ((0.002, 6000, 0), (0.004, 6000, 0), (0.016, 6000, 0), (0.004, 12000, 0), (0.004, 12000, 1)):
        yield Run(**wide, schedule="constant", lr=rate, steps=steps, seed=seed, log_every=100)
    for rate in (0.3, 1.0, 3.0):
        yield Run(**{**wide, "optimizer": "sgd"}, schedule="constant", lr=rate, steps=3000, warmup=1500, log_every=50)
    yield Run(**wide, schedule="wsd", lr=0.004, steps=12000, seed=2, log_every=200, status="running", stop_at=0.6)
    yield Run(**wide, schedule="cosine", lr=0.004, steps=12000, seed=2, log_every=200, status="running", stop_at=0.5, **cosine)
    yield Run(**wide, schedule="constant", lr=0.004, steps=12000, seed=2, log_every=100, status="running", stop_at=0.45)
    for rate in (0.0005, 0.001, 0.03, 0.06):
        yield Run(**wide, schedule="wsd", lr=rate, steps=6000, log_every=100, status="pruned", stop_at=0.3)
    yield Run(**wide, schedule="wsd", lr=0.008, steps=12000, seed=1, log_every=200, status="killed", stop_at=0.87)


def _digits_runs() -> Iterator[Run]:
    base: dict[str, Any] = {"sweep": "digits_mlp", "optimizer": "sgd", "batch": 32}
    wide = {**base, "width": 128}
    yield from _grid(wide, {"wsd": {"decay_fraction": 0.25}, "cosine": {}}, (0.01, 0.02, 0.04))
    for steps in (3000, 6000):
        yield Run(**base, width=32, schedule="wsd", decay_fraction=0.25, lr=0.02, steps=steps, log_every=50)
        yield Run(**base, width=32, schedule="cosine", lr=0.02, steps=steps, log_every=50)
    yield Run(**{**wide, "batch": 128}, schedule="wsd", decay_fraction=0.25, lr=0.04, steps=6000, log_every=100)
    yield Run(**{**wide, "batch": 128}, schedule="cosine", lr=0.04, steps=6000, log_every=100)
    for rate, seed in ((0.01, 0), (0.02, 0), (0.02, 1), (0.04, 0)):
        yield Run(**wide, schedule="constant", lr=rate, steps=6000, seed=seed, log_every=100)
    for rate in (0.3, 0.6, 1.0, 3.0):
        yield Run(**wide, schedule="cosine", lr=rate, steps=6000, warmup=2000, log_every=100)
    yield Run(
        **wide, schedule="wsd", decay_fraction=0.25, lr=0.02, steps=12000, seed=2, log_every=200, status="running", stop_at=0.7
    )
    yield Run(**wide, schedule="cosine", lr=0.02, steps=12000, seed=2, log_every=200, status="running", stop_at=0.4)
    yield Run(**wide, schedule="constant", lr=0.02, steps=6000, seed=2, log_every=100, status="running", stop_at=0.5)
    for rate in (0.0005, 0.001, 0.1):
        yield Run(**wide, schedule="cosine", lr=rate, steps=6000, log_every=100, status="pruned", stop_at=0.3)
    yield Run(**wide, schedule="cosine", lr=0.04, steps=12000, seed=1, log_every=200, status="killed", stop_at=0.55)
    yield Run(
        **wide, schedule="wsd", decay_fraction=0.25, lr=0.04, steps=12000, seed=1, log_every=200, status="killed", stop_at=0.8
    )


def _diabetes_runs() -> Iterator[Run]:
    base: dict[str, Any] = {"sweep": "diabetes_mlp", "optimizer": "adam", "batch": 16, "log_every": 50}
    for rate in (0.001, 0.004):
        for schedule in ("constant", "cosine", "wsd"):
            yield Run(**base, width=64, schedule=schedule, lr=rate, steps=3000)
    yield Run(**base, width=64, schedule="constant", lr=0.001, steps=3000, seed=1)
    yield Run(**base, width=16, schedule="constant", lr=0.002, steps=3000)
    yield Run(**base, width=16, schedule="cosine", lr=0.002, steps=3000)
    for decay in (0.003, 0.03):
        yield Run(**base, width=64, schedule="constant", lr=0.002, steps=3000, weight_decay=decay)
    yield Run(**base, width=64, schedule="constant", lr=0.004, steps=3000, seed=1, status="pruned", stop_at=0.4)
    yield Run(**base, width=64, schedule="cosine", lr=0.004, steps=3000, seed=1, status="pruned", stop_at=0.4)
    yield Run(**base, width=64, schedule="wsd", lr=0.001, steps=3000, seed=1, status="running", stop_at=0.5)


def diverged(values: list[float]) -> bool:
    """The loss ends not finite, or a quarter and more above its lowest."""
    return not math.isfinite(values[-1]) or values[-1] > 1.25 * float(np.nanmin(values))


def rounded(values: list[float]) -> list[float]:
    """Six significant digits: below the noise of every metric, and half the bytes."""
    return [float(f"{v:.6g}") for v in values]


def curve_frame(run: Run, log: dict[str, list[float]]) -> pl.DataFrame:
    """One run as rows of the sweep's table: what is constant over the run is repeated in every row."""
    n = len(log["step"])
    # a loss that climbs in the small regression is overfitting, not divergence
    status = "diverged" if run.status == "finished" and run.sweep != "diabetes_mlp" and diverged(log["val_loss"]) else run.status
    metrics = {k: rounded(log[k]) for k in ("epoch", "lr", "train_loss", "val_loss", "val_accuracy")}
    if run.sweep == "diabetes_mlp":
        del metrics["val_accuracy"]
    wsd = run.schedule == "wsd"
    constants: dict[str, Any] = {
        "group": run.group,
        "seed": run.seed,
        "planned_end": run.steps,
        "status": status,
        "config.task": run.sweep,
        "config.optimizer": run.optimizer,
        "config.learning_rate": run.lr,
        "config.schedule": run.schedule,
        "config.warmup_steps": run.warmup,
        "config.decay_fraction": run.decay_fraction if wsd else None,
        "config.decay_shape": run.decay_shape if wsd else None,
        "config.min_lr_ratio": None if run.schedule == "constant" else run.final_ratio,
        "config.max_steps": run.steps,
        "config.width": run.width,
        "config.batch_size": run.batch,
        "config.weight_decay": run.weight_decay,
    }
    types: dict[str, Any] = {
        "config.decay_fraction": pl.Float64,
        "config.decay_shape": pl.String,
        "config.min_lr_ratio": pl.Float64,
    }
    seen = "tokens" if run.sweep == "char_lm" else "samples"
    points = pl.DataFrame(
        {"step": pl.Series(log["step"], dtype=pl.Int64), seen: pl.Series(log["samples"], dtype=pl.Int64), **metrics}
    )
    repeated = [pl.Series(k, [v] * n, dtype=types.get(k)) for k, v in constants.items()]
    return pl.DataFrame({"run": [run.name] * n}).hstack(points).hstack(repeated)


def replace_with(frame: pl.DataFrame, path: Path) -> None:
    """Write beside `path`, then rename: a killed script leaves the old file or the new one."""
    beside = path.with_suffix(".part")
    frame.write_parquet(beside, compression="zstd", compression_level=19)
    beside.replace(path)


def trained(run: Run, task: Callable[[], Task], cache: Path) -> tuple[dict[str, list[float]], bool]:
    """The curve of one run, from the cache when it was trained before by the same code; and whether it was."""
    code = "".join(inspect.getsource(f) for f in (TASKS[run.sweep], initial, forward, losses, gradients, train, Run.lr_at))
    key = hashlib.sha256((repr(asdict(run)) + code).encode()).hexdigest()[:24]
    path = cache / f"{key}.parquet"
    if path.exists():
        return pl.read_parquet(path).to_dict(as_series=False), True
    log = train(run, task())
    cache.mkdir(parents=True, exist_ok=True)
    replace_with(pl.DataFrame(log), path)
    return log, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", choices=list(TASKS), action="append", help="only this sweep (repeatable)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "runs", help="folder of the Parquet files")
    parser.add_argument("--cache", type=Path, default=Path("build/example_runs"), help="folder that keeps finished runs")
    args = parser.parse_args()
    np.seterr(over="ignore", invalid="ignore")  # runs that blow up are wanted
    args.out.mkdir(parents=True, exist_ok=True)
    for sweep in args.sweep or TASKS:
        task = functools.cache(TASKS[sweep])
        runs = [r for r in planned_runs() if r.sweep == sweep]
        frames = []
        for i, run in enumerate(runs, 1):
            started = time.perf_counter()
            log, known = trained(run, task, args.cache)
            frames.append(curve_frame(run, log))
            took = "cached" if known else f"{time.perf_counter() - started:.1f} s"
            print(f"{sweep} {i}/{len(runs)} {run.name} {frames[-1]['status'][0]} {log['val_loss'][-1]:.4f} {took}", file=sys.stderr)
        replace_with(pl.concat(frames), args.out / f"{sweep}.parquet")


if __name__ == "__main__":
    main()
