"""The catalogue answers plain-language questions that were frozen before its records were written.

The questions are never edited. What may change is the search, for all of them alike, and the records, without looking at them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from farfield.papers import index
from farfield.papers.search import words

QUESTIONS = tomllib.loads(Path(__file__).with_name("questions.toml").read_text(encoding="utf-8"))["questions"]
HIT_AT_1, HIT_AT_3 = 0.80, 0.95
SHARED_WORDS = 4  # in a row, which no question and no record may share


@pytest.fixture(scope="module")
def catalogue() -> index.Catalogue:
    return index.load()


def test_the_questions_are_what_they_should_be() -> None:
    kinds = [q["kind"] for q in QUESTIONS]
    assert len({q["ask"] for q in QUESTIONS}) == len(QUESTIONS) == 181
    assert set(kinds) == {"plain", "typo", "neighbour"}
    assert min(kinds.count("typo"), kinds.count("neighbour")) >= 10
    accepted = [key for q in QUESTIONS for key in q["accept"]]
    assert set(accepted) == {f"P{i:03d}" for i in range(1, 104)}
    assert max(len(q["accept"]) for q in QUESTIONS) <= 3


def test_the_catalogue_is_complete(catalogue: index.Catalogue) -> None:
    assert [entry.id for entry in catalogue.papers] == [f"P{i:03d}" for i in range(1, 104)]


def test_hits(catalogue: index.Catalogue) -> None:
    missed, first, third = [], 0, 0
    for q in QUESTIONS:
        found = [entry.id for entry, _ in catalogue.search(q["ask"], 3)]
        first += bool(set(found[:1]) & set(q["accept"]))
        third += bool(set(found) & set(q["accept"]))
        if not set(found) & set(q["accept"]):
            missed.append(f"{q['ask']}: wants {'/'.join(q['accept'])}, got {' '.join(found)}")
    report = f"hit@1 {first / len(QUESTIONS):.3f}, hit@3 {third / len(QUESTIONS):.3f}; missed at 3:\n" + "\n".join(missed)
    assert first / len(QUESTIONS) >= HIT_AT_1, report
    assert third / len(QUESTIONS) >= HIT_AT_3, report


def runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of `SHARED_WORDS` words in a row."""
    found = words(text)
    return (tuple(found[i : i + SHARED_WORDS]) for i in range(len(found) - SHARED_WORDS + 1))


def test_no_record_repeats_a_question(catalogue: index.Catalogue) -> None:
    asked = {run for q in QUESTIONS for run in runs(q["ask"])}
    repeated = [
        f"{entry.id}: {' '.join(run)!r} is in a question too; say it in other words"
        for entry in catalogue.papers
        for text in (*entry.record["question"], *entry.record["aka"], entry.record["use_when"])
        for run in runs(text)
        if run in asked
    ]
    assert not repeated, "\n".join(repeated)
