"""`farfield pfn`: the learning-curve networks: which ship, how they score on their prior, and how to train one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from farfield.cli import Group
from farfield.cli.output import emit, format_of, notes, output_options
from farfield.errors import InputError, require

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLOCKS = {"domhan": "steps", "wide": "relative"}
# the noise of the wide prior goes down to 1e-4, that of the paper's is rarely below 1e-3
_FLOORS = {"domhan": (1e-4, 1e-5), "wide": (2e-5, 3e-5)}


@click.group("pfn", cls=Group)
def command() -> None:
    """Networks that extrapolate learning curves in one pass (LC-PFN)."""


@command.command("list")
@output_options
def list_(as_json: bool, as_csv: bool, out: str | None, quiet: bool) -> None:
    """The networks that ship: their prior, size, training and scores."""
    from farfield.curves.pfn import LCPFN, MODELS
    from farfield.curves.pfn.context import CONTEXT_MODELS, ContextPFN
    from farfield.curves.pfn.scoring import CUTS

    fmt = format_of(as_json, as_csv, out)
    rows = []
    for name in (*MODELS, *CONTEXT_MODELS):
        card = dict((ContextPFN if name in CONTEXT_MODELS else LCPFN).load(name).card)
        # what a network that reads other runs says depends on them: farfield pfn score
        found = {s["cut"]: round(s["log_likelihood"], 3) for s in card["scores"] if "cut" in s}
        rows.append(
            {
                "name": name,
                "prior": card["prior"],
                "parameters": card["parameters"],
                "curves": card["curves"],
                "hours": round(card["hours"], 2),
                **{f"ll {100 * cut:g} %": found.get(cut) for cut in CUTS},
            }
        )
    emit(rows, fmt, out)


@command.command("score")
@click.argument("network", default="wide", metavar="[NAME|FILE.safetensors]")
@click.option("--prior", type=click.Choice(["domhan", "wide", "sweeps"]), help="Default: the one it was trained on.")
@click.option("--curves", type=int, default=1000, show_default=True, help="Fresh curves to score.")
@click.option("--seed", type=click.IntRange(0), default=12345, show_default=True, help="Of the curves.")
@output_options
def score(
    network: str, prior: str | None, curves: int, seed: int, as_json: bool, as_csv: bool, out: str | None, quiet: bool
) -> None:
    """Log-likelihood, error and coverage on fresh curves of a prior, cut at 10, 20, 40 and 80 % of their points.

    Of a network that reads other runs too (prior sweeps): on as many sweeps, beside the network it stands on.
    """
    import dataclasses

    from farfield.curves.pfn import LCPFN
    from farfield.curves.pfn.context import ContextPFN
    from farfield.curves.pfn.context_scoring import score_on_sweeps
    from farfield.curves.pfn.scoring import score_on_prior

    fmt = format_of(as_json, as_csv, out)
    found: Sequence[Any]
    if prior == "sweeps" or (prior is None and ContextPFN.is_one(network)):
        found = score_on_sweeps(ContextPFN.load(network), n=curves, rng=seed)
    else:
        model = LCPFN.load(network)
        found = score_on_prior(model, prior or str(model.card["prior"]), n=curves, rng=seed)
    emit([dataclasses.asdict(s) for s in found], fmt, out)


@command.command("train")
@click.option(
    "--prior",
    type=click.Choice(["domhan", "wide", "sweeps"]),
    default="wide",
    show_default=True,
    help="What curves are drawn from; sweeps trains a network that reads other runs too, on top of the network wide.",
)
@click.option("--steps", type=int, default=7000, show_default=True, help="Batches.")
@click.option("--batch", type=int, help="Curves a batch. Default: 32, of sweeps 112.")
@click.option("--asked", type=int, help="Pairs of a cut and a later point, a curve or sweep. Default: 64, of sweeps 12.")
@click.option("--learning-rate", type=float, default=1.5e-3, show_default=True, help="At the peak.")
@click.option("--width", type=int, help="Of a token. Default: 128, of sweeps 96.")
@click.option("--layers", type=int, help="Default: 4, of sweeps 2.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the initial weights and of every batch.")
@click.option("--threads", type=int, default=1, show_default=True, help="Of the processor.")
@click.option("--checkpoint", metavar="FILE", help="Saved every minute; a killed run goes on from it. Default: beside the output.")
@click.option("--scored-on", type=int, help="Fresh curves the scores in the card are from. Default: 1000, or 200 sweeps.")
@click.option("--name", help="What the network is called. Default: its prior.")
@click.option("-o", "--output", "out", required=True, metavar="FILE.safetensors", help="Where the trained network goes.")
@click.option("-q", "--quiet", is_flag=True, help="No log on standard error.")
def train(
    prior: str, steps: int, batch: int | None, asked: int | None, learning_rate: float, width: int | None, layers: int | None,
    seed: int, threads: int, checkpoint: str | None, scored_on: int | None, name: str | None, out: str, quiet: bool,
) -> None:  # fmt: skip
    """Train a network on draws from a prior, score it and save it with its card. Needs torch."""
    if not out.endswith(".safetensors"):
        raise InputError(f"-o {out}: the file must end in .safetensors")
    require("torch", "training a network")
    import torch

    from farfield.curves.pfn import LCPFN
    from farfield.curves.pfn.architecture import Architecture
    from farfield.curves.pfn.context import ContextPFN
    from farfield.curves.pfn.context_architecture import ContextArchitecture
    from farfield.curves.pfn.context_training import context_card, save_context, train_context
    from farfield.curves.pfn.scoring import PRIORS
    from farfield.curves.pfn.training import card_of, save_trained, train_network
    from farfield.nn.trainer import Recipe

    torch.set_num_threads(threads)
    recipe = Recipe(steps=steps, learning_rate=learning_rate, betas=(0.9, 0.99))

    def tell(line: object) -> None:
        if not quiet:
            click.echo(f"{line}", err=True)

    settings: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint or f"{out}.checkpoint", "on_log": tell, "quiet": quiet}
    with notes(quiet):
        if prior == "sweeps":
            first = LCPFN.load("wide").engine
            sizes = ContextArchitecture.on(first.arch, width=width or 96, layers=layers or 2)
            curves, questions = batch or 112, asked or 12
            context, log = train_context(first, sizes, recipe, curves=curves, questions=questions, **settings)
            card = context_card(name or "context", "wide", recipe, curves, questions, seed, context, log)
            save_context(out, context, card, n=scored_on or 200)
        else:
            floor, least = _FLOORS[prior]
            arch = Architecture(clock=_CLOCKS[prior], width=width or 128, layers=layers or 4, floor=floor, least_scale=least)
            batch, asked = batch or 32, asked or 64
            network, log = train_network(PRIORS[prior](), arch, recipe, batch=batch, asked=asked, **settings)
            about = card_of(name or prior, prior, recipe, batch, asked, seed, network, log)
            save_trained(out, network, about, n=scored_on or 1000)
    click.echo(f"{out}: {ContextPFN.load(out) if prior == 'sweeps' else LCPFN.load(out)}")
