"""`farfield weights`: checkpoints verified, compared, extrapolated and merged; nothing here needs torch."""

from __future__ import annotations

import sys

import click

from farfield.cli import Group
from farfield.cli.output import emit, format_of, output_options


@click.group("weights", cls=Group)
def command() -> None:
    """Checkpoints as points on a ray: verify, compare, extrapolate, merge."""


@command.command()
@click.argument("path")
@output_options
def verify(path: str, as_json: bool, as_csv: bool, out: str | None, quiet: bool) -> None:
    """Whether a checkpoint is whole: headers, index, checksums, numbers that are not finite. Exit code 1 if not."""
    from farfield.weights.compare import verify as verify_checkpoint

    fmt = format_of(as_json, as_csv, out)
    result = verify_checkpoint(path)
    for note in () if quiet else result.notes:
        click.echo(f"note: {note}", err=True)
    emit(result.to_frame(), fmt, out, footer=result.summary(), document=result.to_dict(), every_row=True)
    if not result.ok:
        sys.exit(1)


@command.command()
@click.argument("a")
@click.argument("b")
@click.option("--by", type=click.Choice(["layer", "tensor"]), default="layer", show_default=True, help="One row each.")
@click.option("--include", metavar="REGEX", help="Only tensors in whose names this is found.")
@click.option("--plot", "figure", metavar="FILE", help="A figure of the step of every layer (.png, .svg or .pdf).")
@output_options
def diff(
    a: str, b: str, by: str, include: str | None, figure: str | None, as_json: bool, as_csv: bool, out: str | None, quiet: bool
) -> None:
    """What moved from checkpoint A to checkpoint B: norms, angle, share of elements changed."""
    from farfield.weights.compare import diff as diff_checkpoints

    fmt = format_of(as_json, as_csv, out)
    if figure is not None:
        from farfield.curves.plot import check_format

        check_format(figure)
    result = diff_checkpoints(a, b, include=include)
    frame = result.to_frame("layer" if by == "layer" else "tensor")
    if figure is not None:
        from matplotlib.figure import Figure

        from farfield.curves.plot import save_figure

        drawn = Figure(figsize=(7, 4), layout="constrained")
        result.plot(drawn.subplots())
        save_figure(drawn, figure)
    if not quiet:
        alone = {"only in A": result.only_a, "only in B": result.only_b, "of two shapes": tuple(r[0] for r in result.reshaped)}
        for what, names in alone.items():
            if names:
                click.echo(f"note: not compared: {len(names)} tensors {what}, such as {names[0]!a}", err=True)
    shown = frame.select("name", "size", "norm_a", "norm_step", "relative", "cosine", "changed")
    emit(frame, fmt, out, shown=shown, footer=result.summary(), document=result.to_dict())
