"""`farfield gap check`: how far out new rows without labels are, and what error to expect of them as far as a backtest goes."""

from __future__ import annotations

import click

from farfield.cli.output import emit, format_of, notes, output_options


@click.command("check")
@click.argument("train", metavar="TRAIN")
@click.argument("new", metavar="NEW")
@click.option("--target", required=True, metavar="COLUMN", help="What is predicted; a column of TRAIN.")
@click.option("--model", default="forest", show_default=True, metavar="NAME|FILE.py:FACTORY", help="What predicts it.")
@click.option("--score", default=None, metavar="NAME", help="mae, rmse, accuracy, log_loss... [default: mae, accuracy]")
@click.option(
    "--neighbour", "k", type=click.IntRange(1), default=5, show_default=True, help="Which nearest seen row is measured to."
)
@click.option("--edge", type=float, default=0.95, show_default=True, help="Share of the seen rows that lie within reach 1.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of the intervals.")
@click.option("--at-most", type=click.FloatRange(0, 1), metavar="SHARE", help="Exit code 1 if more of NEW is unsupported.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of folds, models and resamples.")
@output_options
def command(
    train: str, new: str, target: str, model: str, score: str | None, k: int, edge: float, level: float, at_most: float | None,
    seed: int, as_json: bool, as_csv: bool, out: str | None, quiet: bool,
) -> None:  # fmt: skip
    """How far the rows of NEW are from those of TRAIN, and what error to expect there.

    TRAIN holds the rows that the model was fitted on, NEW rows without labels; CSV or Parquet. The far end of TRAIN is hidden to
    learn how errors grow with reach. NEW rows past the reach that was tested so are unsupported: they get no figure. The table
    shows bins of reach; --csv and -o FILE.csv hold every new row.

    Exit code 0: done. 1: more is unsupported than --at-most allows. 2: bad input, such as NEW with other columns.
    """
    fmt = format_of(as_json, as_csv, out)
    with notes(quiet):
        from farfield.gap import get_score
        from farfield.gap.check import gap_check
        from farfield.gap.tables import MODELS, built_in, check_score, from_file, matching, prepare, read_table

        table = prepare(read_table(train), target)
        rows, ignored = matching(read_table(new), table, target)
        own = ":" in model and model not in MODELS
        estimator = from_file(model) if own else built_in(model, table, seed)
        scoring = score or ("mae" if table.task == "regression" else "accuracy")
        check_score(get_score(scoring), table, target, (model,))
        used = [c for c in table.X.columns if c not in table.left_out]
        found = gap_check(
            estimator, table.X, table.y, rows, scoring=scoring, k=k, edge=edge, level=level, name=model, rng=seed,
            columns=used,
        )  # fmt: skip
    if not quiet:
        if table.n_dropped:
            click.echo(f"note: {table.n_dropped} rows of {train} without {target} are left out", err=True)
        if ignored:
            click.echo(f"note: columns of {new} that are not used: {', '.join(ignored)}", err=True)
    enough = at_most is None or found.unsupported_share <= at_most
    document = {"train": train, "new": new, "target": target, "ignored": ignored, "enough": enough, **found.to_dict()}
    title = f"{found.scoring.label} of {model} to expect of {rows.height} new rows, by reach"
    emit(found.to_frame(), fmt, out, title=title, footer=found.summary(), shown=found.to_bins(), document=document)
    if out is not None and out != "-" and not quiet:
        click.echo(found.summary(), err=True)
    if not enough:
        click.echo(f"{100 * found.unsupported_share:.3g} % of the new rows are unsupported, more than --at-most allows", err=True)
        click.get_current_context().exit(1)
