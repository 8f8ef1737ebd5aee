"""The options by which every command that works on runs says which ones, and the reading itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from farfield.curves.data import Curves

_F = TypeVar("_F", bound=Callable[..., None])


def reading_options(function: _F) -> _F:
    """``PATH...``, ``--metric``, ``--x``, ``--goal``, ``--run``, ``--run-column``, passed on by the names that `read` takes."""
    options: tuple[Callable[[_F], _F], ...] = (
        click.option("--run-column", metavar="COLUMN", help="The column of a table that tells runs apart."),
        click.option("--run", "runs", metavar="NAME", multiple=True, help="Only runs of this name or pattern (repeatable)."),
        click.option("--goal", type=click.Choice(["min", "max"]), help="Which way is better, where the name does not tell."),
        click.option("--x", metavar="step|tokens|epoch|time|COLUMN", help="What to forecast by; default: what the logs count."),
        click.option("--metric", metavar="NAME", help="What to forecast, where several metrics were logged."),
        click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
    )
    for option in options:
        function = option(function)
    return function


def read(chosen: Mapping[str, Any]) -> Curves:
    """The curves that the options of `reading_options` name; warnings say what was left out."""
    from farfield.curves.readers import read_runs

    return read_runs(
        list(chosen["paths"]),
        metric=chosen["metric"],
        x=chosen["x"],
        goal=chosen["goal"],
        runs=list(chosen["runs"]) or None,
        run_column=chosen["run_column"],
    )
