"""The claims of the catalogue: every program runs at the tiny budget, every result is what its record's protocol says."""

import json
from pathlib import Path

import pytest

from farfield.claims import figure, harness, results, sources, table
from farfield.claims.verdict import Verdict

ROOT = Path(__file__).parents[2]
CLAIMS = sources.find()
PROGRAMS = [c for c in CLAIMS.values() if c.module is not None]
RESULTS = sorted((ROOT / "results").glob("P*.json"))


def needs(claim: sources.ClaimSource) -> list[pytest.MarkDecorator]:
    extras = [pytest.mark.extra(name) for name in claim.requires]
    return [pytest.mark.claim, *extras, *([pytest.mark.data] if claim.needs_data else [])]


@pytest.mark.parametrize("claim", [pytest.param(c, marks=needs(c), id=c.id) for c in PROGRAMS])
def test_a_claim_runs_at_the_tiny_budget(claim, tmp_path):
    assert claim.problem is None
    (run,) = harness.run_claims([claim], budget="tiny", seeds=2, jobs=2, cache=tmp_path)
    result = results.build(run)
    assert result["verdict"] != "not run", result["reason"]
    assert {row["name"] for row in result["criteria"]} == {c.name for c in claim.criteria}
    figure.draw(result, tmp_path / "figure.svg")


def test_every_program_belongs_to_a_record_with_criteria():
    programs = {p.stem.split("_")[0].upper() for p in Path(sources.__file__).parent.glob("p[0-9]*_*.py")}
    assert programs == {c.id for c in PROGRAMS}
    assert [(c.id, c.problem) for c in PROGRAMS if c.problem] == []


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_committed_result_was_made_with_the_protocol_of_its_record(path):
    result = json.loads(path.read_bytes())
    claim = CLAIMS[path.stem]
    assert result["protocol"]["criteria"] == [c.to_dict() for c in claim.criteria]
    assert result["statement"] == claim.statement
    assert result["budget"] == "full"
    assert Verdict(result["verdict"]) in Verdict
    assert path.with_suffix(".svg").is_file()


def test_one_known_not_to_hold_is_shown_as_failing():
    assert results.read_folder(ROOT / "results")["P094"].verdict is Verdict.FAILS


def test_the_tables_in_readme_and_docs_are_those_of_the_results():
    stale = table.update(ROOT, results.read_folder(ROOT / "results"), check=True)
    assert stale == [], "run: farfield claims table"
