"""The index says what records, source and results say; it is made once, kept, remade on a change, and ships in the wheel."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from farfield.errors import FormatError, InputError
from farfield.papers import index
from farfield.papers.index import Catalogue
from farfield.papers.record import read_all
from farfield.papers.status import Source, Status
from papers.checkouts import Checkout

ROOT = Path(__file__).parents[2]


def opened(data: bytes) -> Catalogue:
    db = sqlite3.connect(":memory:")
    db.deserialize(data)
    return Catalogue(db)


def assert_says_what_the_files_say(catalogue: Catalogue, root: Path) -> None:
    records, source = read_all(root / "src" / "farfield" / "papers"), Source(root)
    assert [e.id for e in catalogue.papers] == list(records)
    for entry in catalogue.papers:
        paper = records[entry.id]
        wanted = json.loads(json.dumps({k: v for k, v in asdict(paper).items() if k != "path"}))
        assert entry.record == wanted
        derived = Status(entry.status, entry.date, entry.version, entry.reason, entry.problems)
        assert derived == source.status(paper)
        assert (entry.slug, entry.title, entry.year, entry.arxiv) == (paper.slug, paper.title, paper.year, paper.arxiv)
        result = root / "results" / f"{entry.id}.json"
        assert (entry.date is not None) == result.is_file()


def test_index_is_the_records_and_the_results() -> None:
    assert_says_what_the_files_say(opened(index.build(ROOT)), ROOT)


def test_no_paper_is_broken() -> None:
    assert {e.id: e.problems for e in index.load().papers if e.problems} == {}


def test_verdicts_have_an_entry_and_an_oracle() -> None:
    for entry in index.load().papers:
        assert entry.date is None or entry.record["entry"], f"{entry.id} has a result and no entry"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout of three papers that `load` takes for its own, and a cache of its own."""
    made = Checkout(tmp_path / "root")
    made.file("src/farfield/curves/lcpfn.py", "class LCPFN: ...\n")
    made.file("tests/curves/test_lcpfn.py", "def test_likelihood(): ...\n")
    made.record("P015")
    made.record(
        "P020",
        title="Sums of many digits",
        family="numbers",
        entry=["farfield.curves.lcpfn.LCPFN"],
        oracle=["tests/curves/test_lcpfn.py::test_likelihood"],
    )
    made.record("P021", title="Sums of some digits", family="numbers", entry=["farfield.gone"])
    made.result("P020", verdict="weaker")
    monkeypatch.setattr(index, "_HERE", made.root / "src" / "farfield" / "papers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def statuses() -> dict[str, str]:
    return {entry.id: entry.status for entry in index.load().papers}


def test_made_once_and_remade_on_a_change(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = index.build
    monkeypatch.setattr(index, "build", lambda *args, **options: built.append(1) or build(*args, **options))
    assert statuses() == {"P015": "planned", "P020": "weaker", "P021": "broken"}
    assert statuses() == {"P015": "planned", "P020": "weaker", "P021": "broken"}
    assert len(built) == 1
    checkout.result("P020", verdict="inconclusive")
    assert statuses()["P020"] == "inconclusive"
    (checkout.root / "results" / "P020.json").unlink()
    assert statuses()["P020"] == "built"
    checkout.file("tests/curves/test_lcpfn.py", "def test_other(): ...\n")
    assert statuses()["P020"] == "broken"
    checkout.record("P022")
    assert statuses()["P022"] == "planned"
    assert len(built) == 5
    assert_says_what_the_files_say(index.load(), checkout.root)


def test_a_damaged_cache_is_remade(checkout: Checkout) -> None:
    wanted = statuses()
    (cache,) = (Path(checkout.root).parent / "cache" / "farfield").iterdir()
    for content in (b"", b"junk" * 1000, cache.read_bytes()[:5000]):
        cache.write_bytes(content)
        assert statuses() == wanted


def test_a_cache_that_cannot_be_written_is_done_without(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout.file("a-file", "")))
    assert statuses()["P020"] == "weaker"


def test_a_broken_record_is_named_and_the_others_are_there(checkout: Checkout) -> None:
    wanted = statuses()
    checkout.file("src/farfield/papers/P099.toml", "id = ")
    checkout.record("P098", slug="slug-p015")
    for _ in range(2):  # made, and read from the cache
        assert statuses() == wanted
        assert list(index.load().left_out) == ["P098", "P099"]
    with pytest.raises(FormatError, match=r"P099.toml:1: not valid TOML"):
        index.load().find("p99")
    with pytest.raises(FormatError, match=r"P098.toml: duplicate slug 'slug-p015', already used by .*P015.toml"):
        index.load().find("P098")
    with pytest.raises(FormatError, match=r"P098.toml: duplicate slug"):
        index.build(checkout.root)  # what is packaged is whole


def test_packaged_index_is_used_as_it_is(checkout: Checkout) -> None:
    packaged = checkout.file("src/farfield/papers/index.sqlite", index.build(checkout.root))
    shutil.rmtree(checkout.root / "results")
    assert statuses()["P020"] == "weaker"
    for content in (b"junk" * 1000, packaged.read_bytes()[:6000]):
        packaged.write_bytes(content)
        with pytest.raises(FormatError, match=r"is damaged .*; reinstall farfield"):
            index.load()


def test_an_installation_without_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_HERE", tmp_path)
    with pytest.raises(FormatError, match="is missing; reinstall farfield"):
        index.load()


def test_the_wheel_carries_the_index(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        wheel.extractall(tmp_path / "site")
    catalogue = opened((tmp_path / "site" / "farfield" / "papers" / index.NAME).read_bytes())
    assert_says_what_the_files_say(catalogue, ROOT)
    # an installation has no checkout around it: the command must answer from the packaged index alone
    code = "import sys; from farfield.cli import main; sys.exit(main(['papers', 'show', 'lc-pfn']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("P015 lc-pfn"), done.stderr


# -- finding one by name --


@pytest.mark.parametrize(
    "name",
    [
        "P015",
        "p15",
        " 015 ",
        "slug-p015",
        "SLUG-P015",
        "2310.01500",
        "arXiv:2310.01500v3",
        "https://arxiv.org/abs/2310.01500",
        "Bayesian  LEARNING",
    ],
)
def test_found_by_every_kind_of_name(checkout: Checkout, name: str) -> None:
    assert index.load().find(name).id == "P015"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P999", "unknown paper 'P999'; "),
        ("digits", "'digits' is in 2 titles (P020 slug-p020, P021 slug-p021); name one by id"),
        ("sum of mny digts", "nearest: P02"),
        ("slug-p02", "slug-p02"),
        ("2310.99999", "unknown paper '2310.99999'"),
        ("", "unknown paper ''"),
        ("%_'\"", "unknown paper"),
        ("\0", "unknown paper"),
        ("\udcff", "unknown paper"),
    ],
)
def test_what_is_not_found_is_answered_with_the_nearest(checkout: Checkout, name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        index.load().find(name)
    assert message in str(caught.value)
