"""`farfield limit`: a score of n generated samples beside what it would be with 50,000 and with infinitely many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from farfield.cli.output import emit, format_of, notes, output_options
from farfield.errors import InputError


@click.command("limit")
@click.argument("fake", metavar="FAKE")
@click.option("--reference", metavar="FILE", help="Features of the real data, or an .npz file of their mu and sigma (FID).")
@click.option("--metric", type=click.Choice(["fid", "is"]), default="fid", show_default=True, help="Frechet or Inception.")
@click.option("--features", "factory", metavar="FILE.py:FACTORY", help="A module that makes the features of samples.")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Samples at a time, for --features.  [default: 64]")
@click.option("--device", metavar="NAME", help="Where the module of --features computes, such as cuda.")
@click.option("--keep-features", "keep", metavar="FOLDER", help="Write the features there: fake.npy and reference.npy.")
@click.option("--at", type=float, multiple=True, default=(50_000.0,), show_default=True, metavar="N", help="Sizes (repeatable).")
@click.option("--min-size", type=int, metavar="N", help="Smallest subset; default a fifth of the samples, or two a feature.")
@click.option("--level", type=float, default=0.8, show_default=True, help="Level of the intervals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the subsets.")
@output_options
def command(
    fake: str,
    reference: str | None,
    metric: str,
    factory: str | None,
    batch_size: int | None,
    device: str | None,
    keep: str | None,
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

    For --metric is FAKE holds class probabilities. FILE::NAME says which array of a file with several. With --features FAKE and
    FILE hold samples instead (arrays of any shape, or folders of images or .npy files), and FACTORY, called without arguments,
    returns the torch module, or function of a batch, that makes their features; an .npz of mu and sigma stays what it is.

    Exit code 0: done. 2: bad input.
    """
    fmt = format_of(as_json, as_csv, out)
    if metric == "fid" and reference is None:
        raise InputError("FID compares with real data; give --reference FILE (or --metric is, which needs none)")
    if metric == "is" and reference is not None:
        raise InputError("the Inception Score has no reference; leave out --reference, or say --metric fid")
    if factory is None and (batch_size is not None or device is not None or keep is not None):
        raise click.UsageError("--batch-size, --device and --keep-features belong to --features FILE.py:FACTORY, which is missing")
    with notes(quiet):
        from farfield.curves.image_scores import fid_infinity, is_infinity

        ours: Any = fake
        theirs: Any = reference
        if factory is not None:
            ours, theirs = _extracted(fake, reference, factory, batch_size or 64, device, keep, quiet)
        if theirs is not None:
            found = fid_infinity(ours, theirs, min_size=min_size, level=level, rng=seed)
        else:
            found = is_infinity(ours, min_size=min_size, level=level, rng=seed)
    frame = found.to_frame(at)
    document = {**found.to_dict(), "at": frame.to_dicts()} if fmt == "json" else None
    shown = frame.rename({"value": found.metric, "low": f"low {100 * level:g} %", "high": f"high {100 * level:g} %"})
    if metric == "is":
        shown = shown.drop("reference")
    emit(frame, fmt, out, shown=shown, document=document, footer=f"\n{found.summary()}" if not quiet else None)


def _extracted(
    fake: str, reference: str | None, factory: str, batch_size: int, device: str | None, keep: str | None, quiet: bool
) -> tuple[Any, Any]:
    """Features of both, by the user's module; moments stay as they are."""
    from farfield.curves.extraction import extract_features
    from farfield.curves.image_scores import holds_moments
    from farfield.factories import from_file

    if keep is not None and not Path(keep).is_dir():
        raise InputError(f"there is no folder {keep} for --keep-features; make it first")
    module = from_file(factory, "--features")
    if not callable(module):
        raise InputError(
            f"--features {factory} returned {type(module).__name__}; allowed: a torch module, or a function of a batch of samples"
        )
    found: list[Any] = []
    for name, source in (("fake", fake), ("reference", reference)):
        if source is None or holds_moments(source):
            found.append(source)
            continue
        out = None if keep is None else Path(keep) / f"{name}.npy"
        if out is not None and out.resolve() in [Path(given).resolve() for given in (fake, reference) if given is not None]:
            raise InputError(f"--keep-features would overwrite {out}, which is read for FAKE or --reference; name another folder")
        found.append(extract_features(module, source, batch_size=batch_size, device=device, out=out, name=name, quiet=quiet))
    return found[0], found[1]
