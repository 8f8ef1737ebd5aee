"""The command line: exit codes, what it says of bad usage, interrupts and closed pipes, and `farfield doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from farfield import __version__, cli, loops
from farfield.cli import doctor, main
from farfield.errors import InputError, MissingExtraError

ROOT = Path(__file__).parents[1]


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "farfield", *args], capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a function in the place of `farfield doctor`."""

    def put(function: Any) -> None:
        monkeypatch.setattr(doctor, "command", click.command(name="doctor")(function))

    return put


def test_version_and_help() -> None:
    assert run("--version").stdout == f"farfield, version {__version__}\n"
    listed = run("-h").stdout
    for name, (_, help_line) in cli._COMMANDS.items():
        assert name in listed
        assert help_line.split(",")[0] in listed


def test_without_arguments_the_help_is_shown_as_a_usage_error() -> None:
    done = run()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("name", list(cli._COMMANDS))
def test_every_command_has_help_and_answers_bad_usage_with_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"farfield {name}" in capsys.readouterr().out
    assert main([name, "--no-such-option"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert f"try: farfield {name}" in said.err


def test_a_seed_is_a_whole_number_from_0_up_in_every_command() -> None:
    def seeds(command: click.Command) -> list[Any]:
        below = [found for sub in getattr(command, "commands", {}).values() for found in seeds(sub)]
        return [p.type for p in command.params if p.name == "seed"] + below

    found = [seed for module, _ in cli._COMMANDS.values() for seed in seeds(importlib.import_module(module).command)]
    assert len(found) >= 8
    assert all(isinstance(seed, click.IntRange) and seed.min == 0 for seed in found)


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docter"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown command 'docter'; ")
    assert "doctor" in said
    assert "try: farfield --help" in said


def test_an_unknown_command_of_a_group_is_answered_with_the_nearest_three() -> None:
    group = cli.Group("runs", commands=[click.Command(n) for n in ("list", "read", "write", "merge")])
    groups = [importlib.import_module(module).command for module, _ in cli._COMMANDS.values()]
    assert [g.name for g in groups if isinstance(g, click.Group) and not isinstance(g, cli.Group)] == []
    with pytest.raises(click.UsageError, match=r"unknown command 'lst'; nearest: list, \w+, \w+ \(4 are allowed\)"):
        group.main(["lst"], standalone_mode=False)


@pytest.mark.parametrize("error", [InputError("level is 80"), MissingExtraError("torch", "this model")])
def test_a_farfield_error_is_one_line_and_exit_code_2(error: Exception, command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise error

    command(refuse)
    assert main(["doctor"]) == 2
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_a_defect_keeps_its_traceback(command: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    command(broken)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


FULL = """
import resource, sys
from farfield.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(["papers", "list"]))
"""


def test_standard_output_that_takes_no_more_is_said_in_one_line(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run([sys.executable, "-c", FULL], stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: cannot write to standard output: file too large\n")


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1), (None, 0), (True, 0)])
def test_a_command_returns_its_exit_code(result: Any, code: int, command: Any) -> None:
    command(lambda: result)
    assert main(["doctor"]) == code


def test_ctx_exit_sets_the_exit_code(command: Any) -> None:
    command(lambda: click.get_current_context().exit(1))
    assert main(["doctor"]) == 1


WAITS = """
import sys, time
from farfield import cli
from farfield.cli import doctor
import click

@click.command()
def command():
    print("ready", flush=True)
    time.sleep(60)

doctor.command = command
sys.exit(cli.main(["doctor"]))
"""


def test_an_interrupt_ends_quietly_with_130() -> None:
    child = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert out + err.strip() == ""


PRINTS = """
import sys
from farfield import cli
from farfield.cli import doctor
import click

@click.command()
def command():
    for i in range({lines}):
        click.echo("line %d" % i)

doctor.command = command
sys.exit(cli.main(["doctor"]))
"""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_is_no_error(lines: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code = PRINTS.format(lines=lines)
        done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_doctor_tells_versions_extras_threads_device_and_data(tmp_path: Path) -> None:
    (tmp_path / "lcdb").mkdir()
    done = run("doctor", "--json", env={**os.environ, "FARFIELD_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"})
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["ok"] is True
    assert found["core"]["numpy"] == importlib.metadata.version("numpy")
    assert found["data"] == {"path": str(tmp_path), "found": ["lcdb"], "note": None}
    assert found["threads"]["variables"]["OMP_NUM_THREADS"] == "1"
    assert 1 <= found["threads"]["usable"] <= found["threads"]["cpus"]
    assert found["device"]["kind"] in ("cpu", "cuda", "mps")


def test_doctor_for_people_names_every_extra_and_how_to_get_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FARFIELD_DATA", raising=False)
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "ray" else "9.9")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "numpy 9.9" in shown
    assert "FARFIELD_DATA is not set" in shown
    assert "more curves than one machine holds; pip install 'farfield[ray]'" in shown
    assert "torch 9.9" in shown
    assert "\x1b" not in shown


def test_doctor_says_no_where_a_core_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "scipy" else "9.9")
    assert main(["doctor"]) == 1
    assert "scipy MISSING" in capsys.readouterr().out


def test_doctor_says_that_the_data_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path / "absent"))
    assert doctor.report()["data"]["note"] == "FARFIELD_DATA cannot be read: No such file or directory"
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path))
    assert doctor.report()["data"]["note"] == "the directory at FARFIELD_DATA is empty"


def test_doctor_says_whether_the_inner_loops_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "missing", lambda: "not there")
    assert doctor.report()["loops"]["compiled"] is False
    assert doctor.report()["loops"]["note"].startswith("not there; NumPy does their work")
    monkeypatch.setattr(loops, "missing", lambda: "")
    assert doctor.report()["loops"] == {"compiled": True, "note": "compiled"}


def test_doctor_knows_every_extra_of_the_project() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    assert set(doctor.ADDS) == extras - {"all"}


def test_doctor_respects_no_color() -> None:
    colourful = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[3" in run("doctor", env=colourful).stdout
    assert "\x1b[3" not in run("doctor", env={**colourful, "NO_COLOR": "1"}).stdout
