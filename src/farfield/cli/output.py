"""How every command hands over what it found: tables drawn for people, JSON, CSV or Parquet for programs, figures and reports.

On a terminal a table is as wide as the terminal; what is piped is never cut. ``-o FILE`` is written atomically and its ending
says the format. JSON has null where a number is not finite, since JSON has no other way to say so.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from farfield.errors import InputError

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

Format = Literal["table", "json", "csv", "parquet"]
_ENDINGS: dict[str, Format] = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".txt": "table"}
_PIPE_WIDTH = 100_000
MOST_ROWS = 60
_F = TypeVar("_F", bound=Callable[..., None])

QUIET = click.option("-q", "--quiet", is_flag=True, help="No notes on standard error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def output_options(function: _F) -> _F:
    """The options ``--json``, ``--csv``, ``-o FILE``, ``--quiet``, passed on as ``as_json``, ``as_csv``, ``out``, ``quiet``."""
    options: tuple[Callable[[_F], _F], ...] = (
        QUIET,
        click.option("-o", "--output", "out", metavar="FILE", help="Write to FILE (.json, .csv, .parquet or .txt), atomically."),
        click.option("--csv", "as_csv", is_flag=True, help="Print CSV."),
        JSON,
    )
    for option in options:
        function = option(function)
    return function


def plot_option(what: str) -> Callable[[_F], _F]:
    """The option ``--plot FILE`` for a figure of `what`, passed on as ``plot``; a format that is not known is refused at once."""

    def checked(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
        if path is not None:
            from farfield.figures import check_format

            check_format(path)
        return path

    return click.option("--plot", metavar="FILE", callback=checked, help=f"{what} (.png, .svg or .pdf).")


def report_option(what: str) -> Callable[[_F], _F]:
    """The option ``--report FILE.html``, passed on as ``report``; another ending is refused at once."""

    def checked(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
        if path is not None and not path.casefold().endswith((".html", ".htm")):
            raise InputError(f"--report {path}: the file must end in .html")
        return path

    return click.option("--report", metavar="FILE.html", callback=checked, help=what)


def format_of(as_json: bool, as_csv: bool, out: str | None) -> Format:
    """The format that the options ask for: the flag, else the ending of `out`, else a table.

    Raises
    ------
    UsageError : both flags
    InputError : an ending that says no format
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot both be given; choose one")
    if as_json or as_csv:
        return "json" if as_json else "csv"
    if out is None or out == "-":
        return "table"
    ending = out[out.rfind(".") :].casefold() if "." in out else ""
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if out.startswith("/dev/"):
        return "table"
    raise InputError(f"cannot tell the format of {out} from its ending; allowed: {', '.join(_ENDINGS)}, or say --json or --csv")


def emit(
    frame: pl.DataFrame | Sequence[Mapping[str, Any]],
    fmt: Format,
    out: str | None = None,
    *,
    title: str | None = None,
    footer: str | None = None,
    shown: pl.DataFrame | None = None,
    document: Any = None,
    every_row: bool = False,
) -> None:
    """Hand over a table.

    Parameters
    ----------
    frame : a polars frame, or rows as mappings
    fmt : ``table``, ``json`` (an array of row objects), ``csv`` or ``parquet``
    out : a file to write, or None or ``-`` for standard output
    title, footer : lines above and beneath a drawn table
    shown : what a drawn table shows instead of `frame` (fewer columns, say)
    document : what JSON holds instead of the rows
    every_row : draw them all; otherwise the first ``MOST_ROWS``

    Raises
    ------
    InputError : `out` cannot be written
    """
    import polars as pl

    table = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(list(frame), infer_schema_length=None)
    if fmt == "table":
        drawn = table if shown is None else shown
        rows = drawn if every_row or not to_stdout(out) else drawn.head(MOST_ROWS)
        hand_over(lambda console: _draw(console, drawn, rows, title, footer), out)
    elif fmt == "json":
        write(json_text(table.to_dicts() if document is None else document), out)
    elif fmt == "csv":
        write(table.write_csv(), out)
    else:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        write(buffer.getvalue(), out)


def json_text(value: Any) -> str:
    """JSON with null for numbers that are not finite."""
    from farfield.wording import plain

    return json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"


def to_stdout(out: str | None) -> bool:
    """Whether ``-o`` names standard output, as it does where it is not given."""
    return out is None or out == "-"


def write(text: str | bytes, out: str | None) -> None:
    """Print `text`, as UTF-8 whatever the locale, or write it into the file `out`; InputError where that cannot be written."""
    # a file name that is no text holds surrogates, which UTF-8 cannot: they are escaped, as JSON does it
    data = text if isinstance(text, bytes) else text.encode(errors="backslashreplace")
    if out is None or out == "-":
        click.echo(data, nl=False)
        return
    from farfield.files import write_atomic

    write_atomic(out, data)


def hand_over(show: Callable[[Console], None], out: str | None = None) -> None:
    """Print what `show` draws, as wide as the terminal; into a pipe or the file `out`, as wide as the text and without colours."""
    from rich.console import Console

    if to_stdout(out) and sys.stdout.isatty():
        show(Console(highlight=False, markup=False, emoji=False))
        return
    drawn = io.StringIO()
    # into a pipe with colours only where FORCE_COLOR asks for them, into a file never
    force = None if to_stdout(out) else False
    show(Console(file=drawn, width=_PIPE_WIDTH, highlight=False, markup=False, emoji=False, force_terminal=force))
    write("".join(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines()), out)


def cell(value: Any) -> str:
    """A value as a table shows it: numbers with five figures, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isfinite(value) and value == int(value) and abs(value) < 1e7:
            return f"{int(value)}"
        return f"{value:.5g}"
    return str(value)


def _draw(console: Console, frame: pl.DataFrame, rows: pl.DataFrame, title: str | None, footer: str | None) -> None:
    """The rows of `frame` that are shown, and what is not said."""
    from rich.table import Table
    from rich.text import Text

    cells = [[cell(value) for value in row] for row in rows.iter_rows()]
    kept = _fitting(frame, cells, console.width) if console.width < _PIPE_WIDTH else frame.width
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, dtype in list(frame.schema.items())[:kept]:
        numeric = dtype.is_numeric()
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row[:kept]))
    if title:
        console.print(Text(title, "bold"))
    console.print(table)
    if kept < frame.width:
        console.print(Text(f"too narrow for {', '.join(frame.columns[kept:])}; --json and --csv hold every column", "dim"))
    if rows.height < frame.height:
        console.print(Text(f"the first {rows.height} of {frame.height} rows; --json and --csv hold all of them", "dim"))
    if footer:
        console.print(Text(footer))


def _fitting(frame: pl.DataFrame, cells: list[list[str]], width: int) -> int:
    """How many columns, from the left, fit on a terminal; long text may fold at half its width, but not below 16 letters."""
    room = width
    for i, (name, dtype) in enumerate(frame.schema.items()):
        longest = max([len(name), *(len(row[i]) for row in cells)])
        room -= 2 + (longest if dtype.is_numeric() else min(longest, max(16, longest // 2)))
        if room < -2 and i >= 2:
            return i
    return frame.width


@contextlib.contextmanager
def notes(quiet: bool = False) -> Iterator[None]:
    """Warnings raised inside become lines `note: ...` on standard error, none of them if `quiet`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            if not quiet:
                for line in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
                    click.echo(f"note: {line}", err=True)
