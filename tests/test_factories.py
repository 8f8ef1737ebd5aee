"""What a user's own file makes: objects by name, and one sentence for whatever goes wrong in it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from farfield.errors import InputError
from farfield.factories import from_file, named

OWN = """
SIZE = 3

class Model:
    pass

def make():
    return [SIZE]

def broken():
    raise KeyError("no such weights")
"""

# a dataclass whose annotations are texts looks for its module in sys.modules
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Settings:
    depth: int = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return str(file)


def test_objects_and_what_factories_make(own: str) -> None:
    assert named(f"{own}:SIZE", "--model") == 3
    assert from_file(f"{own}:make", "--model") == [3]
    assert type(from_file(f"{own}:Model", "--model")).__name__ == "Model"


def test_a_class_knows_its_module_as_an_imported_one_does(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(DATACLASS)
    made = from_file(f"{tmp_path / 'settings.py'}:Settings", "--model")
    assert made.depth == 3
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mke", r"unknown factory in .*own.py 'mke'; allowed: Model, make, broken"),
        ("SIZE", r"--model .*own.py:SIZE is a int; allowed: a function without arguments, or a class"),
        ("broken", r"--model .*own.py:broken, called without arguments: KeyError: 'no such weights'"),
    ],
)
def test_what_goes_wrong_is_said_in_a_sentence(own: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_file(f"{own}:{name}", "--model")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file 'make' for --model make; the form is path.py:factory"):
        from_file("make", "--model")
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(InputError, match=r"is no Python file; --model takes path.py:factory"):
        from_file(f"{tmp_path / 'text.txt'}:x", "--model")
    (tmp_path / "syntax.py").write_text("def make(:")
    with pytest.raises(InputError, match=r"--model .*syntax.py:make: SyntaxError"):
        from_file(f"{tmp_path / 'syntax.py'}:make", "--model")
