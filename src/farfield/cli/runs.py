"""`farfield runs`: what a set of logs holds (`list`), and one metric of it as one table (`read`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from farfield.cli import Group
from farfield.cli.output import emit, format_of, notes, output_options
from farfield.cli.reading import PATHS, RUN_COLUMN, reading_options
from farfield.cli.reading import read as read_chosen

if TYPE_CHECKING:
    import polars as pl

    from farfield.curves.data import Curves

_MOST_NOTES = 8


@click.group("runs", cls=Group)
def command() -> None:
    """Read training logs: TensorBoard, W&B, MLflow, Optuna, Trackio, Trainer, Ray, Lightning, Keras, CSV, JSON, Parquet."""


@command.command("list")
@PATHS
@RUN_COLUMN
@click.option("--all", "everything", is_flag=True, help="Housekeeping columns too (learning rate, times, ...), and every row.")
@output_options
def list_(
    paths: tuple[str, ...], run_column: str | None, everything: bool, as_json: bool, as_csv: bool, out: str | None, quiet: bool
) -> None:
    """Every run and metric in files and folders: ranges, status, restarts. `-` reads standard input."""
    from farfield.curves.readers import list_runs

    fmt = format_of(as_json, as_csv, out)
    table = list_runs(list(paths), run_column=run_column)
    frame = table.to_frame(every_column=everything)
    emit(frame, fmt, out, footer=_beneath(table, quiet), shown=_shown(frame), every_row=everything)


def _beneath(table: Any, quiet: bool) -> str:
    lines = ["", table.summary(), *(f"unreadable: {problem}" for problem in table.problems)]
    lines += [f"note: {note}" for note in table.notes[:_MOST_NOTES]]
    if table.passed_over and not quiet:
        lines.append(f"{len(table.passed_over)} other files passed over")
    return "\n".join(lines)


def _shown(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns in the order in which people need them; counts and attributes only where there are any."""
    counts = ["planned_end", "n_overlap", "n_nonfinite", "n_duplicate", "seed"]
    some = [c for c in counts if frame.height and (frame[c].fill_null(0) != 0).any()]
    group = ["group"] if frame["group"].is_not_null().any() else []
    return frame.select(
        "run", "metric", "status", "n", "x_last", "last", *some, "goal", "x", "x_first", "lowest", "highest", *group
    )


@command.command("read")
@reading_options
@output_options
def read(as_json: bool, as_csv: bool, out: str | None, quiet: bool, **chosen: Any) -> None:
    """One metric of many runs as one table, a row a point: run, x, value, covariates, attributes."""
    fmt = format_of(as_json, as_csv, out)
    with notes(quiet):
        curves = read_chosen(chosen)
    if fmt == "table":
        emit(_ends(curves), fmt, out, footer=f"\n{curves!r}")
    else:
        emit(long_frame(curves), fmt, out)


def long_frame(curves: Curves) -> pl.DataFrame:
    """A row a point: the points, and beside them the attributes of their run; reading it back gives the same curves."""
    points = curves.to_frame()
    kept = [c for c in curves.attributes.columns if c != "source" and (c == "run" or c not in points.columns)]
    used = [c for c in kept if c in ("run", "status") or curves.attributes[c].is_not_null().any()]
    return points.join(curves.attributes.select(used), on="run", how="left", maintain_order="left")


def _ends(curves: Curves) -> pl.DataFrame:
    """A row a run, for people: how many points, up to where, and the last value."""
    import polars as pl

    kept = [c for c in ("status", "planned_end", "seed", "group") if curves.attributes[c].is_not_null().any()]
    counts = [c for c in ("n_nonfinite", "n_duplicate", "n_overlap") if (curves.attributes[c] > 0).any()]
    first = [float(curves.x[p.start]) if p.stop > p.start else None for p in (curves.points(i) for i in range(len(curves)))]
    ends = {"run": list(curves.runs), "n": curves.lengths, f"{curves.x_name} from": first}
    ends |= {
        "to": [None if v != v else v for v in curves.last_x.tolist()],
        "last": [None if v != v else v for v in curves.last_y.tolist()],
    }
    return pl.DataFrame(ends).hstack(curves.attributes.select(kept + counts))
