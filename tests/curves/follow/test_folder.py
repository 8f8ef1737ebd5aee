"""Logs read on as they grow: whatever the chunks, what is known equals a fresh read; what is cut, moved or lost is said once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.curves.follow import LogFolder
from farfield.curves.follow.pieces import LineFollower, contested
from farfield.curves.readers import RunLog, list_runs, tfevents
from farfield.errors import FormatError, InputError
from run_logs import assert_same

DATA = Path(__file__).parents[1] / "readers" / "data"
GROWING = ("keras", "lightning", "ray", "tensorboard", "tensorboardx", "wandb", "huggingface", "mlflow_files")


def fresh(root: Path) -> list[RunLog]:
    return list(list_runs([root]).runs)


def append(path: Path, *rows: dict[str, object]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def steps(folder: LogFolder, metric: str = "loss") -> list[float]:
    (run,) = folder.runs()
    return run.metrics[metric].step.tolist()


@pytest.mark.parametrize("kind", GROWING)
def test_logs_of_real_writers_grown_in_chunks_read_as_at_once(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    shutil.copytree(DATA / kind, root, ignore=lambda folder, names: ["expected.json"])
    grows = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".yaml"]
    whole = {path: path.read_bytes() for path in grows}
    want = fresh(root)
    for path in grows:
        path.write_bytes(whole[path][: len(whole[path]) // 3])
    folder = LogFolder([root], share=10.0)
    for k in range(10, 30):
        for path in grows:
            have = path.stat().st_size
            with path.open("ab") as file:
                file.write(whole[path][have : len(whole[path]) * k // 29])
        folder.poll()
        folder.runs()
    folder.settle()
    assert_same(folder.runs(), want)


cells = st.one_of(
    st.sampled_from(["1", "0.5", "-2e3", "nan", "inf", "", "NA", "oops", "1_000", '"3"', "true", "2026-01-01T00:00:03Z"]),
    st.floats(allow_nan=False, width=32).map(repr),
    st.integers(-5, 40).map(str),
)


@given(
    header=st.lists(
        st.sampled_from(["step", "loss", "val_acc", "note", "lr", "timestamp", "seed"]), min_size=2, max_size=5, unique=True
    ),
    rows=st.lists(st.lists(cells, min_size=5, max_size=5), min_size=1, max_size=24),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_a_table_of_anything_grown_anyhow_reads_as_at_once(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], rows: list[list[str]], cuts: list[float]
) -> None:
    root = tmp_path_factory.mktemp("logs")
    path = root / "metrics.csv"
    data = "".join(",".join(row[: len(header)]) + "\n" for row in [header, *rows]).encode()
    path.write_bytes(data[: int(min(cuts) * len(data))])
    folder = LogFolder([root], share=10.0)
    for cut in [*sorted(cuts), 1.0]:
        path.write_bytes(data[: int(cut * len(data))])  # in place: it only grows
        folder.poll()
        folder.runs()
    folder.settle()
    try:
        want = fresh(root)
    except InputError:
        return  # nothing in it that a fresh read would take either; what was known stays known
    assert_same(folder.runs(), want)


def test_appended_rows_are_taken_one_at_a_time_and_checked_when_they_have_doubled(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, *({"step": k, "loss": 1 / (k + 1), "time": f"2026-01-01T00:00:{k:02}"} for k in range(10)))
    folder = LogFolder([tmp_path])
    (follower,) = folder._followers.values()
    assert isinstance(follower, LineFollower)
    reads = []
    read = follower._read
    follower._read = lambda: reads.append(1) or read()  # type: ignore[method-assign, func-returns-value]
    for k in range(10, 15):
        append(path, {"step": k, "loss": 1 / (k + 1), "time": f"2026-01-01T00:00:{k:02}"})
        assert folder.poll()
    assert reads == []
    assert steps(folder) == list(range(15))
    append(path, *({"step": k, "loss": 0.1, "time": f"2026-01-01T00:00:{k:02}"} for k in range(15, 25)))
    folder.poll()
    assert reads == [1]
    assert_same(folder.runs(), fresh(tmp_path))


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.1")
    folder = LogFolder([tmp_path])
    assert steps(folder) == [1, 2]
    with path.open("a") as file:
        file.write("25\n")
    assert folder.poll()
    (run,) = folder.runs()
    assert run.metrics["loss"].value.tolist() == [0.5, 0.25, 0.125]


def test_a_rotated_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, *({"step": k, "loss": 1.0} for k in range(5)))
    folder = LogFolder([tmp_path], share=10.0)
    for at in (5, 10):
        if (tmp_path / "log.jsonl.1").exists():
            (tmp_path / "log.jsonl.1").rename(tmp_path / "log.jsonl.2")
        path.rename(tmp_path / "log.jsonl.1")
        folder.poll()
        append(path, *({"step": k, "loss": 1.0} for k in range(at, at + 5)))
        folder.poll()
        folder.settle()
        assert steps(folder) == list(range(at + 5))
    assert_same(folder.runs(), fresh(tmp_path))
    append(path, {"step": 15, "loss": 1.0})
    folder.poll()
    assert steps(folder) == list(range(16))


def test_a_rotated_csv_repeats_its_header(tmp_path: Path) -> None:
    (tmp_path / "log.csv.1").write_text("step,loss\n1,0.5\n2,0.4\n")
    (tmp_path / "log.csv").write_text("step,loss\n3,0.3\n")
    (run,) = fresh(tmp_path)
    assert run.metrics["loss"].value.tolist() == [0.5, 0.4, 0.3]


def test_a_log_truncated_in_place_keeps_its_points_if_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{k},{1 / k}\n" for k in range(1, 41)))
    folder = LogFolder([tmp_path], share=10.0)
    path.write_text("")
    folder.poll()
    path.write_text("step,loss\n41,0.02\n")
    for _ in range(2):
        folder.poll()
        folder.settle()
    assert steps(folder) == list(range(1, 42))
    with path.open("a") as file:
        file.write("42,0.01\n")
    folder.poll()
    assert steps(folder) == list(range(1, 43))
    kinds = [kind for kind, _ in folder.notices()]
    assert kinds.count("rotated") == 1


def test_a_run_that_starts_over_drops_its_points_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{k},{1 / k}\n" for k in range(1, 41)))
    folder = LogFolder([tmp_path], share=10.0)
    path.write_text("step,loss\n1,0.9\n2,0.8\n")
    folder.poll()
    folder.settle()
    assert steps(folder) == [1, 2]
    assert [kind for kind, _ in folder.notices()] == ["restarted"]


def test_a_log_rewritten_with_more_columns_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n")
    folder = LogFolder([tmp_path], share=10.0)
    path.write_text("step,loss,acc\n1,0.5,\n2,0.4,\n3,0.3,0.9\n")  # larger than before, in the same file
    folder.poll()
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path))
    assert folder.notices() == []


def test_new_runs_are_found_and_files_that_become_logs(tmp_path: Path) -> None:
    append(tmp_path / "a.jsonl", {"step": 1, "loss": 1.0})
    (tmp_path / "b.csv").touch()
    folder = LogFolder([tmp_path], share=10.0)
    assert [run.name for run in folder.runs()] == ["a"]
    (tmp_path / "b.csv").write_text("step,loss\n1,2\n2,3\n")
    (tmp_path / "deep").mkdir()
    append(tmp_path / "deep" / "c.jsonl", {"step": 1, "loss": 1.0})
    folder.poll()
    folder.settle()
    assert [run.name for run in folder.runs()] == ["a", "b", "deep/c"]


def test_a_folder_that_disappears_is_said_once_and_its_runs_stay(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    for name in "abc":
        (root / name).mkdir(parents=True)
        append(root / name / "log.jsonl", *({"step": k, "loss": 1.0} for k in range(4)))
    folder = LogFolder([root], share=10.0)
    aside = tmp_path / "aside"
    root.rename(aside)
    for _ in range(4):
        folder.poll()
    assert folder.notices() == [("gone", f"{root} is gone; waiting for it to come back")]
    assert [run.name for run in folder.runs()] == ["a", "b", "c"]
    assert all(folder.follower(run).gone for run in folder.runs())
    aside.rename(root)
    append(root / "b" / "log.jsonl", {"step": 4, "loss": 1.0})
    for _ in range(3):
        folder.poll()
    assert folder.notices() == [("back", f"{root} is back")]
    assert [run.metrics["loss"].step.size for run in folder.runs()] == [4, 5, 4]
    shutil.rmtree(root / "c")
    for _ in range(4):
        folder.poll()
    assert [kind for kind, _ in folder.notices()] == ["gone"]
    assert [folder.follower(run).gone for run in folder.runs()] == [False, False, True]


def test_two_writers_to_one_log_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, *({"step": k, "loss": 1.0} for k in range(50)))
    folder = LogFolder([tmp_path])
    (run,) = folder.runs()
    assert not folder.follower(run).contested(run, "loss")
    append(path, {"step": 20, "loss": 1.0})  # a restart
    folder.poll()
    (run,) = folder.runs()
    assert not folder.follower(run).contested(run, "loss")
    for k in range(4):
        append(path, {"step": 50 + k, "loss": 1.0}, {"step": 21 + k, "loss": 2.0})
    folder.poll()
    (run,) = folder.runs()
    assert folder.follower(run).contested(run, "loss")


@pytest.mark.parametrize(
    ("sequence", "want"),
    [
        (list(range(60)), False),
        ([*range(60), *range(40, 60), *range(50, 60), *range(45, 70)], False),  # restarted from checkpoints
        ([k // 4 for k in range(80)], False),  # four rows a step, always
        ([*range(10)] * 6, False),  # counted anew every epoch
        ([k for i in range(30) for k in (100 + i, i)], True),
        ([k for i in range(0, 60, 5) for k in (*range(100 + i, 105 + i), *range(i, i + 5))], True),  # written in blocks
        ([*range(50), *(k for i in range(50, 60) for k in (i, i))], True),  # a second one joins at the same step
        ([0, 5, 1], False),
        ([], False),
    ],
)
def test_what_two_writers_look_like(sequence: list[int], want: bool) -> None:
    assert contested(sequence) is want


def test_a_file_that_goes_away_while_it_is_read_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path / "a.jsonl", {"step": 1, "loss": 1.0})
    append(tmp_path / "b.jsonl", {"step": 1, "loss": 1.0})
    folder = LogFolder([tmp_path], share=10.0)

    def vanished(self: LineFollower, path: Path) -> bytes:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(LineFollower, "_appended", vanished)
        append(tmp_path / "a.jsonl", {"step": 2, "loss": 1.0})
        folder.poll()
    folder.poll()
    folder.settle()
    assert [run.metrics["loss"].step.tolist() for run in folder.runs()] == [[1, 2], [1]]

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "deep")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "_pieces", refuse)
        (tmp_path / "c.jsonl").touch()
        for _ in range(3):
            folder._walk_after = 0.0
            folder.poll()
        assert [kind for kind, _ in folder.notices()] == ["unreadable"]
    folder._walk_after = 0.0
    append(tmp_path / "c.jsonl", {"step": 1, "loss": 1.0})
    folder.poll()
    folder.settle()
    assert [run.name for run in folder.runs()] == ["a", "b", "c"]


def test_keys_do_not_depend_on_other_runs_or_on_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs" / "a").mkdir(parents=True)
    append(tmp_path / "logs" / "a" / "log.jsonl", {"step": 1, "loss": 1.0})
    folder = LogFolder([tmp_path / "logs"], share=10.0)
    first = folder.key(folder.runs()[0])
    (tmp_path / "logs" / "a" / "sub").mkdir()
    append(tmp_path / "logs" / "a" / "metrics.jsonl", {"step": 1, "loss": 1.0})
    folder.poll()
    folder.settle()
    assert sorted(run.name for run in folder.runs()) == ["a (log)", "a (metrics)"]
    assert first in [folder.key(run) for run in folder.runs()]
    monkeypatch.chdir(tmp_path)
    again = LogFolder(["logs"])
    assert sorted(again.key(run) for run in again.runs()) == sorted(folder.key(run) for run in folder.runs())


def test_a_trainers_checkpoints_are_one_run_however_many_come_and_go(tmp_path: Path) -> None:
    def checkpoint(step: int) -> Path:
        path = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        path.parent.mkdir()
        history = [{"step": k, "eval_loss": 1.0 / k} for k in range(1, step + 1)]
        path.write_text(json.dumps({"log_history": history, "max_steps": 30, "global_step": step}, indent=2))
        return path

    first = checkpoint(10)
    folder = LogFolder([tmp_path], share=10.0)
    key = folder.key(folder.runs()[0])
    checkpoint(20)
    folder.poll()
    folder.settle()
    assert steps(folder, "eval_loss") == list(range(1, 21))
    assert folder.key(folder.runs()[0]) == key
    shutil.rmtree(first.parent)
    for _ in range(4):
        folder.poll()
    assert folder.notices() == []
    assert steps(folder, "eval_loss") == list(range(1, 21))


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_store_in_sqlite_is_read_again_when_it_grows(mode: str, tmp_path: Path) -> None:
    (source,) = (DATA / "optuna").glob("*.db")
    shutil.copy(source, tmp_path / "study.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as store:
        store.execute(f"PRAGMA journal_mode={mode}")
        folder = LogFolder([tmp_path], share=10.0)
        before = {folder.key(run): run.metrics["value"].step.size for run in folder.runs()}
        columns = "trial_id, step, intermediate_value, intermediate_value_type"
        store.execute(f"INSERT INTO trial_intermediate_values ({columns}) VALUES (1, 9999, 0.5, 'FINITE')")
        store.commit()
        folder.poll()
        folder.settle()
        after = {folder.key(run): run.metrics["value"].step.size for run in folder.runs()}
    assert [after[key] - before[key] for key in before] == [1] + [0] * (len(before) - 1)


def test_a_damaged_log_in_a_folder_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    append(tmp_path / "a.jsonl", {"step": 1, "loss": 1.0})
    (tmp_path / "b.jsonl").write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    folder = LogFolder([tmp_path], share=10.0)
    folder.settle()
    (kind, words), *more = folder.notices()
    assert (kind, more) == ("unreadable", [])
    assert "line 2 is not JSON" in words
    assert [run.name for run in folder.runs()] == ["a"]


def test_reading_whole_files_is_rationed(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.json").write_text(json.dumps([{"step": i, "loss": 1.0} for i in range(5)], indent=1))
    folder = LogFolder([tmp_path], share=1e-9)
    folder._saved = -1.0
    for k in range(3):
        os.utime(tmp_path / f"{k}.json", ns=(1, 1))
    folder.poll()
    assert sum(f.due for f in folder._followers.values()) == 3
    folder._saved = 1e-9
    folder.poll()
    assert sum(f.due for f in folder._followers.values()) == 2


@pytest.mark.parametrize("path", sorted(DATA.rglob("events.out.tfevents.*")), ids=lambda p: f"{p.parent.name}-{p.name[-3:]}")
def test_events_read_one_by_one_are_those_read_at_once(path: Path) -> None:
    data = path.read_bytes()
    few, all_ = tfevents.read_few(data, "log"), tfevents.read_events(data, "log")
    assert (few.starts, few.config, few.group, few.n_events) == (all_.starts, all_.config, all_.group, all_.n_events)
    assert few.scalars.keys() == all_.scalars.keys()
    for tag, chunk in few.scalars.items():
        for a, b in zip(chunk, all_.scalars[tag], strict=True):
            np.testing.assert_array_equal(a, b)
    damaged = data[:-5] + bytes((data[-5] ^ 1,)) + data[-4:]
    with pytest.raises(FormatError, match="checksum differs"):
        tfevents.read_few(damaged, "log")


def test_an_event_file_that_goes_on_damaged_is_said_once_and_keeps_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = (DATA / "tensorboardx").glob("events*")
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    monkeypatch.setattr("farfield.curves.follow.pieces._PATIENCE", 0.0)
    folder = LogFolder([tmp_path], share=10.0)
    before = steps(folder, "reward")
    with path.open("ab") as file:
        file.write(b"this is no frame of an event file")
    for _ in range(4):
        folder.poll()
    ((kind, words),) = folder.notices()
    assert kind == "unreadable"
    assert "damaged at byte" in words
    assert "what was read before stands" in words
    assert steps(folder, "reward") == before
