"""Progress on standard error, and only when that is a terminal: pipes, logs and ``--quiet`` see nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def progress(label: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar for the ``with`` block, which calls what it is given with the number of items done since the last call.

    Parameters
    ----------
    label : what is being done, a few words
    total : items to come, None where unknown
    quiet : show nothing
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=total)
        yield lambda n: shown.advance(task, n)


def track(items: Iterable[T], label: str, total: int | None = None, *, quiet: bool = False) -> Iterator[T]:
    """The items, one after another, with a progress bar that advances as each is done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(label, total, quiet=quiet) as advance:
        for item in items:
            yield item
            advance(1)
