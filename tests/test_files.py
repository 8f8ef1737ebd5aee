"""Atomic files: the old content or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from farfield.errors import InputError
from farfield.files import write_atomic


def strays(directory: Path) -> list[str]:
    return [n for n in os.listdir(directory) if n.startswith(".farfield-") and n.endswith(".tmp")]


def test_writes_bytes_and_what_a_function_writes(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    write_atomic(target, b"one")
    assert target.read_bytes() == b"one"
    write_atomic(str(target), lambda file: file.write(b"two"))
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out"
    previous = os.umask(0o027)
    try:
        write_atomic(target, b"1")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    write_atomic(target, b"2")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_directly() -> None:
    write_atomic("/dev/null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("fault", [ValueError("bad row"), KeyboardInterrupt(), InputError("no such run")])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, fault: BaseException) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise fault

    with pytest.raises(type(fault)):
        write_atomic(target, write)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no directory .*absent; make it first"):
        write_atomic(tmp_path / "absent" / "out", b"")
    with pytest.raises(InputError, match="it is a directory; name a file in it"):
        write_atomic(tmp_path, b"")
    with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
        write_atomic(tmp_path / ("n" * 300), b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("code", "says"), [(errno.ENOSPC, "no space left on that device"), (errno.EIO, "Input/output error")])
def test_a_disk_that_fails_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=rf"cannot write .*out: {says}"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_stray_of_a_killed_run_is_removed_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    (tmp_path / ".farfield-0123456789abcdef.tmp").write_bytes(b"left by a killed run")
    started, finish = threading.Event(), threading.Event()

    def slowly(file: BinaryIO) -> None:
        file.write(b"slow")
        started.set()
        assert finish.wait(30)

    writer = threading.Thread(target=write_atomic, args=(tmp_path / "slow", slowly))
    writer.start()
    assert started.wait(30)
    write_atomic(tmp_path / "quick", b"quick")
    assert len(strays(tmp_path)) == 1
    finish.set()
    writer.join()
    assert (tmp_path / "slow").read_bytes() == b"slow"
    assert strays(tmp_path) == []


def test_what_only_bears_the_name_of_a_stray_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    os.mkfifo(tmp_path / ".farfield-1.tmp")  # opened for writing it would wait for a reader
    (tmp_path / ".farfield-2.tmp").symlink_to("kept")
    (tmp_path / ".farfield-3.tmp").mkdir()
    write_atomic(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert len(strays(tmp_path)) == 3


def test_many_writers_of_one_file_leave_one_whole_content(tmp_path: Path) -> None:
    target = tmp_path / "out"
    contents = [bytes([65 + i]) * 50_000 for i in range(8)]

    def write_often(content: bytes) -> None:
        for _ in range(20):
            write_atomic(target, content)

    threads = [threading.Thread(target=write_often, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        assert not target.exists() or target.read_bytes() in contents
    assert target.read_bytes() in contents
    assert os.listdir(tmp_path) == ["out"]


KILLED = """
import sys
from farfield.files import write_atomic
target, i = sys.argv[1], 0
while True:
    i += 1
    def write(file):
        for _ in range(200):
            file.write(b"%08d" % i * 512)
    write_atomic(target, write)
    if i == 1:
        print("ready", flush=True)
"""


def test_sigkill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    times = random.Random(0)
    seen_strays = 0
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(times.uniform(0.0, 0.03))
            child.send_signal(signal.SIGKILL)
            child.wait()
        content = target.read_bytes()
        assert len(content) == 200 * 512 * 8
        assert content == content[:8] * (200 * 512)
        seen_strays += len(strays(tmp_path))
        write_atomic(tmp_path / "next", b"")
        assert strays(tmp_path) == []
    assert seen_strays > 0, "no kill fell into a write; the test shows nothing"
