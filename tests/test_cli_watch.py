"""The command `farfield watch`: once and live, for people and for programs, with a command and with what it cannot use."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farfield.cli import main
from sweep_on_disk import log, sweep


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    sweep(tmp_path / "logs")
    return tmp_path / "logs"


def test_once_shows_the_advice_on_every_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(root), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stop 3 runs: saves 120 of 160 steps")
    assert len(lines) == 22
    (line,) = [line for line in lines if line.startswith("run-05")]
    assert line.split()[:4] == ["run-05", "stop", "20", "60"]
    assert "P(beats 0.4772 by step 60)" in line
    assert main(["watch", str(root), "--once"]) == 0  # a report, however often it is asked for
    assert capsys.readouterr().out.splitlines() == lines


def test_once_for_programs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(root), "--once", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["event"] for e in events} == {"advice", "stop", "summary"}
    assert [e["run"] for e in events if e["event"] == "stop"] == ["run-03", "run-05", "run-07"]
    assert all(set(e) >= {"run", "x", "at", "status", "stop", "why", "p", "time"} for e in events if e["event"] == "advice")


def test_once_runs_the_command_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{sys.executable} -c \"import sys; open(sys.argv[1], 'a').write(sys.argv[2] + ' ')\" {tmp_path / 'ran'} {{run}}"
    for _ in range(2):
        assert main(["watch", str(root), "--once", "--quiet", "--exec", line]) == 0
    assert sorted((tmp_path / "ran").read_text().split()) == ["run-03", "run-05", "run-07"]
    assert capsys.readouterr().out.count("ran for run-0") == 3


def test_live_says_what_is_new_and_ends_with_an_interrupt(root: Path) -> None:
    command = [sys.executable, "-m", "farfield", "watch", str(root), "--interval", "0.05"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(5)]
    assert said[0].startswith(f"watching {root} (state in {root}")
    assert [line.split()[1:3] for line in said[1:4]] == [["STOP", "run-03"], ["STOP", "run-05"], ["STOP", "run-07"]]
    assert "stop 3 runs" in said[4]
    log(root, 9, 30)
    assert "STOP run-09 at 30 of 60" in child.stdout.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.strip() == ""
    assert "STOP" not in out

    again = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    again.send_signal(signal.SIGINT)
    assert "".join(again.communicate(timeout=30)).strip() == ""  # nothing is said twice


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exec", "'"], "No closing quotation"),
        (["--exec", ""], "--exec is empty"),
        (["--exec", "no-such-command-anywhere {run}"], "there is no command 'no-such-command-anywhere'"),
        (["--exec", "echo stop"], "it does not say which run"),
        (["--interval", "0"], "--interval 0: it must be above 0"),
        (["--interval", "inf"], "--interval inf: it must be above 0 seconds, and at most 86400"),
        (["--threshold", "2"], "threshold is 2"),
        (["--metric", "loss"], "unknown metric 'loss'"),
        (["--x", "tokens"], "unknown x 'tokens'"),
        (["--run", "nothing"], "unknown run 'nothing'"),
        (["--state", "{root}/no/such/state.json"], "--state"),
        (["--context", "{root}/nowhere"], "no such file or folder"),
    ],
)
def test_what_it_cannot_use_is_refused_with_a_reason(
    options: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(root), "--once", *(option.replace("{root}", str(root)) for option in options)]) == 2
    assert message in capsys.readouterr().err


def test_another_metric_than_last_time_that_nobody_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text("run,step,loss,planned_end\n" + "".join(f"{r},{k},{1 / k},60\n" for r in "ab" for k in range(1, 21)))
    assert main(["watch", str(table), "--once", "-q"]) == 0
    capsys.readouterr()
    assert main(["watch", str(table), "--once", "--metric", "losss"]) == 2
    assert capsys.readouterr() == ("", "error: unknown metric 'losss'; allowed: loss\n")


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path / "nowhere"), "--once"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--once"]) == 2
    assert "no runs with a metric were found" in capsys.readouterr().err


def test_several_metrics_are_asked_about_by_a_command_to_paste(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "more").mkdir()
    (root / "more" / "log.jsonl").write_text("".join(json.dumps({"step": k, "val_acc": 0.1}) + "\n" for k in range(5)))
    assert main(["watch", str(root), "--once"]) == 2
    assert f"farfield watch {root} --metric val_loss" in capsys.readouterr().err
