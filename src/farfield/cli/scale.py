"""`farfield scale`: scaling laws of a sweep with intervals, the compute-optimal next run, and how far its backtest carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from farfield.cli.output import emit, format_of, notes, output_options, plot_option
from farfield.errors import InputError
from farfield.figures import save_plot

if TYPE_CHECKING:
    from farfield.curves.laws.law import ScalingLaw


@click.command("scale")
@click.argument("table", metavar="TABLE")
@click.option("--params", default="params", show_default=True, metavar="COLUMN", help="Model size.")
@click.option("--tokens", default="tokens", show_default=True, metavar="COLUMN", help="Training tokens.")
@click.option("--loss", default="loss", show_default=True, metavar="COLUMN", help="Final loss.")
@click.option("--flops", metavar="COLUMN", help="Training compute; default: 6 params tokens.")
@click.option("--unique", metavar="COLUMN", help="Unique tokens: adds the data-constrained law.")
@click.option("--bits", metavar="COLUMN", help="Bits trained in: adds the precision law.")
@click.option("--law", "laws", multiple=True, metavar="NAME", help="Laws to fit (repeatable); default: chinchilla and kaplan.")
@click.option("--target", "targets", multiple=True, metavar="flops=C|params=N,tokens=D", help="What is asked (repeatable).")
@click.option("--group", metavar="COLUMN", help="Rows resampled together; default: those of a run.")
@click.option("--run-column", metavar="COLUMN", help="The column that tells runs apart; default: run, run_name, run_id or name.")
@click.option(
    "--mid-run",
    type=click.Choice(["refuse", "last", "keep"]),
    default="refuse",
    show_default=True,
    help="Points from the middle of runs.",
)
@click.option("--translate", metavar="A:B", help="Losses of A as losses of B: two values of --data, or two columns of losses.")
@click.option("--data", metavar="COLUMN", help="The column of training sets, for --translate.")
@click.option("--given", multiple=True, type=float, metavar="LOSS", help="A known loss of A to translate (repeatable).")
@click.option("--level", type=float, default=0.9, show_default=True, help="Level of the intervals.")
@click.option("--refits", type=click.IntRange(10), default=1000, show_default=True, help="Refits of resampled runs a law.")
@plot_option("Lines of equal loss over compute and size")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the resampling.")
@output_options
def command(
    table: str,
    targets: tuple[str, ...],
    translate: str | None,
    plot: str | None,
    as_json: bool,
    as_csv: bool,
    out: str | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Fit scaling laws to TABLE, one row a finished run (.csv, .tsv, .parquet, or - for standard input).

    Exit code 0: fitted. 2: bad input.
    """
    fmt = format_of(as_json, as_csv, out)
    asked = [parse_target(text) for text in targets]
    if translate is None and (chosen["given"] or chosen["data"]):
        raise click.UsageError("--given and --data belong to --translate A:B, which is missing")
    if translate is not None and plot is not None:
        raise click.UsageError("--plot draws laws, not translations; leave one of --plot and --translate out")
    with notes(quiet):
        if translate is not None:
            document, rows, lines = translated(table, translate, asked, chosen)
        else:
            document, rows, lines = scaled(table, asked, plot, chosen)
    emit(rows, fmt, out, document=document, footer="\n".join(lines), every_row=True)


def parse_target(text: str) -> dict[str, float]:
    """``flops=1e24`` or ``params=7e10,tokens=1.4e12`` as a mapping."""
    out: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise InputError(f"--target {text}: allowed: NAME=NUMBER, several joined by commas, such as flops=1e24")
    return out


def load(table: str, columns: list[str], chosen: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """Frame, numbers by column and group labels of the rows to fit."""
    import warnings

    from farfield.curves.laws.sweep import choose_rows, numbers, read_table
    from farfield.errors import unknown_name

    frame, run, said = choose_rows(read_table(table), chosen["tokens"], chosen["run_column"], chosen["mid_run"])
    frame, values, missing = numbers(frame, columns)
    for line in [*said, *missing]:
        warnings.warn(line, UserWarning, stacklevel=2)
    group = chosen["group"] or run
    if group is not None and group not in frame.columns:
        raise unknown_name("column", group, frame.columns)
    return frame, values, None if group is None else frame[group].to_numpy()


def scaled(
    table: str, asked: list[dict[str, float]], plot: str | None, chosen: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """The document, the rows of its table, and the lines beneath."""
    from farfield.curves.laws import scaling

    names = {"params": chosen["params"], "tokens": chosen["tokens"]}
    laws = list(chosen["laws"])
    for option, column, law in (("unique", "unique_tokens", "data-constrained"), ("bits", "bits", "precision")):
        if chosen[option]:
            names[column] = chosen[option]
            laws += [law] * (law not in laws)
    laws = laws or ["chinchilla", "kaplan"]
    wanted = [*names.values(), chosen["loss"], *([chosen["flops"]] if chosen["flops"] else [])]
    _, values, groups = load(table, wanted, chosen)
    found = scaling(
        {name: values[column] for name, column in names.items()},
        values[chosen["loss"]],
        targets=asked,
        laws=laws,
        groups=groups,
        flops=values[chosen["flops"]] if chosen["flops"] else None,
        level=chosen["level"],
        n_boot=chosen["refits"],
        rng=chosen["seed"],
    )
    if plot is not None:
        save_plot(found.plot, plot, (7.0, 5.0))
    lines = found.summary().splitlines()
    lead = found.influential(1)[0]
    point = ", ".join(f"{name} {lead[name]:.4g}" for name in (*found.x, "loss"))
    lines.append(f"most influential run: {point} (moves the fit by {lead['shift_se']:.2g} standard errors); none is left out")
    return found.to_dict(), [dict(row) for row in found.targets] or found.parameters(), lines


def translated(
    table: str, pair: str, asked: list[dict[str, float]], chosen: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """As `scaled`, of losses of A translated to losses of B."""
    import numpy as np

    from farfield.curves.loss_to_loss import translate
    from farfield.errors import unknown_name

    a, colon, b = pair.partition(":")
    if not (a and colon and b):
        raise InputError(f"--translate {pair}: allowed: A:B, two training sets (with --data COLUMN) or two columns of losses")
    across = chosen["data"] is not None
    losses = [chosen["loss"]] * 2 if across else [a, b]
    frame, values, _ = load(table, [chosen["params"], chosen["tokens"], *dict.fromkeys(losses)], chosen)
    x = np.stack([values[chosen["params"]], values[chosen["tokens"]]], axis=1)
    rows = [np.ones(len(x), dtype=bool)] * 2
    if across:
        if chosen["data"] not in frame.columns:
            raise unknown_name("column", chosen["data"], frame.columns)
        sets = frame[chosen["data"]].cast(str).to_numpy()
        for name in (a, b):
            if name not in sets:
                raise unknown_name("training set", name, sorted(set(sets.tolist())))
        rows = [sets == a, sets == b]
    sides = [(x[r], values[c][r]) for r, c in zip(rows, losses, strict=True)]
    curve, pairs, law = translate(*sides[0], *sides[1], fit_floor=not across, n_boot=chosen["refits"], rng=chosen["seed"])
    given = [(f"{loss:g}", "given", float(loss)) for loss in chosen["given"]]
    given += [(label, f"by the {law.form} law of {a}", loss) for label, loss in by_law(law, asked)]
    out: list[dict[str, Any]] = []
    for label, source, loss in given:
        found = curve.predict([loss], target="logged")
        low, high = found.interval(chosen["level"])
        point = float(curve.expected([loss])[0])
        out.append(
            {
                "target": label,
                f"loss of {a}": loss,
                "source": source,
                f"loss of {b}": point,
                "low": float(low[0]),
                "high": float(high[0]),
            }
        )
    kind = "train-to-train" if across else "same models, two losses"
    lines = [
        f"{kind}: {curve.summary()}",
        f"{len(pairs)} pairs by params and tokens, {pairs.unpaired} runs without a partner, {pairs.averaged} averaged",
    ]
    if any(source != "given" for _, source, _ in given):
        lines.append(f"warning: where the loss of {a} comes from its law, the interval leaves out how sure that law is")
    least = float(pairs.loss_a.min())
    if any(loss < least for _, _, loss in given):
        lines.append(f"losses of {a} below {least:.4g} lie beyond the pairs")
    document = {
        "from": a,
        "to": b,
        "kind": kind,
        "curve": curve.to_dict(),
        "pairs": len(pairs),
        "translations": out,
        "notes": lines,
    }
    return document, out or [{"parameter": k, **v} for k, v in curve.to_dict().items()], lines


def by_law(law: ScalingLaw, asked: list[dict[str, float]]) -> list[tuple[str, float]]:
    """What `law` says of every target, with the target's label."""
    out = []
    for target in asked:
        label = ", ".join(f"{name}={value:g}" for name, value in target.items())
        if set(target) == {"flops"}:
            loss = law.minimise(target["flops"]).loss
        elif set(target) == {"params", "tokens"}:
            loss = float(law.expected([[target["params"], target["tokens"]]])[0])
        else:
            raise InputError(f"--target {label}: allowed with --translate: flops=C, or params=N,tokens=D")
        out.append((label, loss))
    return out
