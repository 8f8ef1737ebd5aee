"""`farfield gap`: how much worse models are beyond what they saw, and how much of that is harder data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from farfield.cli.output import emit, format_of, notes, output_options, plot_option, report_option
from farfield.errors import InputError
from farfield.figures import save_figure

if TYPE_CHECKING:
    from farfield.gap import GapResult


class _WithCheck(click.Command):
    """The command, whose first argument may be `check`: the deployed case."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["check"]:
            from farfield.cli import gap_check

            return gap_check.command.make_context(f"{info_name} check", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


@click.command("gap", cls=_WithCheck, epilog="A model in use, and new rows without labels: farfield gap check --help")
@click.argument("data", metavar="DATA")
@click.option("--target", required=True, metavar="COLUMN", help="What is predicted.")
@click.option("--beyond", required=True, metavar="REGION", help="Where: 'Weight>q80', 'year>=1980 and origin==Japan'.")
@click.option("--model", default="forest", show_default=True, metavar="NAME|FILE.py:FACTORY", help="What predicts it.")
@click.option("--compare", "others", multiple=True, metavar="NAME|FILE.py:FACTORY", help="One more model; repeatable.")
@click.option("--score", default=None, metavar="NAME", help="mae, rmse, r2, accuracy, log_loss, auc... [default: mae, accuracy]")
@click.option("--group", metavar="COLUMN", help="Rows of a group are held out and resampled together.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Hold-outs and references drawn.")
@click.option(
    "--selection",
    type=click.Choice(["inside", "leave_region_out"]),
    default="inside",
    show_default=True,
    help="What the best model is chosen by: rows inside, or a region left out of what is seen.",
)
@click.option("--jobs", type=int, default=None, metavar="N", help="Fits at a time; -1: one a core. Results do not depend on it.")
@click.option("--inside", "inside_size", type=float, default=0.2, show_default=True, help="Share of the seen rows held out.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the intervals.")
@plot_option("A figure of the parts of the gap")
@report_option("One file with the figure, the numbers and how to read them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of hold-outs, models and resamples.")
@output_options
def command(
    data: str, target: str, beyond: str, model: str, others: tuple[str, ...], score: str | None, group: str | None, repeats: int,
    selection: Literal["inside", "leave_region_out"], jobs: int | None,
    inside_size: float, level: float, plot: str | None, report: str | None, seed: int, as_json: bool, as_csv: bool, out: str | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Score models within what they saw and beyond it, and split the gap into difficulty and extrapolation.

    DATA is a CSV or Parquet file. REGION compares columns with numbers, quantiles of the column (q80) or words, with and, or,
    brackets. Difficulty needs labels beyond, and depends on the model and on how many rows it is fitted on. The best model is
    chosen without reading what lies beyond.

    Exit code 0: measured. 2: bad input, or a model that failed (the others are reported all the same).
    """
    fmt = format_of(as_json, as_csv, out)
    failures: dict[str, str] = {}
    results: list[GapResult] = []
    with notes(quiet):
        from farfield.gap import compare, extrapolation_gap, get_score
        from farfield.gap.tables import MODELS, built_in, check_score, describe, from_file, prepare, read_table
        from farfield.splits import ConditionSplit

        frame = read_table(data)
        table = prepare(frame, target)
        groups = None
        if group is not None:
            from farfield.splits.rows import column

            groups = column(table.X, group)
            table.left_out[group] = "the group"
        scoring = score or ("mae" if table.task == "regression" else "accuracy")
        check_score(get_score(scoring), table, target, (model, *others))
        split = ConditionSplit(beyond, n_repeats=repeats, inside_size=inside_size, random_state=seed)
        pipeline = describe(table)
        for name in dict.fromkeys([model, *others]):
            own = ":" in name and name not in MODELS
            try:
                estimator = from_file(name) if own else built_in(name, table, seed)
                found = extrapolation_gap(
                    estimator,
                    table.X,
                    table.y,
                    split=split,
                    scoring=scoring,
                    groups=groups,
                    level=level,
                    name=name,
                    rng=seed,
                    n_jobs=jobs,
                    selection=selection,
                )
            except InputError as error:
                if not others:
                    raise
                failures[name] = str(error)
                continue
            results.append(found)
        comparison = compare(results, selection=selection, n_jobs=jobs) if len(results) > 1 else None
    if table.n_dropped and not quiet:
        click.echo(f"note: {table.n_dropped} rows without {target} are left out", err=True)
    for name, failure in failures.items():
        click.echo(f"error: {name}: {failure}", err=True)
    if results:
        if plot is not None or report is not None:
            _draw(results, plot, report, beyond, target, data, pipeline, failures)
        document: dict[str, Any] = {
            "data": data, "target": target, "beyond": beyond, "pipeline": pipeline, "rows_without_target": table.n_dropped,
            "results": [r.to_dict() for r in results], "failures": failures,
            "selected": None if comparison is None else comparison.selected,
            "differences": [] if comparison is None else comparison.to_frame().to_dicts(),
        }  # fmt: skip
        _hand_over(results, comparison, document, fmt, out, pipeline)
    if failures:
        raise InputError(f"{len(failures)} of {len(failures) + len(results)} models failed: {', '.join(failures)}")


def _hand_over(
    results: list[GapResult], comparison: Any, document: dict[str, Any], fmt: str, out: str | None, pipeline: str
) -> None:
    import polars as pl

    from farfield.gap.compare import CHOSEN_BY

    frame = pl.concat([r.to_frame() for r in results])
    rows = [
        {
            "model": r.model,
            **{n: _cell(getattr(r, n)) for n in ("inside", "reference", "beyond", "gap", "difficulty", "extrapolation")},
        }
        for r in results
    ]
    first = results[0]
    title = f"{first.scoring.label} of {len(results)} model{'s' * (len(results) > 1)} beyond {'; '.join(first.regions)}"
    counted = f"{100 * first.level:g} % intervals over {first.beyond.n} {first.unit}s beyond, {first.inside.n} inside"
    lines = [f"gap = difficulty + extrapolation, positive is worse beyond; {counted}"]
    lines += [f"{r.model}: {r.status.value}" for r in results]
    if comparison is not None:
        lines.append(f"selected by {CHOSEN_BY[comparison.selection]}: {comparison.selected}")
        lines += [
            f"{m} minus {comparison.selected}, {q}: {e}" for m, q, e in comparison.differences if q in ("beyond", "extrapolation")
        ]
    lines.append(f"pipeline of the built-in models: {pipeline}")
    emit(frame, fmt, out, title=title, footer="\n".join(lines), shown=pl.DataFrame(rows), document=document)  # type: ignore[arg-type]


def _cell(e: Any) -> str:
    return "–" if e is None else f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]"


def _draw(
    results: list[GapResult], plot: str | None, report: str | None, beyond: str, target: str, data: str, pipeline: str,
    failures: dict[str, str],
) -> None:  # fmt: skip
    from farfield.gap.plot import gap_figure

    if plot is not None:
        save_figure(gap_figure(results), plot)
    if report is not None:
        from farfield.files import write_atomic
        from farfield.gap.report import report_html

        write_atomic(report, report_html(results, target, beyond, data, pipeline, failures).encode())
