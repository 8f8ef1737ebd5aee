"""`farfield papers`: list, show and search the catalogue; no method and no array library is imported for it."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from farfield.cli import Group
from farfield.cli.output import JSON, Format, emit, format_of, json_text, output_options, to_stdout, write
from farfield.errors import InputError, unknown_name
from farfield.papers import index
from farfield.papers.index import Catalogue, Entry


@click.group("papers", cls=Group)
def command() -> None:
    """The catalogue: 103 papers, what is built of each, and whether its claim holds here."""


@command.command("list")
@click.option("--family", help="Only this family, such as curves.")
@click.option("--status", help="Only this status: planned, built, holds, weaker, inconclusive, fails, 'not run' or broken.")
@output_options
def list_(family: str | None, status: str | None, as_json: bool, as_csv: bool, out: str | None, quiet: bool) -> None:
    """Every paper with its family and its status."""
    from farfield.papers.record import FAMILIES
    from farfield.papers.status import STATUSES

    fmt = format_of(as_json, as_csv, out)
    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    if status is not None and status not in STATUSES:
        raise unknown_name("status", status, STATUSES)
    papers = [e for e in _catalogue(quiet).papers if family in (None, e.family) and status in (None, e.status)]
    if fmt != "table":
        _hand_over([entry.row() for entry in papers], Entry.COLUMNS, fmt, out)
        return
    shown = [(e.id, e.slug, e.family, str(e.year), _status(e), e.title) for e in papers]
    write(_table(("id", "slug", "family", "year", "status", "title"), shown, out) + f"\n{_counts(papers)}\n", out)


@command.command()
@click.argument("paper")
@JSON
@click.option("-o", "--output", "out", metavar="FILE", help="Write to FILE (.json or .txt), atomically.")
def show(paper: str, as_json: bool, out: str | None) -> None:
    """One paper, by id, slug, arXiv id or a piece of its title."""
    entry = index.load().find(paper)
    fmt = format_of(as_json, False, out)
    if fmt not in ("json", "table"):
        raise InputError(f"a paper is no table: cannot write it as {fmt}; allowed: json, or txt for its page")
    write(json_text(entry.to_dict()) if fmt == "json" else _page(entry), out)


@command.command()
@click.argument("question", nargs=-1, required=True)
@click.option("--n", "n", type=click.IntRange(1), default=5, show_default=True, help="How many papers to show.")
@output_options
def search(question: tuple[str, ...], n: int, as_json: bool, as_csv: bool, out: str | None, quiet: bool) -> None:
    """The papers that answer a plain-language question, best first."""
    fmt = format_of(as_json, as_csv, out)
    found = _catalogue(quiet).search(" ".join(question), n)
    rows = [{**entry.row(), "score": round(score, 4), "use_when": entry.record["use_when"]} for entry, score in found]
    if fmt != "table":
        _hand_over(rows, (*Entry.COLUMNS, "score", "use_when"), fmt, out)
        return
    if not found:
        write("no paper matches; try other words, or: farfield papers list\n", out)
        return
    shown = [(e.id, e.slug, e.family, _status(e), f"{score:.2f}", e.record["use_when"]) for e, score in found]
    write(_table(("id", "slug", "family", "status", "score", "use when"), shown, out), out)


def _catalogue(quiet: bool) -> Catalogue:
    """The catalogue; a line on standard error for every record in it that cannot be read."""
    catalogue = index.load()
    for problem in () if quiet else catalogue.left_out.values():
        click.echo(f"note: left out: {problem}", err=True)
    return catalogue


def _status(entry: Entry) -> str:
    """The status as a table shows it; a paper's own claim known not to hold is marked before it was run here."""
    if entry.known and entry.status in ("planned", "built"):
        return f"{entry.status} (known: {entry.known})"
    return entry.status


def _counts(papers: Sequence[Entry]) -> str:
    counts = Counter(entry.status for entry in papers)
    total = f"{len(papers)} paper" if len(papers) == 1 else f"{len(papers)} papers"
    return ": ".join([total, ", ".join(f"{n} {name}" for name, n in counts.items())] if counts else [total])


def _page(entry: Entry) -> str:
    record, claim = entry.record, entry.record["claim"]
    when = f", run {entry.date} with farfield {entry.version}" if entry.date else ""
    arxiv = f" · arXiv {entry.arxiv}" if entry.arxiv else ""
    lines = [f"{entry.id} {entry.slug} · {entry.title} ({entry.year}){arxiv}", f"{entry.family} · {entry.status}{when}", ""]
    parts: list[tuple[str, Sequence[str]]] = [
        ("broken", entry.problems),
        ("verdict", [entry.reason] if entry.reason else []),
        ("summary", [record["summary"]]),
        ("use when", [record["use_when"]]),
        ("answers", record["question"]),
        ("claim", [claim["statement"]]),
        ("shown by", [f"{c['kind']}: {c['description'] or c['name']}" for c in claim["criteria"]]),
        ("measured", [claim["budget"]]),
        ("ablation", [claim["ablation"] or f"none: {claim['no_ablation']}"]),
        ("known", [f"{claim['known']['verdict']}: {claim['known']['reason']}"] if claim["known"] else []),
        ("data", [_data(claim["data"])] if claim["data"] else []),
        ("in farfield", record["entry"]),
        ("tested by", record["oracle"]),
        ("needs", [f"pip install 'farfield[{','.join(record['requires'])}]'"] if record["requires"] else []),
        ("deviations", [f"{d['what']} {d['reason']}" for d in record["deviations"]]),
        ("peers", [f"{p['name']}: {p['note']}" if p["note"] else p["name"] for p in record["peers"]]),
        ("also called", ["; ".join(record["aka"])]),
    ]
    width = max(60, min(_width(), 120))
    for name, texts in parts:
        for i, text in enumerate(texts):
            head = f"{name if i == 0 else '':<12}"
            lines += textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * 12, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _data(fields: Mapping[str, Any]) -> str:
    """What data a claim needs, and which of its files are not on this machine."""
    from farfield.claims.data import absent
    from farfield.papers.record import Data

    data = Data(**fields)
    missing = absent(data.files)
    return data.told() + (f" (not at hand: {', '.join(missing)})" if missing else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], out: str | None) -> str:
    """Aligned columns; on a terminal the last one is cut to its width."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    cut = sys.stdout.isatty() and to_stdout(out)
    room = max(20, _width() - sum(widths) - 2 * len(widths)) if cut else sys.maxsize
    lines = []
    for row in (head, *rows):
        last = row[-1] if len(row[-1]) <= room else row[-1][: room - 1] + "…"
        lines.append("  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), last]).rstrip())
    return "\n".join(lines) + "\n"


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def _hand_over(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], fmt: Format, out: str | None) -> None:
    """Rows for a program. JSON and CSV are written here: the shared way imports polars, which costs more than the whole command."""
    if fmt == "parquet":
        emit(rows, fmt, out)
    elif fmt == "json":
        write(json_text(list(rows)), out)
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(file.getvalue(), out)
