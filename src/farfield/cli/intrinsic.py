"""`farfield intrinsic-dim`: how many random directions training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from farfield import factories
from farfield.cli.output import emit, format_of, notes, output_options, plot_option
from farfield.errors import InputError, require
from farfield.figures import save_plot

if TYPE_CHECKING:
    from farfield.weights.intrinsic import Problem


@click.command("intrinsic-dim")
@click.argument("problem", metavar="toy|FILE.py:FACTORY")
@click.option(
    "--dims", metavar="D,D,...", help="Dimensions tried. [default: 1 to 15 for the toy; else 8, 16, ... below D, up to 4096]"
)
@click.option("--projection", "kind", type=click.Choice(["fastfood", "dense", "sparse"]), default="fastfood", show_default=True)
@click.option("--target", type=float, help="Share of the full score to be reached. [default: 0.9; the toy is solved or not]")
@click.option("--seeds", "n_seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings of each dimension.")
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Batches of a training.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=3e-3,
    show_default=True,
    help="Learning rate of AdamW with all weights.",
)
@click.option("--level", type=float, default=0.9, show_default=True, help="Level of the intervals, a bootstrap over seeds.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="First seed.")
@plot_option("Score against dimension")
@output_options
def command(
    problem: str, dims: str | None, kind: str, target: float | None, n_seeds: int, steps: int, rate: float, level: float, seed: int,
    plot: str | None, as_json: bool, as_csv: bool, out: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Train in random subspaces of the weights, and find the smallest dimension that reaches 90 % of full training's score.

    FACTORY takes no arguments and returns (model, loss, score): a torch module, loss(model, rng) of a batch drawn with a NumPy
    generator, and score(model), above 0, higher is better. `toy` is the paper's problem of 1000 weights whose answer is 10.

    Exit code 0: found. 1: no dimension tried suffices. 2: bad input.
    """
    fmt = format_of(as_json, as_csv, out)
    tried = None if dims is None else _dims(dims)
    with notes(quiet):
        from farfield.weights.intrinsic import (
            TOY_PARAMS,
            TOY_TARGET,
            IntrinsicStatus,
            intrinsic_dimension,
            subspace_training,
            toy_training,
        )

        if problem == "toy":
            train, n_params = toy_training(kind), TOY_PARAMS
            tried, target = tried or list(range(1, 16)), TOY_TARGET if target is None else target
        else:
            make = _Factory(problem)
            n_params = make.n_params()
            from farfield.nn.trainer import Recipe

            train = subspace_training(make, Recipe(steps, rate), kind)
            tried = tried or [d for d in (2**k for k in range(3, 13)) if d < n_params] or [n_params]
        if max(tried) > n_params:
            raise InputError(f"--dims holds {max(tried)} and there are {n_params} parameters; allowed: up to {n_params}")
        found = intrinsic_dimension(
            train, tried, n_seeds=n_seeds, target=0.9 if target is None else target, level=level, n_params=n_params, seed=seed,
            quiet=quiet,
        )  # fmt: skip
    if plot is not None:
        save_plot(found.plot, plot, (6, 3.6))
    document = found.to_dict() if fmt == "json" else None
    emit(found.to_frame(), fmt, out, document=document, footer=f"\n{found.summary()}" if not quiet else None, every_row=True)
    if found.status is IntrinsicStatus.NOT_REACHED:
        raise click.exceptions.Exit(1)


def _dims(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--dims is {text!r}; allowed: whole numbers and commas, such as 50,100,200") from None


class _Factory:
    """The function that ``path.py:factory`` names; what it returns is checked at every call."""

    def __init__(self, text: str) -> None:
        if ":" not in text:
            raise InputError(f"{text!r}: the problem is 'toy' or path.py:factory")
        require("torch", "training in a subspace")
        self.text = text
        self.make = factories.named(text, "the problem")

    def __call__(self) -> Problem:
        from torch import nn

        made = factories.made(self.make, self.text, "the problem")
        if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module) and all(map(callable, made[1:]))):
            raise InputError(f"{self.text} returned a {type(made).__name__}; allowed: (module, loss(model, rng), score(model))")
        model, loss, score = made
        return model, loss, score

    def n_params(self) -> int:
        return sum(p.numel() for p in self()[0].parameters() if p.requires_grad)
