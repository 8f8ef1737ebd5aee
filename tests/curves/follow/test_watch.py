"""Watching a sweep: advice said when it changes, a command run once for each stop, whatever is interrupted; oddities said once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield import Advice, Curves
from farfield.curves.follow import LogFolder, watch
from farfield.curves.follow.journal import Journal
from farfield.curves.follow.watch import Watch
from farfield.curves.stopping import Adviser
from farfield.errors import FarfieldError, FormatError, InputError
from sweep_on_disk import END, log, sweep, values

JOURNAL = ".journal.json"


def begin(root: Path, command: list[str] | None = None, **settings: Any) -> Watch:
    return Watch(LogFolder([root], share=10.0), Adviser(), Journal(root / JOURNAL), command, **settings)


def step(watching: Watch, always: bool = False) -> list[dict[str, Any]]:
    watching._next = 0.0
    return watching.step(always=always)


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def stopped(events: list[dict[str, Any]]) -> list[str]:
    return [event["run"] for event in of(events, "stop")]


def recorder(folder: Path) -> list[str]:
    """A command that appends the run's name to a file."""
    script = folder / "record.py"
    script.write_text("import sys\nopen(sys.argv[1], 'a').write(sys.argv[2] + '\\n')\n")
    return [sys.executable, str(script), str(folder / "recorded"), "{run}"]


def recorded(folder: Path) -> list[str]:
    path = folder / "recorded"
    return sorted(path.read_text().split()) if path.exists() else []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_what_cannot_win_is_to_stop_and_is_said_once(root: Path) -> None:
    sweep(root)
    watching = begin(root)
    events = step(watching)
    assert stopped(events) == ["run-03", "run-05", "run-07"]
    assert of(events, "stop")[0]["why"].startswith("P(beats")
    assert len(of(events, "advice")) == 20
    assert of(events, "summary")[0]["text"].startswith("stop 3 runs: saves 120 of 160 steps")
    for i in (1, 3, 5, 7):
        log(root, i, 21, after=20)
    assert step(watching) == []  # 5 % more is due, and says the same
    assert watching.advice is not None
    assert watching.advice.curves.last_x.min() == 21


def test_rounds_wait_until_a_run_has_grown_enough(root: Path) -> None:
    sweep(root, seen=40)
    watching = begin(root)
    step(watching)
    first = watching.advice
    log(root, 1, 41, after=40)  # 2.5 %
    step(watching)
    assert watching.advice is first
    log(root, 1, 42, after=41)
    step(watching)
    assert watching.advice is not first


def test_rounds_take_no_more_than_their_share(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(root)
    watching = begin(root)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(watch.time, "process_time", lambda: next(clock, 12.0))
    watching.step()
    assert watching._next == pytest.approx(time.monotonic() + 2.0 * (1 / watching.share - 1), abs=1.0)
    first = watching.advice
    log(root, 1, 40, after=20)
    watching.step()
    assert watching.advice is first


def test_a_command_runs_once_for_each_stop_over_restarts(root: Path, tmp_path: Path) -> None:
    sweep(root)
    command = recorder(tmp_path)
    for _ in range(3):
        watching = begin(root, command)
        step(watching)
        watching.wait(30)
        assert recorded(tmp_path) == ["run-03", "run-05", "run-07"]
        step(watching, always=True)
        watching.wait(30)
        watching.journal.close()
    assert recorded(tmp_path) == ["run-03", "run-05", "run-07"]
    assert watching.advice is not None
    by_run = dict(zip(watching.advice.curves.runs, watching.advice.status, strict=True))
    assert by_run["run-03"].key == "stopped"
    assert {stop["state"] for stop in watching.journal.stops.values()} == {"done"}


def test_a_restart_says_nothing_twice_and_has_the_same_advice(root: Path) -> None:
    sweep(root)
    watching = begin(root)
    step(watching)
    log(root, 1, 30, after=20)
    step(watching)
    advised = json.loads((root / JOURNAL).read_text())
    watching.journal.close()
    again = begin(root)
    assert step(again) == []
    assert step(again, always=True) == []
    assert {key: a["stop"] for key, a in json.loads((root / JOURNAL).read_text())["advised"].items()} == {
        key: a["stop"] for key, a in advised["advised"].items()
    }
    log(root, 1, END, after=30)
    events = step(again)
    assert stopped(events) == []
    assert [event["status"] for event in of(events, "advice")] == ["ended"]


def test_a_stop_said_without_a_command_is_carried_out_when_there_is_one(root: Path, tmp_path: Path) -> None:
    sweep(root)
    watching = begin(root)
    step(watching)
    watching.journal.close()
    watching = begin(root, recorder(tmp_path))
    step(watching)
    watching.wait(30)
    assert recorded(tmp_path) == ["run-03", "run-05", "run-07"]


def test_the_note_is_on_disk_before_the_command_runs(root: Path, tmp_path: Path) -> None:
    sweep(root)
    script = tmp_path / "look.py"
    script.write_text(
        f"import json, sys\nfound = json.load(open({str(root / JOURNAL)!r}))['stops'].values()\n"
        f"open({str(tmp_path)!r} + '/seen-' + sys.argv[1], 'w').write([s['state'] for s in found if s['run'] == sys.argv[1]][0])\n"
    )
    watching = begin(root, [sys.executable, str(script), "{run}"])
    step(watching)
    watching.wait(30)
    assert [(tmp_path / f"seen-run-0{i}").read_text() for i in (3, 5, 7)] == ["started"] * 3


def test_a_watch_that_died_between_note_and_command_does_not_run_it_again(root: Path, tmp_path: Path) -> None:
    sweep(root)
    watching = begin(root)
    step(watching)
    for stop in watching.journal.stops.values():
        stop["state"] = "started"
    watching.journal.save()
    watching.journal.close()
    watching = begin(root, recorder(tmp_path))
    events = step(watching, always=True)
    watching.wait(30)
    assert recorded(tmp_path) == []
    assert [event["kind"] for event in of(events, "notice")] == ["interrupted"] * 3
    watching.journal.close()
    assert of(step(begin(root), always=True), "notice") == []


def test_no_command_runs_that_could_not_be_noted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(root)
    watching = begin(root, recorder(tmp_path))

    def full(path: Path, data: bytes) -> None:
        raise InputError(f"cannot write {path}: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("farfield.curves.follow.journal.write_atomic", full)
        events = step(watching) + step(watching)
        assert [event["kind"] for event in of(events, "notice")] == ["unsaved"]
        assert of(events, "exec") == []
    step(watching)
    watching.wait(30)
    assert recorded(tmp_path) == ["run-03", "run-05", "run-07"]


def test_a_command_that_fails_is_said_and_not_repeated(root: Path) -> None:
    sweep(root)
    watching = begin(root, [sys.executable, "-c", "import sys; sys.exit(3)", "{run}"])
    events = step(watching) + watching.wait(30)
    assert [event["text"] for event in of(events, "exec") if event["state"] == "failed"] == ["exit 3"] * 3
    assert of(step(watching, always=True), "exec") == []
    watching.journal.close()
    shutil.rmtree(root)
    root.mkdir()
    sweep(root)
    watching = begin(root, ["no-such-command-anywhere", "{run}"])
    assert {event["state"] for event in of(step(watching), "exec")} == {"failed"}


@pytest.mark.parametrize(
    ("word", "want"),
    [("{run}", "a {x} b"), ("--name={run}", "--name=a {x} b"), ("{x}/{run}", "20/a {x} b"), ("{nope}", "{nope}"), ("", "")],
)
def test_placeholders_are_filled_once_and_never_inside_a_name(word: str, want: str) -> None:
    assert watch._filled(word, {"{run}": "a {x} b", "{x}": "20"}) == want


def test_the_name_of_a_run_is_one_argument_and_no_shell_sees_it(root: Path, tmp_path: Path) -> None:
    names = sweep(root)
    evil = "$(touch owned); rm -rf x & {source}"
    (root / names[-1]).rename(root / evil)
    script = tmp_path / "arguments.py"
    script.write_text("import json, sys\nopen(sys.argv[1], 'a').write(json.dumps(sys.argv[2:]) + '\\n')\n")
    watching = begin(root, [sys.executable, str(script), str(tmp_path / "got"), "{run}", "{source}"])
    step(watching)
    watching.wait(30)
    got = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert [evil, str(root / evil / "log.jsonl")] in got
    assert not (tmp_path / "owned").exists()
    assert not Path("owned").exists()


def test_a_run_that_starts_over_is_judged_anew(root: Path, tmp_path: Path) -> None:
    sweep(root)
    watching = begin(root, recorder(tmp_path))
    step(watching)
    watching.wait(30)
    (root / "run-05" / "log.jsonl").unlink()
    log(root, 5, 5)
    events = step(watching)
    assert "restarted" in [event["kind"] for event in of(events, "notice")]
    log(root, 5, 25, after=5)
    events = step(watching)
    watching.wait(30)
    assert stopped(events) == ["run-05"]
    assert recorded(tmp_path) == ["run-03", "run-05", "run-05", "run-07"]


# -- oddities -----------------------------------------------------------------------------------------------------------------


def notices(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["text"] for event in of(events, "notice") if event["kind"] == kind]


def test_a_metric_that_nobody_has_logged_yet_is_waited_for(root: Path) -> None:
    sweep(root)
    watching = begin(root, metric="val_acc")
    events = step(watching) + step(watching)
    assert notices(events, "none") == ["no run has logged 'val_acc' yet; they log: val_loss"]
    with pytest.raises(InputError, match="unknown metric 'val_acc'"):
        step(watching, always=True)


def test_two_writers_are_said_once_and_their_run_is_left_out(root: Path) -> None:
    sweep(root)
    watching = begin(root)
    step(watching)
    with (root / "run-03" / "log.jsonl").open("a") as file:
        for k in range(6):
            for at in (21 + k, 5 + k):
                file.write(json.dumps({"step": at, "val_loss": 0.01}) + "\n")
    events = step(watching) + step(watching, always=True)
    (text,) = notices(events, "writers")
    assert "run-03" in text
    assert watching.advice is not None
    assert "run-03" not in watching.advice.curves.runs
    assert watching.advice.best > 0.1
    watching.journal.close()
    assert notices(step(begin(root), always=True), "writers") == []


def test_a_clock_that_goes_back_is_said_once(root: Path) -> None:
    sweep(root)
    path = root / "run-01" / "log.jsonl"
    path.write_text(
        "".join(
            json.dumps({"step": k + 1, "val_loss": values(1)[k], "timestamp": 1.7e9 + 60 * k - 7200 * (k > 9)}) + "\n"
            for k in range(20)
        )
    )
    watching = begin(root)
    events = step(watching) + step(watching, always=True)
    assert notices(events, "clock") == ["run run-01: its clock goes back by 7140 s at step 11"]
    assert len(stopped(events)) == 3


def test_a_metric_that_changes_its_name_is_said_once_and_its_run_gets_no_advice(root: Path) -> None:
    sweep(root)
    watching = begin(root, metric="val_loss")
    step(watching)
    with (root / "run-07" / "log.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": k, "valid/loss": 1.0}) + "\n" for k in range(21, 26))
    events = step(watching) + step(watching, always=True)
    (text,) = notices(events, "metric")
    assert "run-07 no longer logs 'val_loss' but 'valid/loss'" in text
    (change,) = of(events, "advice")
    assert (change["run"], change["status"], change["stop"]) == ("run-07", "withheld", False)


def test_a_folder_that_disappears_and_comes_back(root: Path, tmp_path: Path) -> None:
    sweep(root)
    journal = Journal(tmp_path / "journal.json")
    watching = Watch(LogFolder([root], share=10.0), Adviser(), journal, recorder(tmp_path))
    step(watching)
    watching.wait(30)
    root.rename(tmp_path / "aside")
    events = [event for _ in range(4) for event in step(watching, always=True)]
    assert len(notices(events, "gone")) == 1
    assert {event["status"] for event in of(events, "advice")} == {"withheld", "stopped"}
    (tmp_path / "aside").rename(root)
    events = [event for _ in range(4) for event in step(watching, always=True)]
    assert len(notices(events, "back")) == 1
    assert stopped(events) == []
    watching.wait(30)
    assert recorded(tmp_path) == ["run-03", "run-05", "run-07"]


def test_runs_that_begin_later_or_count_something_else(root: Path) -> None:
    watching = begin(root)
    assert notices(step(watching) + step(watching, always=True), "empty") == ["no runs yet"]
    sweep(root)
    events = step(watching)
    assert len(stopped(events)) == 3
    (root / "odd").mkdir()
    (root / "odd" / "log.jsonl").write_text("".join(json.dumps({"epoch": k, "val_loss": 1.0}) + "\n" for k in range(5)))
    events = step(watching) + step(watching, always=True)
    assert notices(events, "x") == ["run odd does not log 'step' and is left out"]
    log(root, 9, 30)
    assert stopped(step(watching)) == ["run-09"]


# -- the journal ----------------------------------------------------------------------------------------------------------------


def test_two_watches_cannot_share_a_journal(root: Path) -> None:
    journal = Journal(root / JOURNAL)
    with pytest.raises(InputError, match="another watch holds"):
        Journal(root / JOURNAL)
    journal.close()
    Journal(root / JOURNAL).close()


def test_a_journal_of_another_metric_is_refused(root: Path) -> None:
    sweep(root)
    watching = begin(root)
    step(watching)
    watching.journal.close()
    watching = begin(root, goal="max")
    with pytest.raises(InputError, match=r"was kept for metric val_loss, goal min, x step; .*--state"):
        step(watching, always=True)


SOUND: dict[str, Any] = {"schema": "farfield.watch/1", "settings": {}, "noticed": [], "advised": {}, "stops": {}}
ADVISED: dict[str, Any] = {"x": 1.0, "status": "stop", "stop": True, "why": "", "p": 0.1, "run": "a"}
STOP: dict[str, Any] = {"run": "a", "x": 1.0, "why": "", "when": "", "state": "said", "exit": None, "risk": 0.01}


def test_a_sound_journal_is_read(root: Path) -> None:
    (root / JOURNAL).write_text(json.dumps({**SOUND, "advised": {"a": ADVISED}, "stops": {"a": STOP}}))
    journal = Journal(root / JOURNAL)
    assert (journal.advised, journal.stops) == ({"a": ADVISED}, {"a": STOP})


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"schema": "farfield.watch/1"}', "\x00"]
    + [
        json.dumps({**SOUND, **change})
        for change in (
            {"schema": "farfield.watch/2"},
            {"settings": {"metric": 3}},
            {"noticed": [1]},
            {"advised": {"a": {**ADVISED, "x": "1"}}},
            {"advised": {"a": {**ADVISED, "stop": 1}}},
            {"stops": {"a": {"run": 3}}},
            {"stops": {"a": {**STOP, "state": "odd"}}},
            {"stops": {"a": {**STOP, "run": None}}},
        )
    ],
)
def test_a_damaged_journal_is_refused_by_name(content: str, root: Path) -> None:
    (root / JOURNAL).write_text(content)
    with pytest.raises(FormatError, match=r"not the journal of a watch, or damaged .*--state"):
        Journal(root / JOURNAL)


WATCHES = """
import sys
from pathlib import Path
from farfield.curves.follow import LogFolder
from farfield.curves.follow.journal import Journal
from farfield.curves.follow.watch import Watch
from farfield.curves.stopping import Adviser
root = Path(sys.argv[1])
watching = Watch(LogFolder([root]), Adviser(), Journal(root / ".journal.json"), sys.argv[2:])
print("ready", flush=True)
watching.step()
watching.wait(30)
"""


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1])
def test_killed_at_any_moment_a_command_never_runs_twice(after: float, root: Path, tmp_path: Path) -> None:
    sweep(root)
    command = recorder(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", WATCHES, str(root), *command], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    until = time.monotonic() + 30
    while not (root / JOURNAL).exists() and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    time.sleep(0.5)  # commands outlive the watch
    watching = begin(root, command)
    events = step(watching, always=True)
    watching.wait(30)
    done = recorded(tmp_path)
    assert len(done) == len(set(done))
    unsure = {event["run"] for event in of(events, "notice") if event["kind"] == "interrupted"}
    assert set(done) | unsure == {"run-03", "run-05", "run-07"}


def test_what_was_advised_is_carried_out_after_a_restart_though_fewer_are_left(root: Path, tmp_path: Path) -> None:
    sweep(root)
    watching = begin(root)
    assert stopped(step(watching)) == ["run-03", "run-05", "run-07"]
    risked = dict(watching.adviser.spent)
    watching.journal.close()
    noted = json.loads((root / JOURNAL).read_text())
    for stop in noted["stops"].values():
        stop["state"] = "said" if stop["run"] == "run-07" else "done"
    (root / JOURNAL).write_text(json.dumps(noted))
    again = begin(root, recorder(tmp_path))
    step(again, always=True)
    again.wait(30)
    assert recorded(tmp_path) == ["run-07"]
    assert again.adviser.spent == risked


def test_every_error_of_a_watch_is_one_of_farfields(root: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        LogFolder([root / "nowhere"])
    os.chmod(root, 0o555)
    try:
        if os.access(root, os.W_OK):
            return  # the superuser may write anywhere
        with pytest.raises(FarfieldError, match="--state"):
            Journal(root / JOURNAL)
    finally:
        os.chmod(root, 0o755)


def test_a_round_in_the_background_blocks_no_look_and_says_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(root)
    plain = begin(root)
    want = step(plain)
    plain.journal.close()
    plain.journal.path.unlink()
    watching = begin(root, background=True)
    gate, update = threading.Event(), watching.adviser.update

    def held(curves: Curves) -> Advice:
        assert gate.wait(30)
        return update(curves)

    monkeypatch.setattr(watching.adviser, "update", held)
    assert stopped(watching.step()) == []
    log(root, 1, 22, after=20)
    assert stopped(step(watching)) == []  # seen, while the round is under way
    seen = {run.name: run.metrics["val_loss"].step[-1] for run in watching.folder.runs()}
    assert seen["run-01"] == 22
    gate.set()
    assert watching._under_way is not None
    watching._under_way.judged.result(30)
    watching._next = np.inf  # the advice is taken over whether or not another round is due
    found = watching.step()
    assert watching.advice is not None
    assert watching.advice.curves.last_x.min() == 20  # on the runs as they stood
    told = [[{k: v for k, v in e.items() if k != "time"} for e in events] for events in (want, found)]
    assert json.dumps(told[0]) == json.dumps(told[1])
    step(watching)
    watching.close()
    watching.close()
    assert watching._under_way is None


def test_input_refused_in_the_background_is_said_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(root)
    watching = begin(root, background=True)

    def refused(curves: Curves) -> Advice:
        raise InputError("not these")

    monkeypatch.setattr(watching.adviser, "update", refused)
    said = []
    for k in (21, 23):
        log(root, 1, k, after=k - 1)
        said += step(watching)
        if watching._under_way is not None:  # or it was refused before the step ended
            watching._under_way.judged.exception(30)
        said += watching.step()
    assert [event["text"] for event in of(said, "notice")] == ["no advice: not these"]
    watching.close()


def test_what_stops_have_risked_survives_a_restart(root: Path, tmp_path: Path) -> None:
    sweep(root)
    command = recorder(tmp_path)
    watching = begin(root, command)
    step(watching)
    watching.wait(30)
    risked = {stop["run"]: stop["risk"] for stop in watching.journal.stops.values()}
    assert risked == {run: watching.adviser.spent[run] for run in ("run-03", "run-05", "run-07")}
    watching.journal.close()
    again = begin(root, command)
    assert again.adviser.spent == risked
    again.journal.close()
    # a journal from before risks were noted is taken as it is
    tree = json.loads(again.journal.path.read_text())
    for stop in tree["stops"].values():
        del stop["risk"]
    again.journal.path.write_text(json.dumps(tree))
    assert begin(root, command).adviser.spent == {}
