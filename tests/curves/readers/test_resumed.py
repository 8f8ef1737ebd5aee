"""Runs that were resumed into a new log: joined in order of time, what is superseded left out and counted."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from farfield.curves.follow.folder import LogFolder
from farfield.curves.readers import list_runs, read_runs, resumed
from farfield.curves.readers.record import RunLog, Series

DATA = Path(__file__).parent / "data" / "wandb_resumed"


def part(k: int, steps: list[int], began: float) -> RunLog:
    """Part `k`: loss at every step, val at every third; the value says which part it is of."""
    step = np.array(steps, dtype=float)
    metrics = {"loss": Series(step, step + k / 100)}
    if (third := step[step % 3 == 0]).size:
        metrics["val"] = Series(third, third + k / 100)
    return RunLog(f"run {k}", f"log {k}", metrics, part_of="one", began=began, config={"k": k})


def slowly(parts: list[RunLog], metric: str) -> list[tuple[float, float]]:
    """Point by point: each part takes out what stands at or beyond its first step."""
    points: list[tuple[float, float]] = []
    for one in parts:
        first = min(float(s.step[0]) for s in one.metrics.values())
        points = [p for p in points if p[0] < first]
        if metric in one.metrics:
            points += list(zip(one.metrics[metric].step.tolist(), one.metrics[metric].value.tolist(), strict=True))
    return points


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8)), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_joined_as_the_slow_definition_says(spans: list[tuple[int, int]], shuffle) -> None:
    spans = [(0, 6), *spans]
    parts = [part(k, list(range(first, first + n)), float(k)) for k, (first, n) in enumerate(spans)]
    given_ = list(parts)
    shuffle.shuffle(given_)
    (whole,) = resumed.join(given_)
    assert whole.name == parts[-1].name
    assert whole.config == {"k": len(parts) - 1}
    for metric in ("loss", "val"):
        wanted, series = slowly(parts, metric), whole.metrics[metric]
        assert list(zip(series.step.tolist(), series.value.tolist(), strict=True)) == wanted
        logged = sum(one.metrics[metric].step.size for one in parts if metric in one.metrics)
        assert series.n_overlap == logged - len(wanted)
    assert resumed.join([whole]) == [whole]


def test_other_runs_stay_as_they_are_and_where_they_are() -> None:
    alone = [dataclasses.replace(part(k, [0, 1], 0.0), part_of=other) for k, other in ((7, None), (8, "two"), (9, None))]
    parts = [part(0, [0, 1, 2], 1.0), part(1, [2, 3], 2.0)]
    got = resumed.join([alone[0], parts[1], alone[1], parts[0], alone[2]])
    assert [run.name for run in got] == ["run 7", "run 1", "run 8", "run 9"]
    assert got[0] is alone[0]
    assert got[2] is alone[1]


def test_a_count_started_anew_is_a_run_of_its_own() -> None:
    got = resumed.join([part(0, [0, 1, 2, 3], 1.0), part(1, [2, 3, 4], 2.0), part(2, [0, 1], 3.0)])
    assert [run.metrics["loss"].step.tolist() for run in got] == [[0, 1, 2, 3, 4], [0, 1]]
    assert all("count from their first step" in run.notes[-1] for run in got)
    assert resumed.join(got) == got


def test_files_of_one_run_id_are_one_run(tmp_path: Path) -> None:
    files = sorted(DATA.rglob("*.wandb"))
    apart = read_runs(list(reversed(files)), metric="loss")
    together = read_runs(DATA, metric="loss")
    assert apart.runs == together.runs == ("resumed",)
    assert apart.x.tolist() == together.x.tolist() == list(range(24))
    assert together.column("n_overlap").to_list() == [6]
    assert together.column("status").to_list() == ["finished"]
    alone = list_runs(files[0])
    assert [run.metrics["loss"].step.size for run in alone.runs] == [12]


def test_a_watched_run_goes_on_in_its_next_log(tmp_path: Path) -> None:
    files = sorted(DATA.rglob("*.wandb"))
    seen = []
    for file in files:
        shutil.copytree(file.parent, tmp_path / file.parent.name)
        folder = LogFolder([str(tmp_path)])
        folder.poll()
        (run,) = folder.runs()
        assert file.parent.name in folder.key(run)
        assert folder.follower(run).piece.paths[0].parent.name == file.parent.name
        seen.append(run.metrics["loss"].step.size)
    assert seen == [12, 20, 24]
