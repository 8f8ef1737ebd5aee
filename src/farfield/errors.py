"""Errors a caller may catch: one base class, one subclass per remedy.

A message says what was got, what is allowed and what to do; an unknown name is answered with the nearest three.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class FarfieldError(Exception):
    """Base of every error farfield raises on purpose."""


class InputError(FarfieldError, ValueError):
    """An argument or the data in it cannot be used as given."""


class FormatError(FarfieldError, ValueError):
    """A file is not in the format it claims, or is damaged."""


class MissingExtraError(FarfieldError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    extra : name of the dependency set, as in ``pip install 'farfield[extra]'``
    what : what was asked for that needs it
    """

    def __init__(self, extra: str, what: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs the '{extra}' extra, which is not installed; run: pip install 'farfield[{extra}]'")


# extra -> the module whose presence shows that it is installed
EXTRA_MODULES = {
    "torch": "torch",
    "transformers": "transformers",
    "sklearn": "sklearn",
    "ray": "ray",
    "hpo": "optuna",
    "web": "starlette",
}


def installed(extra: str) -> bool:
    """Whether the optional dependency set `extra` is there; nothing of it is imported."""
    from importlib.util import find_spec  # costs more than this module: only where it is asked

    try:
        return find_spec(EXTRA_MODULES[extra]) is not None
    except ValueError:  # a module that was put in by hand and has no spec
        return EXTRA_MODULES[extra] in sys.modules


def require(extra: str, what: str) -> None:
    """Raise MissingExtraError, which says that `what` needs it, unless the optional dependency set `extra` is installed."""
    if not installed(extra):
        raise MissingExtraError(extra, what)


class ConvergenceWarning(UserWarning):
    """An iterative method stopped before reaching its tolerance."""


def short(value: object, length: int = 60) -> str:
    """`value` as a message shows it: its repr in one line, cut to `length` characters."""
    text = repr(value) if isinstance(value, str) else " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def nearest(name: str, allowed: Iterable[str], n: int = 3) -> list[str]:
    """The `n` allowed names closest in spelling to `name`, best first; never empty unless `allowed` is."""
    typed = name.casefold()[:100]  # comparing costs the product of the lengths

    def distance(allowed_name: str) -> tuple[float, bool]:
        return -difflib.SequenceMatcher(None, typed, allowed_name.casefold()).ratio(), allowed_name != name

    return sorted(allowed, key=distance)[:n]


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not one of `allowed`, with the nearest three; what is no text at all gets the first three."""
    names = list(allowed)
    if len(names) <= 3:
        hint = f"allowed: {', '.join(names) or 'none'}"
    elif not isinstance(name, str):
        hint = f"allowed: a name such as {', '.join(names[:3])} ({len(names)} are allowed)"
    else:
        hint = f"nearest: {', '.join(nearest(name, names))} ({len(names)} are allowed)"
    return InputError(f"unknown {kind} {short(name)}; {hint}")
