"""Statuses follow from source and results; a name that does not exist and a damaged result are shown as such."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from farfield.papers.record import read
from farfield.papers.status import STATUSES, VERDICTS, Source, Status
from papers.checkouts import Checkout

MODULE = """
import sys
from pathlib import Path as Where

if sys.version_info > (3,):
    LIMIT: int = 3
else:
    LIMIT = 2
try:
    from fast import quick
except ImportError:
    def quick(): ...

PAIR, (LEFT, RIGHT) = 1, (2, 3)

class LCPFN:
    size = 3
    def predict(self):
        def inner(): ...
    class Inner:
        def deep(self): ...

async def later(): ...
raise RuntimeError("a status must never import what it describes")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.file("src/farfield/curves/__init__.py", "from farfield.curves.lcpfn import quick as fast_one\n")
    made.file("src/farfield/curves/lcpfn.py", MODULE)
    made.file("tests/curves/test_lcpfn.py", "def test_likelihood(): ...\nclass TestNet:\n    def test_rows(self): ...\n")
    made.file("src/farfield/broken.py", "def (")
    return made


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("farfield.curves.lcpfn.LCPFN", True),
        ("farfield.curves.lcpfn.LCPFN.predict", True),
        ("farfield.curves.lcpfn.LCPFN.Inner.deep", True),
        ("farfield.curves.lcpfn.LCPFN.size", True),
        ("farfield.curves.lcpfn.LCPFN.fit", False),
        ("farfield.curves.lcpfn.LCPFN.predict.inner", False),
        ("farfield.curves.lcpfn.LIMIT", True),
        ("farfield.curves.lcpfn.RIGHT", True),
        ("farfield.curves.lcpfn.quick", True),
        ("farfield.curves.lcpfn.later", True),
        ("farfield.curves.lcpfn.Where", True),
        ("farfield.curves.lcpfn.Path", False),
        ("farfield.curves.lcpfn", True),
        ("farfield.curves.fast_one", True),
        ("farfield.LCPFN", True),
        ("farfield.LCPFN.predict", True),
        ("farfield.LCPFN.fit", False),
        ("farfield.LCPFX", False),
        ("farfield.broken.f", False),
        ("farfield.length.rope", False),
    ],
)
def test_names(checkout: Checkout, name: str, exists: bool) -> None:
    assert Source(checkout.root).has_name(name) is exists


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("tests/curves/test_lcpfn.py::test_likelihood", True),
        ("tests/curves/test_lcpfn.py::TestNet::test_rows", True),
        ("tests/curves/test_lcpfn.py::TestNet::test_likelihood", False),
        ("tests/curves/test_other.py::test_likelihood", False),
    ],
)
def test_tests(checkout: Checkout, name: str, exists: bool) -> None:
    assert Source(checkout.root).has_test(name) is exists


ENTRY, ORACLE = ["farfield.curves.lcpfn.LCPFN"], ["tests/curves/test_lcpfn.py::test_likelihood"]


def status(checkout: Checkout, **values: object) -> Status:
    return Source(checkout.root).status(read(checkout.record(**values)))


def test_planned_then_built_then_decided(checkout: Checkout) -> None:
    assert status(checkout) == Status("planned")
    assert status(checkout, entry=ENTRY, oracle=ORACLE) == Status("built")
    checkout.result(verdict="fails")
    assert status(checkout, entry=ENTRY, oracle=ORACLE) == Status("fails", "2026-01-02", "0.1.0", "better by 3")
    assert "farfield.curves.lcpfn" not in sys.modules


@pytest.mark.parametrize(
    ("entry", "oracle", "problem"),
    [
        (["farfield.curves.lcpfn.LCPFX"], ORACLE, "farfield.curves.lcpfn.LCPFX does not exist"),
        (ENTRY, ["tests/curves/test_lcpfn.py::test_gone"], "tests/curves/test_lcpfn.py::test_gone does not exist"),
        (ENTRY, [], "an entry without an oracle test"),
        ([], ORACLE, "an oracle test without an entry"),
    ],
)
def test_what_is_missing_is_named(checkout: Checkout, entry: list[str], oracle: list[str], problem: str) -> None:
    assert status(checkout, entry=entry, oracle=oracle) == Status("broken", problems=(problem,))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "results/P015.json: Expecting value"),
        (b"[]", "results/P015.json: no verdict in it"),
        (b'{"verdict": "great"}', "results/P015.json: no verdict in it"),
        (b'{"verdict": ["holds"]}', "results/P015.json: no verdict in it"),
        (b'{"verdict": "holds", "date": 3}', "results/P015.json: date, version and reason must be texts"),
        (b"\xff\xfe\x00", "results/P015.json: "),
        (b"[" * 100_000, "results/P015.json: "),
    ],
)
def test_damaged_results_are_shown(checkout: Checkout, content: bytes, problem: str) -> None:
    checkout.file("results/P015.json", content)
    found = status(checkout, entry=ENTRY, oracle=ORACLE)
    assert found.name == "broken"
    assert found.problems[0].startswith(problem)


def test_verdicts_are_those_of_the_claims() -> None:
    from farfield.claims.verdict import Verdict

    assert tuple(v.value for v in Verdict) == VERDICTS
    assert set(VERDICTS) < set(STATUSES)
