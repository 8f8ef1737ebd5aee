"""The tables of claims in README.md and docs/claims.md: generated blocks made from ``results/`` and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from farfield import documents
from farfield.claims.results import Row
from farfield.claims.verdict import Verdict

BLOCK = "claims"
FILES = ("README.md", "docs/claims.md")  # under the root of the checkout: the short table, and the long one


def short(rows: Iterable[Row]) -> str:
    """One line a verdict: how many claims have it, and which papers they are of."""
    rows = list(rows)
    if not rows:
        return "No claim has been run yet.\n"
    cells: list[tuple[object, ...]] = []
    for verdict in Verdict:
        having = [r for r in rows if r.verdict is verdict]
        if having:
            cells.append((verdict.value, len(having), "; ".join(f"[{r.id}](results/{r.id}.svg) {_text(r.title)}" for r in having)))
    return documents.table(("verdict", "claims", "of"), cells)


def long(rows: Iterable[Row]) -> str:
    """One line a claim with the reason of its verdict, date, version, budget and figure."""
    cells: list[tuple[object, ...]] = []
    for r in rows:
        figure = f"[{r.id}](../results/{r.id}.svg)"
        cells.append((figure, _text(r.title), _text(r.statement), r.verdict.value, _text(r.reason), r.date, r.version, r.budget))
    return documents.table(("", "paper", "claim", "verdict", "why", "date", "version", "budget"), cells)


def _text(value: str) -> str:
    """What a claim says, harmless in a Markdown page."""
    return value.replace("&", "&amp;").replace("<", "&lt;")


def update(root: Path, rows: Mapping[str, Row], *, check: bool = False) -> list[Path]:
    """Write the tables into the files under `root` that exist, or with `check` only look; the files that changed, or would.

    Raises what `farfield.documents.update` raises.
    """
    contents = {"README.md": short(rows.values()), "docs/claims.md": long(rows.values())}
    paths = [root / name for name in FILES if (root / name).is_file()]
    return [p for p in paths if documents.update(p, {BLOCK: contents[p.relative_to(root).as_posix()]}, check=check)]
