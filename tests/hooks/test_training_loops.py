"""The callbacks and the stopper in the libraries' own training loops. What is scored is a known curve, so that the end is known."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from farfield import InputError
from hooked import LAST, earlier, floor_at


@pytest.mark.extra("torch")
@pytest.mark.extra("transformers")
@pytest.mark.peer("accelerate")
@pytest.mark.parametrize(("quality", "ends"), [(1.2, True), (0.05, False)])
def test_the_trainer_of_transformers(quality: float, ends: bool, tmp_path: Path) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    from farfield.hooks.transformers import ForecastCallback

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: Any = None, labels: Any = None) -> dict[str, Any]:
            out = self.layer(x)
            return {"loss": ((out - labels) ** 2).mean(), "logits": out}

    data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(8)]
    seen: list[int] = []

    class Scored(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            seen.append(self.state.global_step)
            metrics = {"eval_loss": floor_at(quality, self.state.global_step)}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    arguments = TrainingArguments(
        str(tmp_path), max_steps=LAST, per_device_train_batch_size=2, eval_strategy="steps", eval_steps=1, logging_strategy="no",
        save_strategy="no", report_to=[], lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    callback = ForecastCallback(others=earlier("eval_loss", "step", lr_scheduler_type="constant", max_steps=LAST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        Scored(Model(), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]).train()
    assert callback.advice is not None
    assert callback.advice.stop is ends
    assert (seen[-1] < 20) is ends
    assert seen[-1] == callback.advice.x or not ends


@pytest.mark.extra("transformers")
@pytest.mark.peer("accelerate")
def test_the_trainers_callback_takes_metric_goal_and_schedule_from_the_arguments(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    from farfield.hooks.transformers import ForecastCallback

    class State:
        max_steps, global_step = 100, 10

    arguments = TrainingArguments(
        str(tmp_path), metric_for_best_model="accuracy", greater_is_better=True, warmup_steps=5, report_to=[], use_cpu=True
    )
    callback = ForecastCallback()
    callback.on_train_begin(arguments, State(), object())
    assert callback._monitor is not None
    callback._monitor.report(1, 0.5)
    curves = callback._monitor.curves()
    assert (curves.metric.name, curves.metric.goal) == ("eval_accuracy", "max")
    told = {name: curves.column(f"config.{name}")[0] for name in ("lr_scheduler_type", "warmup_steps", "max_steps")}
    assert told == {"lr_scheduler_type": "linear", "warmup_steps": 5, "max_steps": 100}
    with pytest.raises(InputError, match="has no 'eval_accuracy'; it has: eval_loss"):
        callback.on_evaluate(arguments, State(), object(), {"eval_loss": 1.0})


@pytest.mark.extra("torch")
@pytest.mark.peer("lightning")
@pytest.mark.parametrize(("quality", "ends"), [(1.2, True), (0.05, False)])
def test_lightning(quality: float, ends: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl
        import torch

        from farfield.hooks.lightning import ForecastCallback

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)

            def training_step(self, batch: Any, index: int) -> Any:
                return self.layer(batch).pow(2).mean()

            def validation_step(self, batch: Any, index: int) -> None:
                self.log("val_loss", floor_at(quality, self.current_epoch + 1))

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.01)

        loader = torch.utils.data.DataLoader(torch.ones(2, 1))
        callback = ForecastCallback(others=earlier("val_loss", "epoch", first=0))
        trainer = pl.Trainer(
            max_epochs=LAST, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Module(), loader, loader)
        assert callback.advice is not None
        assert callback.advice.stop is ends
        assert (callback.advice.x < 20) is ends
        wrong = ForecastCallback("val_acc", mode="max")
        trainer = pl.Trainer(
            max_epochs=2, callbacks=[wrong], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        with pytest.raises(InputError, match="'val_acc' was not logged; logged: val_loss"):
            trainer.fit(Module(), loader, loader)


@pytest.mark.extra("torch")
@pytest.mark.peer("keras")
@pytest.mark.parametrize(("quality", "ends"), [(1.2, True), (0.05, False)])
def test_keras(quality: float, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
        import numpy as np

        from farfield.hooks.keras import ForecastCallback

        class Scored(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                logs["val_loss"] = floor_at(quality, epoch + 1)

        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        callback = ForecastCallback(others=earlier("val_loss", "epoch", first=0))
        x = np.ones((2, 1))
        seen = model.fit(x, x, epochs=LAST, callbacks=[Scored(), callback], verbose=0).epoch
        assert callback.advice is not None
        assert callback.advice.stop is ends
        assert (len(seen) < 20) is ends
        with pytest.raises(InputError, match=r"'val_acc' is not in the logs; they have: loss"):
            model.fit(x, x, epochs=2, callbacks=[ForecastCallback("val_acc", mode="max")], verbose=0)


@pytest.mark.peer("ray")
@pytest.mark.peer("requests")  # what Ray Tune needs beside Ray itself
@pytest.mark.peer("pydantic")
def test_the_stopper_by_rays_protocol() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.tune import Stopper

        from farfield.hooks.ray import ForecastStopper

    stopper = ForecastStopper("val_loss", mode="min", last_step=LAST, others=earlier("val_loss", "training_iteration"), growth=0.3)
    assert isinstance(stopper, Stopper)

    def stops(trial: str, quality: float) -> int:
        for k in range(1, LAST + 1):
            if stopper(trial, {"training_iteration": k, "val_loss": floor_at(quality, k), "done": False}):
                return k
        return LAST + 1

    assert stops("good", 0.05) == LAST  # it has ended
    assert stops("bad", 1.2) < 20
    assert stopper.advice["bad"].why.startswith("P(beats")
    assert stopper._monitor.curves().column("status").to_list()[:2] == ["finished", "pruned"]
    assert not stopper("odd", {"training_iteration": 1})
    assert not stopper.stop_all()
    with pytest.raises(InputError, match="mode is 'least'; allowed: 'min', 'max'"):
        ForecastStopper("val_loss", mode="least", last_step=3)  # type: ignore[arg-type]
