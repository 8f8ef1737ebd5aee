"""The schema of a paper's record, and its reader: `P015.toml` in, a `Paper` out, every mistake answered with file and line.

One file a paper beside this module, named by its id. `P015.toml` is the model to copy. Keys (all required unless marked optional;
there are no others, and statuses and verdicts are never typed: they follow from the source and from ``results/``)::

    id        "P015"; the name of the file
    slug      short name, lower case, letters, digits and hyphens; unique: "lc-pfn"
    title     the paper's title
    year      1990 to 2100; year of the first public version
    arxiv     optional: "2310.20447" (without version)
    family    one of FAMILIES; the sub-package in which the method lives
    question  1 to 4 questions that a user would ask and this paper answers, in the user's words, not the paper's
    use_when  one or two sentences: the situation in which to reach for it, and when not to
    aka       other names, abbreviations, and the words of neighbouring fields under which people look for it; 1 or more
    summary   exactly three sentences in our own words: what it does, how, what came out. A sentence ends in . ! or ? before a
              space and a capital, a digit, a quotation mark or a bracket; so "and others", not "et al."; "such as", not "e.g."
    entry     public dotted names that implement it: ["farfield.curves.lcpfn.LCPFN"]; empty until built
    oracle    its oracle tests: ["tests/curves/test_lcpfn.py::test_likelihood"]; empty until built
    requires  extras it needs, from `farfield.errors.EXTRA_MODULES`: ["torch"]; empty if the core is enough

    [[deviations]]      optional; once per place where ours differs from the paper
    what      what differs
    reason    why

    [[peers]]           optional; once per other implementation or rival a user might know
    name      package or method
    note      optional: what it does better or worse, what it lacks

    [claim]
    statement           one sentence of the paper, in our words, that can be measured
    budget              how it is measured: the tiny version (seconds, for CI) and the full one (minutes)
    ablation            what the method is without its key idea; that must hurt. Or, where none makes sense,
    no_ablation         the reason why there is none. Exactly one of the two.

    [claim.data]        optional; only if the claim needs data that cannot ship
    source              its name
    where               where to get it
    files               optional: the files or folders it is expected as, under $FARFIELD_DATA: ["curves/lcdb_accuracy.csv.gz"]

    [claim.known]       optional; only if the claim, or a part of it, was already found not to hold as the paper states it
    verdict             one of KNOWN_VERDICTS
    reason              what was found, with the figure

    [[claim.criteria]]  fields of `farfield.claims.criteria.Criterion`: name, kind, better, margin, relative, against, rate, alpha,
                        description; none until the protocol is fixed, which is before the first full run

TOML reads keys after a ``[table]`` into that table, so the plain keys come first. Runs of white space within a text, line breaks
among them, become one space.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farfield.claims.criteria import Criterion
from farfield.claims.data import VARIABLE
from farfield.errors import EXTRA_MODULES, FormatError, InputError, nearest, short

# family -> (the job it serves, what it is about); the sub-packages of the design
FAMILIES = {
    "curves": ("forecast", "runs, learning curves, scaling laws, metrics at infinity"),
    "length": ("extend", "longer contexts, longer sequences, larger grids"),
    "numbers": ("extend", "arithmetic, periodicity, integer sequences"),
    "weights": ("extend", "steps beyond a training state, edits of weights"),
    "precision": ("extend", "fewer bits, cheaper arithmetic"),
    "generate": ("extend", "larger pictures, longer videos"),
    "shift": ("gap", "other distributions, interventions, design beyond the data"),
    "evals": ("gap", "what language models can do, and how that is measured"),
    "regression": ("solve", "linear models, sampling, privacy, valid inference"),
    "solvers": ("solve", "equations, games, calibration, simulation"),
    "views": ("solve", "new views of scenes, surfaces from slices"),
}
KNOWN_VERDICTS = ("weaker", "inconclusive", "fails")

_SENTENCE_END = re.compile(r"[.!?](?=[)\"'”’]?(?:\s+[A-Z0-9\"'“(\[]|\s*$))")


@dataclass(frozen=True)
class Deviation:
    """A place where the implementation differs from the paper, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Peer:
    """Another implementation or a rival method that a user might know."""

    name: str
    note: str = ""


@dataclass(frozen=True)
class Data:
    """Data that a claim needs and that cannot ship: its name, where to get it, and its files under $FARFIELD_DATA."""

    source: str
    where: str
    files: tuple[str, ...] = ()

    def told(self) -> str:
        """All of it in one sentence."""
        expected = f"; expected as {' and '.join(self.files)} under ${VARIABLE}" if self.files else ""
        return f"{self.source}: {self.where}{expected}"


@dataclass(frozen=True)
class Known:
    """A claim already found not to hold as the paper states it: one of `KNOWN_VERDICTS` and what was found."""

    verdict: str
    reason: str


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that can be measured, and how; the fields are those of the schema above."""

    statement: str
    budget: str
    ablation: str | None = None
    no_ablation: str | None = None
    data: Data | None = None
    known: Known | None = None
    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True)
class Paper:
    """One record of the catalogue; the fields are those of the schema above, `path` is the file it came from."""

    id: str
    slug: str
    title: str
    year: int
    family: str
    question: tuple[str, ...]
    use_when: str
    aka: tuple[str, ...]
    summary: str
    entry: tuple[str, ...]
    oracle: tuple[str, ...]
    requires: tuple[str, ...]
    claim: Claim
    path: Path
    arxiv: str | None = None
    deviations: tuple[Deviation, ...] = ()
    peers: tuple[Peer, ...] = ()


def sentences(text: str) -> int:
    """How many sentences `text` has, by the rule of the schema."""
    return len(_SENTENCE_END.findall(text))


# -- what a value must be: None if it is fine, else what is allowed --

_Rule = Callable[[Any], str | None]


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "text that is not empty"


def _pattern(pattern: str, example: str) -> _Rule:
    compiled = re.compile(pattern)
    return lambda value: None if isinstance(value, str) and compiled.fullmatch(value) else f"text such as {example!r}"


def _one_of(allowed: Iterable[str]) -> _Rule:
    names = tuple(allowed)
    return lambda value: None if value in names and isinstance(value, str) else f"one of {', '.join(names)}"


def _year(value: Any) -> str | None:
    return (
        None if isinstance(value, int) and not isinstance(value, bool) and 1990 <= value <= 2100 else "a whole number, 1990 to 2100"
    )


def _list(item: _Rule, low: int = 0, high: int | None = None) -> _Rule:
    amount = f"{low} or more" if high is None else f"{low} to {high}"

    def rule(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) < low or (high is not None and len(value) > high):
            return f"a list of {amount} items"
        for entry in value:
            if problem := item(entry):
                return f"a list, each item {problem} (not {entry!r})"
        if len({str(entry).casefold() for entry in value}) < len(value):
            return "a list without repeats"
        return None

    return rule


def _three_sentences(value: Any) -> str | None:
    if _text(value):
        return _text(value)
    n = sentences(value)
    return None if n == 3 else f"exactly three sentences (this has {n})"


_TOP: dict[str, _Rule] = {
    "id": _pattern(r"P\d{3}", "P015"),
    "slug": _pattern(r"[a-z0-9]+(-[a-z0-9]+)*", "lc-pfn"),
    "title": _text,
    "year": _year,
    "arxiv": _pattern(r"\d{4}\.\d{4,5}", "2310.20447"),
    "family": _one_of(FAMILIES),
    "question": _list(_text, 1, 4),
    "use_when": _text,
    "aka": _list(_text, 1),
    "summary": _three_sentences,
    "entry": _list(_pattern(r"farfield(\.[A-Za-z_]\w*)+", "farfield.curves.lcpfn.LCPFN")),
    "oracle": _list(_pattern(r"tests/[\w/]+\.py::\w+(::\w+)?", "tests/curves/test_lcpfn.py::test_likelihood")),
    "requires": _list(_one_of(EXTRA_MODULES)),
}
_DEVIATION: dict[str, _Rule] = {"what": _text, "reason": _text}
_PEER: dict[str, _Rule] = {"name": _text, "note": _text}
_CLAIM: dict[str, _Rule] = {"statement": _text, "budget": _text, "ablation": _text, "no_ablation": _text}
_DATA: dict[str, _Rule] = {
    "source": _text,
    "where": _text,
    "files": _list(_pattern(r"\w[\w.-]*(/\w[\w.-]*)*", "curves/lcdb.csv.gz"), 1),
}
_KNOWN: dict[str, _Rule] = {"verdict": _one_of(KNOWN_VERDICTS), "reason": _text}
_OPTIONAL = {"arxiv", "note", "ablation", "no_ablation", "files"}


def read(path: str | Path) -> Paper:
    """The record in the file `path`.

    Raises `FormatError` with file and line: not UTF-8 or not TOML, an unknown key, a missing one, a value of the wrong type or
    form, a file name that is not the id; `InputError` if there is no such file.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); a record is a TOML file in UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the record {path}: {error.strerror}") from None
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        at = re.search(r"line (\d+)", str(error))
        line = at[1] if at else str(text.count("\n") + 1)
        raise FormatError(f"{path}:{line}: not valid TOML: {error}") from None
    return _Reader(path, text).paper(_one_space(data))


def read_all(folder: str | Path | None = None, left_out: dict[str, str] | None = None) -> dict[str, Paper]:
    """Every record ``P*.toml`` in `folder` (default: beside this module), by id in order.

    Raises what `read` raises, and `FormatError` if two records share a slug or an arXiv id. Where `left_out` is given, such a
    record is left out instead, and what is wrong with it stands there under the name of its file.
    """
    folder = Path(folder) if folder is not None else Path(__file__).parent
    papers: dict[str, Paper] = {}
    seen: dict[str, Paper] = {}
    for path in sorted(folder.glob("P*.toml")):
        try:
            paper = read(path)
            names = {key: what for what, key in (("id", paper.id), ("slug", paper.slug), ("arXiv id", paper.arxiv)) if key}
            if taken := [key for key in names if key in seen]:
                first = f"duplicate {names[taken[0]]} {taken[0]!r}, already used by {seen[taken[0]].path}"
                raise FormatError(f"{path}: {first}; every record needs its own")
        except (FormatError, InputError) as error:
            if left_out is None:
                raise
            left_out[path.stem] = str(error)
            continue
        seen.update(dict.fromkeys(names, paper))
        papers[paper.id] = paper
    return papers


def _one_space(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list):
        return [_one_space(item) for item in value]
    return {k: _one_space(v) for k, v in value.items()} if isinstance(value, dict) else value


class _Reader:
    """One file being read: turns tables into dataclasses and knows on which line each key stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def paper(self, data: Mapping[str, Any]) -> Paper:
        plain = {k: v for k, v in data.items() if k not in ("deviations", "peers", "claim")}
        self.check(plain, _TOP, (), extra=("deviations", "peers", "claim"))
        if plain["id"] != self.path.stem:
            raise self.error(("id",), f"id is {plain['id']!r} but the file is {self.path.name}; name the file {plain['id']}.toml")
        if "claim" not in data:
            raise self.error((), "missing table [claim]; see the schema in farfield.papers.record")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return Paper(
            **values,
            deviations=tuple(Deviation(**row) for row in self.rows(data.get("deviations", []), _DEVIATION, ("deviations",))),
            peers=tuple(Peer(**row) for row in self.rows(data.get("peers", []), _PEER, ("peers",))),
            claim=self.claim(data["claim"]),
            path=self.path,
        )

    def claim(self, data: Any) -> Claim:
        self.table(data, ("claim",))
        plain = {k: v for k, v in data.items() if k not in ("data", "known", "criteria")}
        self.check(plain, _CLAIM, ("claim",), extra=("data", "known", "criteria"))
        if ("ablation" in data) == ("no_ablation" in data):
            got = "both" if "ablation" in data else "neither"
            raise self.error(
                ("claim",),
                f"[claim] has {got} of ablation and no_ablation; allowed: exactly one (what is left out, or why nothing is)",
            )
        for key, rules in (("data", _DATA), ("known", _KNOWN)):
            if key in data:
                self.table(data[key], ("claim", key))
                self.check(data[key], rules, ("claim", key))
        return Claim(
            **plain,
            data=Data(**{**data["data"], "files": tuple(data["data"].get("files", ()))}) if "data" in data else None,
            known=Known(**data["known"]) if "known" in data else None,
            criteria=self.criteria(data.get("criteria", [])),
        )

    def criteria(self, rows: Any) -> tuple[Criterion, ...]:
        out: list[Criterion] = []
        for i, row in enumerate(self.tables(rows, ("claim", "criteria"))):
            where = ("claim", "criteria", i)
            for key, value in row.items():
                kinds = {"name": str, "kind": str, "better": str, "against": str, "description": str, "relative": bool}
                wanted = kinds.get(key)
                if wanted is not None and not isinstance(value, wanted):
                    raise self.error((*where, key), f"{key} is {value!r}; allowed: {'text' if wanted is str else 'true or false'}")
            try:
                criterion = Criterion.from_dict(row)
            except InputError as error:
                raise self.error(where, str(error)) from None
            if any(criterion.name == other.name for other in out):
                raise self.error(
                    (*where, "name"), f"duplicate criterion {criterion.name!r}; every criterion of a claim needs its own name"
                )
            out.append(criterion)
        return tuple(out)

    def rows(self, rows: Any, rules: Mapping[str, _Rule], where: tuple[str, ...]) -> list[dict[str, Any]]:
        for i, row in enumerate(self.tables(rows, where)):
            self.check(row, rules, (*where, i))
        return list(rows)

    def tables(self, rows: Any, where: tuple[str, ...]) -> list[dict[str, Any]]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.error(where, f"{'.'.join(where)} is {rows!r}; allowed: tables [[{'.'.join(where)}]]")
        return rows

    def table(self, data: Any, where: tuple[str, ...]) -> None:
        if not isinstance(data, dict):
            raise self.error(where, f"{'.'.join(where)} is {data!r}; allowed: a table [{'.'.join(where)}]")

    def check(
        self, data: Mapping[str, Any], rules: Mapping[str, _Rule], where: tuple[Any, ...], extra: tuple[str, ...] = ()
    ) -> None:
        for key in data:
            if key not in rules:
                close = ", ".join(nearest(key, [*rules, *extra]))
                raise self.error((*where, key), f"unknown key {key!r}; nearest: {close}")
        for key, rule in rules.items():
            if key not in data:
                if key in _OPTIONAL:
                    continue
                raise self.error(where, f"missing key {key!r}; see the schema in farfield.papers.record")
            if problem := rule(data[key]):
                raise self.error((*where, key), f"{key} is {short(data[key])}; allowed: {problem}")

    def error(self, where: tuple[Any, ...], message: str) -> FormatError:
        return FormatError(f"{self.path}:{self.line(where)}: {message}")

    def line(self, where: tuple[Any, ...]) -> int:
        """The line of the key at `where` (keys, and positions within arrays of tables), or of its table if the key is missing."""
        names = [part for part in where if isinstance(part, str)]
        index = next((part for part in where if isinstance(part, int)), 0)
        header, seen, at_table = "", -1, 1
        for number, line in enumerate(self.lines, start=1):
            if match := re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?\s*(#.*)?$", line):
                seen = seen + 1 if match[1] == header else 0
                header = match[1]
                if header == ".".join(names) and seen == index:
                    at_table = number
            elif (match := re.match(r"\s*[\"']?(\w+)[\"']?\s*=", line)) and names:
                inside = header == ".".join(names[:-1]) and (not header or seen == index)
                if match[1] == names[-1] and inside:
                    return number
        return at_table
