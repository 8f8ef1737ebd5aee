"""Search: what words and character n-grams find, in small and exactly, and that no text of a user's does harm."""

from __future__ import annotations

import sqlite3
import statistics
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.errors import InputError
from farfield.papers import index
from farfield.papers.search import FIELDS, MAX_WORDS, create, grams, query_words, search, words


def table(**aka: str) -> sqlite3.Connection:
    """A search table of papers that differ in `aka` alone."""
    db = sqlite3.connect(":memory:")
    create(db, {key: {**dict.fromkeys(FIELDS, "paper"), "aka": text} for key, text in aka.items()})
    return db


PAPERS = {
    "A": "learning curve extrapolation of training runs",
    "B": "rotary position embedding for long context",
    "C": "nuclear charge radius from kernel ridge regression",
    "D": "spline interpolation with adaptive knots",
}


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("how do I extrapolate a curve", "A"),
        ("ROTARY", "B"),
        ("rotery embeding", "B"),
        ("nucleus", "C"),
        ("raduis", "C"),
        ("interpolating splines", "D"),
        ("knot", "D"),
    ],
)
def test_words_word_forms_and_typos(question: str, best: str) -> None:
    assert search(table(**PAPERS), question)[0][0] == best


def test_scores_fall_from_one_and_n_is_kept() -> None:
    found = search(table(**PAPERS), "learning curve of a rotary spline", 3)
    scores = [score for _, score in found]
    assert len(found) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_nothing_in_common_finds_nothing() -> None:
    assert search(table(**PAPERS), "zzzz qqqq") == []


def test_a_field_of_more_weight_counts_more() -> None:
    db = sqlite3.connect(":memory:")
    filler = dict.fromkeys(FIELDS, "paper of some words")
    others = {f"X{i}": filler for i in range(5)}
    create(
        db, {"in_summary": {**filler, "summary": "on splines here"}, "in_title": {**filler, "title": "on splines here"}, **others}
    )
    assert [key for key, _ in search(db, "splines")][:2] == ["in_title", "in_summary"]


def test_grammar_is_dropped_unless_there_is_nothing_else() -> None:
    assert query_words("How do I use the splines?") == ["splines"]
    assert query_words("what is it") == ["what", "is", "it"]


def test_grams_of_a_word() -> None:
    assert grams(["ab"]) == {"<ab": 1, "ab>": 1, "<ab>": 2}
    assert words("Pass@256, l_∞-norm: naïve") == ["pass", "256", "l", "norm", "naïve"]


HOSTILE = [
    '"',
    "'; DROP TABLE papers; --",
    'a" OR "b',
    "NEAR(a b, 3)",
    "title:learning",
    "{title aka}: curve",
    "curve*",
    "^curve",
    "-curve + NOT AND OR",
    "AND",
    "OR NOT",
    "a\0b",
    "\ud800 curve",
    "curve \udcff",
    "% _ [a-z] \\",
    "(((",
    "curve " * 20_000,
    "".join(f"w{i} " for i in range(20_000)),
    "x" * 100_000,
    "é" * 100_000,
    "\u202e curve \u0000 \ufeff",
    "𝕔𝕦𝕣𝕧𝕖",
    "学习曲线",
]


@pytest.mark.parametrize("question", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_questions_are_answered_or_refused(question: str) -> None:
    db = table(**PAPERS)
    started = time.perf_counter()
    if any(c.isalnum() for c in question):
        assert {key for key, _ in search(db, question)} <= set(PAPERS)
    else:
        with pytest.raises(InputError, match="nothing to search for"):
            search(db, question)
    assert time.perf_counter() - started < 1
    assert db.execute("SELECT count(*) FROM words").fetchone() == (4,)


@pytest.mark.parametrize("question", ["", "   ", "\0", "?!", "\n"])
def test_empty_questions_are_refused(question: str) -> None:
    with pytest.raises(InputError, match=r"nothing to search for in .*; give some words"):
        search(table(**PAPERS), question)


@given(st.text(st.sampled_from(string.printable + "é\0\ud800ß学*\"'()^:"), max_size=60))
def test_any_text_is_answered_or_refused(question: str) -> None:
    try:
        topic = query_words(question)
    except InputError:
        assert words(question) == []
    else:
        assert 0 < len(topic) <= MAX_WORDS
        assert len(search(table(A="learning curve"), question)) <= 1


def test_n_must_be_positive() -> None:
    with pytest.raises(InputError, match="n is 0; allowed: 1 or more"):
        index.load().search("curve", 0)


def test_search_is_quick() -> None:
    catalogue = index.load()
    seconds = []
    for text in [entry.record["question"][0] for entry in catalogue.papers] * 3:
        started = time.perf_counter()
        catalogue.search(text)
        seconds.append(time.perf_counter() - started)
    p95 = sorted(seconds)[int(0.95 * len(seconds))]
    assert p95 < 0.02, f"p95 {1000 * p95:.1f} ms, median {1000 * statistics.median(seconds):.1f} ms"
