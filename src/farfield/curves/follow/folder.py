"""A folder of logs that are being written: which runs there are now, and how far each has got.

`LogFolder.poll` looks at every file that is followed, once a second at a few microseconds a file, and walks a folder again when its
entries changed. Reading files as a whole (new ones, and formats that are not append-only) takes what processor time is left to it:
`share` of one core on average, longest waiting first, so that a big store cannot starve the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farfield.curves.follow.pieces import Follower, Signature, follower_of, signature
from farfield.curves.readers.record import RunLog
from farfield.curves.readers.sources import TRAINER_STATE, Piece, joined, kind_of, live_name, pieces_in, unique, where_of
from farfield.errors import InputError

# seconds of processor time that may be saved up for reading files as a whole
_SAVED = 0.5
_NO_LOG = ("other", "empty", "unreadable")


class LogFolder:
    """Runs in files and folders that grow.

    Parameters
    ----------
    paths : files and folders
    run_column : the column of a table that tells runs apart, found by its name when None
    share : part of one core that reading whole files may take, beyond the first reading

    Raises InputError for a path that does not exist.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, run_column: str | None = None, share: float = 0.05) -> None:
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            if not path.exists():
                raise InputError(f"no such file or folder: {path}")
        self._home = self.paths[0] if self.paths[0].is_dir() else self.paths[0].parent
        self._options: dict[str, Any] = {"run_column": run_column}
        self._share, self._saved, self._looked = share, _SAVED, time.monotonic()
        self._followers: dict[tuple[str, str], Follower] = {}
        self._owner: dict[int, tuple[Follower, str]] = {}
        self._folders: dict[Path, tuple[int, frozenset[str]]] = {}
        self._undecided: dict[Path, Signature | None] = {}
        self._kinds: dict[Path, tuple[int, str | None]] = {}
        self._missing: set[Path] = set()
        self._notices: list[tuple[str, str]] = []
        self._hushed: set[Follower] = set()
        self._refused: set[str] = set()
        self._walk_after = 0.0
        self._walk()
        for follower in self._followers.values():
            follower.refresh()

    def poll(self) -> bool:
        """Bring every run up to date as far as that is cheap; whether there are new points or runs."""
        now = time.monotonic()
        self._saved = min(_SAVED, self._saved + self._share * (now - self._looked))
        self._looked = now
        news = self._entries_changed() and now >= self._walk_after and self._walk()
        for follower in self._followers.values():
            news = follower.poll() or news
        waiting = [f for f in self._followers.values() if f.due]
        waiting.sort(key=lambda f: f.waiting_since)
        for follower in waiting:
            if self._saved <= 0:
                break
            start = time.process_time()
            news = follower.refresh() or news
            self._saved -= time.process_time() - start
        return news

    def runs(self) -> list[RunLog]:
        """Every run as far as it was read, names unique."""
        read = [(follower, follower.runs()) for follower in self._followers.values()]
        self._owner = {id(run.metrics): (follower, run.name) for follower, runs in read for run in runs}
        found = unique([run for run in joined((follower.piece, runs) for follower, runs in read) if run.metrics])
        live = {run.source: (follower, run.name) for follower, runs in read for run in runs}
        for run in found:  # one that was resumed and joined belongs to the log that it goes on in
            self._owner.setdefault(id(run.metrics), live[run.source])
        return found

    def follower(self, run: RunLog) -> Follower:
        """Who follows a run that `runs` handed out last."""
        return self._owner[id(run.metrics)][0]

    def key(self, run: RunLog) -> str:
        """What identifies a run that `runs` handed out last however often it is read, whatever other runs there are.

        Its source; where that does not tell it apart (tables that hold several runs, a trainer's checkpoints), its name with it.
        """
        follower, name = self._owner[id(run.metrics)]
        source = os.path.relpath(os.path.realpath(run.source), os.path.realpath(self._home))
        if follower.piece.paths[0].name == TRAINER_STATE:
            return f"{TRAINER_STATE}:{name}"
        return f"{source}:{name}" if follower.piece.kind in ("text", "json", "columnar") else source

    def notices(self) -> list[tuple[str, str]]:
        """What happened since they were last asked for, as (kind, words)."""
        out, self._notices = self._notices, []
        missing = tuple(str(root) for root in self._missing)
        for follower in self._followers.values():
            for kind, words in follower.notices:
                # a folder that is gone says so for all that is in it, and old checkpoints are meant to go
                if kind == "gone" and (follower.shown.startswith(missing) or follower.piece.paths[0].name == TRAINER_STATE):
                    self._hushed.add(follower)
                elif kind == "back" and follower in self._hushed:
                    self._hushed.discard(follower)
                else:
                    out.append((kind, words))
            follower.notices = []
        return out

    def settle(self) -> None:
        """Find and read everything that is due, whatever it takes, and say what cannot be read."""
        if self._entries_changed():
            self._walk()
        for follower in self._followers.values():
            if follower.due:
                follower.refresh()
            follower.give_up()

    # -- what there is to follow --------------------------------------------------------------------------------------------

    def _entries_changed(self) -> bool:
        """Whether a folder has other entries, or a file that was no log yet changed, since the last walk."""
        for folder, (stamp, entries) in self._folders.items():
            found = signature(folder)
            now = -1 if found is None else found[2]
            if now != stamp:
                if stamp == -2 or _entries(folder) != entries:
                    return True
                self._folders[folder] = now, entries  # a file was rewritten under its own name, or a hidden one
        return any(signature(path) != seen for path, seen in self._undecided.items())

    def _walk(self) -> bool:
        """Find new pieces and files added to known ones; whether there are any."""
        start = time.process_time()
        self._folders, self._undecided = {}, {}
        news = False
        before, self._followers = self._followers, {}
        for root in self.paths:
            if not root.exists():
                if root not in self._missing:
                    self._missing.add(root)
                    self._notices.append(("gone", f"{root} is gone; waiting for it to come back"))
                self._folders[root] = -1, frozenset()
                continue
            if root in self._missing:
                self._missing.discard(root)
                self._notices.append(("back", f"{root} is back"))
            try:
                news = self._walk_one(root, before) or news
            except OSError as error:  # something went away while it was looked at, or may not be
                self._folders[root] = -2, frozenset()  # look again
                if str(error) not in self._refused:
                    self._refused.add(str(error))
                    self._notices.append(("unreadable", str(error)))
        self._followers |= before  # what is gone stays as last seen
        self._walk_after = time.monotonic() + (time.process_time() - start) / self._share
        return news

    def _walk_one(self, root: Path, before: dict[tuple[str, str], Follower]) -> bool:
        """Take over from `before` the followers of what is in `root`, in order of name, and add those that are missing."""
        news = False
        for piece in self._pieces(root):
            path = piece.paths[0]
            if piece.kind in _NO_LOG:
                self._undecided[path] = signature(path)
                continue
            key = (piece.where.path, "events" if piece.kind == "tensorboard" else "")
            live = live_name(path.name)
            if key not in before and live is not None and (str(path.with_name(live)), "") in before:
                continue  # an earlier part of a log whose new part is not there yet
            follower = before.pop(key, None)
            if follower is None or follower.piece.kind != piece.kind:
                follower = follower_of(piece, self._options, named=not root.is_dir())
                news = True
            elif follower.piece.paths != piece.paths:
                follower.follow(piece)
            self._followers[key] = follower
        return news

    def _pieces(self, root: Path) -> list[Piece]:
        if not root.is_dir():
            return [Piece(self._kind(root) or "text", (root,), where_of(root, None, ""))]
        prefix = root.resolve().name if len(self.paths) > 1 else ""
        for folder, below, _ in os.walk(root):
            found = signature(Path(folder))
            self._folders[Path(folder)] = -1 if found is None else found[2], _entries(Path(folder))
            below[:] = [name for name in below if not name.startswith(".")]
        return list(pieces_in(root, prefix, self._kind))

    def _kind(self, path: Path) -> str | None:
        """What a file holds, looked up again only for another file of that name or one that was no log."""
        found = signature(path)
        if found is None:
            return "unreadable"
        inode, kind = self._kinds.get(path, (-1, None))
        if inode != found[0] or kind in (None, *_NO_LOG):
            try:
                kind = kind_of(path)
            except OSError as error:
                self._notices.append(("unreadable", f"{path}: {error.strerror}"))
                kind = "unreadable"
            self._kinds[path] = (found[0], kind)
        return kind


def _entries(folder: Path) -> frozenset[str]:
    """The names in a folder, but for hidden ones; none if it is gone."""
    try:
        return frozenset(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return frozenset()
