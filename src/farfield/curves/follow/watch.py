"""Watching runs: forecasts made again as points arrive, advice said when it changes, a command run once for each stop.

One `step` looks at the logs; if a run has grown enough it makes a round: all curves, one batch of forecasts, advice for all. A run
is due when its x has grown by `GROWTH` since it was last judged (by `CLOSE_GROWTH` where its probability is near the threshold),
when its status changed, or when it is new; and rounds take at most `share` of one core's time. Between rounds advice stands. What
was advised and done is in the journal, so that a watch that ends and begins again says and does nothing twice.

In the background (`background=True`) a round's forecasts are made in a thread on the curves as they stood, while looks go on; the
first look after it is done takes the advice over. One round is under way at a time, and all else stays in the calling thread.
"""

from __future__ import annotations

import datetime
import subprocess
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from farfield.curves.data import Curves
from farfield.curves.follow.folder import LogFolder
from farfield.curves.follow.journal import Journal
from farfield.curves.readers import assemble, names
from farfield.curves.readers.record import ReadWarning, RunLog
from farfield.curves.stopping import Advice, Adviser
from farfield.errors import InputError
from farfield.wording import name_of, position

Event = dict[str, Any]
GROWTH, CLOSE_GROWTH = 0.05, 0.02
# a probability within this factor of the threshold is near it
_CLOSE = 3.0
_LEAST_POINTS = 3
_MOST_COMMANDS = 8  # at a time
_CLOCK = 1.0  # seconds by which times may go back without a word


@dataclass
class _Round:
    """A round under way: which runs it is on, and the processor time it has taken in the calling thread."""

    keys: list[str]
    withheld: dict[str, str]
    judged: Future[tuple[Advice, float]]
    spent: float = 0.0


@dataclass
class Watch:
    """A watch over the runs of a folder.

    Parameters
    ----------
    folder : the logs
    adviser : makes the advice
    journal : remembers it
    command : argument list for each stop, ``{run}``, ``{source}`` and ``{x}`` in it replaced; None to run nothing
    metric, x, goal, select : as in `farfield.read_runs`
    share : part of one core that rounds of forecasts may take
    background : make a round's forecasts in a thread, so that no look waits for them; `close` ends it
    """

    folder: LogFolder
    adviser: Adviser
    journal: Journal
    command: Sequence[str] | None = None
    metric: str | None = None
    x: str | None = None
    goal: Any = None
    select: Sequence[str] | None = None
    share: float = 0.15
    background: bool = False
    advice: Advice | None = None
    _next: float = 0.0
    _pending: bool = True
    _begun: bool = False
    _dirty: bool = False
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _events: list[Event] = field(default_factory=list)
    _had: set[str] = field(default_factory=set)
    _sources: dict[str, str] = field(default_factory=dict)
    _counts: tuple[int, int, int] = (0, 0, 0)
    _pool: ThreadPoolExecutor | None = None
    _under_way: _Round | None = None

    def __post_init__(self) -> None:
        self._counts = self._count()  # said by the watch before
        self.adviser.spent.update({s["run"]: s["risk"] for s in self.journal.stops.values() if np.isfinite(s["risk"])})
        self.adviser.advised_at.update({a["run"]: a["x"] for a in self.journal.advised.values() if a["stop"]})
        for stop in self.journal.stops.values():
            if stop["state"] == "started":
                stop["state"] = "unknown"
                self._event(
                    "notice", run=stop["run"], kind="interrupted",
                    text=f"the command for run {name_of(stop['run'])} was started at {stop['when']} by a watch that ended before "
                    "it; whether it finished is not known, and it is not run again",
                )  # fmt: skip

    def step(self, *, always: bool = False) -> list[Event]:
        """Look once; what there is to say. `always`: make a round whether or not one is due.

        Raises InputError, at the first round only, for a metric, x or goal that must be chosen.
        """
        self._pending = self.folder.poll() or self._pending
        for kind, words in self.folder.notices():
            self._event("notice", kind=kind, text=words)
        self._reap()
        self._finish(wait=always)
        if always or (self._pending and self._under_way is None and time.monotonic() >= self._next):
            start = time.process_time()
            self._pending = False
            self._begin(always)
            if self._under_way is not None:
                self._under_way.spent = time.process_time() - start
                self._finish(wait=always)
            else:
                self._rest(time.process_time() - start)
        self._run_commands()
        self._save()
        events, self._events = self._events, []
        return events

    def wait(self, seconds: float) -> list[Event]:
        """Wait for the commands that still run, at most so long; what there is to say."""
        until = time.monotonic() + seconds
        while self._children and time.monotonic() < until:
            time.sleep(0.02)
            self._reap()
            self._run_commands()
        self._save()
        events, self._events = self._events, []
        return events

    # -- a round ----------------------------------------------------------------------------------------------------------

    def _begin(self, always: bool) -> None:
        """Put the curves together and have them judged, if that is due."""
        runs = self.folder.runs()
        if not runs:
            self._say("empty", "", "no runs yet")
            return
        try:
            read = self._read(runs, always)
        except InputError as error:
            if not self._begun:
                raise  # the user must choose
            self._say("refused", str(error), f"no advice: {error}")
            return
        if read is None or not (always or self._due(read[0], read[1])):
            return
        curves, keys, withheld = read
        if self.background:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="farfield-watch")
            judged = self._pool.submit(_judged, self.adviser, curves)
        else:
            judged = Future()
            try:
                judged.set_result((self.adviser.update(curves), 0.0))  # its time is counted by `step`
            except InputError as error:
                judged.set_exception(error)
        self._under_way = _Round(keys, withheld, judged)

    def _finish(self, *, wait: bool) -> None:
        """Take over the advice of the round under way, if it is done."""
        made = self._under_way
        if made is None or not (wait or made.judged.done()):
            return
        self._under_way = None
        try:
            advice, seconds = made.judged.result()
        except InputError as error:
            self._say("refused", str(error), f"no advice: {error}")
            self._rest(made.spent)
            return
        self.advice = advice
        for i, key in enumerate(made.keys):
            self._adopt(key, i, advice, made.withheld.get(key))
        counts = self._count()
        if counts != self._counts:
            self._counts = counts
            self._event("summary", text=advice.summary(), runs=counts[0], live=counts[1], stop=counts[2])
        self._rest(made.spent + seconds)

    def _rest(self, seconds: float) -> None:
        """No round until those before have taken no more than their share."""
        self._next = time.monotonic() + seconds * (1 / self.share - 1)

    def close(self) -> None:
        """Let the round under way end, unheard; its runs are judged again by the next watch."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = self._under_way = None

    def _count(self) -> tuple[int, int, int]:
        """Runs advised on, still going, and to stop."""
        advised = list(self.journal.advised.values())
        return len(advised), sum(a["status"] not in ("ended", "stopped") for a in advised), sum(a["stop"] for a in advised)

    def _read(self, runs: list[RunLog], always: bool) -> tuple[Curves, list[str], dict[str, str]] | None:
        """Curves of the runs that can be judged, their keys, and for some why they get no advice."""
        having = [run for run in runs if self.metric is None or self.metric in run.metrics]
        unknown = not having and always and not self._begun
        if unknown:
            having = runs  # whoever puts the curves together says what there is instead
        elif not having:
            known = ", ".join(assemble.metric_names(runs)[:8]) or "none"
            self._say("none", "", f"no run has logged {self.metric!r} yet; they log: {known}")
            return None
        if not unknown:
            self._look_for_new_names(runs)
        if self._begun:
            assert self.x is not None
            lacking = [run for run in having if not assemble.has_x(run, self.x)]
            for run in lacking:
                self._say("x", self.folder.key(run), f"run {name_of(run.name)} does not log {self.x!r} and is left out")
            having = [run for run in having if run not in lacking]
        if self.metric is not None and not unknown:
            having = [run for run in having if not self._contested(run)]
        if not having:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReadWarning)
            curves = assemble.assemble(
                having,
                paths=[str(path) for path in self.folder.paths],
                metric=self.metric,
                x=self.x,
                goal=self.goal,
                select=self.select,
            )
        if not self._begun:
            self.metric, self.x, self.goal = curves.metric.name, curves.x_name, curves.metric.goal
            self.journal.about({"metric": self.metric, "goal": str(self.goal), "x": self.x})
            self._begun = True
        by_name = {run.name: run for run in having}
        keys = [self.folder.key(by_name[name]) for name in curves.runs]
        withheld = {}
        for name, key in zip(curves.runs, keys, strict=True):
            run = by_name[name]
            self._sources[key] = run.source
            self._check_clock(run, key)
            if self.folder.follower(run).gone:
                withheld[key] = "its log is gone"
            elif other := self._new_name(run):
                withheld[key] = f"its metric seems to go on as {other!r}"
        return self._with_stops(curves, keys), keys, withheld

    def _with_stops(self, curves: Curves, keys: list[str]) -> Curves:
        """The runs whose stop was carried out as pruned: what they would have come to is not known."""
        states = curves.column("status").to_list()
        for i, key in enumerate(keys):
            stop = self.journal.stops.get(key)
            if stop is None:
                continue
            if curves.lengths[i] >= _LEAST_POINTS and curves.last_x[i] < stop["x"]:
                del self.journal.stops[key]
                self.journal.advised.pop(key, None)
                self._event(
                    "notice", kind="restarted", run=curves.runs[i],
                    text=f"run {name_of(curves.runs[i])} starts over after its stop at {position(stop['x'])}; it is judged anew",
                )  # fmt: skip
            elif stop["state"] in ("started", "done", "unknown") and states[i] in ("running", "unknown"):
                states[i] = "pruned"
        attributes = curves.attributes.with_columns(pl.Series("status", states, dtype=pl.String))
        return Curves(curves.runs, curves.offsets, curves.x, curves.y, curves.covariates, attributes, curves.metric, curves.x_name)

    def _due(self, curves: Curves, keys: list[str]) -> bool:
        """Whether some run is to be judged again."""
        if self.advice is None and self.command is not None and any(s["state"] == "said" for s in self.journal.stops.values()):
            return True  # said by a watch that had no command
        ended = curves.column("status").is_in(["finished", "diverged", "killed", "pruned"]).to_list()
        threshold = self.adviser.threshold if self.adviser.rule == "probability" else 0.0
        for i, key in enumerate(keys):
            before = self.journal.advised.get(key)
            if before is None:
                return True
            if ended[i] != (before["status"] in ("ended", "stopped", "diverged")):
                return True
            close = threshold / _CLOSE <= before["p"] <= threshold * _CLOSE
            if (
                not ended[i]
                and curves.last_x[i] >= before["x"] * (1 + (CLOSE_GROWTH if close else GROWTH))
                and (curves.last_x[i] != before["x"])
            ):
                return True
            if curves.last_x[i] < before["x"] or (np.isnan(before["x"]) and curves.lengths[i]):
                return True
        return False

    def _adopt(self, key: str, i: int, advice: Advice, withheld: str | None) -> None:
        """Take the advice on run i over; say it if it is new."""
        curves = advice.curves
        run, x = curves.runs[i], float(curves.last_x[i])
        status = advice.status[i].key if withheld is None else "withheld"
        stop = bool(advice.stop[i]) and withheld is None
        why = advice.why[i] if withheld is None else f"no advice: {withheld}"
        now = {"x": x, "status": status, "stop": stop, "why": why, "p": float(advice.p_beats_best[i]), "run": run}
        before = self.journal.advised.get(key)
        self.journal.advised[key] = now
        self._dirty = True
        end = float(advice.at[i])
        if before is None or (before["stop"], before["status"]) != (stop, status):
            withdrawn = before is not None and before["stop"] and not stop and status not in ("stopped", "ended")
            self._event("advice", at=end, withdrawn=withdrawn, **now)
        if not stop:
            return
        said = self.journal.stops.get(key)
        risk = self.adviser.spent.get(run, float("nan"))
        if said is not None and said["state"] == "said":
            said["risk"] = risk
        if said is None:
            now = {"run": run, "x": x, "why": why, "when": _now(), "state": "said", "exit": None, "risk": risk}
            self.journal.stops[key] = now
            self._event("stop", run=run, x=x, at=end, why=why)

    # -- commands -----------------------------------------------------------------------------------------------------------

    def _run_commands(self) -> None:
        """Start the command of each stop that is still advised and was not run before."""
        if self.command is None or self.advice is None:
            return
        for key, stop in self.journal.stops.items():
            if len(self._children) >= _MOST_COMMANDS:
                return
            if stop["state"] != "said" or not self.journal.advised.get(key, {}).get("stop"):
                continue
            stop.update(state="started", when=_now())
            self._dirty = True
            if not self._save():  # without a note it might be run twice
                stop.update(state="said")
                return
            fill = {"{run}": stop["run"], "{source}": self._sources.get(key, key), "{x}": f"{stop['x']:g}"}
            arguments = [_filled(word, fill) for word in self.command]
            try:
                self._children[key] = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
            except (OSError, ValueError) as error:
                self._done(key, None, f"cannot be run: {error}")
            else:
                self._event("exec", run=stop["run"], command=arguments, state="started")

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[key]
                self._done(key, code, f"exit {code}")

    def _done(self, key: str, code: int | None, words: str) -> None:
        stop = self.journal.stops.get(key)
        if stop is not None:
            stop.update(state="done" if code == 0 else "failed", exit=code)
            self._event("exec", run=stop["run"], state=stop["state"], exit=code, text=words)

    # -- what is not as it should be ------------------------------------------------------------------------------------------

    def _contested(self, run: RunLog) -> bool:
        assert self.metric is not None
        key = self.folder.key(run)
        if f"writers:{key}" in self.journal.noticed:
            return True
        if not self.folder.follower(run).contested(run, self.metric):
            return False
        self._say(
            "writers", key, f"run {name_of(run.name)}: its steps go back and forth, as if two writers shared its log; it is "
            "left out"
        )  # fmt: skip
        return True

    def _check_clock(self, run: RunLog, key: str) -> None:
        assert self.metric is not None
        series = run.metrics[self.metric]
        if series.time is None:
            return
        back = np.diff(series.time)
        if back.size and np.nanmin(back, initial=0.0) < -_CLOCK:
            at = series.step[int(np.nanargmin(back)) + 1]
            self._say("clock", key, f"run {name_of(run.name)}: its clock goes back by {-np.nanmin(back):.0f} s at step {at:g}")

    def _new_name(self, run: RunLog) -> str | None:
        """The metric under which the run's metric seems to go on: it begins where that one ended and is good the same way."""
        assert self.metric is not None
        series = run.metrics.get(self.metric)
        last = -np.inf if series is None or not series.step.size else series.step[-1]
        for other, found in run.metrics.items():
            goes_on = found.step.size >= 2 and found.step[0] > last > -np.inf
            if goes_on and not names.is_housekeeping(other) and names.goal(other) in (None, self.goal):
                return other
        return None

    def _look_for_new_names(self, runs: list[RunLog]) -> None:
        if self.metric is None:
            return
        for run in runs:
            key = self.folder.key(run)
            if self.metric in run.metrics:
                self._had.add(key)
                other = self._new_name(run)
                if other is not None:
                    self._say(
                        "metric", key, f"run {name_of(run.name)} no longer logs {self.metric!r} but {other!r}: if that is the same "
                        "metric under a new name, its curve ends where the name changed"
                    )  # fmt: skip
            elif key in self._had or key in self.journal.advised:
                known = ", ".join(name for name in run.metrics if not names.is_housekeeping(name)) or "none"
                self._say("metric", key, f"run {name_of(run.name)} no longer has {self.metric!r}; it has: {known}")

    # -- words out --------------------------------------------------------------------------------------------------------------

    def _say(self, kind: str, about: str, text: str) -> None:
        """A notice that is said once, restarts included."""
        if f"{kind}:{about}" not in self.journal.noticed:
            self.journal.noticed.add(f"{kind}:{about}")
            self._event("notice", kind=kind, text=text)

    def _event(self, event: str, **values: Any) -> None:
        self._dirty = True
        self._events.append({"event": event, "time": _now(), **values})

    def _save(self) -> bool:
        """Write the journal if there is news; whether it is on disk."""
        if not self._dirty:
            return True
        try:
            self.journal.save()
            self._dirty = False
        except InputError as error:
            if "unsaved" not in self.journal.noticed:
                self.journal.noticed.add("unsaved")
                self._event("notice", kind="unsaved", text=f"{error}; commands wait until it can be written")
            return False
        self.journal.noticed.discard("unsaved")
        return True


def _judged(adviser: Adviser, curves: Curves) -> tuple[Advice, float]:
    """The advice, and the processor time it took in this thread."""
    start = time.thread_time()
    return adviser.update(curves), time.thread_time() - start


def _filled(word: str, values: dict[str, str]) -> str:
    """A word of the command with its placeholders replaced, each once and never inside what was put in."""
    out, rest = "", word
    while rest:
        found = min(((rest.find(mark), mark) for mark in values if mark in rest), default=None)
        if found is None:
            return out + rest
        at, mark = found
        out, rest = out + rest[:at] + values[mark], rest[at + len(mark) :]
    return out


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
