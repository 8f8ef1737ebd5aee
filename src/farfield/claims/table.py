"""The tables of claims in README and docs: blocks between two comment lines, written from ``results/`` and from nothing else.

A block named ``claims`` stands between ``<!-- begin generated: claims -->`` and ``<!-- end generated: claims -->``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from farfield.claims.results import Row
from farfield.claims.verdict import Verdict
from farfield.errors import FormatError

BLOCK = "claims"
FILES = {"README.md": "short", "docs/claims.md": "long"}  # under the root of the checkout


def replace_block(text: str, name: str, body: str) -> str:
    """`text` with what stands between the two comment lines of the block `name` replaced by `body`.

    Raises FormatError where the block does not stand there exactly once, first line before last.
    """
    begin, end = f"<!-- begin generated: {name} -->", f"<!-- end generated: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise FormatError(f"the block {name!r} must stand once between the lines {begin!r} and {end!r}")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{body.strip()}\n{end}{rest.split(end)[1]}"


def short(rows: Iterable[Row]) -> str:
    """How many claims have each verdict, and one line for each claim."""
    rows = list(rows)
    counts = [(v.value, sum(r.verdict is v for r in rows)) for v in Verdict]
    said = ", ".join(f"{n} {name}" for name, n in counts if n)
    lines = [
        f"Claims run: {len(rows)} ({said})." if rows else "No claim has been run yet.",
        "",
        "| paper | claim | verdict |",
        "| --- | --- | --- |",
    ]
    return "\n".join(lines + [f"| {r.id} {_cell(r.title)} | {_cell(r.statement)} | {r.verdict.value} |" for r in rows])


def long(rows: Iterable[Row]) -> str:
    """One line a claim with the reason of its verdict, date, version and budget."""
    lines = ["| paper | claim | verdict | why | date | version | budget |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        paper = f"[{r.id}](../results/{r.id}.svg) {_cell(r.title)}"
        cells = (paper, _cell(r.statement), r.verdict.value, _cell(r.reason), r.date, r.version, r.budget)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def written(root: Path, rows: Mapping[str, Row]) -> dict[Path, tuple[str, str]]:
    """File under `root` -> (its text now, its text with the tables as `rows` have them); files that are missing are left out."""
    out = {}
    for name, which in FILES.items():
        path = root / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            body = short(rows.values()) if which == "short" else long(rows.values())
            try:
                out[path] = (text, replace_block(text, BLOCK, body))
            except FormatError as error:
                raise FormatError(f"{path}: {error}") from None
    return out
