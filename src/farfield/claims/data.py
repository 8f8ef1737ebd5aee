"""Data that a claim needs and that cannot ship: found under `$FARFIELD_DATA`, or refused with where to get it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from farfield.errors import InputError

VARIABLE = "FARFIELD_DATA"


class MissingDataError(InputError):
    """A claim's data is not on this machine: the claim is *not run*, and an earlier result of it stays."""


def data_file(name: str) -> Path:
    """The file `name` (a path under `$FARFIELD_DATA`); raises MissingDataError where it is not there."""
    root = os.environ.get(VARIABLE)
    if not root:
        raise MissingDataError(f"${VARIABLE} is not set; put {name} under a directory and point ${VARIABLE} at it")
    path = Path(root) / name
    if not path.is_file():
        raise MissingDataError(f"${VARIABLE} is {root}, and there is no {name} under it")
    return path


def absent(files: Iterable[str]) -> list[str]:
    """Those of `files` (paths under `$FARFIELD_DATA`) that are not there; none where the variable is not set."""
    root = os.environ.get(VARIABLE)
    return [name for name in files if not (Path(root) / name).exists()] if root else []
