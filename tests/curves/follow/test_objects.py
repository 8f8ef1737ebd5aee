"""Lines of JSON of several runs read on as they grow: the same as a fresh read at every look, for work in proportion to them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looks
from farfield.curves.follow import LogFolder
from farfield.curves.follow.objectrows import ObjectRows
from farfield.curves.readers import RunLog, list_runs
from farfield.errors import FarfieldError
from looks import sweep
from run_logs import assert_same


def fresh(root: Path) -> list[RunLog] | None:
    """What the readers make of a folder; None where they refuse it."""
    try:
        return list(list_runs([root]).runs)
    except FarfieldError:
        return None


def wide(run: str, step: int) -> str:
    row: dict[str, Any] = {
        "run": run,
        "step": step,
        "val_loss": round(1 / (step + 1) + sum(run.encode()) % 7, 6),
        "lr": 0.1 / (step + 1),
    }
    if step == 0:
        row["config"] = {"width": 64 * (1 + sum(run.encode()) % 3), "model": {"depth": 4, "act": "gelu"}}
    return json.dumps(row)


def long(run: str, step: int) -> str:
    name = ("loss", "val_acc")[step % 2]
    row = {"run": run, "step": step // 2, "metric": name, "value": 1 / (step + 1), "seed": sum(run.encode()) % 5}
    return json.dumps(row, ensure_ascii=False)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    return looks.counted(monkeypatch, ObjectRows)


@pytest.mark.parametrize("row", [wide, long])
def test_a_look_reads_what_is_new_and_no_more(row: Any, tmp_path: Path, counted: dict[str, int]) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(sweep(row, 30, 0, 40), encoding="utf-8")
    folder = LogFolder([tmp_path], share=1e-9)  # nothing left for reading whole files
    folder._saved = -1e9
    assert counted["whole"] == 1
    assert len(folder.runs()) == 30
    for k in range(40, 60):
        with path.open("a", encoding="utf-8") as file:
            file.write(new := sweep(row, 30, k, k + 1))
        counted |= {"rows": 0, "bytes": 0}
        assert folder.poll()
        assert counted == {"rows": 30, "whole": 1, "bytes": len(new.encode())}
        assert_same(folder.runs(), fresh(tmp_path) or [], to_the_note=True)
    counted |= {"rows": 0, "bytes": 0}
    assert not folder.poll()
    assert counted == {"rows": 0, "whole": 1, "bytes": 0}


def test_runs_that_begin_later_are_read_on_too(tmp_path: Path, counted: dict[str, int]) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(sweep(wide, 12, 0, 30))
    folder = LogFolder([tmp_path], share=1e-9)
    folder._saved = -1e9
    with path.open("a") as file:
        file.write(wide("späť", 0) + "\n\n" + wide("later", 0) + "\n")
    assert folder.poll()
    assert counted["whole"] == 1
    assert_same(folder.runs(), fresh(tmp_path) or [], to_the_note=True)
    before = {run.name: run for run in folder.runs()}
    assert before["späť"].config["width"] in (64, 128, 192)
    with path.open("a") as file:
        file.write(wide("späť", 1) + "\n")
    folder.poll()
    after = {run.name: run for run in folder.runs()}
    assert after["späť"].metrics["val_loss"].step.tolist() == [0, 1]
    assert all(after[name] is before[name] for name in after if name != "späť")
    assert counted["whole"] == 1


@pytest.mark.parametrize(
    "last",
    [
        '{"run": "run-1", "step": 30, "val_loss": 0.5, "note": "done"}',  # a column that was not there
        '{"run": "run-1", "step": 30, "val_loss": "oops", "lr": 1e-3}',
        '{"run": "run-1", "step": 30, "val_loss": 0.5, "lr": [1, 2]}',
        '{"run": "run-1", "step": 30, "val_loss": {"mean": 0.5}, "lr": 1e-3}',
        '{"run": "run-1", "step": 30.5, "val_loss": 0.5, "lr": 1e-3}',
        '{"run": "run-1", "step": 30, "val_loss": true, "lr": 1e-3}',
        '{"run": "run-1", "step": 30, "val_loss": NaN, "lr": "inf"}',
        '{"run": "run-1", "step": 36893488147419103232, "val_loss": 0.5}',
        '{"run": "run-1", "step": 30, "val_loss": 0.5, "config": {"width": 7}}',
        '{"run": "run-new", "step": 0, "val_loss": 0.5, "config": {"width": 7, "bias": true}}',
        '{"run": "run-new", "step": 0, "val_loss": 0.5}',  # what the row before it told
        '{"run": "run-1", "step": 12, "val_loss": 0.5}',  # a restart
        '{"run": null, "step": 30, "val_loss": 0.5}',
        '{"run": 7, "step": 0, "val_loss": 0.5}',
        '{"step": 30, "val_loss": 0.5}',
        '{"run": "run-1", "done": true}',
        "{}",
        "",
        "[1, 2]",
        '{"run": "run-1", "step"',
        '{"run": "\\ud83d", "step": 0, "val_loss": 0.5}',
    ],
)
def test_rows_that_change_what_columns_are_have_the_table_read_anew(last: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(sweep(wide, 3, 0, 30))
    folder = LogFolder([tmp_path], share=10.0)
    before = folder.runs()
    for more in (last + "\n", sweep(wide, 3, 30, 31)):
        with path.open("a") as file:
            file.write(more)
        folder.poll()
        folder.settle()
        want = fresh(tmp_path)
        assert_same(folder.runs(), before if want is None else want, to_the_note=True)


def test_text_that_is_cut_inside_a_letter_waits(tmp_path: Path, counted: dict[str, int]) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(sweep(long, 3, 0, 20))
    folder = LogFolder([tmp_path], share=1e-9)
    folder._saved = -1e9
    before = folder.runs()
    line = long("späť", 0).encode() + b"\n"
    for byte in line[:-1]:
        with path.open("ab") as file:
            file.write(bytes([byte]))
        assert not folder.poll()
        assert all(a is b for a, b in zip(folder.runs(), before, strict=True))
    with path.open("ab") as file:
        file.write(line[-1:])
    assert folder.poll()
    assert counted["whole"] == 1
    assert_same(folder.runs(), fresh(tmp_path) or [], to_the_note=True)


def test_rotation_truncation_and_rewriting(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(sweep(wide, 4, 0, 20))
    folder = LogFolder([tmp_path], share=10.0)

    def look(times: int = 1) -> None:
        for _ in range(times):
            folder.poll()
            folder.settle()
        assert_same(folder.runs(), fresh(tmp_path) or [], to_the_note=True)

    path.rename(tmp_path / "sweep.jsonl.1")
    path.write_text(sweep(wide, 4, 20, 30))
    look(2)
    with path.open("a") as file:
        file.write(sweep(wide, 4, 30, 31))
    look()
    assert folder.runs()[0].metrics["val_loss"].step.size == 31
    # written anew by run instead of by step, as a frame that is saved again and again
    (tmp_path / "sweep.jsonl.1").unlink()
    path.write_text("".join(wide(f"run-{i}", k) + "\n" for i in range(4) for k in range(32)))
    look(2)
    # edited in place, as long as before
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"run-2", "step": 5,', b'"run-2", "step": 9,'))
    look()
    # replaced by another file
    other = tmp_path / "other"
    other.write_text(sweep(long, 5, 0, 9))
    other.replace(path)
    look()
    # truncated: all is told again from the start
    path.write_text(sweep(long, 5, 0, 3))
    look()


labels = st.sampled_from(["a", "b", "c d", "é", "10", "007", "", 3, "🙂"])
plain = st.one_of(st.floats(-9, 9), st.integers(-5, 5))
odd = st.one_of(plain, st.sampled_from([None, float("nan"), float("inf"), "nan", "oops", "3", True, 2**70, [1], {"deep": 1}, "NA"]))
described = st.sampled_from([1, 2, 0.5, "x", "", True, None, "finished", [1, 2], "10"])
dates = st.integers(0, 59).map(lambda s: f"2026-01-01 00:00:{s:02}")


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    """Lines of JSON: mostly orderly, at times anything."""
    layout = draw(st.sampled_from(["wide", "long"]))
    head = draw(st.sampled_from(["run", "trial_id", "name"]))
    setting = draw(st.sampled_from(["width", "config/depth", "config", "status", "group", "done"]))
    rule = draw(st.sampled_from(["first", "all"]))  # where a configuration is told
    of = st.sampled_from(draw(st.lists(labels, min_size=2, max_size=6, unique_by=str)))
    config: dict[Any, Any] = {}
    wild = draw(st.booleans())
    lines = []
    for k in range(draw(st.integers(4, 40))):
        label = draw(of)
        row: dict[str, Any] = {head: label, "step": draw(st.integers(0, 30)) if wild else k}
        if layout == "long":
            row["metric"] = draw(st.sampled_from(["loss", "acc"]))
        row["value" if layout == "long" else "val_loss"] = draw(odd if wild and draw(st.integers(0, 4)) == 0 else plain)
        if rule == "all" or label not in config:
            value = config.setdefault(label, draw(described))
            value = draw(described) if wild and draw(st.integers(0, 9)) == 0 else value
            row[setting] = {"width": value, "deep": {"er": 3}} if setting == "config" else value
        if draw(st.integers(0, 3)):
            row["timestamp"] = draw(dates)
        if wild and draw(st.integers(0, 9)) == 0:
            row[draw(st.sampled_from(["extra", "loss", head]))] = draw(odd)
        if wild and draw(st.integers(0, 9)) == 0:
            del row[draw(st.sampled_from(sorted(row)))]
        lines.append(json.dumps(row, ensure_ascii=draw(st.booleans())))
        if draw(st.integers(0, 9)) == 0:
            lines.append(draw(st.sampled_from(["", "  ", "{}"] if wild else ["", " \r"])))
    return "".join(line + "\n" for line in lines).encode()


@settings(max_examples=200)
@given(data=logs(), audit=st.sampled_from([2.0, 1e3]), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_any_log_grown_anyhow_reads_as_at_once_at_every_look(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, audit: float, cuts: list[float]
) -> None:
    root = tmp_path_factory.mktemp("logs")
    path, copy = root / "logs" / "sweep.jsonl", root / "copy" / "sweep.jsonl"
    for folder_ in (path.parent, copy.parent):
        folder_.mkdir()
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
            want = [dataclasses.replace(run, source=str(path)) for run in want]
            assert_same([run.renamed(run.name) for run in got], want, to_the_note=True)


@settings(max_examples=100)
@given(data=logs(), cut=st.floats(0, 1))
def test_rows_make_what_the_reader_makes_or_say_no(data: bytes, cut: float) -> None:
    from farfield.curves.readers.jsonlogs import read_json
    from farfield.curves.readers.record import Where

    where = Where("sweep", "sweep.jsonl")
    lines = data.split(b"\n")[:-1]
    first = b"".join(line + b"\n" for line in lines[: int(cut * len(lines))])
    rest = lines[int(cut * len(lines)) :]
    try:
        rows = ObjectRows.learn(first, read_json(first, where), where, None)
    except FarfieldError:
        return
    if rows is not None and rows.take(rest):
        assert_same(rows.runs(), read_json(data, where), to_the_note=True)
