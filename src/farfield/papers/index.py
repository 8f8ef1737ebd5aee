"""The catalogue as one file: records, statuses with verdicts, and the search tables, in one SQLite database.

A wheel carries it beside this module, written when it was packaged. In a source checkout it is made from the records, the source
and the results, and kept in the user's cache until one of these files changes. Either way `load` gives a `Catalogue`, and nothing
of a method is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from farfield import __version__
from farfield.errors import FormatError, InputError, unknown_name
from farfield.papers import search

NAME = "index.sqlite"
_LAYOUT = 2  # of the database; an index of another layout is not read
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A paper as the catalogue shows it; `COLUMNS` are those of a table.

    Attributes
    ----------
    id, slug, title, year, family, arxiv : as in the record
    status : one of `farfield.papers.status.STATUSES`
    date, version, reason : of the verdict, if the status is one
    problems : what is wrong, if the status is *broken*
    record : the whole record as plain values
    """

    COLUMNS: ClassVar = ("id", "slug", "title", "year", "family", "status", "date", "version", "known")

    id: str
    slug: str
    title: str
    year: int
    family: str
    arxiv: str | None
    status: str
    date: str | None
    version: str | None
    reason: str | None
    problems: tuple[str, ...]
    record: dict[str, Any] = field(repr=False)

    @property
    def known(self) -> str | None:
        """The verdict already found on the paper's own claim, if its record states one."""
        found = self.record["claim"]["known"]
        return None if found is None else str(found["verdict"])

    def row(self) -> dict[str, Any]:
        """What a table shows of it."""
        return {name: getattr(self, name) for name in self.COLUMNS}

    def to_dict(self) -> dict[str, Any]:
        """The record with its status, as plain values."""
        return {
            **self.record,
            **{k: getattr(self, k) for k in ("status", "date", "version", "reason")},
            "problems": list(self.problems),
        }


class Catalogue:
    """The papers, found by name or by question; `left_out` is what is wrong with records that cannot be read, by their names."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        weakref.finalize(self, db.close)
        names = ("id", "slug", "title", "year", "family", "arxiv", "status", "date", "version", "reason", "problems", "record")
        entries = []
        for row in db.execute(f"SELECT {', '.join(names)} FROM papers ORDER BY id"):
            values = dict(zip(names, row, strict=True))
            values["problems"], values["record"] = tuple(json.loads(values["problems"])), json.loads(values["record"])
            entries.append(Entry(**values))
        self.papers = tuple(entries)
        self._by_id = {entry.id: entry for entry in self.papers}
        self.left_out = dict(db.execute("SELECT name, problem FROM left_out ORDER BY name").fetchall())

    def __repr__(self) -> str:
        return f"Catalogue({len(self.papers)} papers)"

    def find(self, name: str) -> Entry:
        """The paper of that id, slug, arXiv id (or its address), or piece of a title.

        Raises InputError with the nearest three if there is none, or with what matches if it is more than one, and FormatError
        if it is the id of a record that cannot be read.
        """
        wanted = " ".join(name.casefold().split())
        if re.fullmatch(r"p?\d{1,3}", wanted):
            key = f"P{int(wanted.lstrip('p')):03d}"
            if key in self._by_id:
                return self._by_id[key]
            if key in self.left_out:
                raise FormatError(self.left_out[key])
            raise unknown_name("paper", name[:80], self._by_id)
        number = re.search(r"(?:^|[:/])(\d{4}\.\d{4,5})(?:v\d+)?(?:\.pdf)?$", wanted)
        for entry in self.papers:
            if wanted == entry.slug or (number and number[1] == entry.arxiv):
                return entry
        matches = [entry for entry in self.papers if wanted and wanted in " ".join(entry.title.casefold().split())]
        if len(matches) == 1:
            return matches[0]
        if matches:
            shown = ", ".join(f"{e.id} {e.slug}" for e in matches[:3])
            raise InputError(
                f"{name[:80]!r} is in {len(matches)} titles ({shown}{', ...' if len(matches) > 3 else ''}); name one by id"
            )
        near = [self._by_id[key] for key, _ in self._nearest(name)]
        if len(near) < 3:
            raise unknown_name("paper", name[:80], [entry.slug for entry in self.papers])
        shown = ", ".join(f"{e.id} {e.slug}" for e in near)
        raise InputError(f"unknown paper {name[:80]!r}; nearest: {shown}; give an id, a slug, an arXiv id or a piece of a title")

    def _nearest(self, name: str) -> list[tuple[str, float]]:
        try:
            return search.search(self._db, name, 3)
        except InputError:  # no letter or digit in it: nothing is near
            return []

    def search(self, question: str, n: int = 5) -> list[tuple[Entry, float]]:
        """The `n` papers that answer a plain-language question best, with scores from 0 to 1, best first.

        Raises InputError if there is no letter or digit in it, or n is not positive.
        """
        if n < 1:
            raise InputError(f"n is {n}; allowed: 1 or more")
        try:
            return [(self._by_id[key], score) for key, score in search.search(self._db, question, n)]
        except sqlite3.DatabaseError as error:
            raise FormatError(f"the search tables of the catalogue's index are damaged ({error}); reinstall farfield") from None


def checkout() -> Path | None:
    """The root of the source checkout this module runs from; None where it was installed."""
    root = _HERE.parents[2]
    return root if root / "src" / "farfield" / "papers" == _HERE and (root / "pyproject.toml").is_file() else None


def load() -> Catalogue:
    """The catalogue: from the packaged index, or in a source checkout from its files, but for records that are not valid.

    Raises FormatError if the packaged index is missing or damaged.
    """
    packaged = _HERE / NAME
    if packaged.is_file():
        try:
            return _open(packaged, None)
        except (sqlite3.DatabaseError, ValueError) as error:
            raise FormatError(f"the packaged index {packaged} is damaged ({error}); reinstall farfield") from None
    root = checkout()
    if root is None:
        raise FormatError(f"the packaged index {packaged} is missing; reinstall farfield")
    state = fingerprint(root)
    cache = _cache_file(root)
    with suppress(sqlite3.DatabaseError, OSError, ValueError):
        return _open(cache, state)
    data = build(root, state, strict=False)
    from farfield.files import write_atomic

    with suppress(OSError, InputError):  # a home that cannot be written only makes the next call slower
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, data)
    db = sqlite3.connect(":memory:")
    db.deserialize(data)
    return Catalogue(db)


def build(root: Path, state: str = "", *, strict: bool = True) -> bytes:
    """The index of the checkout at `root` as the bytes of a SQLite database; `state` is stored in it.

    Raises FormatError if a record is not valid; unless `strict`, such a record is left out, and the index says so.
    """
    from farfield.papers.record import read_all
    from farfield.papers.status import Source

    left_out: dict[str, str] = {}
    papers = read_all(root / "src" / "farfield" / "papers", None if strict else left_out)
    source = Source(root)
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE meta (layout INTEGER, version TEXT, state TEXT)")
    db.execute("INSERT INTO meta VALUES (?, ?, ?)", (_LAYOUT, __version__, state))
    db.execute(
        "CREATE TABLE papers (id TEXT PRIMARY KEY, slug TEXT, title TEXT, year INTEGER, family TEXT, arxiv TEXT, "
        "status TEXT, date TEXT, version TEXT, reason TEXT, problems TEXT, record TEXT)"
    )
    db.execute("CREATE TABLE left_out (name TEXT PRIMARY KEY, problem TEXT)")
    db.executemany("INSERT INTO left_out VALUES (?, ?)", left_out.items())
    documents = {}
    for paper in papers.values():
        status = source.status(paper)
        record = asdict(paper)
        del record["path"]  # where it was read does not matter to who reads the index
        db.execute(
            "INSERT INTO papers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(paper.id, paper.slug, paper.title, paper.year, paper.family, paper.arxiv),
                *(status.name, status.date, status.version, status.reason, json.dumps(status.problems), json.dumps(record)),
            ),
        )
        documents[paper.id] = {
            "title": f"{paper.title} {paper.slug}",
            "question": " ".join(paper.question),
            "aka": " ".join(paper.aka),
            "use_when": paper.use_when,
            "summary": paper.summary,
        }
    search.create(db, documents)
    db.commit()
    data: bytes = db.serialize()
    db.close()
    return data


def fingerprint(root: Path) -> str:
    """A digest of name, size and time of change of every file the index depends on."""
    digest = hashlib.sha256()
    for folder, pattern in (("src/farfield", r".*\.py|P\d{3}\.toml"), ("tests", r".*\.py"), ("results", r"P\d{3}\.json")):
        keep = re.compile(pattern)
        for path, stat in sorted(_files(str(root / folder), keep)):
            digest.update(f"{path}\0{stat}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: str, keep: re.Pattern[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith((".", "__pycache__")):
                    found += _files(entry.path, keep)
            elif keep.fullmatch(entry.name):
                stat = entry.stat()
                found.append((entry.path, f"{stat.st_size} {stat.st_mtime_ns}"))
    return found


def _cache_file(root: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "farfield" / f"papers-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.sqlite"


def _open(path: Path, state: str | None) -> Catalogue:
    """The catalogue in an index file; ValueError if it is of another layout, or (where `state` is given) of another state."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        layout, version, stored = db.execute("SELECT layout, version, state FROM meta").fetchone()
        if layout != _LAYOUT or (state is not None and (stored, version) != (state, __version__)):
            raise ValueError("it is of another version")
        return Catalogue(db)
    except BaseException:
        db.close()
        raise
