"""What the test run itself promises: an absent need deselects and is listed, a connection is refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest

def test_plain(): pass

@pytest.mark.peer("no-such-package")
def test_peer(): assert False

@pytest.mark.peer("pytest")
def test_installed_peer(): pass

@pytest.mark.data
@pytest.mark.parametrize("n", [1, 2])
def test_data(n): assert False

@pytest.mark.claim
def test_claim(): pass
"""
WHOLE_FILE = """
import no_such_package
import pytest

pytestmark = pytest.mark.peer("no_such_package")

def test_never(): pass
"""


def run(directory: Path, *arguments: str) -> str:
    shutil.copy(ROOT / "tests" / "conftest.py", directory)
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "test_some.py").write_text(TESTS)
    (directory / "test_whole.py").write_text(WHOLE_FILE)
    environment = {k: v for k, v in os.environ.items() if k != "FARFIELD_DATA" and not k.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", ".", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_what_lacks_its_need_is_deselected_and_listed(workers: tuple[str, ...], tmp_path: Path) -> None:
    out = run(tmp_path, *workers)
    listed = out.partition("deselected for what they need")[2].splitlines()[1:]
    assert listed[:5] == [
        "real data at $FARFIELD_DATA: test_some.py::test_data[1]",
        "real data at $FARFIELD_DATA: test_some.py::test_data[2]",
        "the package no-such-package: test_some.py::test_peer",
        "the package no_such_package: all of test_whole.py",
        "to be asked for: pytest -m claim: test_some.py::test_claim",
    ]
    assert "2 passed" in out
    assert "skipped" not in out


def test_a_claim_runs_when_asked_for(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, "-m", "claim")


def test_a_connection_that_leaves_the_machine_is_refused() -> None:
    with socket.socket() as sender, pytest.raises(AssertionError, match=r"tried to connect to 192\.0\.2\.1"):
        sender.connect(("192.0.2.1", 80))
    with socket.socket() as server, socket.socket() as sender:
        server.bind(("127.0.0.1", 0))
        server.listen()
        sender.connect(server.getsockname())
