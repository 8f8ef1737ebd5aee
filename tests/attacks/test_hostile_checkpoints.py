"""Checkpoints made to harm or mislead a reader: each is refused, by a message that names the fault, before a tensor is read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farfield.cli import main
from farfield.errors import FormatError, InputError
from farfield.weights import header
from farfield.weights.io import Checkpoint, verify
from stored_tensors import entry, raw_file, write_file, write_index

W = entry("F32", (2,), 0, 8)
BODY = bytes(8)

# what is wrong -> (the file, part of the message)
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes long"),
    "seven bytes": (b"\x01" * 7, "7 bytes long"),
    "header longer than the file": (raw_file({"w": W}, BODY, length=5000), "truncated"),
    "header of 2^63 bytes": (raw_file({"w": W}, BODY, length=2**63), "announces a header"),
    "header just above the limit": (raw_file({"w": W}, BODY, length=100_000_001), "announces a header"),
    "header of no bytes": (raw_file(b"", BODY), "does not start"),
    "no JSON": (raw_file(b'{"w": }', BODY), "not valid JSON"),
    "an array": (raw_file([1, 2], BODY), "does not start"),
    "spaces before the brace": (raw_file(b"   {}"), "does not start"),
    "text after the object": (raw_file(b"{} {}"), "not valid JSON"),
    "no UTF-8": (raw_file(b'{"\xff": 1}', BODY), "not valid JSON"),
    "half a surrogate pair": (raw_file(b'{"\\ud800": %s}' % json.dumps(W).encode(), BODY), "surrogate"),
    "terminal escapes in a name": (raw_file({"w\x1b]0;owned\x07": W}, BODY), "control characters"),
    "the same tensor twice": (raw_file(b'{"w": %s, "w": %s}' % ((json.dumps(W).encode(),) * 2), BODY), "stands twice"),
    "the same key twice in a tensor": (
        raw_file(b'{"w": {"dtype": "F32", "shape": [2], "shape": [1], "data_offsets": [0, 8]}}', BODY),
        "stands twice",
    ),
    "nested without end": (raw_file(b'{"w": ' + b"[" * 100_000), "nested too deeply"),
    "an integer of 5000 digits": (
        raw_file(b'{"w": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 8]}}' % (b"9" * 5000), BODY),
        "JSON",
    ),
    "NaN": (raw_file(b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', BODY), "no JSON"),
    "two tensors over each other": (raw_file({"v": W, "w": W}, BODY), "overlaps"),
    "one tensor half over another": (raw_file({"v": W, "w": entry("F32", (2,), 4, 12)}, bytes(12)), "overlaps"),
    "nothing within another tensor": (raw_file({"v": W, "w": entry("F32", (0,), 4, 4)}, BODY), "overlaps"),
    "a gap": (raw_file({"v": W, "w": entry("F32", (2,), 12, 20)}, bytes(20)), "gap of 4 bytes"),
    "a gap at the start": (raw_file({"w": entry("F32", (2,), 4, 12)}, bytes(12)), "gap of 4 bytes"),
    "hidden bytes at the end": (raw_file({"w": W}, BODY + b"PK\x03\x04 a zip"), "belong to none"),
    "a body that ends early": (raw_file({"w": W}, bytes(7)), "truncated"),
    "offsets backwards": (raw_file({"w": entry("F32", (2,), 8, 0)}, BODY), "span -8"),
    "negative offsets": (raw_file({"w": entry("F32", (2,), -8, 0)}, BODY), "positions from 0"),
    "offsets beyond 64 bits": (raw_file({"w": entry("F32", (2,), 2**64, 2**64 + 8)}, BODY), "data_offsets"),
    "offsets that are truth values": (raw_file({"w": {**W, "data_offsets": [False, 8]}}, BODY), "data_offsets"),
    "fractional offsets": (raw_file({"w": {**W, "data_offsets": [0.0, 8.0]}}, BODY), "data_offsets"),
    "three offsets": (raw_file({"w": {**W, "data_offsets": [0, 4, 8]}}, BODY), "data_offsets"),
    "lengths whose product wraps to 2": (raw_file({"w": entry("F32", (2**62 + 1, 2**2, 2**62), 0, 8)}, BODY), "takes"),
    "lengths whose product is 0 in 64 bits": (raw_file({"w": entry("F32", (2**32, 2**32), 0, 0)}), "takes"),
    "negative lengths": (raw_file({"w": entry("F32", (-1, -2), 0, 8)}, BODY), "lengths from 0"),
    "a hundred axes": (raw_file({"w": entry("F32", (1,) * 99 + (2,), 0, 8)}, BODY), "lengths from 0"),
    "a shape of text": (raw_file({"w": {**W, "shape": "2"}}, BODY), "the shape"),
    "a shape that is too small": (raw_file({"w": entry("F32", (1,), 0, 8)}, BODY), "takes 4 bytes"),
    "an unknown dtype": (raw_file({"w": entry("F31", (2,), 0, 8)}, BODY), "dtype 'F31'"),
    "a dtype that is a list": (raw_file({"w": {**W, "dtype": ["F32"]}}, BODY), "the dtype"),
    "half a byte": (raw_file({"w": entry("F4", (3,), 0, 1)}, bytes(1)), "no whole number"),
    "an entry that is a number": (raw_file({"w": 3}, BODY), "must have dtype"),
    "an entry with more": (raw_file({"w": {**W, "code": "x"}}, BODY), "nothing else"),
    "an entry with less": (raw_file({"w": {"dtype": "F32", "shape": [2]}}, BODY), "must have"),
    "metadata that is no text": (raw_file({"__metadata__": {"a": 1}, "w": W}, BODY), "object of strings"),
    "metadata that is a list": (raw_file({"__metadata__": [], "w": W}, BODY), "object of strings"),
    "a zip": (b"PK\x03\x04" + bytes(60), "pickle or zip"),
    "a pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s." + bytes(60), "pickle or zip"),
}

# shard names that lead out of the directory, to a device, or nowhere
SHARDS = (
    *(
        "../outside.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "x.bin",
        "x.safetensors\x00",
        ".hidden.safetensors",
    ),
    *(
        "..\\x.safetensors",
        "C:x.safetensors",
        "x\n.safetensors",
        "-rf.safetensors",
        "http://x/y.safetensors",
        None,
        3,
        ["x.safetensors"],
    ),
)


@pytest.mark.parametrize("what", FILES)
def test_hostile_file(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = FILES[what]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        Checkpoint.open(path)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert str(caught.value).isprintable()
    assert message in verify(path).summary()
    assert main(["weights", "verify", str(path)]) == 1
    assert main(["weights", "diff", str(path), str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("shard", SHARDS, ids=map(ascii, SHARDS))
def test_hostile_shard_name(tmp_path: Path, shard: Any) -> None:
    (tmp_path / "m").mkdir()
    write_file(tmp_path / "outside.safetensors", {"w": ("F32", np.ones(2, np.float32))})
    write_index(tmp_path / "m", {"w": shard})
    with pytest.raises(FormatError, match="beside it"):
        Checkpoint.open(tmp_path / "m")


def _index(text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / "model.safetensors.index.json").write_text(text) and None


INDEXES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a shard that is not there": (_index('{"weight_map": {"w": "absent.safetensors"}}'), "not there"),
    "a tensor in no shard": (_index('{"weight_map": {"w": "a.safetensors", "x": "a.safetensors"}}'), "does not hold it"),
    "a tensor in two shards": (_index('{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}'), "holds one too"),
    "the same tensor twice": (_index('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}'), "stands twice"),
    "no map": (_index('{"weights": {}}'), "no weight_map"),
    "an empty map": (_index('{"weight_map": {}}'), "no weight_map"),
    "a list": (_index("[]"), "no weight_map"),
    "cut short": (_index('{"weight_map": {"w": "a.sa'), "not valid JSON"),
    "nested without end": (_index('{"weight_map": ' + "[" * 100_000), "nested too deeply"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_hostile_index(tmp_path: Path, what: str) -> None:
    one = np.ones(2, np.float32)
    write_file(tmp_path / "a.safetensors", {"w": ("F32", one)})
    write_file(tmp_path / "b.safetensors", {"v": ("F32", one), "w": ("F32", one)})
    make, message = INDEXES[what]
    make(tmp_path)
    with pytest.raises(FormatError, match=message):
        Checkpoint.open(tmp_path)


def test_an_oversized_index_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    with open(path, "wb") as file:
        file.truncate(header.MOST_JSON + 1)
    start = time.perf_counter()
    with pytest.raises(FormatError, match="allowed: up to"):
        Checkpoint.open(tmp_path)
    assert time.perf_counter() - start < 1


def test_hostile_configuration(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", {"w": ("F32", np.ones(2, np.float32))})
    for text in ("{", "[]", '{"a": 1, "a": 2}', '{"a":' * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(FormatError, match="config"):
            Checkpoint.open(tmp_path)


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"holds no \.safetensors files"):
        Checkpoint.open(tmp_path)
    with pytest.raises(InputError, match="there is no checkpoint"):
        Checkpoint.open(tmp_path / "model.safetensors")


GOOD = raw_file(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", (2, 3), 0, 24),
        "b": entry("BF16", (4,), 24, 32),
        "c": entry("I64", (), 32, 40),
    },
    bytes(range(40)),
)


@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(0, len(GOOD))),
)
def test_mutated_files_are_read_or_refused_and_never_read_more_freely_than_the_package(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(GOOD)
    for at, byte in changes:
        content[at] = byte
    data = bytes(content[:cut])
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    try:
        with Checkpoint.open(path, allow_quantised=True) as checkpoint:
            ours = {name: checkpoint.read_bytes(name).tobytes() for name in checkpoint.tensors}
    except FormatError:
        return
    theirs = {name: bytes(stored["data"]) for name, stored in safetensors.deserialize(data)}
    assert ours == theirs
