"""What is planned, built, or decided: derived from the source and the results, never typed and without importing any method.

A paper is *planned* until its record names an entry and an oracle test; *built* when every name it gives exists in the source,
found by reading syntax trees; *broken* when one of them does not, or a result cannot be read; and once its claim was run it
carries the verdict of ``results/P015.json`` with date and version.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farfield.papers.record import Paper

VERDICTS = ("holds", "weaker", "inconclusive", "fails", "not run")
STATUSES = ("planned", "built", *VERDICTS, "broken")


@dataclass(frozen=True)
class Status:
    """Where a paper stands: one of `STATUSES`; date, version and reason of the verdict, if it is one; what is wrong, if broken."""

    name: str
    date: str | None = None
    version: str | None = None
    reason: str | None = None
    problems: tuple[str, ...] = ()


class Source:
    """The names that a checkout at `root` defines, by syntax tree; every file is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees: dict[Path, ast.Module | None] = {}

    def status(self, paper: Paper) -> Status:
        """Where `paper` stands in this checkout."""
        problems = [f"{name} does not exist" for name in paper.entry if not self.has_name(name)]
        problems += [f"{name} does not exist" for name in paper.oracle if not self.has_test(name)]
        if bool(paper.entry) != bool(paper.oracle):
            problems.append("an entry without an oracle test" if paper.entry else "an oracle test without an entry")
        date = version = reason = None
        name = "built" if paper.entry and paper.oracle else "planned"
        path = self.root / "results" / f"{paper.id}.json"
        if path.is_file():
            try:
                name, date, version, reason = _verdict(path)
            except ValueError as error:
                problems.append(f"results/{path.name}: {error}")
        return Status("broken" if problems else name, date, version, reason, tuple(problems))

    def has_name(self, dotted: str) -> bool:
        """Whether the public name ``farfield.module.name[.attribute]`` exists."""
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            base = self.root.joinpath("src", *parts[:cut])
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if (tree := self._tree(file)) is not None:
                    return self._defines(tree, parts[cut:])
        return False

    def has_test(self, name: str) -> bool:
        """Whether the test ``tests/file.py::[Class::]function`` exists."""
        file, *names = name.split("::")
        tree = self._tree(self.root / file)
        return tree is not None and self._defines(tree, names)

    def _defines(self, tree: ast.Module | ast.ClassDef, names: list[str]) -> bool:
        if not names:
            return True
        first, *rest = names
        for node in _statements(tree):
            if first not in _bound(node):
                lazy = _lazy_exports(node)
                if first in lazy and self.has_name(".".join([lazy[first], *names])):
                    return True
            elif not rest or (isinstance(node, ast.ClassDef) and self._defines(node, rest)):
                return True
        return False

    def _tree(self, file: Path) -> ast.Module | None:
        if file not in self._trees:
            try:
                self._trees[file] = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError):
                self._trees[file] = None
        return self._trees[file]


def _statements(tree: ast.Module | ast.ClassDef | ast.If | ast.Try) -> Iterator[ast.stmt]:
    """The statements of a body, those under ``if`` and ``try`` too: a name may be defined one way or another."""
    for node in tree.body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node)
        else:
            yield node


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {alias.asname or alias.name.split(".")[0] for alias in aliases}
    return set()


def _lazy_exports(node: ast.stmt) -> dict[str, str]:
    """Public name -> module, of a statement ``_EXPORTS = {...}`` (as in ``farfield/__init__.py``)."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and "_EXPORTS" in _bound(node)):
        return {}
    pairs = zip(node.value.keys, node.value.values, strict=True)
    return {
        k.value: v.value
        for k, v in pairs
        if isinstance(k, ast.Constant) and isinstance(v, ast.Constant) and isinstance(k.value, str) and isinstance(v.value, str)
    }


def _verdict(path: Path) -> tuple[str, str, str, str]:
    """Verdict, date, farfield version and reason in a results file; ValueError says what is wrong with it."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, RecursionError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    if not isinstance(data, dict) or data.get("verdict") not in VERDICTS:
        raise ValueError(f"no verdict in it; allowed: {', '.join(VERDICTS)}")
    fields = [data.get(key) for key in ("date", "version", "reason")]
    if not all(isinstance(value, str) for value in fields):
        raise ValueError("date, version and reason must be texts")
    return data["verdict"], *fields
