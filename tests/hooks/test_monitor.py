"""One run at a time: judged against others, not oftener than it grew, honest where it cannot be judged."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from farfield import Curves, InputError, StopStatus, read_runs
from farfield.hooks import Judge, RunMonitor
from sweep_on_disk import END, log, values


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    root = tmp_path_factory.mktemp("others")
    for i in range(1, 23):
        log(root, 2 * i, END)
    return read_runs(root)


def monitor(others: Any, **settings: Any) -> RunMonitor:
    config = {"lr_scheduler_type": "constant", "max_steps": END, "lr": 0.3}
    return RunMonitor(END, metric="val_loss", others=others, config=config, **settings)


def followed(monitor: RunMonitor, i: int, **names: Any) -> list[bool]:
    """Whether run i was to stop, after each of its steps until it was."""
    out = []
    for k in range(END):
        out.append(monitor.report(k + 1, values(i)[k], **names).stop)
        if out[-1]:
            break
    return out


def test_a_hopeless_run_is_stopped_early_and_a_good_one_never(others: Curves) -> None:
    assert 3 <= len(followed(monitor(others), 9)) <= 25
    assert followed(monitor(others, growth=0.2), 1) == [False] * END


def test_the_advice_says_why_and_how_likely(others: Curves) -> None:
    asked = monitor(others, growth=0.2)
    advice = [asked.report(k + 1, values(9)[k]) for k in range(25)][-1]
    assert advice.status is StopStatus.STOP
    assert advice.why.startswith("P(beats")
    assert advice.p_beats_best < 0.05
    assert abs(advice.forecast - values(9)[-1]) < 0.1


def test_without_other_runs_nothing_is_stopped() -> None:
    asked = monitor(None, growth=0.2)
    advice = [asked.report(k + 1, values(9)[k]) for k in range(30)]
    assert not any(a.stop for a in advice)
    assert advice[0].status is StopStatus.TOO_SHORT
    assert advice[-1].status is StopStatus.UNCALIBRATED


def test_others_are_read_from_files(tmp_path: Path) -> None:
    for i in range(1, 23):
        log(tmp_path, 2 * i, END)
    assert followed(monitor(tmp_path, growth=0.5), 9)[-1]


def test_runs_that_report_to_one_monitor_are_measured_by_each_other() -> None:
    asked = monitor(None, growth=1e9)  # the first of them are not judged again
    for i in range(2, 46, 2):
        followed(asked, i, run=f"run {i}")
        asked.end(f"run {i}")
    asked._judge.growth = 0.5
    assert followed(asked, 27, run="late")[-1]
    assert asked.curves().column("status").to_list() == ["finished"] * 22 + ["pruned"]


def test_a_run_is_judged_when_it_has_grown(others: Curves, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = monitor(others, growth=0.5)
    judged: list[float] = []
    judge = asked._judge._adviser.update
    monkeypatch.setattr(asked._judge._adviser, "update", lambda curves: judged.append(curves.last_x[0]) or judge(curves))
    followed(asked, 1)
    assert judged == [1, 2, 3, 5, 8, 12, 18, 27, 41]


def test_a_value_that_is_no_number_has_diverged(others: Curves) -> None:
    asked = monitor(others)
    assert not asked.report(1, 1.0).stop
    advice = asked.report(2, math.nan)
    assert (advice.stop, advice.status, advice.why) == (True, StopStatus.DIVERGED, "val_loss is nan")


def test_a_judge_can_be_copied_to_another_process() -> None:
    judge = copy.deepcopy(Judge(growth=0.1))
    assert judge.growth == 0.1
    assert not judge._lock.locked()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunMonitor(math.nan), "last_step"),
        (lambda: RunMonitor(10, metric="thing"), "give goal='min' or goal='max'"),
        (lambda: RunMonitor(10, growth=-1), "growth is -1"),
        (lambda: RunMonitor(10, rule="hope"), "unknown rule 'hope'"),
        (lambda: RunMonitor(10).end(status="gone"), "unknown status 'gone'"),
        (lambda: RunMonitor(10).report(math.inf, 1.0), "step"),
        (lambda: RunMonitor(10, others="no/such/folder"), "no such file or folder"),
    ],
)
def test_what_it_cannot_use_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_others_counted_otherwise_are_refused(others: Curves) -> None:
    with pytest.raises(InputError, match="the others are by step with goal min, this run by epoch"):
        RunMonitor(10, metric="val_loss", others=others, x_name="epoch")
