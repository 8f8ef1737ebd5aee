"""The journal of a watch: what was advised for each run and which commands were started, on disk before they are.

One JSON file, written whole or not at all. A stop is noted as ``started`` before its command runs and as ``done`` or ``failed``
after. So a watch that is killed in between finds the note and does not run the command a second time: at most once, and a stop
whose command may not have finished is said. A lock keeps a second watch off the same journal.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farfield.errors import FormatError, InputError
from farfield.files import write_atomic
from farfield.wording import plain

if sys.platform != "win32":
    import fcntl

SCHEMA = "farfield.watch/1"
# said: noted, nothing was run; started: the command runs or ran; unknown: the watch ended before the command did
STATES = ("said", "started", "done", "failed", "unknown")
ADVISED = {"x": float, "status": str, "stop": bool, "why": str, "p": float, "run": str}
STOPPED = {"run": str, "x": float, "why": str, "when": str, "state": str, "exit": int, "risk": float}


class Journal:
    """What a watch knows of every run, by the run's key.

    advised : the advice given last (``ADVISED``)
    stops : what was advised to stop, what that risked, and what was done about it (``STOPPED``)
    noticed : what is said once
    settings : metric, goal and x that all of it is about

    Raises InputError if another watch holds the journal or it cannot be written, FormatError if it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.advised: dict[str, dict[str, Any]] = {}
        self.stops: dict[str, dict[str, Any]] = {}
        self.noticed: set[str] = set()
        self.settings: dict[str, str] = {}
        self._written = b""
        self._lock = _Lock(self.path)
        if self.path.exists():
            self._load()

    def about(self, settings: dict[str, str]) -> None:
        """Say what this watch is about; InputError if the journal was kept for something else."""
        if self.settings and self.settings != settings:
            was = ", ".join(f"{k} {v}" for k, v in self.settings.items())
            now = ", ".join(f"{k} {v}" for k, v in settings.items())
            raise InputError(f"{self.path} was kept for {was}; this is {now}: name another file with --state")
        self.settings = settings

    def save(self) -> None:
        """Write what changed; InputError where that is not possible."""
        tree = {
            "schema": SCHEMA,
            "settings": self.settings,
            "advised": self.advised,
            "stops": self.stops,
            "noticed": sorted(self.noticed),
        }
        data = (json.dumps(plain(tree), indent=1) + "\n").encode()
        if data != self._written:
            write_atomic(self.path, data)
            self._written = data

    def close(self) -> None:
        """Let another watch have it."""
        self._lock.release()

    def _load(self) -> None:
        try:
            tree = json.loads(self.path.read_bytes())
        except (ValueError, RecursionError, OSError) as error:
            raise self._damaged(str(error)[:100]) from None
        if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
            raise self._damaged(f"its schema is not {SCHEMA}")
        settings, noticed = tree.get("settings"), tree.get("noticed")
        texts = [*settings, *settings.values()] if isinstance(settings, dict) else [None]
        if not all(isinstance(text, str) for text in [*texts, *(noticed if isinstance(noticed, list) else [None])]):
            raise self._damaged("settings or noticed")
        assert isinstance(settings, dict)
        self.settings, self.noticed = settings, set(noticed or ())
        self.advised = self._entries(tree.get("advised"), ADVISED)
        self.stops = self._entries(tree.get("stops"), STOPPED)
        if any(stop["state"] not in STATES for stop in self.stops.values()):
            raise self._damaged(f"a stop's state; allowed: {', '.join(STATES)}")

    def _entries(self, tree: Any, fields: dict[str, type]) -> dict[str, dict[str, Any]]:
        if not isinstance(tree, dict):
            raise self._damaged("no entries")
        out = {}
        for key, entry in tree.items():
            if isinstance(entry, dict) and "risk" in fields:
                entry.setdefault("risk", None)  # an older journal does not have it
            if not isinstance(entry, dict) or entry.keys() != fields.keys():
                raise self._damaged(f"the entry of {key!r}")
            for name, kind in fields.items():
                value = entry[name]
                if kind is float:
                    value = float("nan") if value is None else float(value) if isinstance(value, int | float) else None
                    entry[name] = value
                if value is not None and not isinstance(value, kind):
                    raise self._damaged(f"{name} of {key!r}")
                if value is None and kind is not int:
                    raise self._damaged(f"{name} of {key!r}")
            out[str(key)] = entry
        return out

    def _damaged(self, why: str) -> FormatError:
        return FormatError(
            f"{self.path}: not the journal of a watch, or damaged ({why}); move it away, or name another with --state"
        )


@dataclass
class _Lock:
    """A lock on ``<journal>.lock`` for as long as this process lives."""

    path: Path
    _descriptor: int = -1

    def __post_init__(self) -> None:
        lock = self.path.with_name(self.path.name + ".lock")
        if sys.platform == "win32":
            return
        try:
            self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {lock}: {error.strerror}; name a file that can be written with --state") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise InputError(f"another watch holds {self.path}; end it, or name another file with --state") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks: go on without
                raise

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
