"""Checkpoints written and read back, with the safetensors package as the oracle; kills, full disks and outputs on inputs."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from farfield import formats
from farfield.cli import cli, main
from farfield.errors import FormatError, InputError
from farfield.weights.crc import FOLD, Crc32, combine
from farfield.weights.io import Checkpoint, CheckpointWriter, diff, verify
from stored_tensors import entry, raw_file, write_file, write_index

Tensors = dict[str, np.ndarray]


def example(seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {
        "model.embed_tokens.weight": rng.normal(size=(50, 8)).astype(np.float32),
        "model.layers.0.w": rng.normal(size=(8, 8)).astype(np.float16),
        "model.layers.0.ids": rng.integers(0, 99, 7),
        "model.layers.1.w": rng.normal(size=(3, 5, 2)),
        "model.layers.1.mask": rng.random(5) > 0.5,
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def copy(source: Checkpoint, writer: CheckpointWriter, chunk: int, order: int = 1) -> None:
    for name, info in list(source.tensors.items())[::order]:
        for start in list(range(0, info.size, chunk))[::order]:
            writer.write(name, start, source.read(name, start, min(start + chunk, info.size)))


def assert_same(directory: Path, expected: Tensors) -> None:
    got: Tensors = {}
    for path in directory.glob("*.safetensors"):
        got.update(load_file(path))
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


# -- reading ------------------------------------------------------------------------------------------------------------


def test_reads_what_the_package_wrote(tmp_path: Path) -> None:
    tensors = example()
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "who": "test"})
    with Checkpoint.open(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.tensors.keys() == tensors.keys()
        assert checkpoint.metadata == {"format": "pt", "who": "test"}
        for name, array in tensors.items():
            info = checkpoint.tensors[name]
            assert (info.shape, info.nbytes, info.size) == (array.shape, array.nbytes, array.size)
            raw = checkpoint.read(name)
            assert raw.tobytes() == array.tobytes()
            assert raw.dtype.kind == "u"
            middle = array.size // 2
            assert checkpoint.read(name, middle, array.size).tobytes() == array.ravel()[middle:].tobytes()
            if array.dtype.kind == "f":
                np.testing.assert_array_equal(checkpoint.read_float64(name), array.ravel().astype(np.float64))
        buffer = np.zeros(100, np.uint16)
        part = checkpoint.read("model.layers.0.w", 3, 9, out=buffer)
        assert np.shares_memory(part, buffer)
        np.testing.assert_array_equal(part.view(np.float16), tensors["model.layers.0.w"].ravel()[3:9])


def test_refuses_ranges_names_and_types_it_cannot_serve(tmp_path: Path) -> None:
    save_file(example(), tmp_path / "x.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "x.safetensors")
    for start, stop in ((-1, 2), (0, 65), (5, 4)):
        with pytest.raises(InputError, match="0 to 64"):
            checkpoint.read("model.layers.0.w", start, stop)
    with pytest.raises(InputError, match=r"model\.layers\.0\.w"):
        checkpoint.read("model.layers.0.W")
    with pytest.raises(InputError, match="I64"):
        checkpoint.read_float64("model.layers.0.ids")
    with pytest.raises(InputError, match="out is"):
        checkpoint.read("model.layers.0.w", out=np.zeros(100, np.uint32))
    os.truncate(tmp_path / "x.safetensors", os.path.getsize(tmp_path / "x.safetensors") - 1)
    last = max(checkpoint.tensors.values(), key=lambda t: t.offset + t.nbytes)
    with pytest.raises(FormatError, match="shrunk"):
        checkpoint.read(last.name)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_of_any_order_and_size(tmp_path: Path, order: tuple[int, ...]) -> None:
    tensors = example()
    names = list(tensors)
    parts = [names[:1], names[1:2], names[2:]]
    files = {f"model-0000{i + 1}-of-00003.safetensors": parts[order[i]] for i in range(3)}
    for file, members in files.items():
        save_file({n: tensors[n] for n in members}, tmp_path / file)
    index = {n: f for f, members in files.items() for n in members}
    write_index(tmp_path, dict(sorted(index.items(), key=lambda item: hash(item[0]))))
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "README.md").write_text("a card")
    checkpoint = Checkpoint.open(tmp_path)
    for name, array in tensors.items():
        assert checkpoint.read(name).tobytes() == array.tobytes()
        assert checkpoint.tensors[name].shard == index[name]
    assert set(checkpoint.side_files) == {"config.json", "tokenizer.json"}
    assert checkpoint.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert Checkpoint.open(tmp_path / "model.safetensors.index.json").tensors == checkpoint.tensors
    assert verify(tmp_path).ok


def test_tied_by_metadata_and_tensors_outside_the_index(tmp_path: Path) -> None:
    a = np.ones(4, np.float32)
    write_file(tmp_path / "a.safetensors", {"w": ("F32", a), "extra": ("F32", a)}, {"head": "w", "format": "pt"})
    write_index(tmp_path, {"w": "a.safetensors"})
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tied == {"head": "w"}
    assert checkpoint.unindexed == ("extra",)
    assert set(checkpoint.tensors) == {"w", "extra"}
    assert any("not in the index" in note for note in verify(tmp_path).notes)


def test_what_is_no_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no checkpoint"):
        Checkpoint.open(tmp_path / "absent")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="convert it to safetensors"):
        Checkpoint.open(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_file(example(), tmp_path / name)
    with pytest.raises(InputError, match="files and no model"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pickled.safetensors").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00" * 4)
    with pytest.raises(FormatError, match="pickle"):
        Checkpoint.open(tmp_path / "pickled.safetensors")


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        ({"w": ("F8_E4M3", np.zeros(4, np.uint8))}, None, "F8_E4M3"),
        ({}, None, None),
        ({"l.qweight": ("I32", np.zeros(4, np.int32))}, None, "GPTQ"),
        ({"l.weight": ("U8", np.zeros(4, np.uint8)), "l.weight.quant_state.x": ("U8", np.zeros(1, np.uint8))}, None, "4-bit"),
        ({"w": ("F16", np.zeros(4, np.float16))}, {"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_quantised_weights_are_refused_with_the_reason(
    tmp_path: Path, tensors: dict[str, Any], config: dict[str, Any] | None, reason: str | None
) -> None:
    if reason is None:  # two elements a byte
        (tmp_path / "model.safetensors").write_bytes(raw_file({"w": entry("F4", (8,), 0, 4)}, bytes(4)))
    else:
        write_file(tmp_path / "model.safetensors", tensors)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"quantised weights .*{reason or 'F4'}"):
        Checkpoint.open(tmp_path)
    assert Checkpoint.open(tmp_path, allow_quantised=True).quantised
    result = verify(tmp_path)
    assert result.ok
    assert any("quantised" in note for note in result.notes)


# -- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "order"), [(1, 1), (7, -1), (10**6, 1), (3, 2)])
def test_written_in_any_chunks_and_order(tmp_path: Path, chunk: int, order: int) -> None:
    tensors = example()
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    source = Checkpoint.open(tmp_path / "x.safetensors")
    members = source.layout[0][1]
    layout = [("model-00001-of-00002.safetensors", members[3:]), ("model-00002-of-00002.safetensors", members[:3])]
    (tmp_path / "tokenizer.json").write_text("{}")
    beside = {"tokenizer.json": tmp_path / "tokenizer.json", "config.json": b'{"a": 1}'}
    with CheckpointWriter(tmp_path / "out", layout, source.metadata, side_files=beside, inputs=[source]) as writer:
        copy(source, writer, chunk, order)
        if order == 2:  # every other chunk, of every other tensor: the rest is what is missing
            for name in source.tensors:
                for start, stop in writer.missing(name):
                    writer.write(name, start, source.read(name, start, stop))
        assert not (tmp_path / "out").exists()
        assert writer.finish() == tmp_path / "out"
    assert_same(tmp_path / "out", tensors)
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*beside, *(s for s, _ in layout), "model.safetensors.index.json"])
    assert sorted(os.listdir(tmp_path)) == ["out", "tokenizer.json", "x.safetensors"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == source.nbytes
    with safetensors.safe_open(tmp_path / "out" / layout[0][0], "numpy") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == {n for n, f in index["weight_map"].items() if f == layout[0][0]}
    written = Checkpoint.open(tmp_path / "out")
    for info in written.tensors.values():
        assert info.offset % max(1, info.nbytes // max(1, info.size)) == 0
    assert "farfield_crc32" not in written.metadata
    result = verify(tmp_path / "out")
    assert [f.checksum for f in result.files] == ["ok", "ok"]
    for shard, header in written.shards.items():
        body = (tmp_path / "out" / shard).read_bytes()[header.body :]
        assert header.metadata["farfield_crc32"] == f"{zlib.crc32(body):08x}"


def test_bf16_and_one_file(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=300)
    raw = formats.round_to(values, "BF16")
    out = tmp_path / "one.safetensors"
    with CheckpointWriter(out, [("one.safetensors", [("w", "BF16", (3, 100))])]) as writer:
        writer.write("w", 100, raw[100:])
        writer.write("w", 0, raw[:100])
        writer.finish()
    ((name, stored),) = safetensors.deserialize(out.read_bytes())
    assert (name, stored["dtype"], list(stored["shape"]), bytes(stored["data"])) == ("w", "BF16", [3, 100], raw.tobytes())
    assert os.listdir(tmp_path) == ["one.safetensors"]


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_checksums_combine(pieces: list[bytes]) -> None:
    crc = 0
    for piece in pieces:
        crc = combine(crc, zlib.crc32(piece), len(piece))
    assert crc == zlib.crc32(b"".join(pieces))


def test_the_folded_crc_is_that_of_zlib() -> None:
    data = np.random.default_rng(0).integers(0, 256, 2_000_003).astype(np.uint8)
    word = 8 * FOLD[0]
    for cuts in (
        [],
        [5],
        [2 * word],
        [2 * word - 8, 2 * word + 8],
        [3 * word, 6 * word, 6 * word + 1, 11 * word],
        [300_000, 300_000],
    ):
        crc, edges = Crc32(), [0, *cuts, data.size]
        for begin, end in itertools.pairwise(edges):
            crc.update(data[begin:end].data)
            if begin % 16 == 0:
                assert crc.value == zlib.crc32(data[:end])
        assert crc.value == zlib.crc32(data)
    begun = Crc32(zlib.crc32(b"before"))
    begun.update(data.data)
    assert begun.value == zlib.crc32(data, zlib.crc32(b"before"))


def test_tensors_written_from_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    tensors = {f"t{i}": rng.normal(size=5000) for i in range(8)}
    layout = [("a.safetensors", [(n, "F64", (5000,)) for n in tensors])]
    with CheckpointWriter(tmp_path / "out", layout, key="k") as writer:

        def work(name: str) -> None:
            for start in range(0, 5000, 500):
                writer.write(name, start, tensors[name][start : start + 500])

        threads = [threading.Thread(target=work, args=(n,)) for n in tensors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.finish()
    assert_same(tmp_path / "out", tensors)
    assert verify(tmp_path / "out").files[0].checksum == "ok"


def test_the_writer_refuses_what_is_wrong(tmp_path: Path) -> None:
    layout = [("a.safetensors", [("w", "F32", (4,))])]
    with CheckpointWriter(tmp_path / "out", layout) as writer:
        writer.write("w", 0, np.ones(2, np.float32))
        for start, raw, message in (
            (1, np.ones(2, np.float32), "written already"),
            (3, np.ones(2, np.float32), "do not exist"),
            (2, np.ones(2, np.float64), "4 bytes a number"),
        ):
            with pytest.raises(InputError, match=message):
                writer.write("w", start, raw)
        with pytest.raises(InputError, match="unknown tensor"):
            writer.write("v", 0, np.ones(2, np.float32))
        assert writer.missing("w") == [(2, 4)]
        with pytest.raises(InputError, match="2 to 4 of 'w' were never written"):
            writer.finish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "layout",
    [
        [],
        [("../a.safetensors", [("w", "F32", (4,))])],
        [("a.bin", [("w", "F32", (4,))])],
        [("a.safetensors", [("w", "F32", (4,))]), ("a.safetensors", [("v", "F32", (4,))])],
        [("a.safetensors", [("w", "F32", (4,))]), ("b.safetensors", [("w", "F32", (4,))])],
        [("a.safetensors", [("w", "F31", (4,))])],
        [("a.safetensors", [("w", "F32", (-4,))])],
        [("a.safetensors", [("w\x1b[2J", "F32", (4,))])],
        [("a.safetensors", [("__metadata__", "F32", (4,))])],
    ],
)
def test_layouts_that_cannot_be_stored(tmp_path: Path, layout: Any) -> None:
    with pytest.raises(InputError):
        CheckpointWriter(tmp_path / "out", layout)
    assert os.listdir(tmp_path) == []


def test_never_on_top_of_anything(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(example(), tmp_path / "in" / "model.safetensors")
    before = (tmp_path / "in" / "model.safetensors").read_bytes()
    source = Checkpoint.open(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / "model.safetensors", tmp_path / "x" / ".." / "in"):
        with pytest.raises(InputError, match="on top of an input"):
            CheckpointWriter(out, source.layout, inputs=[source])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        CheckpointWriter(tmp_path / "full", source.layout)
    (tmp_path / "taken.safetensors").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        CheckpointWriter(tmp_path / "taken.safetensors", source.layout)
    with pytest.raises(InputError, match="no directory"):
        CheckpointWriter(tmp_path / "no" / "out", source.layout)
    (tmp_path / "free").mkdir()
    with CheckpointWriter(tmp_path / "free", source.layout, inputs=[source]) as writer:
        with pytest.raises(InputError, match="another process"):
            CheckpointWriter(tmp_path / "free", source.layout)
        copy(source, writer, 100)
        writer.finish()
    assert (tmp_path / "in" / "model.safetensors").read_bytes() == before
    assert_same(tmp_path / "free", example())
    assert sorted(os.listdir(tmp_path)) == ["free", "full", "in", "link", "taken.safetensors"]


def test_no_space_is_said_before_a_byte_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(InputError, match="free some"):
        CheckpointWriter(tmp_path / "out", [("a.safetensors", [("w", "F32", (4,))])], key="k")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", [None, "recipe"])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    layout = [("a.safetensors", [("v", "F32", (4,)), ("w", "F32", (4,))])]

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with CheckpointWriter(tmp_path / "out", layout, key=key) as writer:
        writer.write("v", 0, np.ones(4, np.float32))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(InputError, match="no space left"):
                writer.write("w", 0, np.ones(4, np.float32))
    assert os.listdir(tmp_path) == ([".out.farfield-part"] if key else [])
    with CheckpointWriter(tmp_path / "out", layout, key=key) as writer:
        assert writer.missing("v") == ([] if key else [(0, 4)])
        for name in ("v", "w"):
            if writer.missing(name):
                writer.write(name, 0, np.ones(4, np.float32))
        writer.finish()
    assert_same(tmp_path / "out", {"v": np.ones(4, np.float32), "w": np.ones(4, np.float32)})


SLOW_COPY = """
import sys, time
from farfield.weights.io import Checkpoint, CheckpointWriter
source, out, wait = sys.argv[1], sys.argv[2], float(sys.argv[3])
with Checkpoint.open(source) as a, CheckpointWriter(out, a.layout, a.metadata, inputs=[a], key="copy") as writer:
    todo = [(n, *span) for n in a.tensors for span in writer.missing(n)]
    print(len(todo), flush=True)
    for name, start, stop in todo:
        for at in range(start, stop, 1000):
            writer.write(name, at, a.read(name, at, min(at + 1000, stop)))
        print(name, flush=True)
        time.sleep(wait)
    writer.finish()
"""


@pytest.mark.parametrize("damage", [None, "body", "journal"])
def test_sigkill_while_writing_then_the_same_again(tmp_path: Path, damage: str | None) -> None:
    rng = np.random.default_rng(4)
    tensors = {f"layers.{i}.w": rng.normal(size=(40, 50)).astype(np.float32) for i in range(12)}
    save_file(tensors, tmp_path / "x.safetensors")
    arguments = [sys.executable, "-c", SLOW_COPY, str(tmp_path / "x.safetensors"), str(tmp_path / "out")]
    process = subprocess.Popen([*arguments, "0.05"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lines[0] == "12\n"
    assert not (tmp_path / "out").exists()
    part = tmp_path / ".out.farfield-part"
    done = len((part / "journal").read_bytes().splitlines()) - 1
    assert 5 <= done < 12
    if damage == "body":  # a page that a power cut lost
        with open(part / "x.safetensors", "r+b") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            file.write(bytes(16))
        done -= 1
    elif damage == "journal":
        with open(part / "journal", "r+b") as file:
            file.truncate(os.path.getsize(part / "journal") - 7)
        done -= 1
    again = subprocess.run([*arguments, "0"], capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[0] == str(12 - done)
    assert_same(tmp_path / "out", tensors)
    assert verify(tmp_path / "out").files[0].checksum == "ok"
    assert sorted(os.listdir(tmp_path)) == ["out", "x.safetensors"]


def test_a_large_tensor_goes_on_within_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farfield.weights.writer._JOURNAL_EVERY", 1000)
    w = np.random.default_rng(0).normal(size=2000)
    layout = [("a.safetensors", [("w", "F64", w.shape)])]
    with CheckpointWriter(tmp_path / "out", layout, key="k") as writer:
        for start, stop in ((0, 100), (100, 200), (200, 260), (260, 400), (1500, 1700), (1900, 1950)):
            writer.write("w", start, w[start:stop])  # the last is too short to be journalled, and is written again
    for _ in range(2):  # what is taken up can be left and taken up again
        with CheckpointWriter(tmp_path / "out", layout, key="k") as writer:
            holes = writer.missing("w")
    assert holes == [(400, 1500), (1700, 2000)]
    with CheckpointWriter(tmp_path / "out", layout, key="k") as writer:
        for start, stop in holes:
            for at in range(start, stop, 100):
                writer.write("w", at, w[at : at + 100])
        writer.finish()
    assert_same(tmp_path / "out", {"w": w})
    assert verify(tmp_path / "out").files[0].checksum == "ok"


def test_what_another_recipe_left_is_not_taken_up(tmp_path: Path) -> None:
    layout = [("a.safetensors", [("w", "F32", (4,)), ("v", "F32", (2,))])]
    with CheckpointWriter(tmp_path / "out", layout, key="one") as writer:
        writer.write("w", 0, np.ones(4, np.float32))
    assert os.listdir(tmp_path) == [".out.farfield-part"]
    with CheckpointWriter(tmp_path / "out", layout, key="two") as writer:
        assert writer.missing("w") == [(0, 4)]
    assert os.listdir(tmp_path) == []  # nothing was written, so nothing is kept


# -- verify and diff ----------------------------------------------------------------------------------------------------


def test_verify_finds_one_changed_bit_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    save_file(example(), tmp_path / "x.safetensors")
    source = Checkpoint.open(tmp_path / "x.safetensors")
    with CheckpointWriter(tmp_path / "out", source.layout) as writer:
        copy(source, writer, 10**6)
        writer.finish()
    path = tmp_path / "out" / "x.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not verify(tmp_path / "out").ok
    assert main(["weights", "verify", str(tmp_path / "out")]) == 1
    path.write_bytes(whole[:-5])
    result = verify(tmp_path / "out")
    assert "truncated" in result.summary()
    path.write_bytes(whole)
    assert main(["weights", "verify", str(tmp_path / "out")]) == 0
    assert main(["weights", "verify", str(tmp_path / "absent")]) == 2
    save_file({"w": np.array([1.0, np.nan, np.inf, 3.0], np.float32)}, tmp_path / "n.safetensors")
    result = verify(tmp_path / "n.safetensors")
    assert result.ok
    assert result.files[0].not_finite == 2


def test_diff_measures_the_step(tmp_path: Path) -> None:
    a, b = example(), example()
    rng = np.random.default_rng(9)
    step = np.where(rng.random((50, 8)) < 0.25, rng.normal(size=(50, 8)), 0).astype(np.float32)
    b["model.embed_tokens.weight"] = a["model.embed_tokens.weight"] + step
    b["model.layers.0.ids"] = a["model.layers.0.ids"] + np.array([1, 0, 0, 0, 0, 0, 0])
    b["model.layers.1.w"] = -a["model.layers.1.w"].astype(np.float32)
    b["scalar"] = np.ones((2, 2), np.float32)
    b["new"] = np.ones(3, np.float32)
    del b["empty"]
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    result = diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    rows = {t.name: t for t in result.tensors}
    assert (result.only_a, result.only_b) == (("empty",), ("new",))
    assert result.reshaped == (("scalar", (), (2, 2)),)
    x, y = (v["model.embed_tokens.weight"].astype(np.float64).ravel() for v in (a, b))
    t = rows["model.embed_tokens.weight"]
    expected = [np.linalg.norm(x), np.linalg.norm(y), np.linalg.norm(y - x), np.linalg.norm(y - x) / np.linalg.norm(x)]
    np.testing.assert_allclose([t.norm_a, t.norm_b, t.norm_step, t.relative], expected, rtol=1e-12)
    assert t.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
    assert (t.changed, t.largest) == (np.mean(x != y), np.max(np.abs(y - x)))
    assert rows["model.layers.0.ids"].changed == 1 / 7
    assert np.isnan(rows["model.layers.0.ids"].cosine)
    assert rows["model.layers.0.w"].relative == 0
    assert rows["model.layers.1.w"].cosine == pytest.approx(-1, abs=1e-7)
    layers = {t.name: t for t in result.layers()}
    assert set(layers) == {"model.embed_tokens.weight", "model.layers.0", "model.layers.1"}
    assert layers["model.layers.0"].size == 71
    assert layers["model.layers.0"].changed == pytest.approx(1 / 71)
    both = [
        np.concatenate([v[n].astype(np.float64).ravel() for n in ("model.embed_tokens.weight", "model.layers.0.w")]) for v in (a, b)
    ]
    part = diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", include="embed|layers.0.w").total
    assert part.norm_step == pytest.approx(np.linalg.norm(both[1] - both[0]), rel=1e-12)
    assert part.cosine == pytest.approx(both[0] @ both[1] / np.linalg.norm(both[0]) / np.linalg.norm(both[1]), rel=1e-12)
    assert result.to_frame().height == len(result.tensors)
    assert len(result.plot().lines) == 2
    with pytest.raises(InputError, match="no regular expression"):
        diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", include="(")
    with pytest.raises(
        InputError, match=r"no tensor of one name and shape in common in whose names 'nowhere' is found; they hold, "
    ):
        diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", include="nowhere")


def test_diff_compares_a_tied_output_layer_with_its_embedding(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for name, tensors in (
        ("a", {"model.embed_tokens.weight": w}),
        ("b", {"model.embed_tokens.weight": w, "lm_head.weight": 2 * w}),
    ):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"tie_word_embeddings": %s}' % ("true" if name == "a" else "false"))
    result = diff(tmp_path / "a", tmp_path / "b")
    assert {t.name: round(t.relative, 6) for t in result.tensors} == {"model.embed_tokens.weight": 0, "lm_head.weight": 1}
    assert result.only_a == result.only_b == ()


def test_the_commands(tmp_path: Path) -> None:
    a, b = example(), example(1)
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    paths = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    run = CliRunner().invoke(cli, ["weights", "diff", *paths, "--json", "--plot", str(tmp_path / "d.svg")])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert len(document["tensors"]) == len(a)
    assert (tmp_path / "d.svg").read_text().startswith("<?xml")
    run = CliRunner().invoke(cli, ["weights", "diff", *paths, "--by", "tensor", "--csv"])
    assert len(run.stdout.splitlines()) == 1 + len(a)
    run = CliRunner().invoke(cli, ["weights", "verify", paths[0], "--json"])
    assert json.loads(run.stdout)["ok"] is True


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    script = """
import resource, sys
import numpy as np
from farfield.weights.io import Checkpoint, CheckpointWriter, verify, diff
n = int(sys.argv[1])
with CheckpointWriter(sys.argv[2], [("a.safetensors", [("w", "BF16", (n,))])], sync=False) as w:
    raw = np.arange(2**18, dtype=np.uint16) & 0x3FFF
    for at in range(0, n, 2**18):
        w.write("w", at, raw[: min(2**18, n - at)])
    w.finish()
assert verify(sys.argv[2]).ok and diff(sys.argv[2], sys.argv[2]).total.changed == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for i, n in enumerate((2**18, 2**25)):
        run = [sys.executable, "-c", script, str(n), str(tmp_path / f"out{i}")]
        peaks.append(int(subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 16 * 1024  # KiB; the larger tensor has 64 MiB


def test_help_is_quick_and_loads_no_arrays() -> None:
    code = (
        "import sys; from farfield.cli import main; main(['weights', '--help']); "
        "print([m for m in ('numpy', 'torch', 'polars') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
