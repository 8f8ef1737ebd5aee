"""The pruner in real Optuna studies, in memory and in SQLite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from farfield import InputError, read_runs
from farfield.hooks.optuna import ForecastPruner, curves_of

pytestmark = pytest.mark.extra("hpo")
optuna.logging.set_verbosity(optuna.logging.WARNING)
LAST = 49


def curve(quality: float, seed: int, sign: float = 1.0) -> np.ndarray:
    k = np.arange(1, LAST + 2)
    return sign * (quality + (1 + quality) * k**-0.6 + 0.002 * np.random.default_rng(seed).standard_normal(LAST + 1))


def objective(trial: optuna.Trial, sign: float = 1.0) -> float:
    y = curve(trial.suggest_float("quality", 0.1, 1.0), trial.number, sign)
    for step, value in enumerate(y):
        trial.report(float(value), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(y[-1])


def study_of(pruner: ForecastPruner, direction: str = "minimize", storage: str | None = None) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=1)
    return optuna.create_study(
        direction=direction, pruner=pruner, sampler=sampler, storage=storage, study_name="s", load_if_exists=True
    )


def completed(study: optuna.Study, n: int = 24, sign: float = 1.0) -> None:
    """Trials that ended before, of every quality from 0.2 on."""
    distribution = {"quality": optuna.distributions.FloatDistribution(0.0, 3.0)}
    for number in range(n):
        quality = 0.2 + number / n
        y = [float(v) for v in curve(quality, number, sign)]
        trial = optuna.trial.create_trial(
            value=y[-1], params={"quality": quality}, distributions=distribution, intermediate_values=dict(enumerate(y))
        )
        study.add_trial(trial)


def judged(study: optuna.Study, quality: float, sign: float = 1.0) -> int | None:
    """The step at which a trial of that quality is pruned, None if it is complete."""
    trial = study.ask({"quality": optuna.distributions.FloatDistribution(quality, quality)})
    y = curve(quality, 99, sign)
    for step, value in enumerate(y):
        trial.report(float(value), step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, float(y[-1]))
    return None


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_hopeless_trials_are_pruned_and_the_best_is_kept(direction: str, sign: float) -> None:
    study = study_of(ForecastPruner(LAST, growth=0.4), direction)
    completed(study, sign=sign)
    assert judged(study, 0.1, sign) is None
    bad = [judged(study, quality, sign) for quality in (0.9, 1.1)]
    assert all(step is not None and 2 <= step <= 30 for step in bad)
    assert study.best_trial.number == 24


def test_an_objective_that_is_optimised_raises_as_for_any_pruner() -> None:
    study = study_of(ForecastPruner(LAST, growth=0.5))
    completed(study)
    study.optimize(objective, n_trials=4)
    states = [t.state for t in study.trials[24:]]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert TrialState.PRUNED in states


def test_nothing_is_pruned_before_there_is_enough_to_measure_by() -> None:
    study = study_of(ForecastPruner(LAST, growth=0.5))
    completed(study, n=5)
    assert judged(study, 2.0) is None


def test_a_study_in_sqlite_goes_on_with_what_it_knew_and_reads_back_censored(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    completed(study_of(ForecastPruner(LAST), storage=storage))
    again = study_of(ForecastPruner(LAST, growth=0.4), storage=storage)  # as another process would open it
    step = judged(again, 1.2)
    assert step is not None
    assert step < 30
    read = read_runs(tmp_path / "study.db")
    known = curves_of(again, last_step=LAST)
    assert read.runs == known.runs
    np.testing.assert_array_equal(read.y, known.y)
    assert read.column("status").to_list() == known.column("status").to_list() == ["finished"] * 24 + ["pruned"]
    assert known.column("planned_end").to_list() == [LAST] * 25


def test_a_trial_without_values_or_in_its_warmup_goes_on() -> None:
    study = study_of(ForecastPruner(LAST, warmup_steps=20, growth=0.3))
    completed(study)
    trial = study.ask()
    assert not trial.should_prune()
    study.tell(trial, state=TrialState.FAIL)
    assert judged(study, 1.5) == 20


def test_a_diverged_trial_is_pruned() -> None:
    study = study_of(ForecastPruner(LAST))
    trial = study.ask()
    trial.report(math.nan, 0)
    assert trial.should_prune()


def test_a_study_of_several_objectives_has_no_curves() -> None:
    with pytest.raises(InputError, match="2 objectives"):
        curves_of(optuna.create_study(directions=["minimize", "maximize"]))
