"""Write the log files that the reader tests read, each with the program that writes such logs in earnest.

Run as ``python make_fixtures.py [NAME ...]`` with the writers installed; nothing of farfield is imported. Beside each log,
``expected.json`` records what was handed to the writer. The files in `data/` were written by torch 2.13.0 (tensorboard
2.21.0), tensorboardX 2.6.5, wandb 0.31.0, mlflow-skinny 3.17.2, optuna 5.0.0, trackio 0.43.0, transformers 5.23.0, lightning
2.6.6, keras 3.15.1 (torch backend), ray 2.60.0, pandas 3.1.1 with pyarrow 26.0.1, polars 2.1.0.

To keep the files small, tables that no reader looks at are dropped from the SQLite stores, and models, optimisers, pickles
and experiment states are not kept. MLflow's file store is written with ``MLFLOW_ALLOW_FILE_STORE=true``, without which this
version refuses it. W&B's CSV export comes from its web page and has no local writer; the tests spell one out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "data"
Runs = dict[str, dict[str, Any]]


def run(metrics: dict[str, list[tuple[float, float]]], **attributes: Any) -> dict[str, Any]:
    """What a run should read back as: metric -> (step, value) pairs; config, group, seed, status."""
    return {"metrics": metrics, **attributes}


def loss(step: int, scale: float = 1.0) -> float:
    return scale / (step + 1) + 0.25


# -- event files ----------------------------------------------------------------------------------------------------------


def tensorboard(folder: Path) -> Runs:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    plain: dict[str, list[tuple[float, float]]] = {"val/loss": [], "val/acc": [], "train/lr": []}
    with SummaryWriter(folder / "plain") as writer:
        for step in range(0, 300, 20):
            values = {"val/loss": loss(step), "val/acc": step / 300, "train/lr": 0.1 * (1 - step / 300)}
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)
                plain[tag].append((step, value))
            writer.add_text("note", f"step {step}", step)
        writer.add_histogram("weights", np.linspace(0, 1, 5), 0)
        writer.add_hparams({"lr": 0.1, "optimizer": "adam", "nesterov": True, "seed": 7}, {"hparam/final": 1.0}, run_name="hparams")

    tensors: dict[str, list[tuple[float, float]]] = {"single": [], "double": [], "large step": []}
    with SummaryWriter(folder / "tensors") as writer:
        for step in range(12):
            writer.add_scalar("single", loss(step), step, new_style=True)
            writer.add_scalar("double", loss(step, 2.0), step, new_style=True, double_precision=True)
            writer.add_scalar("large step", -float(step), step * 10**7, new_style=True)
            tensors["single"].append((step, loss(step)))
            tensors["double"].append((step, loss(step, 2.0)))
            tensors["large step"].append((step * 10**7, -float(step)))

    with SummaryWriter(folder / "restarted", filename_suffix=".1") as writer:
        for step in range(10):
            writer.add_scalar("loss", loss(step), step)
    with SummaryWriter(folder / "restarted", filename_suffix=".2") as writer:
        for step in range(6, 15):
            writer.add_scalar("loss", loss(step, 2.0), step)
    restarted = [(s, loss(s)) for s in range(6)] + [(s, loss(s, 2.0)) for s in range(6, 15)]

    with SummaryWriter(folder / "purged", filename_suffix=".1") as writer:
        for step in range(10):
            writer.add_scalar("loss", loss(step), step)
    with SummaryWriter(folder / "purged", purge_step=4, filename_suffix=".2") as writer:
        writer.add_scalar("loss", loss(4, 2.0), 4)
    purged = [(s, loss(s)) for s in range(4)] + [(4, loss(4, 2.0))]

    with SummaryWriter(folder / "diverged") as writer:
        for step in range(8):
            writer.add_scalar("loss", loss(step) if step < 5 else math.nan, step)
    diverged = [(s, loss(s) if s < 5 else math.nan) for s in range(8)]

    config = {"lr": 0.1, "optimizer": "adam", "nesterov": True, "seed": 7.0}
    return {
        "plain": run(plain, config=config, seed=7),
        "tensors": run(tensors),
        "restarted": run({"loss": restarted}, n_overlap=4),
        "purged": run({"loss": purged}, n_overlap=6),
        "diverged": run({"loss": diverged}),
    }


def tensorboardx(folder: Path) -> Runs:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in range(10):
            writer.add_scalar("reward", float(step * step), step)
    return {folder.name: run({"reward": [(s, float(s * s)) for s in range(10)]})}


# -- experiment trackers --------------------------------------------------------------------------------------------------


def wandb(folder: Path) -> Runs:
    import wandb as writer

    out: Runs = {}
    settings = writer.Settings(
        console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True
    )
    for name, n, seed in (("first", 8, 3), ("second", 120, 4)):
        config = {"lr": 0.1, "seed": seed, "optimizer": {"name": "adam", "weight_decay": 0.0}, "max_steps": n}
        with tempfile.TemporaryDirectory() as scratch:
            logged = writer.init(
                project="fixtures", name=name, group="sweep-1", config=config, mode="offline", dir=scratch, settings=settings
            )
            metrics: dict[str, list[tuple[float, float]]] = {"val/loss": [], "nested.a": [], "nested.b.c": [], "odd": []}
            for step in range(n):
                odd = [math.nan, math.inf, -math.inf, 1.5][step % 4]
                row = {"val/loss": loss(step), "nested": {"a": step, "b": {"c": -step}}, "odd": odd, "text": "not a number"}
                logged.log(row, step=step * 5)
                for key, value in (("val/loss", loss(step)), ("nested.a", step), ("nested.b.c", -step), ("odd", odd)):
                    metrics[key].append((step * 5, value))
            logged.finish()
            source = next(Path(scratch).rglob("*.wandb"))
            _wait_until_written(source)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / f"run-{name}.wandb")
        flat = {"lr": 0.1, "seed": seed, "optimizer.name": "adam", "optimizer.weight_decay": 0.0, "max_steps": n}
        out[name] = run(metrics, config=flat, seed=seed, group="sweep-1", status="finished")
    return out


def wandb_resumed(folder: Path) -> Runs:
    """A run of three processes, two of which were stopped behind the checkpoint that the next one went on from."""
    import wandb as writer

    settings = writer.Settings(
        console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True
    )
    with tempfile.TemporaryDirectory() as scratch:
        for part, (first, end) in enumerate(((0, 12), (8, 20), (18, 24))):
            logged = writer.init(
                project="fixtures", id="resumed1", name="resumed", config={"lr": 0.1, "part": part}, mode="offline", dir=scratch,
                settings=settings, resume="allow",
            )  # fmt: skip
            for step in range(first, end):
                row = {"loss": loss(step) + part}
                logged.log(row | ({"val/loss": loss(step) + part} if step % 4 == 0 else {}), step=step)
            logged.finish(exit_code=0 if part == 2 else 1)
            time.sleep(2)  # the folders are named by the second
        for source in Path(scratch).rglob("*.wandb"):
            _wait_until_written(source)
            (folder / source.parent.name).mkdir(parents=True)
            shutil.copy(source, folder / source.parent.name / source.name)
    spans = enumerate(((0, 8), (8, 18), (18, 24)))
    kept = [(step, loss(step) + part) for part, (first, end) in spans for step in range(first, end)]
    metrics = {"loss": kept, "val/loss": [(step, value) for step, value in kept if step % 4 == 0]}
    return {"resumed": run(metrics, config={"lr": 0.1, "part": 2}, status="finished", n_overlap=6)}


def _wait_until_written(file: Path) -> None:
    """wandb's own process writes the file and may be behind; wait until it has not grown for two seconds."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 2.0:
        if file.stat().st_size != size:
            size, since = file.stat().st_size, time.monotonic()
        time.sleep(0.1)


def _mlflow(uri: str) -> Runs:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("fixtures")
    values = [(s * 10, loss(s) if s < 6 else math.nan) for s in range(7)]
    with mlflow.start_run(run_name="parent") as parent:
        mlflow.log_params({"lr": 0.1, "seed": 1, "optimizer": "adam"})
        for step, value in values:
            mlflow.log_metric("val_loss", value, step=step)
            mlflow.log_metric("val/acc", step / 100, step=step)
        with mlflow.start_run(run_name="child", nested=True):
            mlflow.log_metrics({"val_loss": 2.0}, step=1)
    with contextlib.suppress(ValueError), mlflow.start_run(run_name="failed"):
        mlflow.log_metric("val_loss", 3.0, step=0)
        mlflow.log_metric("val_loss", 2.5, step=10)
        raise ValueError
    group = parent.info.run_id
    accuracy = [(float(s), s / 100) for s, _ in values]
    return {
        "parent": run(
            {"val_loss": values, "val/acc": accuracy},
            config={"lr": 0.1, "seed": 1, "optimizer": "adam"},
            seed=1,
            group=group,
            status="finished",
        ),
        "child": run({"val_loss": [(1, 2.0)]}, group=group, status="finished"),
        "failed": run({"val_loss": [(0, 3.0), (10, 2.5)]}, status="killed"),
    }


def _trim(database: Path, keep: set[str]) -> None:
    """Drop every table that is not in `keep`, and every index, so that the file stays small."""
    with contextlib.closing(sqlite3.connect(database)) as store:
        store.execute("PRAGMA foreign_keys = OFF")
        made = store.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        for kind, name in made:
            if kind in ("index", "trigger", "view") or (kind == "table" and name not in keep and not name.startswith("sqlite_")):
                store.execute(f'DROP {kind.upper()} IF EXISTS "{name}"')
        store.commit()
        store.execute("PRAGMA journal_mode = DELETE")
        store.execute("PRAGMA page_size = 1024")
        store.execute("VACUUM")


def mlflow_sqlite(folder: Path) -> Runs:
    folder.mkdir(parents=True)
    database = folder / "mlflow.db"
    out = _mlflow(f"sqlite:///{database}")
    with contextlib.closing(sqlite3.connect(database)) as store:
        store.execute("UPDATE runs SET artifact_uri = '', user_id = ''")
        store.execute("UPDATE experiments SET artifact_location = ''")
        store.execute("DELETE FROM tags WHERE key LIKE 'mlflow.source%' OR key = 'mlflow.user'")
        store.commit()
    _trim(database, {"runs", "metrics", "params", "tags", "experiments"})
    return out


def mlflow_files(folder: Path) -> Runs:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    out = _mlflow(f"file://{folder}")
    for meta in folder.rglob("meta.yaml"):
        lines = meta.read_text().splitlines()
        meta.write_text("".join(f"{line}\n" for line in lines if not line.startswith(("artifact_", "user_id", "source_"))))
    for tag in [*folder.rglob("mlflow.source.*"), *folder.rglob("mlflow.user")]:
        tag.unlink()
    shutil.rmtree(folder / ".trash", ignore_errors=True)
    shutil.rmtree(folder / "models", ignore_errors=True)
    return out


def optuna(folder: Path) -> Runs:
    import optuna as writer

    writer.logging.set_verbosity(writer.logging.ERROR)
    folder.mkdir(parents=True)
    out: Runs = {}
    study = writer.create_study(study_name="fixtures", storage=f"sqlite:///{folder / 'optuna.db'}", direction="maximize")

    def objective(trial: writer.Trial) -> float:
        config = {
            "lr": trial.suggest_float("lr", 1e-3, 1.0, log=True),
            "layers": trial.suggest_int("layers", 1, 5),
            "optimizer": trial.suggest_categorical("optimizer", ["adam", "sgd", None]),
            "seed": 11,
        }
        trial.set_user_attr("seed", 11)
        values = [0.2 * s + 0.01 * trial.number for s in range(6 if trial.number != 1 else 3)]
        if trial.number == 2:
            values[-2:] = [math.inf, math.nan]
        for step, value in enumerate(values):
            trial.report(value, step)
        status = ["finished", "pruned", "finished", "killed"][trial.number]
        pairs = list(enumerate(values))
        out[f"trial {trial.number}"] = run({"value": pairs}, config=config, seed=11, status=status)
        if status == "pruned":
            raise writer.TrialPruned
        if status == "killed":
            raise RuntimeError
        return 1.0

    study.optimize(objective, n_trials=4, catch=(RuntimeError,))
    _trim(
        folder / "optuna.db",
        {"studies", "study_directions", "trials", "trial_params", "trial_intermediate_values", "trial_user_attributes"},
    )
    return out


def trackio(folder: Path) -> Runs:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TRACKIO_DIR"], os.environ["HF_HUB_OFFLINE"] = scratch, "1"
        import trackio as writer

        writer.init(project="fixtures", name="only", group="g", config={"lr": 0.1, "seed": 5}, embed=False)
        metrics: dict[str, list[tuple[float, float]]] = {"loss": [], "nested.a": []}
        for step in range(6):
            value = loss(step) if step < 4 else math.inf
            writer.log({"loss": value, "nested": {"a": step}})
            metrics["loss"].append((step, value))
            metrics["nested.a"].append((step, step))
        writer.finish()
        folder.mkdir(parents=True)
        shutil.copy(Path(scratch) / "fixtures.db", folder / "fixtures.db")
    _trim(folder / "fixtures.db", {"metrics", "configs"})
    return {"only": run(metrics, config={"lr": 0.1, "seed": 5}, seed=5, group="g")}


# -- trainers -------------------------------------------------------------------------------------------------------------


def huggingface(folder: Path) -> Runs:
    import torch
    from transformers import Trainer, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.layer(x).squeeze(-1)
            return {"loss": ((y - labels) ** 2).mean(), "logits": y}

    torch.manual_seed(0)
    rows = [{"x": torch.rand(2), "labels": torch.rand(())} for _ in range(32)]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            max_steps=12,
            logging_steps=2,
            eval_strategy="steps",
            eval_steps=4,
            save_strategy="steps",
            save_steps=6,
            per_device_train_batch_size=8,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(Line(), arguments, train_dataset=rows, eval_dataset=rows[:8])
        trainer.train()
        history = trainer.state.log_history
        for checkpoint in ("checkpoint-6", "checkpoint-12"):
            (folder / "model" / checkpoint).mkdir(parents=True)
            shutil.copy(Path(scratch) / checkpoint / "trainer_state.json", folder / "model" / checkpoint)
    metrics: dict[str, list[tuple[float, float]]] = {}
    for row in [r for r in history if "train_runtime" not in r]:
        for key in ("loss", "eval_loss", "learning_rate", "grad_norm", "epoch"):
            if key in row:
                metrics.setdefault(key, []).append((row["step"], float(row[key])))
    return {"model": run(metrics, status="finished", planned_end=12.0)}


def lightning(folder: Path) -> Runs:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(str(folder), name="", version=0)
    logger.log_hyperparams({"lr": 0.1, "seed": 2, "max_steps": 50, "optimizer": {"name": "adam"}})
    metrics: dict[str, list[tuple[float, float]]] = {"train_loss": [], "lr-Adam": [], "val_loss": []}
    for step in range(0, 50, 10):
        logger.log_metrics({"train_loss": loss(step), "lr-Adam": 0.1 / (step + 1)}, step=step)
        metrics["train_loss"].append((step, loss(step)))
        metrics["lr-Adam"].append((step, 0.1 / (step + 1)))
        if step % 20 == 0:
            logger.log_metrics({"val_loss": loss(step, 2.0), "epoch": step // 20}, step=step)
            metrics["val_loss"].append((step, loss(step, 2.0)))
    logger.save()
    config = {"lr": 0.1, "seed": 2, "max_steps": 50, "optimizer.name": "adam"}
    return {"version_0": run(metrics, config=config, seed=2, planned_end=50.0)}


def keras(folder: Path) -> Runs:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as writer
    import numpy as np

    folder.mkdir(parents=True)
    x = np.random.default_rng(0).random((32, 3))
    model = writer.Sequential([writer.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    log = writer.callbacks.CSVLogger(str(folder / "small.csv"))
    history = model.fit(x, x.sum(1), epochs=5, verbose=0, validation_split=0.25, callbacks=[log]).history
    return {"small": run({name: list(enumerate(map(float, values))) for name, values in history.items()})}


def ray(folder: Path) -> Runs:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray as cluster
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        for i in range(5):
            tune.report({"loss": config["lr"] / (i + 1), "nested": {"a": i}})

    out: Runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        cluster.init(
            num_cpus=1, include_dashboard=False, configure_logging=False, log_to_driver=False, object_store_memory=80 * 2**20
        )
        space = {"lr": tune.grid_search([0.1, 0.2]), "seed": 3}
        tune.Tuner(train, param_space=space, run_config=tune.RunConfig(storage_path=scratch, name="sweep", verbose=0)).fit()
        cluster.shutdown()
        for i, result in enumerate(sorted(Path(scratch).rglob("result.json"))):
            row = json.loads(result.read_text().splitlines()[0])
            trial, lr = folder / f"trial_{i}", row["config"]["lr"]
            trial.mkdir(parents=True)
            for name in ("result.json", "progress.csv", "params.json"):
                shutil.copy(result.parent / name, trial)
            shutil.copy(next(result.parent.glob("events*")), trial)
            metrics = {"loss": [(s + 1, lr / (s + 1)) for s in range(5)], "nested/a": [(s + 1, s) for s in range(5)]}
            out[row["trial_id"]] = run(metrics, config={"lr": lr, "seed": 3}, seed=3)
    return out


def columnar(folder: Path) -> Runs:
    import pandas as pd
    import polars as pl

    folder.mkdir(parents=True)
    rows = [{"run": r, "step": s, "loss": loss(s, i + 1.0)} for i, r in enumerate(("a", "b")) for s in range(5)]
    pd.DataFrame(rows).to_parquet(folder / "pandas.parquet")
    pl.DataFrame(rows).write_ipc(folder / "polars.arrow")
    pairs = {r: [(s, loss(s, i + 1.0)) for s in range(5)] for i, r in enumerate(("a", "b"))}
    return {f"{r} ({stem})": run({"loss": p}) for stem in ("pandas", "polars") for r, p in pairs.items()}


WRITERS = {
    f.__name__: f
    for f in (
        tensorboard,
        tensorboardx,
        wandb,
        wandb_resumed,
        mlflow_sqlite,
        mlflow_files,
        optuna,
        trackio,
        huggingface,
        lightning,
        keras,
        ray,
        columnar,
    )
}


def main(chosen: list[str]) -> None:
    record = HERE / "expected.json"
    expected = json.loads(record.read_text()) if record.exists() else {}
    for name in chosen or WRITERS:
        shutil.rmtree(HERE / name, ignore_errors=True)
        expected[name] = WRITERS[name](HERE / name)
    record.write_text(json.dumps(expected, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
