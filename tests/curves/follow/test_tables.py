"""Tables of several runs read on as they grow: the same as a fresh read at every look, for work in proportion to what is new."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looks
from farfield.curves.follow import LogFolder
from farfield.curves.follow.journal import Journal
from farfield.curves.follow.tablerows import TableRows
from farfield.curves.follow.watch import Watch
from farfield.curves.readers import RunLog, list_runs
from farfield.curves.stopping import Adviser
from farfield.errors import InputError
from looks import sweep
from run_logs import assert_same
from sweep_on_disk import END, values

WIDE = "run,step,val_loss,lr,width,planned_end,note"
LONG = "run,step,metric,value,seed"


def fresh(root: Path) -> list[RunLog]:
    try:
        return list(list_runs([root]).runs)
    except InputError:
        return []


def wide(run: str, step: int) -> str:
    width = 64 * (1 + sum(run.encode()) % 3)
    return f"{run},{step},{1 / (step + 1) + sum(run.encode()) % 7:.6f},{0.1 / (step + 1):.3e},{width},60,"


def long(run: str, step: int) -> str:
    name = ("loss", "val_acc")[step % 2]
    return f"{run},{step // 2},{name},{1 / (step + 1):.6f},{sum(run.encode()) % 5}"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    return looks.counted(monkeypatch, TableRows)


@pytest.mark.parametrize(("header", "row"), [(WIDE, wide), (LONG, long)], ids=["wide", "long"])
def test_a_look_reads_what_is_new_and_no_more(header: str, row: Any, tmp_path: Path, parsed: dict[str, int]) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text(header + "\n" + sweep(row, 30, 0, 40))
    folder = LogFolder([tmp_path], share=1e-9)  # nothing left for reading whole files
    folder._saved = -1e9
    assert parsed["whole"] == 1
    for k in range(40, 60):
        with path.open("a") as file:
            file.write(new := sweep(row, 30, k, k + 1))
        parsed |= {"rows": 0, "bytes": 0}
        assert folder.poll()
        assert parsed == {"rows": 30, "whole": 1, "bytes": len(new)}
        assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    parsed |= {"rows": 0, "bytes": 0}
    assert not folder.poll()
    assert parsed == {"rows": 0, "whole": 1, "bytes": 0}


def test_runs_that_begin_later_are_read_on_too(tmp_path: Path, parsed: dict[str, int]) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text(WIDE + "\n" + sweep(wide, 12, 0, 30))
    folder = LogFolder([tmp_path], share=1e-9)
    folder._saved = -1e9
    with path.open("a") as file:
        file.write(wide("late", 0) + "\n" + wide("later", 0) + "\n")
    assert folder.poll()
    assert parsed["whole"] == 1
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    untouched = {run.name: run for run in folder.runs()}
    with path.open("a") as file:
        file.write(wide("late", 1) + "\n")
    folder.poll()
    after = {run.name: run for run in folder.runs()}
    assert after["late"].metrics["val_loss"].step.tolist() == [0, 1]
    assert all(after[name] is untouched[name] for name in after if name != "late")


@pytest.mark.parametrize(
    "last",
    [
        "run-1,30,0.5,1e-3,64,60,done",  # text where there was none
        "run-1,30,oops,1e-3,128,60,",
        "run-1,30,0.5,1e-3,99,60,",  # what described the run is another
        "run-1,30.5,0.5,1e-3,128,60,",
        'run-1,30,"0.5",1e-3,128,60,',
        "run-1,30,0.5,1e-3,128,60,,",
        "run-1,30,inf,1e-3,128,60,",
        "run-1,12,0.5,1e-3,128,60,",  # a restart
        ",30,0.5,1e-3,128,60,",
        "run-new,0,0.5,1e-3,320,90,",
        "7,0,0.5,1e-3,320,60,",
        "",
    ],
)
def test_rows_that_change_what_columns_are_have_the_table_read_anew(last: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text(WIDE + "\n" + sweep(wide, 3, 0, 30))
    folder = LogFolder([tmp_path], share=10.0)
    with path.open("a") as file:
        file.write(last + "\n")
    folder.poll()
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path) or folder.runs(), to_the_note=True)


def test_settling_finds_files_however_long_the_last_walk_took(tmp_path: Path) -> None:
    folder = LogFolder([tmp_path], share=10.0)
    folder._walk_after = float("inf")
    (tmp_path / "sweep.csv").write_text(WIDE + "\n" + sweep(wide, 3, 0, 30))
    folder.poll()
    assert folder.runs() == []
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)


labels = st.sampled_from(["a", "b", "c d", "é", "10", "007", ""])
numbers = st.one_of(
    st.floats(-1e3, 1e3).map(lambda v: f"{v:.4g}"), st.sampled_from(["nan", "inf", "", "NA", "3", "1e-3", "-.5", "oops", "true"])
)
settings_ = st.sampled_from(["1", "2", "0.5", "x", "", "true"])
dates = st.integers(0, 59).map(lambda s: f"2026-01-01 00:00:{s:02}")


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A header and rows: mostly orderly, at times anything."""
    layout = draw(st.sampled_from(["wide", "long"]))
    head = draw(st.sampled_from(["run", "trial_id", "name"]))
    config = {label: draw(settings_) for label in ("a", "b", "c d", "é", "10", "007", "")}
    wild = draw(st.booleans())
    rows = []
    for k in range(draw(st.integers(4, 40))):
        label = draw(labels)
        described = draw(settings_) if wild and draw(st.integers(0, 9)) == 0 else config[label]
        value = draw(numbers) if wild else f"{draw(st.floats(0, 9)):.3f}"
        when = draw(dates)
        tag = draw(st.sampled_from(["loss", "acc"]))
        step = draw(st.integers(0, 30)) if wild else k
        rows.append(",".join([label, str(step), *([tag] if layout == "long" else []), value, described, when]))
    middle = ["metric", "value"] if layout == "long" else ["val_loss"]
    return ",".join(
        [head, "step", *middle, draw(st.sampled_from(["width", "config/depth", "status", "group", "done"])), "timestamp"]
    ), rows


@settings(max_examples=150)
@given(table=tables(), audit=st.sampled_from([2.0, 1e3]), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_any_table_grown_anyhow_reads_as_at_once_at_every_look(
    tmp_path_factory: pytest.TempPathFactory, table: tuple[str, list[str]], audit: float, cuts: list[float]
) -> None:
    root = tmp_path_factory.mktemp("logs")
    path, copy = root / "logs" / "sweep.csv", root / "copy" / "sweep.csv"
    for folder_ in (path.parent, copy.parent):
        folder_.mkdir()
    data = "".join(line + "\n" for line in [table[0], *table[1]]).encode()
    path.write_bytes(data[: int(min(cuts) * len(data))])
    folder = LogFolder([path.parent], share=10.0)
    for follower in folder._followers.values():
        follower._audit = audit  # type: ignore[attr-defined]
    for cut in [*sorted(cuts), 1.0]:
        with path.open("ab") as file:
            file.write(data[path.stat().st_size : int(cut * len(data))])
        folder.poll()
        folder.settle()
        got = folder.runs()
        whole = data[: int(cut * len(data))]
        copy.write_bytes(whole[: whole.rfind(b"\n") + 1])
        want = fresh(copy.parent)
        if want:  # what a fresh read refuses leaves what was known
            assert_same([run.renamed(run.name) for run in got], [_at(run, path) for run in want], to_the_note=True)


def _at(run: RunLog, path: Path) -> RunLog:
    return dataclasses.replace(run, source=str(path))


def test_half_written_lines_rotation_truncation_and_rewriting(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text(WIDE + "\n" + sweep(wide, 4, 0, 20))
    folder = LogFolder([tmp_path], share=10.0)
    line = wide("run-2", 20) + "\n"
    before = folder.runs()
    for end in (4, 9, len(line)):
        with path.open("a") as file:
            file.write(line[:end][-(end - {4: 0, 9: 4}.get(end, 9)) :])
        folder.poll()
        if end < len(line):
            assert folder.runs() is not None
            assert_same(folder.runs(), before, to_the_note=True)
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    # rotated: the new part repeats the header
    path.rename(tmp_path / "sweep.csv.1")
    path.write_text(WIDE + "\n" + sweep(wide, 4, 21, 30))
    for _ in range(2):
        folder.poll()
        folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    with path.open("a") as file:
        file.write(sweep(wide, 4, 30, 31))
    folder.poll()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    # written anew by run instead of by step, as a frame that is saved again and again
    (tmp_path / "sweep.csv.1").unlink()
    path.write_text(WIDE + "\n" + "".join(wide(f"run-{i}", k) + "\n" for i in range(4) for k in range(32)))
    for _ in range(2):
        folder.poll()
        folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    # edited in place, as long as before
    data = path.read_bytes()
    at = data.index(b"run-2,5,") + len(b"run-2,5,")
    path.write_bytes(data[:at] + b"9" + data[at + 1 :])
    folder.poll()
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    # truncated: all is told again from the start
    path.write_text(WIDE + "\n" + sweep(wide, 4, 0, 3))
    folder.poll()
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    assert [kind for kind, _ in folder.notices()] == ["restarted"] * 4


@pytest.mark.parametrize("cell", ["0.5", "nan", "x", ""])
def test_a_setting_of_one_run_is_typed_by_all_its_cells(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss,seed\n" + "".join(f"{k},{1 / (k + 1)},{1 + k % 2}\n" for k in range(20)))
    folder = LogFolder([tmp_path], share=10.0)
    with path.open("a") as file:
        file.write(f"20,0.5,{cell}\n")
    folder.poll()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)


def test_a_column_that_tells_runs_apart_by_repeating_is_held_to_that(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text("name,step,loss\n" + "".join(f"m{i},{k},{k + i / 7}\n" for k in range(2) for i in range(8)))
    folder = LogFolder([tmp_path], share=10.0)
    assert len(folder.runs()) == 8
    with path.open("a") as file:
        file.write("".join(f"n{i},0,{i / 3}\n" for i in range(9)))  # names no longer repeat
    folder.poll()
    folder.settle()
    assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    assert len(folder.runs()) == 1
    for k in range(12):
        with path.open("a") as file:
            file.write(f"m1,{k + 2},{k / 3}\n")  # until they repeat again
        folder.poll()
        folder.settle()
        assert_same(folder.runs(), fresh(tmp_path), to_the_note=True)
    assert len(folder.runs()) == 17


def test_a_watch_that_begins_again_on_a_table_repeats_nothing_and_reads_the_same(tmp_path: Path, parsed: dict[str, int]) -> None:
    def row(i: int, k: int) -> str:
        return f"run-{i:02},{k + 1},{values(i)[k]:.6f},{END}\n"

    path = tmp_path / "sweep.csv"
    ended = "".join(row(2 * i + 2, k) for k in range(END) for i in range(16))
    path.write_text("run,step,val_loss,planned_end\n" + ended + "".join(row(i, k) for k in range(20) for i in (1, 3, 5, 7)))

    def begin() -> Watch:
        return Watch(LogFolder([path], share=1e-9), Adviser(), Journal(tmp_path / ".journal.json"))

    watching = begin()
    watching.folder._saved = -1e9
    said = [event["run"] for event in watching.step() if event["event"] == "stop"]
    assert said == ["run-03", "run-05", "run-07"]
    with path.open("a") as file:
        file.write("".join(row(i, k) for k in range(20, 22) for i in (1, 3, 5, 7)) + "run-01,23")  # half a line
    watching._next = 0.0
    assert [event for event in watching.step() if event["event"] == "stop"] == []
    assert parsed["rows"] == 8
    assert parsed["whole"] == 1
    assert watching.advice is not None
    assert watching.advice.curves.last_x.min() == 22
    watching.journal.close()
    again = begin()
    assert_same(again.folder.runs(), watching.folder.runs(), to_the_note=True)
    assert again.step() == []
    assert set(again.journal.advised) == {f"sweep.csv:{run.name}" for run in again.folder.runs()}
    again.journal.close()
