"""`./dev`: which Python it takes, when it installs and when it does not, and what it says; with a stand-in for Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# answers the version check, makes a venv of copies of itself, and writes down every installation
STAND_IN = """#!/bin/sh
case $1$2 in
-c*) exit 0 ;;
-mvenv) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && printf '#!/bin/sh\\necho farfield "$@"\\n' >"$4/bin/farfield"
        chmod +x "$4/bin/farfield" ;;
-mpip) shift 2; echo "pip $* [$VIRTUAL_ENV$PYTHONPATH$PIP_USER]" >>"$LOG" ;;
*) shift; echo "run $*"; case "$*" in *"$FAILS"*) [ -z "$FAILS" ] || exit 1 ;; esac ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("dev", "pyproject.toml", "constraints.txt", "hatch_build.py", "src/farfield/loops/weights.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    stand_in = tmp_path / "python-stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return tmp_path


def dev(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], "LOG": str(checkout / "log"), "PYTHON": str(checkout / "python-stand-in"), "FAILS": ""}
    return subprocess.run(
        [checkout / "dev", *arguments], env=given | environment, cwd="/", capture_output=True, text=True, timeout=60
    )


def installed(checkout: Path) -> list[str]:
    return (checkout / "log").read_text().splitlines()


def test_demo_installs_the_core_once_and_runs_the_main_job(checkout: Path) -> None:
    first = dev(checkout, "demo", "--quiet", VIRTUAL_ENV="/elsewhere", PYTHONPATH="/elsewhere", PIP_USER="1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "farfield forecast examples/runs --metric val_loss --quiet"
    assert installed(checkout) == ["pip install --quiet --constraint constraints.txt --editable . []"]
    again = dev(checkout, "demo")
    assert again.stderr == ""
    assert len(installed(checkout)) == 1


def test_an_environment_is_brought_up_to_date_when_what_it_is_made_from_changes(checkout: Path) -> None:
    dev(checkout, "demo")
    with open(checkout / "constraints.txt", "a") as file:
        file.write("rich==15.0.1\n")
    dev(checkout, "demo")
    assert len(installed(checkout)) == 2
    (checkout / ".venv" / "bin" / "python").unlink()
    assert dev(checkout, "demo").returncode == 0
    assert len(installed(checkout)) == 3


def test_an_interrupted_installation_is_done_again(checkout: Path) -> None:
    dev(checkout, "demo")
    (checkout / ".venv" / "stamp").unlink()
    dev(checkout, "demo")
    assert len(installed(checkout)) == 2


def test_test_has_an_environment_of_its_own_and_runs_every_check(checkout: Path) -> None:
    done = dev(checkout, "test")
    assert done.stdout.splitlines() == ["run ruff check .", "run ruff format --check .", "run mypy", "run pytest -n 2"]
    assert installed(checkout)[0].startswith("pip install --quiet --constraint constraints.txt --editable .[dev,sklearn,hpo]")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("failing", ["ruff check", "format --check", "mypy", "pytest"])
def test_one_check_that_fails_fails_the_run_and_stops_no_other(checkout: Path, failing: str) -> None:
    done = dev(checkout, "test", FAILS=failing)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4


def test_arguments_go_to_pytest(checkout: Path) -> None:
    assert dev(checkout, "test", "-k", "two words").stdout == "run pytest -n 2 -k two words\n"
    assert dev(checkout, "test", "-k", "runs", FAILS="pytest").returncode == 1


def test_a_python_that_will_not_do_is_refused_with_what_to_do(checkout: Path) -> None:
    named = dev(checkout, "demo", PYTHON="/bin/false")
    assert named.returncode == 2
    assert named.stderr.endswith("dev: PYTHON is '/bin/false', which is not a Python of version 3.11 or newer\n")
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "rm", "sed"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    none = dev(checkout, "demo", PYTHON="", PATH=str(tools))
    assert none.returncode == 2
    assert "no Python of version 3.11 or newer on the PATH; install one, or name it: PYTHON=" in none.stderr


def test_help_lists_the_commands_and_an_unknown_one_is_refused(checkout: Path) -> None:
    for command in ("demo", "test", "lint", "readme"):
        assert f"./dev {command}" in dev(checkout, "help").stdout
    unknown = dev(checkout, "tests")
    assert unknown.returncode == 2
    assert unknown.stderr == "dev: unknown command 'tests'; allowed: demo, test, lint, readme, help\n"
