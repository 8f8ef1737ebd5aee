"""The options that the commands on runs share: which runs, what of them, what else to learn from; and the reading itself."""

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


ESTIMATE = click.option("--estimate", default="final", show_default=True, metavar="final|mean:K|best", help="What is forecast.")
LR_SCHEDULE = click.option(
    "--lr-schedule", metavar="cosine:T|wsd:T,D|constant", help="The learning-rate schedule, where the logs have none."
)
CONTEXT = click.option("--context", multiple=True, metavar="PATH", help="Other runs to learn from, and no more (repeatable).")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of whatever is drawn.")


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


def read_context(chosen: Mapping[str, Any], paths: tuple[str, ...], curves: Curves | None = None) -> Curves | None:
    """The runs of ``--context``, read as `curves` were (where they were read already); None if there is none."""
    if not paths:
        return None
    same = {} if curves is None else {"metric": curves.metric.name, "goal": curves.metric.goal, "x": curves.x_name}
    return read({**chosen, **same, "paths": paths, "runs": ()})
