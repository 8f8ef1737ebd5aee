"""`farfield papers`: what it prints for people and programs, how it refuses, what it costs, and that it imports no method."""

from __future__ import annotations

import csv
import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from farfield.cli import main
from farfield.papers import index
from papers.checkouts import Checkout


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["papers", *args]) == 0
    return capsys.readouterr().out


def test_list_shows_every_paper(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "list").splitlines()
    papers = index.load().papers
    assert [line.split()[0] for line in lines[1 : 1 + len(papers)]] == [p.id for p in papers]
    assert lines[-1].startswith(f"{len(papers)} papers: ")


def test_list_as_json_and_csv_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "--json"))
    assert [row["id"] for row in rows] == [p.id for p in index.load().papers]
    text = list(csv.DictReader(io.StringIO(run(capsys, "list", "--csv"))))
    assert text == [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "--family", "curves", "--json"))
    assert rows
    assert {row["family"] for row in rows} == {"curves"}
    for status in ("planned", "not run"):
        rows = json.loads(run(capsys, "list", "--status", status, "--json"))
        assert {row["status"] for row in rows} <= {status}
    assert run(capsys, "list", "--status", "broken").endswith("0 papers\n")


def test_show_says_what_the_record_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = " ".join(run(capsys, "show", "lc-pfn").split())
    record = index.load().find("P015").record
    for text in (record["title"], record["summary"], record["use_when"], record["claim"]["statement"], *record["aka"]):
        assert " ".join(text.split()) in page
    assert json.loads(run(capsys, "show", "P015", "--json"))["claim"] == record["claim"]


def test_show_says_which_data_are_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "expected as curves/obsscaling_base_llm_benchmarks.csv under $FARFIELD_DATA"
    missing = " (not at hand: curves/obsscaling_base_llm_benchmarks.csv)"
    monkeypatch.delenv("FARFIELD_DATA", raising=False)
    page = " ".join(run(capsys, "show", "P018").split())
    assert wanted in page
    assert missing not in page
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path))
    assert wanted + missing in " ".join(run(capsys, "show", "P018").split())
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "obsscaling_base_llm_benchmarks.csv").write_text("")
    assert missing not in " ".join(run(capsys, "show", "P018").split())


def test_every_claim_on_data_names_its_files() -> None:
    data = {paper.id: paper.record["claim"]["data"] for paper in index.load().papers}
    assert [name for name, found in data.items() if found and not found["files"]] == []


def test_search_prints_the_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "search", "learning", "curve", "extrapolation", "--n", "1", "--json"))
    assert [row["id"] for row in rows] == ["P015"]
    assert "P015" in run(capsys, "search", "learning curve extrapolation").splitlines()[1]
    assert csv.DictReader(io.StringIO(run(capsys, "search", "curve", "--csv"))).fieldnames == list(rows[0])
    assert run(capsys, "search", "zzzzzzz").startswith("no paper matches")


def test_output_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list", "--json", "-o", str(tmp_path / "papers.json")) == ""
    assert run(capsys, "list", "-o", str(tmp_path / "papers.csv")) == ""
    assert (tmp_path / "papers.csv").read_text() == run(capsys, "list", "--csv")
    assert run(capsys, "search", "learning curve", "-o", str(tmp_path / "found.parquet")) == ""
    assert pl.read_parquet(tmp_path / "found.parquet")["id"][0] == "P015"
    assert run(capsys, "show", "P015", "-o", str(tmp_path / "page.txt")) == ""
    assert (tmp_path / "page.txt").read_text() == run(capsys, "show", "P015")
    assert json.loads((tmp_path / "papers.json").read_text()) == json.loads(run(capsys, "list", "--json", "-o", "-"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["list", "--family", "curvs"], "unknown family 'curvs'; nearest: curves"),
        (["list", "--status", "buil"], "unknown status 'buil'; nearest: built"),
        (["list", "-o", "/no/such/folder/x.json"], "cannot write /no/such/folder/x.json"),
        (["list", "-o", "x.toml"], "cannot tell the format of x.toml"),
        (["show", "P015", "-o", "x.csv"], "cannot write it as csv"),
        (["list", "--json", "--csv"], "--json and --csv"),
        (["show", "P999"], "unknown paper 'P999'"),
        (["show", "x" * 100_000], "unknown paper 'xxx"),
        (["search", "?!"], "nothing to search for in '?!'"),
        (["search", ""], "nothing to search for in ''"),
        (["search", "--n", "0", "curve"], "0 is not in the range"),
        (["search"], "Missing argument"),
        (["shw", "P015"], "unknown command 'shw'; allowed: list, search, show"),
    ],
)
def test_bad_usage_ends_with_code_2(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", *args]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err) < 1000


def test_a_broken_record_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Checkout(tmp_path / "root")
    made.record("P015")
    made.file("src/farfield/papers/P020.toml", 'id = "P020"\nslug = 3\n')
    monkeypatch.setattr(index, "_HERE", made.root / "src" / "farfield" / "papers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for args in (["list"], ["search", "learning curve"]):
        assert main(["papers", *args]) == 0
        said = capsys.readouterr()
        assert "P015" in said.out
        assert said.err.startswith("note: left out: ")
        assert "P020.toml:" in said.err
        assert main(["papers", *args, "--quiet"]) == 0
        assert capsys.readouterr().err == ""
    assert main(["papers", "show", "P015"]) == 0
    assert main(["papers", "show", "P020"]) == 2
    assert "P020.toml:" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["list"], ["show", "P015"], ["search", "learning curve"]])
def test_no_method_and_no_array_library_is_imported(args: list[str]) -> None:
    code = (
        "import sys; from farfield.cli import main; main(sys.argv[1:]); "
        "print(*sorted({'.'.join(m.split('.')[:2]) if m.startswith('farfield') else m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, "papers", *args], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "farfield.papers" in loaded
    assert {m for m in loaded if m.startswith("farfield.")} <= {
        f"farfield.{m}" for m in ("papers", "cli", "claims", "errors", "files")
    }
    assert not loaded & {"numpy", "scipy", "polars", "pandas", "matplotlib", "torch", "sklearn", "rich"}


@pytest.mark.parametrize(("args", "bar"), [(["list"], 0.35), (["search", "how", "long", "will", "this", "run", "take"], 0.5)])
def test_wall_time(args: list[str], bar: float) -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "farfield", "papers", *args], capture_output=True, timeout=60, check=True)
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) <= bar, seconds
