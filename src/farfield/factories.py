"""What a user's own Python file makes: the object that ``path.py:factory`` names on a command line.

The file is imported under a name of its own and the factory called without arguments. Whatever goes wrong in it is the user's to
mend and comes back as one sentence, with the original error as its cause.
"""

from __future__ import annotations

import importlib.util
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
    path, _, name = text.rpartition(":")
    file = Path(path)
    if not path or not file.is_file():
        raise InputError(f"no file {path or text!r} for {option} {text}; the form is path.py:factory")
    spec = importlib.util.spec_from_file_location(f"farfield_own_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; {option} takes path.py:factory")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, name, None)
        if not callable(make):
            raise unknown_name(f"factory in {path}", name, [n for n, v in vars(module).items() if callable(v) and n[0] != "_"])
        return make()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{option} {text}, called without arguments: {type(error).__name__}: {error}") from error
