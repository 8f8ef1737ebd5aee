"""`farfield limit`: a score of n generated samples beside what it would be with 50,000 and with infinitely many."""

from __future__ import annotations

import click

from farfield.cli.output import emit, format_of, notes, output_options
from farfield.errors import InputError


@click.command("limit")
@click.argument("fake", metavar="FAKE")
@click.option("--reference", metavar="FILE", help="Features of the real data, or an .npz file of their mu and sigma (FID).")
@click.option("--metric", type=click.Choice(["fid", "is"]), default="fid", show_default=True, help="Frechet or Inception.")
@click.option("--at", type=float, multiple=True, default=(50_000.0,), show_default=True, metavar="N", help="Sizes (repeatable).")
@click.option("--min-size", type=int, metavar="N", help="Smallest subset; default a fifth of the samples, or two a feature.")
@click.option("--level", type=float, default=0.8, show_default=True, help="Coverage of the intervals.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the subsets.")
@output_options
def command(
    fake: str,
    reference: str | None,
    metric: str,
    at: tuple[float, ...],
    min_size: int | None,
    level: float,
    seed: int,
    as_json: bool,
    as_csv: bool,
    out: str | None,
    quiet: bool,
) -> None:
    """The score of the features in FAKE (.npy, .npz, .safetensors, Parquet; a row a sample), as measured and at infinity.

    For --metric is FAKE holds class probabilities. FILE::NAME says which array of a file with several. Exit code 0: done. 2: bad
    input.
    """
    fmt = format_of(as_json, as_csv, out)
    if metric == "fid" and reference is None:
        raise InputError("FID compares with real data; give --reference FILE (or --metric is, which needs none)")
    if metric == "is" and reference is not None:
        raise InputError("the Inception Score has no reference; leave out --reference, or say --metric fid")
    with notes(quiet):
        from farfield.curves.image_scores import fid_infinity, is_infinity

        if reference is not None:
            found = fid_infinity(fake, reference, min_size=min_size, level=level, rng=seed)
        else:
            found = is_infinity(fake, min_size=min_size, level=level, rng=seed)
    frame = found.to_frame(at)
    document = {**found.to_dict(), "at": frame.to_dicts()} if fmt == "json" else None
    shown = frame.rename({"value": found.metric, "low": f"low {100 * level:g} %", "high": f"high {100 * level:g} %"})
    if metric == "is":
        shown = shown.drop("reference")
    emit(frame, fmt, out, shown=shown, document=document, footer=f"\n{found.summary()}" if not quiet else None)
