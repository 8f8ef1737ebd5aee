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
    """How many claims have each verdict, and one line for each claim."""
    rows = list(rows)
    if not rows:
        return "No claim has been run yet.\n"
    counts = [(v.value, sum(r.verdict is v for r in rows)) for v in Verdict]
    said = ", ".join(f"{n} {name}" for name, n in counts if n)
    cells: list[tuple[object, ...]] = [(r.id, _text(r.title), _text(r.statement), r.verdict.value) for r in rows]
    return f"Claims run: {len(rows)} ({said}).\n\n" + documents.table(("", "paper", "claim", "verdict"), cells)


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
