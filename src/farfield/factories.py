"""What a user's own Python file holds or makes: the object that ``path.py:name`` stands for on a command line.

The file is imported under a name of its own, and a factory in it called without arguments. Whatever goes wrong in it is the
user's to mend and comes back as one sentence, with the original error as its cause.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from farfield.errors import InputError, unknown_name


def from_file(text: str, option: str) -> Any:
    """What the factory of ``path.py:factory`` returns.

    Parameters
    ----------
    text : the file and the factory in it, which is called without arguments
    option : where it was given, for messages

    Raises InputError where there is no such file or factory, and where either fails.
    """
    return made(named(text, option), text, option)


def named(text: str, option: str) -> Any:
    """What stands under `name` in the file of ``path.py:name``; arguments and errors as in :func:`from_file`."""
    path, _, name = text.rpartition(":")
    file = Path(path)
    if not path or not file.is_file():
        raise InputError(f"no file {path or text!r} for {option} {text}; the form is path.py:factory")
    spec = importlib.util.spec_from_file_location(f"farfield_own_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; {option} takes path.py:factory")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for the module of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[spec.name]
        raise InputError(f"{option} {text}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise unknown_name(f"factory in {path}", name, [n for n, v in vars(module).items() if callable(v) and n[0] != "_"])
    return getattr(module, name)


def made(factory: Any, text: str, option: str) -> Any:
    """What `factory`, the object that `text` names, returns when it is called without arguments; errors as in :func:`from_file`."""
    if not callable(factory):
        raise InputError(f"{option} {text} is a {type(factory).__name__}; allowed: a function without arguments, or a class")
    try:
        return factory()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{option} {text}, called without arguments: {type(error).__name__}: {error}") from error
