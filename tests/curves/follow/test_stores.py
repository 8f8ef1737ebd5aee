"""SQLite stores read on by rowid: the same as a fresh read, for work in proportion to what is new; edits are found."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farfield.curves.follow import LogFolder, pieces
from farfield.curves.readers import list_runs, sqlite
from run_logs import assert_same

DATA = Path(__file__).parents[1] / "readers" / "data"
Insert = Callable[[sqlite3.Connection, int, int], None]
KINDS = ("mlflow", "optuna", "trackio")


def mlflow(store: sqlite3.Connection, run: int, step: int) -> None:
    uuid = f"{run:032x}"
    store.execute(
        "INSERT OR IGNORE INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) VALUES (?, ?, ?, ?, ?, ?)",
        (uuid, f"new-{run}", "RUNNING", 10**12 + run, "active", 1),
    )
    for key in ("val_loss", "acc"):
        store.execute(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
            (key, 0.0 if step == 7 else 1 / (step + 1), 10**12 + 1000 * step, uuid, step, step == 7),
        )


def optuna(store: sqlite3.Connection, run: int, step: int) -> None:
    store.execute(
        "INSERT OR IGNORE INTO trials (trial_id, number, study_id, state) VALUES (?, ?, 1, 'RUNNING')", (1000 + run, 1000 + run)
    )
    store.execute(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) VALUES (?, ?, ?, ?)",
        (1000 + run, step, None if step == 7 else 1 / (step + 1), "NAN" if step == 7 else "FINITE"),
    )


def trackio(store: sqlite3.Connection, run: int, step: int) -> None:
    row = {"note": "begins"} if step == 0 else {"loss": "NaN" if step == 7 else 1 / step, "deep": {"acc": step}}
    store.execute(
        "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?, ?)",
        (f"id{run}", f"2026-01-01T00:{step // 60:02}:{step % 60:02}", f"new-{run}", step, json.dumps(row)),
    )


INSERT: dict[str, Insert] = {"mlflow": mlflow, "optuna": optuna, "trackio": trackio}
FILES = {"mlflow": "mlflow_sqlite", "optuna": "optuna", "trackio": "trackio"}
TABLE = {"mlflow": "metrics", "optuna": "trial_intermediate_values", "trackio": "metrics"}


def begin(kind: str, root: Path, mode: str = "wal") -> sqlite3.Connection:
    (source,) = (DATA / FILES[kind]).glob("*.db")
    shutil.copy(source, root / "store.db")
    store = sqlite3.connect(root / "store.db")
    store.execute(f"PRAGMA journal_mode={mode}")
    for step in range(5):
        for run in range(3):
            INSERT[kind](store, run, step)
    store.commit()
    return store


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Rows of points that were fetched from stores."""
    counts = {"points": 0}
    rows = sqlite.Store.rows

    def counted(self: sqlite.Store, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        found = rows(self, query, parameters)
        if " metrics " in query or " trial_intermediate_values " in query:
            counts["points"] += len(found)
        return found

    monkeypatch.setattr(sqlite.Store, "rows", counted)
    return counts


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_look_fetches_the_new_rows_and_the_last_one(
    kind: str, mode: str, tmp_path: Path, fetched: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_SMALL", 0)
    monkeypatch.setattr(pieces, "_AUDIT", 1e9)
    rng = np.random.default_rng(0)
    with contextlib.closing(begin(kind, tmp_path, mode)) as store:
        folder = LogFolder([tmp_path], share=1e-9)  # nothing left for reading the whole
        folder._saved = -1e9
        folder.runs()
        steps = [5] * 6
        steps[3:] = [0, 0, 0]  # runs that begin later
        for _ in range(12):
            before = store.execute(f"SELECT count(*) FROM {TABLE[kind]}").fetchone()[0]
            for run in rng.integers(0, 6, size=rng.integers(1, 5)):
                INSERT[kind](store, int(run), steps[run])
                steps[run] += 1
            store.commit()
            new = store.execute(f"SELECT count(*) FROM {TABLE[kind]}").fetchone()[0] - before
            fetched["points"] = 0
            assert folder.poll()
            got = folder.runs()
            assert fetched["points"] == new + 1
            assert_same(got, list_runs([tmp_path]).runs)
        fetched["points"] = 0
        assert not folder.poll()
        assert fetched["points"] == 0
        INSERT[kind](store, 0, steps[0])  # not committed: not there
        folder.poll()
        if mode == "wal":
            assert_same(folder.runs(), list_runs([tmp_path]).runs)
        store.rollback()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.db"]  # nothing was left beside it


def test_runs_without_new_points_keep_theirs_and_states_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_SMALL", 0)
    with contextlib.closing(begin("mlflow", tmp_path)) as store:
        folder = LogFolder([tmp_path], share=1e-9)
        folder._saved = -1e9
        before = {run.source: run for run in folder.runs()}
        mlflow(store, 1, 5)
        store.execute("UPDATE runs SET status = 'FINISHED' WHERE name = 'new-2'")
        store.commit()
        folder.poll()
        after = folder.runs()
        assert_same(after, list_runs([tmp_path]).runs)
        changed = [run.name for run in after if run.metrics is not before[run.source].metrics]
        assert changed == ["new-1"]
        assert {run.name: run.status for run in after}["new-2"] == "finished"


EDITS = {
    "mlflow": ["UPDATE metrics SET value = 9 WHERE step = 2", "DELETE FROM metrics WHERE step = 3", "DELETE FROM metrics"],
    "optuna": [
        "UPDATE trial_intermediate_values SET intermediate_value = 9 WHERE step = 2",
        "DELETE FROM trial_intermediate_values WHERE step = 3",
    ],
    "trackio": ["UPDATE metrics SET run_name = 'else' WHERE run_id = 'id1'", "DELETE FROM metrics WHERE run_id = 'id0'"],
}


@pytest.mark.parametrize(("kind", "edit"), [(kind, edit) for kind in KINDS for edit in EDITS[kind]])
def test_edits_are_found_and_the_store_read_as_a_whole_until_it_only_grows(
    kind: str, edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_SMALL", 0)
    with contextlib.closing(begin(kind, tmp_path)) as store:
        folder = LogFolder([tmp_path], share=10.0)
        (follower,) = folder._followers.values()
        assert isinstance(follower, pieces.StoreFollower)
        INSERT[kind](store, 0, 5)
        store.commit()
        folder.poll()
        store.execute(edit)
        INSERT[kind](store, 1, 6)
        store.commit()
        folder.poll()
        follower._compare_at = 0.0  # a minute later
        folder.poll()
        assert_same(folder.runs(), list_runs([tmp_path]).runs)
        for step in (7, 8):
            INSERT[kind](store, 1, step)
            store.commit()
            folder.poll()
            assert_same(folder.runs(), list_runs([tmp_path]).runs)
        assert not follower._edited
        assert follower._held is not None


@pytest.mark.parametrize("kind", KINDS)
def test_points_out_of_order_are_read_anew(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_SMALL", 0)
    with contextlib.closing(begin(kind, tmp_path)) as store:
        folder = LogFolder([tmp_path], share=10.0)
        INSERT[kind](store, 0, 20)
        store.commit()
        folder.poll()
        INSERT[kind](store, 0, 12)
        store.commit()
        folder.poll()
        folder.settle()
        assert_same(folder.runs(), list_runs([tmp_path]).runs)


def test_a_table_without_rowid_is_read_as_a_whole(tmp_path: Path) -> None:
    with contextlib.closing(begin("mlflow", tmp_path)) as store:
        store.executescript(
            "ALTER TABLE metrics RENAME TO old; CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan, "
            "PRIMARY KEY (key, timestamp, step, run_uuid)) WITHOUT ROWID; "
            "INSERT OR IGNORE INTO metrics SELECT key, value, timestamp, run_uuid, step, is_nan FROM old; DROP TABLE old"
        )
        folder = LogFolder([tmp_path], share=10.0)
        (follower,) = folder._followers.values()
        mlflow(store, 0, 5)
        store.commit()
        folder.poll()
        assert isinstance(follower, pieces.StoreFollower)
        assert follower._held is None
        assert_same(folder.runs(), list_runs([tmp_path]).runs)


def test_a_store_that_is_replaced_or_locked_is_read_when_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_SMALL", 0)
    with contextlib.closing(begin("optuna", tmp_path, "delete")) as store:
        folder = LogFolder([tmp_path], share=10.0)
        optuna(store, 0, 5)
        store.commit()
        store.execute("BEGIN EXCLUSIVE")
        folder.poll()
        folder.runs()
        store.rollback()
        optuna(store, 0, 6)
        store.commit()
        folder.poll()
        assert_same(folder.runs(), list_runs([tmp_path]).runs)
    (tmp_path / "store.db").unlink()
    with contextlib.closing(begin("optuna", tmp_path)) as store:
        folder.poll()
        folder.settle()
        assert_same(folder.runs(), list_runs([tmp_path]).runs)
