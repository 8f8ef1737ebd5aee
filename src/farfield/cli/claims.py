"""`farfield claims`: run them, see where they stand, write their tables. The harness is imported only by the command that runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from farfield.cli import Group
from farfield.cli.output import JSON, hand_over, json_text, write
from farfield.errors import InputError

if TYPE_CHECKING:
    from farfield.claims.harness import Run, Seed
    from farfield.claims.results import Row

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("claims", cls=Group)
def command() -> None:
    """The papers' claims: run them here, and see their verdicts."""


@command.command("run")
@click.argument("papers", nargs=-1, metavar="[P015 ...]")
@click.option("--family", help="Every claim of this family that has a program, such as curves.")
@click.option("--all", "everything", is_flag=True, help="Every claim that has a program.")
@click.option(
    "--budget", type=click.Choice(["tiny", "full"]), default="full", show_default=True, help="Seconds, or minutes, a seed."
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Repetitions; fewer than 5 decide nothing."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Seeds run at the same time, one thread each."
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds a seed may take [default: 120 tiny, 900 full].")
@click.option("--memory", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True, help="GiB a seed may use.")
@click.option(
    "-o", "--output", "out", type=_FOLDER, metavar="FOLDER",
    help="Where to write P015.json and .svg [default: results; .claims/tiny for the tiny budget].",
)  # fmt: skip
@click.option("--cache", type=_FOLDER, default=Path(".claims"), show_default=True, help="Where finished seeds are kept.")
@click.option("--fresh", is_flag=True, help="Run seeds again that are kept.")
@JSON
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def run(
    papers: tuple[str, ...],
    family: str | None,
    everything: bool,
    budget: str,
    seeds: int,
    jobs: int,
    timeout: float | None,
    memory: float,
    out: Path | None,
    cache: Path,
    fresh: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run claims and write their results. Exit code 1 if one of them could not be run, whatever the verdicts.

    Interrupted, the finished seeds are kept: the same command goes on from there. A claim that this machine cannot run (data,
    extras) leaves an older result as it is.
    """
    from farfield.claims import figure, harness, results, sources

    chosen = sources.choose(sources.find(), papers, family, everything)
    folder = out or (Path("results") if budget == "full" else cache / "tiny")
    shown = _Progress(len(chosen) * seeds, quiet)
    built: list[dict[str, Any]] = []
    runs = harness.run_claims(
        chosen,
        budget=budget,
        seeds=seeds,
        jobs=jobs,
        cache=cache,
        limits=harness.Limits(timeout, memory),
        fresh=fresh,
        report=shown.seed,
    )
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with closing(runs):  # whatever ends this block, no seed's process outlives it
            for done in runs:
                result = results.build(done)
                built.append(result)
                if results.unavailable(done):
                    continue
                path = results.write(result, folder)
                figure.draw(result, path.with_suffix(".svg"))
    except KeyboardInterrupt:
        shown.end()
        click.echo(f"interrupted; finished seeds are kept in {cache}, the same command goes on from there", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    shown.end()
    built.sort(key=lambda r: str(r["id"]))
    if as_json:
        write(json_text(built), None)
    else:
        _print_table(
            ("paper", "verdict", "seeds", "seconds", "why"),
            [(r["id"], r["verdict"], str(len(r["seeds"])), f"{sum(r['seconds']):.1f}", r["reason"]) for r in built],
        )
        click.echo(
            f"written to {folder}/" if any((folder / f"{r['id']}.json").is_file() for r in built) else "nothing written", err=True
        )
    if any(r["verdict"] == "not run" for r in built):
        click.get_current_context().exit(1)


@command.command("status")
@click.option(
    "--results", "folder", type=_FOLDER, default=Path("results"), show_default=True, help="The folder of P015.json files."
)
@click.option("--check", is_flag=True, help="Exit code 1 where a verdict is worse than the committed one.")
@click.option("--against", default="HEAD", show_default=True, help="With --check: a git revision, or a folder of results.")
@JSON
def status(folder: Path, check: bool, against: str, as_json: bool) -> None:
    """Print the verdicts in the results folder.

    From best to worst: holds, weaker, inconclusive, fails, not run.
    """
    from farfield.claims import results

    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; run it in a checkout, give --results DIR, or make one: farfield claims run P018"
        )
    rows = results.read_folder(folder)
    if as_json:
        write(json_text([_plain(r) for r in rows.values()]), None)
    elif rows:
        _print_table(
            ("paper", "verdict", "date", "version", "budget", "why"),
            [(r.id, r.verdict.value, r.date, r.version, r.budget, r.reason) for r in rows.values()],
        )
    else:
        click.echo(f"no results in {folder}; farfield claims run P018 makes one", err=True)
    if check:
        before = results.read_folder(Path(against)) if Path(against).is_dir() else results.read_committed(folder, against)
        lost = results.worse(rows, before)
        for line in lost:
            click.echo(line, err=True)
        if lost:
            click.get_current_context().exit(1)


@command.command("table")
@click.option("--root", type=_FOLDER, default=Path(), help="The checkout whose README.md and docs/claims.md are written.")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a table is stale.")
def table(root: Path, check: bool) -> None:
    """Write the tables of claims in README.md and docs/claims.md."""
    from farfield.claims import results
    from farfield.claims import table as tables

    if not any((root / name).is_file() for name in tables.FILES):
        raise InputError(f"neither {' nor '.join(tables.FILES)} under {root}; run it in a checkout, or give --root")
    stale = tables.update(root, results.read_folder(root / "results"), check=check)
    for path in stale:
        click.echo(f"{path}: {'stale; farfield claims table writes it' if check else 'written'}", err=True)
    if check and stale:
        click.get_current_context().exit(1)


def _plain(row: Row) -> dict[str, Any]:
    return {**row.__dict__, "verdict": row.verdict.value}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Progress:
    """Seeds done, on a terminal only, in one line that is written over."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.done = total, 0
        self.on = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def seed(self, run: Run, seed: Seed | None) -> None:
        self.done += seed is not None
        if self.on:
            click.echo(f"\r\033[K{self.done}/{self.total} seeds, {run.claim.id} {run.budget}", err=True, nl=False)

    def end(self) -> None:
        if self.on:
            click.echo("\r\033[K", err=True, nl=False)


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(*header, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))  # Text: what a claim says is never read as markup
    hand_over(lambda console: console.print(shown))
