"""From paths to runs: walk folders, recognise each file by its content, give each run a name, call the reader.

A file named on the command line must hold runs: if it does not, that is an error. In a folder, files that are something else
are passed over; files that look like a log and cannot be read are reported. All event files of a folder are one run; a folder
of MLflow's file store is one run; of the checkpoints of one trainer the furthest counts; beside a Ray trial's `result.json` its
`progress.csv` and event files say the same again and are passed over.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farfield.curves.readers import (
    assemble,
    delimited,
    frames,
    jsonlogs,
    mlflow,
    names,
    optuna,
    resumed,
    sqlite,
    tensorboard,
    tfevents,
    trackio,
    wandb,
)
from farfield.curves.readers.record import RunLog, Scalar, Where, config_of, scalar_of_text
from farfield.errors import FarfieldError, FormatError, InputError

_HEAD = 65536
_SKIPPED_FOLDERS = frozenset(("__pycache__", "node_modules", "site-packages"))
_GENERIC_STEM = re.compile(
    r"^(metrics?|progress|results?|logs?|history|trainer_state|training(_log)?|train(_log)?|scalars|run|data|output|eval|evaluation|"
    r"events\.out\.tfevents.*|run-[a-z0-9]{8})$",
    re.IGNORECASE,
)
_UUID = re.compile(r"^[0-9a-f]{32}$")
TRAINER_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_ROTATED = re.compile(r"^(?P<live>.+)\.(?P<number>[1-9]\d{0,3})$")
_SIDECARS = ("params.json", "hparams.yaml", "args.json", "config.json")
LOG_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl", ".ndjson"))
_WRITERS = "TensorBoard, W&B, MLflow, Optuna, Trackio, Trainer, Ray, Lightning, Keras, CSV, JSON lines and Parquet"
_TABLES = {"text": delimited.read_delimited, "json": jsonlogs.read_json, "columnar": frames.read_columnar}
STORES = {"mlflow": mlflow.read_mlflow, "optuna": optuna.read_optuna, "trackio": trackio.read_trackio}


@dataclass
class Found:
    """Runs, and what was met on the way: files passed over and files that could not be read."""

    runs: list[RunLog] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def kind_of(path: Path) -> str | None:
    """What a file holds: ``tensorboard``, ``wandb``, ``sqlite``, ``columnar``, ``json``, ``text``, ``empty``, or None if no log."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head and not path.is_file():
        return None
    return kind_of_bytes(head)


def kind_of_bytes(head: bytes) -> str | None:
    """As :func:`kind_of`, from a file's first bytes."""
    head = _utf8(head)
    if not head.strip(b"\0 \t\r\n"):
        return "empty"
    if head.startswith(sqlite.MAGIC):
        return "sqlite"
    if head.startswith(wandb.MAGIC):
        return "wandb"
    if head.startswith((frames.PARQUET_MAGIC, frames.ARROW_MAGIC)):
        return "columnar"
    if tfevents.is_event_file(head):
        return "tensorboard"
    if b"\0" in head:
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in (b"{", b"["):
        return "json"
    return "text" if delimited.delimiter(head) else None


def _utf8(data: bytes) -> bytes:
    """Text that begins with the mark of UTF-16 (as PowerShell writes it) as UTF-8; anything else as it is."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace").encode("utf-8", errors="replace")
    return data


def find_runs(paths: Sequence[str | os.PathLike[str]], **options: Any) -> Found:
    """Every run in files, folders and standard input (``-``).

    Raises
    ------
    InputError : a path that does not exist; nothing there that holds a run
    FormatError : a file named here, not met in a folder, that cannot be read
    """
    found = Found()
    for path in paths:
        if str(path) == "-":
            found.runs += from_bytes(sys.stdin.buffer.read(), Where("-", "stdin"), options)
        elif not os.path.exists(path):
            raise InputError(f"no such file or folder: {path}; give a log, a folder of logs, or - for standard input")
        elif os.path.isdir(path):
            _from_folder(Path(path), Path(path).resolve().name if len(paths) > 1 else "", options, found)
        else:
            found.runs += _from_file(Path(path), where_of(Path(path), None, ""), options)
    found.runs = [run for run in resumed.join(found.runs) if run.metrics]
    if not found.runs:
        raise InputError(_nothing(paths, found))
    return Found(unique(found.runs), found.passed_over, found.problems)


def _nothing(paths: Iterable[Any], found: Found) -> str:
    shown = ", ".join(str(p) for p in paths)
    seen = f"; unreadable: {'; '.join(found.problems[:3])}" if found.problems else ""
    passed = f" ({len(found.passed_over)} other files, such as {Path(found.passed_over[0]).name})" if found.passed_over else ""
    return f"no runs in {shown}{passed}{seen}; logs are read from {_WRITERS}"


# -- one file -----------------------------------------------------------------------------------------------------------------


def _from_file(path: Path, where: Where, options: Mapping[str, Any]) -> list[RunLog]:
    """The runs in one file; an error if there are none."""
    if not path.is_file():  # a pipe can be read only once
        return from_bytes(path.read_bytes(), where, options)
    kind = kind_of(path)
    if kind == "sqlite":
        with sqlite.open_store(path) as store:
            store_kind = store.kind()
            if store_kind is None:
                raise FormatError(f"{path}: SQLite file of another kind; allowed: stores of MLflow, Optuna and Trackio")
            return STORES[store_kind](store)
    return from_bytes(path.read_bytes(), where, options, _sidecar(path.parent) if kind in _TABLES else {})


def from_bytes(data: bytes, where: Where, options: Mapping[str, Any], sidecar: Mapping[str, Scalar] | None = None) -> list[RunLog]:
    """The runs in the bytes of one file of any kind but SQLite; `sidecar` is the configuration found beside it."""
    data = _utf8(data)
    kind = kind_of_bytes(data[:_HEAD])
    if kind == "empty":
        raise FormatError(f"{where.path}: empty file; nothing was logged in it, or a copy failed")
    if kind == "sqlite":
        raise InputError("a SQLite store cannot be read from standard input; name its file")
    if kind == "wandb":
        return wandb.read_wandb(data, where)
    if kind == "tensorboard":
        return tensorboard.read_tensorboard([(where.path, data)], where)
    delimited.refuse_packed(data, where.path, assemble.command(["-"], {}))
    if kind is None and b"\0" in data[:_HEAD]:
        raise FormatError(f"{where.path}: not a log in a known format (its first bytes are {data[:8]!r}); allowed: {_WRITERS}")
    runs = _TABLES[kind or "text"](data, where, **options)
    if sidecar and len(runs) == 1:
        runs = [_with_config(run, sidecar) for run in runs]
    return runs


def _with_config(run: RunLog, config: Mapping[str, Scalar]) -> RunLog:
    return dataclasses.replace(run, config={**config, **run.config})


def _sidecar(folder: Path) -> dict[str, Scalar]:
    """The configuration that stands beside a log: Ray's `params.json`, Lightning's `hparams.yaml`."""
    for name in _SIDECARS:
        file = folder / name
        if not file.is_file() or file.stat().st_size > 1_000_000:
            continue
        data = file.read_bytes()
        if name.endswith(".yaml"):
            return _yaml_settings(data.decode("utf-8", errors="replace"))
        try:
            tree = jsonlogs.parse(data, str(file))
        except FormatError:
            continue  # not the log itself: what it would add is unknown, not wrong
        if isinstance(tree, dict):
            return config_of(tree)
    return {}


def _yaml_settings(text: str) -> dict[str, Scalar]:
    """The `name: scalar` lines of a simple YAML file, nested by indentation; tags, anchors and lists are left out."""
    out: dict[str, Scalar] = {}
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon or not key.strip() or key.lstrip().startswith(("#", "-", "!")) or (value and not value[0].isspace()):
            continue
        depth = len(key) - len(key.lstrip())
        while stack and stack[-1][0] >= depth:
            stack.pop()
        name = ".".join([*(k for _, k in stack), key.strip().strip("'\"")])
        plain = value.split(" #")[0].strip()
        if plain and plain[0] not in "!&*[{|>":
            out[name] = scalar_of_text(plain)
        elif not plain:
            stack.append((depth, key.strip()))
    return out


# -- folders ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """What is read at once: one file, the event files of one folder, or the folder of one run of MLflow's file store.

    kind : as :func:`kind_of` says, or ``file store``; paths : the files, or that folder
    """

    kind: str
    paths: tuple[Path, ...]
    where: Where

    def read(self, options: Mapping[str, Any]) -> list[RunLog]:
        """Its runs; of a log that was rotated, the earlier parts beside it too.

        Raises
        ------
        FarfieldError, OSError : what the reader of its kind refuses
        """
        if self.kind == "file store":
            return mlflow.read_file_store_run(self.paths[0])
        if self.kind == "tensorboard":
            return tensorboard.read_tensorboard([(str(file), file.read_bytes()) for file in self.paths], self.where)
        path = self.paths[0]
        if self.kind in _TABLES and (earlier := rotated(path)):
            return self.read_from(joined_parts(self.kind, [*(part.read_bytes() for part in earlier), path.read_bytes()]), options)
        return _from_file(path, self.where, options)

    def read_from(self, data: bytes, options: Mapping[str, Any]) -> list[RunLog]:
        """Its runs, from what was read of its file."""
        return from_bytes(data, self.where, options, _sidecar(self.paths[0].parent))


def joined_parts(kind: str, parts: Sequence[bytes]) -> bytes:
    """The parts of one log, oldest first, as one; a header that a later part repeats is left out."""
    header = parts[0].partition(b"\n")[0].strip()
    whole = [parts[0]]
    for part in parts[1:]:
        first, _, rest = part.partition(b"\n")
        if not whole[-1].endswith(b"\n"):
            whole.append(b"\n")
        whole.append(rest if kind == "text" and first.strip() == header else part)
    return b"".join(whole)


def rotated(path: Path) -> list[Path]:
    """The earlier parts of a log that is rotated, ``log.jsonl.2`` before ``log.jsonl.1``."""
    found = {}
    for name in os.listdir(path.parent):
        match = _ROTATED.match(name)
        if match and match["live"] == path.name and (path.parent / name).is_file():
            found[int(match["number"])] = path.parent / name
    return [found[number] for number in sorted(found, reverse=True)]


def live_name(name: str) -> str | None:
    """The name of the log that a file of this name would be an earlier part of, None if it has no such name."""
    match = _ROTATED.match(name)
    return match["live"] if match else None


def pieces_in(root: Path, prefix: str, kind: Callable[[Path], str | None]) -> Iterator[Piece]:
    """Every piece below a folder in order of name; `kind` says what a file holds. Files of no known kind are pieces too
    (``other``, ``empty``, ``unreadable``), so that a caller can say what it passed over."""
    for folder, files in _walk(root):
        if mlflow.is_file_store_run(folder):
            yield Piece("file store", (folder,), where_of(folder / "metrics", root, prefix))
            continue
        # an earlier part of a rotated log is read with the log
        kinds = {file: kind(folder / file) for file in files if live_name(file) not in files}
        if "result.json" in files:  # a Ray trial: the other files repeat it
            kinds = {file: found for file, found in kinds.items() if file != "progress.csv" and found != "tensorboard"}
        events = tuple(folder / file for file, found in kinds.items() if found == "tensorboard")
        if events:
            where = where_of(folder / "events.out.tfevents", root, prefix)
            yield Piece("tensorboard", events, Where(str(folder), where.name, where.folder))
        for file, found in kinds.items():
            if file not in _SIDECARS and found != "tensorboard":
                yield Piece(found or "other", (folder / file,), where_of(folder / file, root, prefix))


def joined(pieces: Iterable[tuple[Piece, Sequence[RunLog]]]) -> list[RunLog]:
    """The runs of a folder's pieces: of a trainer's checkpoints the furthest, the parts of a resumed run as one, hyperparameters
    handed to the run they are of."""
    plain: list[RunLog] = []
    events: list[RunLog] = []
    for piece, runs in pieces:
        (events if piece.kind == "tensorboard" else plain).extend(runs)
    return _furthest_checkpoints(resumed.join(plain)) + tensorboard.merge_hparams(events)


def _from_folder(root: Path, prefix: str, options: dict[str, Any], found: Found) -> None:
    read = []
    for piece in pieces_in(root, prefix, lambda path: _kind_in_folder(path, found)):
        if piece.kind in ("text", "json"):
            read.append((piece, _read_if_log(found, piece, options)))
        elif piece.kind in ("other", "empty"):
            found.passed_over.append(str(piece.paths[0]))
        elif piece.kind != "unreadable":
            read.append((piece, _attempt(found, piece, options)))
    found.runs += joined(read)


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, its files) below `root` in order of name; hidden folders, caches and linked folders are left out."""
    for folder, below, files in os.walk(root):
        path = Path(folder)
        below[:] = sorted(d for d in below if not d.startswith(".") and d not in _SKIPPED_FOLDERS)
        if mlflow.is_file_store_run(path):
            below.clear()
        yield path, sorted(f for f in files if not f.startswith(".") and (path / f).is_file())


def _kind_in_folder(path: Path, found: Found) -> str | None:
    try:
        return kind_of(path)
    except OSError as error:
        found.problems.append(f"{path}: {error.strerror}")
        return "unreadable"


def _attempt(found: Found, piece: Piece, options: Mapping[str, Any]) -> list[RunLog]:
    """The runs of a piece; what its reader refuses is noted as a problem and the walk goes on."""
    path = piece.paths[0].parent if piece.kind == "tensorboard" else piece.paths[0]
    try:
        return piece.read(options)
    except (FarfieldError, OSError) as error:
        message = str(error)
        found.problems.append(message if str(path) in message else f"{path}: {message}")
        return []


def _read_if_log(found: Found, piece: Piece, options: Mapping[str, Any]) -> list[RunLog]:
    """Text or JSON met in a folder: runs if it reads like a log, else passed over.

    Tables and objects of other kinds abound beside logs: a log has a position and a metric, or a metric whose name is one.
    """
    path = piece.paths[0]
    try:
        runs = piece.read(options)
    except (FarfieldError, OSError) as error:
        if path.suffix.casefold() in LOG_SUFFIXES:
            found.problems.append(str(error))
        else:
            found.passed_over.append(str(path))
        return []
    logs = [run for run in runs if is_log(run)]
    if not logs:
        found.passed_over.append(str(path))
    return logs


def is_log(run: RunLog) -> bool:
    """Whether what was read from a table in a folder is the log of a run, and not a table of another kind."""
    metrics = [name for name in run.metrics if not names.is_housekeeping(name)]
    if run.step_name != "row":
        return bool(metrics)
    return any(names.goal(name) and run.metrics[name].value.size >= 3 for name in metrics)


def _furthest_checkpoints(runs: list[RunLog]) -> list[RunLog]:
    """Of the states of one trainer, one a checkpoint, the one that has seen most."""
    best: dict[str, RunLog] = {}
    for run in runs:
        if Path(run.source).name == TRAINER_STATE and (run.name not in best or _reached(run) >= _reached(best[run.name])):
            best[run.name] = run
    chosen = {id(run) for run in best.values()}
    return [run for run in runs if Path(run.source).name != TRAINER_STATE or id(run) in chosen]


def _reached(run: RunLog) -> float:
    return max((float(s.step[-1]) for s in run.metrics.values() if s.step.size and s.step[-1] == s.step[-1]), default=-1.0)


# -- names --------------------------------------------------------------------------------------------------------------------


def where_of(path: Path, root: Path | None, prefix: str) -> Where:
    """A run's name from its place: the path below the root, without what every such file is called."""
    shown = path.resolve() if root is None else path
    parts = list(shown.parent.parts if root is None else shown.parent.relative_to(root).parts)
    if path.name == TRAINER_STATE and parts and _CHECKPOINT.match(parts[-1]):
        parts.pop()
    if root is None:
        parts = parts[-1:]
    if _GENERIC_STEM.match(path.stem) or _GENERIC_STEM.match(path.name):
        parts = parts or [(root or shown.parent).resolve().name]
    else:
        parts = [path.stem] if root is None else [*parts, path.stem]
    if prefix:
        parts = [prefix, *parts] if parts != [prefix] else parts
    name = "/".join(parts) or "run"
    return Where(str(path), name, "/".join(parts[:-1]) or None)


def unique(runs: list[RunLog]) -> list[RunLog]:
    """Runs with distinct names: of equal ones, each gets what tells its source apart."""
    counts = Counter(run.name for run in runs)
    taken: set[str] = set()
    out = []
    for run in runs:
        name = run.name
        if counts[name] > 1:
            stem = run.source.rpartition("#")[2] if "#" in run.source else Path(run.source).stem
            stem = stem[:8] if _UUID.match(stem) else stem
            name = f"{name} ({stem})"
        base, k = name, 2
        while name in taken:
            name, k = f"{base} #{k}", k + 1
        taken.add(name)
        out.append(run if name == run.name else run.renamed(name))
    return out
