"""`farfield weights`: checkpoints verified, compared, extrapolated and merged; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from farfield.cli import Group
from farfield.cli.output import QUIET, emit, format_of, output_options, plot_option
from farfield.cli.weights_signature import signature
from farfield.errors import InputError
from farfield.figures import save_plot

if TYPE_CHECKING:
    from farfield.formats import Rounding


@click.group("weights", cls=Group)
def command() -> None:
    """Checkpoints as points on a ray: verify, compare, extrapolate, merge."""


command.add_command(signature)


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
        click.get_current_context().exit(1)


@command.command()
@click.argument("a")
@click.argument("b")
@click.option("--by", type=click.Choice(["layer", "tensor"]), default="layer", show_default=True, help="One row each.")
@click.option("--include", metavar="REGEX", help="Only tensors in whose names this is found.")
@plot_option("A figure of the step of every layer")
@output_options
def diff(
    a: str, b: str, by: str, include: str | None, plot: str | None, as_json: bool, as_csv: bool, out: str | None, quiet: bool
) -> None:
    """What moved from checkpoint A to checkpoint B: norms, angle, share of elements changed."""
    from farfield.weights.compare import diff as diff_checkpoints

    fmt = format_of(as_json, as_csv, out)
    result = diff_checkpoints(a, b, include=include)
    frame = result.to_frame("layer" if by == "layer" else "tensor")
    if plot is not None:
        save_plot(result.plot, plot, (7, 4))
    if not quiet:
        alone = {"only in A": result.only_a, "only in B": result.only_b, "of two shapes": tuple(r[0] for r in result.reshaped)}
        for what, names in alone.items():
            if names:
                click.echo(f"note: not compared: {len(names)} tensors {what}, such as {names[0]!a}", err=True)
    shown = frame.select("name", "size", "norm_a", "norm_step", "relative", "cosine", "changed")
    emit(frame, fmt, out, shown=shown, footer=result.summary(), document=result.to_dict())


_THREADS = click.option(
    "--threads", type=click.IntRange(1, 64), help="Work in so many threads; by default two where there are two processors."
)
_LOW = click.option("--low", metavar="PATH", help="Write there what rounding loses: output + low has twice the digits.")
_WRITTEN = click.option(
    "-o", "--output", "out", required=True, metavar="PATH", help="A new directory, or a .safetensors file."
)  # fmt: skip
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Check everything and say what would be written.")
_FILTERS = (
    click.option("--include", multiple=True, metavar="REGEX", help="Only tensors in whose names this is found; repeatable."),
    click.option("--exclude", multiple=True, metavar="REGEX", help="Copy tensors in whose names this is found; repeatable."),
    click.option("--dtype", metavar="TYPE", help="Of the output: bfloat16, float16, float32 or float64 [default: the inputs']."),
    _THREADS,
)


def _filtered(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@command.command()
@click.option("--base", required=True, metavar="PATH", help="The checkpoint before tuning, such as SFT.")
@click.option("--tuned", required=True, metavar="PATH", help="The checkpoint after it, such as DPO.")
@click.option("--alpha", type=float, required=True, help="How far beyond tuned, in steps from base to tuned.")
@_WRITTEN
@click.option("--rounding", type=click.Choice(["nearest", "stochastic"]), default="nearest", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of stochastic rounding.")
@_LOW
@_DRY_RUN
@QUIET
@_filtered
def extrapolate(
    base: str,
    tuned: str,
    alpha: float,
    out: str,
    rounding: Rounding,
    seed: int,
    low: str | None,
    dry_run: bool,
    quiet: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    dtype: str | None,
    threads: int | None,
) -> None:
    """Write tuned + alpha (tuned - base), every element rounded once. TUNED may be a LoRA adapter (PEFT) on BASE.

    Integers, tensors left out and the files beside the weights are copied from tuned. A killed run goes on where it was.
    """
    from farfield.weights import extrapolate as expo
    from farfield.weights.algebra import write_plan

    prepared = expo.plan_extrapolation(
        base, tuned, alpha, dtype=dtype, include=include, exclude=exclude, rounding=rounding, seed=seed
    )
    if not dry_run:
        write_plan(prepared, out, low=low, threads=threads)
    if not quiet:
        click.echo(f"{out}: {prepared.summary()}{' (dry run: nothing written)' if dry_run else ''}", err=True)


@command.command()
@click.argument("recipe")
@_WRITTEN
@click.option("--dtype", metavar="TYPE", help="Of the output, instead of the recipe's.")
@_LOW
@_THREADS
@_DRY_RUN
@QUIET
def merge(recipe: str, out: str, dtype: str | None, low: str | None, threads: int | None, dry_run: bool, quiet: bool) -> None:
    """Merge checkpoints by a RECIPE: TOML, or mergekit's YAML or JSON.

    Methods: linear, task_arithmetic, extrapolate, slerp, model_stock, ties, dare_linear, dare_ties, breadcrumbs, breadcrumbs_ties,
    bitdelta, quantize, low_rank. A model may be a LoRA adapter (PEFT) on the base.
    """
    import dataclasses

    from farfield.weights.algebra import write_plan
    from farfield.weights.recipes import read_recipe

    read = read_recipe(recipe)
    if dtype is not None:
        read = dataclasses.replace(read, dtype=dtype)
    prepared = read.plan()
    if not dry_run:
        write_plan(prepared, out, low=low, threads=threads)
    if not quiet:
        click.echo(f"{out}: {read.method}, {prepared.summary()}{' (dry run: nothing written)' if dry_run else ''}", err=True)


@command.command()
@click.option("--base", required=True, metavar="PATH", help="The checkpoint before tuning.")
@click.option("--tuned", required=True, metavar="PATH", help="The checkpoint after it.")
@click.option("--score-cmd", required=True, metavar="COMMAND", help="Prints the score of {model}; run without a shell.")
@click.option("--test-cmd", metavar="COMMAND", help="The same on other examples: reported for alpha = 0 and the best.")
@click.option("--alphas", default="0,0.25,0.5,1,2,4", show_default=True, metavar="A,B,...", help="The grid; 0 is always in it.")
@click.option(
    "--search", type=click.Choice(["grid", "golden"]), default="grid", show_default=True, help="golden: between the ends."
)
@click.option("--evaluations", type=click.IntRange(4, 1000), default=8, show_default=True, help="Scores of a golden search.")
@click.option("--scratch", metavar="DIR", help="Where the one checkpoint that exists at a time is written [default: temporary].")
@click.option("--state", metavar="FILE", help="Keeps scores, so that the same command goes on where it was interrupted (.json).")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds a score may take.")
@plot_option("Score against alpha")
@_filtered
@output_options
def sweep(
    base: str,
    tuned: str,
    score_cmd: str,
    test_cmd: str | None,
    alphas: str,
    search: str,
    evaluations: int,
    scratch: str | None,
    state: str | None,
    timeout: float | None,
    plot: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    dtype: str | None,
    threads: int | None,
    as_json: bool,
    as_csv: bool,
    out: str | None,
    quiet: bool,
) -> None:
    """Score tuned + alpha (tuned - base) for several alpha. Exit code 1 if no step further scores higher than tuned.

    COMMAND is split into arguments as a shell would, {model} being the checkpoint's path. Its last line is the score, higher is
    better: a number, or JSON, an array of one number an example or {"scores": [...]}, which gives an interval of the gain.
    """
    from farfield.weights import extrapolate as expo
    from farfield.weights.scoring import ScoreCommand

    fmt = format_of(as_json, as_csv, out)
    try:
        grid = [float(a) for a in alphas.split(",")]
    except ValueError:
        raise InputError(f"--alphas is {alphas!r}; allowed: numbers and commas, such as 0,0.5,1") from None
    result = expo.sweep(
        base,
        tuned,
        ScoreCommand.parse(score_cmd, timeout),
        alphas=grid,
        search=search,
        evaluations=evaluations,
        test=None if test_cmd is None else ScoreCommand.parse(test_cmd, timeout),
        scratch=scratch,
        state=state,
        identity=f"{score_cmd!r} {test_cmd!r}",
        dtype=dtype,
        include=include,
        exclude=exclude,
        threads=threads,
    )
    if plot is not None:
        save_plot(result.plot, plot, (6, 3.6))
    emit(result.to_frame(), fmt, out, footer=result.summary(), document=result.to_dict(), every_row=True)
    if result.status is expo.SweepStatus.NO_GAIN:
        click.get_current_context().exit(1)
