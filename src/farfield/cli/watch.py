"""`farfield watch`: follows logs that are being written and says which runs to stop, and why; runs a command for each if asked."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farfield.cli.output import emit, notes
from farfield.cli.reading import CONTEXT, LR_SCHEDULE, SEED, read_context, reading_options, stopping_options
from farfield.errors import InputError

if TYPE_CHECKING:
    from farfield.curves.follow.watch import Event

_STATE = ".farfield-watch.json"
# seconds that commands still running get when the watch ends
_LAST_WAIT = 60.0
_LONGEST = 86400.0  # seconds between looks


@click.command("watch")
@reading_options
@stopping_options
@LR_SCHEDULE
@CONTEXT
@click.option(
    "--exec",
    "command_line",
    metavar="'ARGV {run}'",
    help="Run this for every stop, once. {run}, {source} and {x} are replaced in its words; no shell.",
)
@click.option("--interval", type=float, default=1.0, show_default=True, metavar="SECONDS", help="Look this often.")
@click.option("--once", is_flag=True, help="Look once, show the advice on every run, and end.")
@click.option("--state", metavar="FILE", help=f"What was advised and done; default: {_STATE} in the (first) folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for everything that happens.")
@SEED
@click.option("-q", "--quiet", is_flag=True, help="Only what is to stop, and what was run.")
def command(
    to: float | None,
    rule: str,
    threshold: float | None,
    risk: float,
    despite: tuple[str, ...],
    lr_schedule: str | None,
    context: tuple[str, ...],
    command_line: str | None,
    interval: float,
    once: bool,
    state: str | None,
    as_json: bool,
    seed: int,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Follow the logs in PATH... while they are written; say which runs to stop and why.

    What was said and done is remembered in a file: a watch that begins again repeats nothing. Exit code 0:
    looked (--once); 2: bad input; 130: ended with Ctrl-C.
    """
    if not 0 < interval <= _LONGEST:
        raise InputError(f"--interval {interval:g}: it must be above 0 seconds, and at most {_LONGEST:g}, a day")
    argv = None if command_line is None else parse_command(command_line)

    from farfield.curves.follow import LogFolder
    from farfield.curves.follow.journal import Journal
    from farfield.curves.follow.watch import Watch
    from farfield.curves.stopping import Adviser

    with notes(quiet):
        others = read_context(chosen, context)
    adviser = Adviser(
        rule=rule, threshold=threshold, risk=risk, to=to, despite=despite, lr_schedule=lr_schedule, context=others, rng=seed
    )
    folder = LogFolder(chosen["paths"], run_column=chosen["run_column"])
    journal = Journal(state or _default_state(Path(chosen["paths"][0])))
    watch = Watch(folder, adviser, journal, argv, chosen["metric"], chosen["x"], chosen["goal"], list(chosen["runs"]) or None)
    watch.background = not once
    show = _Show(as_json, quiet, table=once)
    try:
        if once:
            folder.settle()
            show(watch.step(always=True))
            show(watch.wait(_LAST_WAIT))
            if watch.advice is None:
                raise InputError(f"nothing to advise on in {', '.join(chosen['paths'])}: no runs with a metric were found")
            if not as_json:
                columns = ["run", "status", "last_x", "at", "forecast", "why"]
                emit(watch.advice.to_frame().select(columns), "table", title=watch.advice.summary())
            return
        show.begin(watch, chosen["paths"])
        tick = time.monotonic()
        while True:
            show(watch.step())
            tick = max(tick + interval, time.monotonic())
            time.sleep(max(0.0, tick - time.monotonic()))
    finally:
        show(watch.wait(_LAST_WAIT))
        watch.close()
        journal.close()


def parse_command(line: str) -> list[str]:
    """The argument list of ``--exec``.

    Raises InputError for quotes that do not close, an empty line, a command that is not there, or one without a placeholder.
    """
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise InputError(f"--exec {line!r}: {error}") from None
    if not argv:
        raise InputError("--exec is empty; give a command such as 'scancel --name {run}'")
    if shutil.which(argv[0]) is None:
        raise InputError(f"--exec: there is no command {argv[0]!r}; give one that is on the PATH, or a path to it")
    if not any(mark in word for mark in ("{run}", "{source}") for word in argv[1:]):
        raise InputError(f"--exec {line!r}: it does not say which run; put {{run}} or {{source}} in it")
    return argv


def _default_state(path: Path) -> Path:
    return path / _STATE if path.is_dir() else path.with_name(f".{path.name}.farfield-watch.json")


class _Show:
    """Writes events: for people a line each, or JSON."""

    def __init__(self, as_json: bool, quiet: bool, *, table: bool) -> None:
        self._json, self._quiet, self._table = as_json, quiet, table

    def __call__(self, events: list[Event]) -> None:
        from farfield.wording import plain

        for event in events:
            if self._json:
                click.echo(json.dumps(plain(event), ensure_ascii=False))
            elif (line := self._line(event)) is not None:
                click.echo(f"{event['time'][11:19]}  {line}")
        if events:
            sys.stdout.flush()

    def begin(self, watch: Any, paths: list[str]) -> None:
        """Say what is watched."""
        if not self._quiet and not self._json:
            known = sum(stop["state"] != "said" for stop in watch.journal.stops.values())
            said = len(watch.journal.stops)
            before = f"; {said} advised to stop before, {known} commands run" if said else ""
            click.echo(f"watching {', '.join(map(str, paths))} (state in {watch.journal.path}{before}); Ctrl-C ends it")

    def _line(self, event: Event) -> str | None:
        from farfield.wording import name_of, position

        kind = event["event"]
        run = name_of(str(event.get("run", "")))
        if self._table and kind in ("stop", "advice", "summary"):  # the table says it
            return None
        if kind == "stop":
            return f"STOP {run} at {position(event['x'])} of {position(event['at'])}: {event['why']}"
        if kind == "exec":
            if event["state"] == "started":
                return f"ran for {run}: {shlex.join(name_of(word) for word in event['command'])}"
            return None if event["state"] == "done" and self._quiet else f"command for {run}: {event['text']}"
        if self._quiet:
            return None
        if kind == "advice":
            return f"no longer stop {run}: {event['why']}" if event["withdrawn"] else None
        if kind == "notice":
            return f"note: {event['text']}"
        return str(event["text"])
