"""Small claims made on the spot: a record and a program each, in folders of their own."""

import textwrap
from pathlib import Path

import pytest

from farfield.claims import sources

RECORD = """\
id = "{id}"
slug = "{slug}"
title = "A claim called {slug}"
year = 2024
family = "curves"
question = ["Does it work?"]
use_when = "Always."
aka = ["it"]
summary = "It does one thing. It does it so. That came out."
entry = ["farfield.curves.data.Curves"]
oracle = ["tests/test_it.py::test_it"]
requires = []

[claim]
statement = "It is better."
budget = "Seconds."
ablation = "Without it."

[[claim.criteria]]
name = "error"
kind = "superiority"
better = "lower"
margin = 0.5
"""

GOOD = """
import numpy as np
from farfield.claims.criteria import Curve, Measured

def run(budget, seed):
    rng = np.random.default_rng(seed)
    return Measured(
        ours={"error": 1 + 0.1 * rng.random()}, baseline={"error": 2 + 0.1 * rng.random()}, ablation={"error": np.float64(3)},
        curves=[Curve("ours", [1, 2, 3], np.array([3.0, 2.0, 1.0]), [2.5, 1.5, 0.5], [3.5, 2.5, 1.5])],
        axes=("step", "error"), notes={"n": 3},
    )
"""


class Claims:
    """Folders of records and programs, and what the harness finds in them."""

    def __init__(self, root: Path) -> None:
        self.papers, self.programs = root / "papers", root / "programs"
        self.papers.mkdir()
        self.programs.mkdir()

    def add(self, paper_id: str, program: str | None = GOOD, record: str | None = None, **replace: str) -> None:
        text = RECORD.format(id=paper_id, slug=f"claim-{paper_id.lower()}") if record is None else record
        for old, new in replace.items():
            assert old in text
            text = text.replace(old, new)
        (self.papers / f"{paper_id}.toml").write_text(text)
        if program is not None:
            self.program(paper_id).write_text(textwrap.dedent(program))

    def program(self, paper_id: str) -> Path:
        return self.programs / f"{paper_id.lower()}_it.py"

    def find(self) -> dict[str, sources.ClaimSource]:
        return sources.find(self.papers, self.programs)


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Claims:
    made = Claims(tmp_path)
    find = sources.find
    monkeypatch.setattr(sources, "find", lambda: find(made.papers, made.programs))
    made.find = lambda: find(made.papers, made.programs)  # type: ignore[method-assign]
    monkeypatch.chdir(tmp_path)
    return made
