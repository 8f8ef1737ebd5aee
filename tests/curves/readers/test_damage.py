"""Damaged, cut off and hostile logs: what is whole is read, the rest is refused; nothing but FarfieldError comes out."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farfield.curves.readers import ReadWarning, RunTable, list_runs, read_runs, sources
from farfield.curves.readers.crc import crc32c_reference
from farfield.curves.readers.record import Where
from farfield.errors import FarfieldError, FormatError, InputError

DATA = Path(__file__).parent / "data"
EVENTS = next((DATA / "tensorboard" / "restarted").glob("*.1"))
WANDB = DATA / "wandb" / "run-first.wandb"
N_MUTATIONS = 1000
# one small file a reader: name -> its bytes
SEEDS = {
    "events": EVENTS.read_bytes(),
    "events of tensors": next((DATA / "tensorboard" / "tensors").iterdir()).read_bytes(),
    "wandb": WANDB.read_bytes(),
    "mlflow": (DATA / "mlflow_sqlite" / "mlflow.db").read_bytes(),
    "optuna": (DATA / "optuna" / "optuna.db").read_bytes(),
    "trackio": (DATA / "trackio" / "fixtures.db").read_bytes(),
    "trainer state": (DATA / "huggingface" / "model" / "checkpoint-6" / "trainer_state.json").read_bytes(),
    "json lines": (DATA / "ray" / "trial_0" / "result.json").read_bytes(),
    "csv": (DATA / "lightning" / "version_0" / "metrics.csv").read_bytes(),
    "long csv": b"run,step,metric,value\n"
    + b"".join(b"r%d,%d,loss,%g\n" % (r, s, 1 / (s + 1)) for r in range(2) for s in range(9)),
    "export": b'"Step","a - loss","a - loss__MIN","a - loss__MAX"\n'
    + b"".join(b"%d,%g,0,1\n" % (s, 1 / (s + 1)) for s in range(9)),
    "parquet": (DATA / "columnar" / "pandas.parquet").read_bytes(),
    "arrow": (DATA / "columnar" / "polars.arrow").read_bytes(),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One file with bits flipped, cut short, a piece repeated, removed, zeroed or replaced by digits, quotes and brackets."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not out:
            return bytes(out)
        at, length = rng.randrange(len(out)), rng.choice((1, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = out[max(0, at - length) : at]
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at : at + length] = bytes(min(length, len(out) - at))
        else:
            out[at : at + 1] = rng.choice(
                (b"9" * 30, b"-1", b'"', b"{", b"[" * 40, b",", b"\n", b"nan", b"1e999", b"\xff\xfe", b"\r")
            )
    return bytes(out)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_mutated_files_raise_nothing_but_farfield_errors(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(f"mutations of {name}")
    file = tmp_path / "file"
    read = 0
    for _ in range(N_MUTATIONS):
        data = mutated(SEEDS[name], rng)
        try:
            if data.startswith(b"SQLite format 3\0"):
                file.write_bytes(data)
                table = list_runs(file)
            else:
                table = RunTable(tuple(sources.from_bytes(data, Where("file", "run"), {})))
            table.to_frame()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ReadWarning)  # a metric's name may change in one run
                read_runs(table, metric=table.metrics[0] if table.metrics else "none", goal="min")
            read += 1
        except FarfieldError:
            continue
    assert 0 < read <= N_MUTATIONS  # some mutations must leave a readable file, or nothing was tested
    capfd.readouterr()


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_live_event_file_is_read_up_to_its_last_whole_event(keep: float, tmp_path: Path) -> None:
    data = EVENTS.read_bytes()
    file = tmp_path / "events"
    file.write_bytes(data[: int(len(data) * keep)])
    whole = read_runs(EVENTS)
    part = read_runs(file)
    assert 0 < part.x.size < whole.x.size
    np.testing.assert_array_equal(part.y, whole.y[: part.x.size])
    file.write_bytes(data[: int(len(data) * keep)] + bytes(500))  # allocated, not yet written
    with pytest.raises(FormatError, match="damaged at byte"):  # a torn frame that goes on into zeros is not a clean end
        read_runs(file)


def test_zeros_after_the_last_whole_event_are_not_damage(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_bytes(EVENTS.read_bytes() + bytes(500))
    np.testing.assert_array_equal(read_runs(file).y, read_runs(EVENTS).y)


# the head and the tail of a W&B file are not all covered by checksums
@pytest.mark.parametrize(("source", "head", "tail", "n"), [(EVENTS, 8, 0, 200), (WANDB, 7, 400, 100)])
def test_a_flipped_bit_of_a_file_with_checksums_is_noticed(source: Path, head: int, tail: int, n: int, tmp_path: Path) -> None:
    data = source.read_bytes()
    file = tmp_path / source.name
    rng = random.Random(0)
    for at in rng.sample(range(head, len(data) - tail), n):
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        with pytest.raises(FarfieldError):
            read_runs(file)


def test_a_length_that_lies_is_noticed(tmp_path: Path) -> None:
    """A frame whose length runs past the end looks like a live file, but its checksum tells."""
    data = bytearray(EVENTS.read_bytes())
    second = 12 + struct.unpack_from("<Q", data)[0] + 4
    struct.pack_into("<Q", data, second, 2**40)
    file = tmp_path / "events"
    file.write_bytes(data)
    with pytest.raises(FormatError, match=f"damaged at byte {second} of"):
        read_runs(file)


@pytest.mark.parametrize("keep", [0.4, 0.8])
def test_a_live_wandb_file_is_a_running_run(keep: float, tmp_path: Path) -> None:
    data = (DATA / "wandb" / "run-second.wandb").read_bytes()
    file = tmp_path / "run.wandb"
    file.write_bytes(data[: int(len(data) * keep)])
    curves = read_runs(file, metric="val/loss")
    assert curves.column("status").to_list() == ["running"]
    assert 10 < curves.x.size < 120


def test_a_live_csv_loses_only_its_unfinished_line(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("step,loss,acc\n0,1.0,0.1\n1,0.5,0.2\n2,0.")
    assert read_runs(file, metric="loss").x.tolist() == [0, 1]


def test_live_json_lines_lose_only_their_unfinished_line(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_runs(file).x.tolist() == [0, 1]
    file.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo\n{"step": 2, "loss": 0.2}\n')
    with pytest.raises(FormatError, match="line 2 is not JSON"):
        read_runs(file)


HOSTILE_JSON = {
    "deep": b"[" * 100_000,
    "deep row": b'{"step": 1, "a": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}\n",
    "many digits": b'{"step": 1, "loss": ' + b"9" * 5000 + b"}\n",
    "large exponent": b'{"step": 1, "loss": 1e999}\n{"step": 1e400, "loss": 1}\n',
    "scalars": b"[1, 2, 3]",
    "text": b'{"log_history": ["a", "b"]}',
    "history is a number": b'{"log_history": [{"step": "x", "loss": {"a": []}}]}',
    "no history": b'{"log_history": []}',
    "lone surrogate": b'{"step": 1, "\\ud800": 1}\n{"step": 2, "\\ud800": 2}\n',
    "not text": b'{"step": 1, "loss": "\xff\xfe"}\n',
    "empty object": b"{}",
    "null": b'{"step": null, "loss": null}\n',
}


@pytest.mark.parametrize("name", sorted(HOSTILE_JSON))
def test_hostile_json(name: str, tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    file.write_bytes(HOSTILE_JSON[name])
    try:
        table = list_runs(file)
    except FarfieldError:
        return
    for row in table.rows():
        assert row["n"] + row["n_nonfinite"] >= 0
    read_runs(table, metric=table.metrics[0], goal="min")


def test_json_numbers_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(
        '{"step": 0, "loss": 1, "loss": 2}\n{"step": 1, "loss": NaN}\n{"step": 2, "loss": "Infinity"}\n{"step": 3, "loss": null}\n'
    )
    curves = read_runs(file)
    assert curves.y.tolist() == [2]  # of a repeated key the last counts
    assert curves.column("n_nonfinite").to_list() == [2]  # null is "not logged"
    assert curves.column("status").to_list() == ["diverged"]


def test_sqlite_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE metrics (key TEXT, value REAL)")
    store.close()
    with pytest.raises(FormatError, match="MLflow, Optuna and Trackio"):
        list_runs(file)


def test_a_view_in_the_place_of_a_table_is_not_computed(copied: Callable[[str], Path]) -> None:
    """A view may be a recursion without end."""
    file = copied("mlflow_sqlite") / "mlflow.db"
    store = sqlite3.connect(file)
    store.execute("DROP TABLE metrics")
    store.execute(
        "CREATE VIEW metrics AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT 'loss' AS key, i AS value, i AS timestamp, 'a' AS run_uuid, i AS step, 0 AS is_nan FROM n"
    )
    store.commit()
    store.close()
    with pytest.raises(FormatError, match="MLflow, Optuna and Trackio"):
        list_runs(file)


def test_event_payloads_of_one_length_and_many_kinds(tmp_path: Path) -> None:
    """Two events of each of 150 kinds, told apart by an unknown field; every kind read by itself would be slow."""

    def masked(data: bytes) -> bytes:
        crc = crc32c_reference(data)
        return struct.pack("<I", (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)

    frames = []
    for step in range(300):
        value = b"\x0a\x04loss\x15" + struct.pack("<f", step / 4)
        summary = b"\x0a" + bytes([len(value)]) + value
        unknown = b"\x7d" + struct.pack("<I", step // 2)  # field 15, 4 bytes
        varint = bytes([step & 0x7F | 0x80, step >> 7])
        payload = b"\x09" + struct.pack("<d", step) + b"\x10" + varint + unknown + b"\x2a" + bytes([len(summary)]) + summary
        length = struct.pack("<Q", len(payload))
        frames.append(length + masked(length) + payload + masked(payload))
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(b"".join(frames))
    curves = read_runs(file)
    np.testing.assert_array_equal(curves.x, np.arange(300))
    np.testing.assert_array_equal(curves.y, np.arange(300) / 4)


def test_sqlite_with_cells_of_the_wrong_type(copied: Callable[[str], Path]) -> None:
    file = copied("mlflow_sqlite") / "mlflow.db"
    store = sqlite3.connect(file)
    store.execute("PRAGMA ignore_check_constraints = ON")
    store.execute("UPDATE metrics SET value = 'text', step = x'00ff' WHERE step = 20")
    store.execute("UPDATE params SET value = NULL WHERE key = 'no such'")
    store.commit()
    store.close()
    curves = read_runs(file, metric="val_loss", runs="parent")
    assert curves.column("n_nonfinite").to_list() == [2]
    assert 20 not in curves.x


def test_sqlite_store_that_is_being_written(copied: Callable[[str], Path]) -> None:
    file = copied("optuna") / "optuna.db"
    writer = sqlite3.connect(file)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("UPDATE trial_intermediate_values SET intermediate_value = 42.0 WHERE step = 0")
    writer.commit()
    try:
        assert 42.0 in read_runs(file).y
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty file"),
        ("a.csv", b"\n\n", "empty file"),
        ("a.csv", b"step,loss\n", "a header and no rows"),
        ("a.csv", b"name,comment\nx,y\nz,w\n", r"no column of numbers .*; columns: name \(such as 'x'\), comment \(such as 'y'\)$"),
        ("a.csv", b'step,loss\n"1,000",3\n"2,000",2\n', r"column 'step' holds '1,000'; write numbers without separators: 1000$"),
        ("a.csv", b'step,loss\n1,3\n2,2\n"1,000",1\n', r"column 'step' holds '1,000'; write numbers without separators: 1000$"),
        ("a.csv", b'step,metric,value\n"1,000",loss,3\n', r"column 'step' holds '1,000'; write numbers without separators: 1000$"),
        ("a.csv", b"step;loss\n1;2,5\n2;2,0\n", r"loss \(such as '2,5'\); write decimals with a point: 2.5$"),
        ("a.csv", b"just some prose\nof two lines\n", "no column of numbers"),
        ("a.db", b"SQLite format 3\0" + bytes(84), "SQLite store cannot be"),
        ("a.wandb", b":W&B", "not a W&B offline file"),
        ("a.parquet", b"PAR1" + bytes(40), "cut off"),
        ("a.parquet", b"PAR1" + bytes(40) + b"\xff\xff\xff\x0fPAR1", "footer is longer than the file"),
        ("a.parquet", b"PAR1" + bytes(40) + b"\x10\0\0\0PAR1", "damaged Parquet"),
        ("a.bin", bytes(range(256)), "not a log in a known format .* allowed: TensorBoard, "),
        ("a.json", b"{", "not JSON"),
        (
            "a.csv.gz",
            b"\x1f\x8b\x08\x00",
            r"compressed with gzip; unpack it, for example: zcat .*a.csv.gz \| farfield runs read -$",
        ),
        ("a.csv.xz", b"\xfd7zXZ\x00\x00", "compressed with xz"),
        ("a.events", EVENTS.read_bytes()[:30], "no runs in"),
    ],
)
def test_refusals_say_what_was_got(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(FarfieldError, match=message):
        list_runs(file)


def test_a_folder_without_runs(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Nothing here\n\nNot a log.\n")
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    (tmp_path / "notes.csv").write_text("name,comment\nx,y\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match=r"no runs in .* other files"):
        list_runs(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        list_runs(tmp_path / "nowhere")


def test_one_damaged_log_in_a_folder_is_reported_and_the_others_are_read(copied: Callable[[str], Path]) -> None:
    folder = copied("wandb")
    first = folder / "run-first.wandb"
    broken = bytearray(first.read_bytes())
    broken[1000] ^= 1
    first.write_bytes(broken)
    table = list_runs(folder)
    assert [run.name for run in table.runs] == ["second"]
    assert len(table.problems) == 1
    assert "run-first.wandb" in table.problems[0]
    with pytest.warns(UserWarning, match="left out: .*run-first.wandb"):
        read_runs(folder, metric="val/loss")
    shutil.rmtree(folder)


def test_json_of_other_kinds_in_a_folder_is_passed_over(copied: Callable[[str], Path]) -> None:
    folder = copied("lightning")
    (folder / "package.json").write_text(json.dumps({"name": "x", "version": 1, "files": ["a"]}))
    (folder / "requirements.txt").write_text("numpy==1\nscipy==2\n")
    (folder / "people.csv").write_text("name,age\nann,3\nbob,4\n")
    table = list_runs(folder)
    assert [run.name for run in table.runs] == ["version_0"]
    assert {Path(p).name for p in table.passed_over} == {"package.json", "requirements.txt", "people.csv"}
