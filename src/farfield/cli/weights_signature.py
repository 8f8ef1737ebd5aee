"""`farfield weights signature`: robustness to a corruption as a patch of a checkpoint, taken, combined, put on and taken off."""

from __future__ import annotations

import click

from farfield.cli import Group
from farfield.cli.output import QUIET

_OUT = click.option("-o", "--output", "out", required=True, metavar="PATH", help="A new file, or for checkpoints a new directory.")


@click.group("signature", cls=Group)
def signature() -> None:
    """Patches that add robustness to a corruption (P097): extract, project, combine, apply, remove."""


@signature.command()
@click.option("--pre", required=True, metavar="PATH", help="The checkpoint before fine-tuning.")
@click.option("--standard", required=True, metavar="PATH", help="The checkpoint fine-tuned as usual.")
@click.option("--robust", required=True, metavar="PATH", help="The checkpoint fine-tuned on the corruption.")
@click.option("--include", metavar="REGEX", help="Only tensors in whose names this is found, such as those of the first layers.")
@click.option("--exclude", metavar="REGEX", help="Not those in whose names this is found.")
@click.option("--bits", type=click.Choice(["8", "32"]), default="8", show_default=True, help="Of a stored number.")
@_OUT
@QUIET
def extract(
    pre: str, standard: str, robust: str, include: str | None, exclude: str | None, bits: str, out: str, quiet: bool
) -> None:
    """What training on a corruption adds beyond ordinary fine-tuning, as a .safetensors file."""
    from farfield.weights.patches import extract_signature

    found = extract_signature(pre, standard, robust, include=include, exclude=exclude, bits=int(bits))
    found.save(out)
    _say(quiet, f"{out}: {len(found.tensors)} tensors, {found.nbytes:,} bytes")


@signature.command()
@click.argument("of")
@click.argument("off")
@_OUT
@QUIET
def project(of: str, off: str, out: str, quiet: bool) -> None:
    """The signature OF without its part along the signature OFF, tensor by tensor, in float32."""
    from farfield.weights.signature import RobustWeightSignature

    first, second = RobustWeightSignature.load(of), RobustWeightSignature.load(off)
    first.project(second).save(out)
    _say(quiet, f"{out}: the cosine between them was {first.cosine(second):.3g}")


@signature.command()
@click.argument("signatures", nargs=-1, required=True)
@_OUT
@QUIET
def combine(signatures: tuple[str, ...], out: str, quiet: bool) -> None:
    """The mean of several SIGNATURES of the same tensors, in float32."""
    from farfield.weights.signature import RobustWeightSignature

    mean = RobustWeightSignature.combine([RobustWeightSignature.load(path) for path in signatures])
    mean.save(out)
    _say(quiet, f"{out}: {len(signatures)} signatures, {mean.nbytes:,} bytes")


@signature.command()
@click.argument("model")
@click.argument("patch", metavar="SIGNATURE")
@click.option("--strength", type=float, default=1.0, show_default=True, help="How much of the signature is added.")
@click.option("--undo", metavar="FILE", help="Write there what takes the patch off again (.safetensors).")
@_OUT
@QUIET
def apply(model: str, patch: str, strength: float, undo: str | None, out: str, quiet: bool) -> None:
    """Write the checkpoint MODEL with a SIGNATURE added, each number rounded once to the checkpoint's own type."""
    from farfield.weights.patches import apply_signature
    from farfield.weights.signature import RobustWeightSignature

    loaded = RobustWeightSignature.load(patch)
    apply_signature(model, loaded, out, strength=strength, undo=undo)
    kept = "nothing takes it off again without --undo" if undo is None else f"{undo} takes it off again"
    _say(quiet, f"{out}: {len(loaded.tensors)} tensors patched; {kept}")


@signature.command()
@click.argument("model")
@click.argument("undo")
@_OUT
@QUIET
def remove(model: str, undo: str, out: str, quiet: bool) -> None:
    """Write the patched checkpoint MODEL as it was before, to the bit; UNDO is what apply --undo wrote."""
    from farfield.weights.patches import remove_signature

    remove_signature(model, undo, out)
    _say(quiet, f"{out}: as it was before the patch")


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        click.echo(text, err=True)
