"""NDCG, reciprocal rank and overlap of labels against loops over their definitions."""

import math

import numpy as np
import pytest
from scipy import sparse

from farfield.errors import FormatError, InputError
from farfield.shift.ranking import judgements, label_overlap, ndcg, read_qrels, reciprocal_rank


def by_definition(scores, grades, k):
    """One query, in plain Python: (NDCG@k, RR@k)."""
    ranked = [grades[i] for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))]
    gain = sum(g / math.log2(i + 2) for i, g in enumerate(ranked[:k]))
    best = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(grades, reverse=True)[:k]))
    first = next((i for i, g in enumerate(ranked) if g > 0), k)
    return gain / best, 1 / (first + 1) if first < k else 0.0


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_metrics_by_their_definition(k):
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 6, size=(40, 25)).astype(float)  # many ties
    grades = rng.choice([0, 0, 0, 1, 3], size=scores.shape)
    grades[:, 0] = np.maximum(grades[:, 0], 1)
    expected = np.array([by_definition(s, g, k) for s, g in zip(scores.tolist(), grades.tolist(), strict=True)])
    relevance = sparse.csr_matrix(grades.astype(float))
    np.testing.assert_allclose(ndcg(scores, relevance, k), expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(reciprocal_rank(scores, relevance, k), expected[:, 1], rtol=1e-12)


def test_judgements_refuse_what_cannot_be_meant():
    assert judgements([(0, 1, 2), (1, 0, 1), (1, 1, 0)], 2, 3).toarray().tolist() == [[0, 2, 0], [1, 0, 0]]
    for grades, message in [
        ([(0, 3, 1)], "document of the grades is outside 0 to 2"),
        ([(0, 0, -1)], "negative"),
        ([(0, 0, 1), (0, 0, 2)], "twice"),
        ([(0, 0, 1)], "1 queries have no relevant document, the first is 1"),
        ([(0, 0)], "shape"),
    ]:
        with pytest.raises(InputError, match=message):
            judgements(grades, 2, 3)
    with pytest.raises(InputError, match="one score a query and document"):
        ndcg(np.zeros((2, 3)), sparse.csr_matrix(np.ones((2, 4))))


def test_overlap_counts_documents_relevant_on_both_sides():
    train = {"a": {"d1": 1, "d2": 1, "d9": 0}, "b": {"d3": 2}}
    test = {"x": {"d1": 1, "d3": 1}, "y": {"d9": 1, "d2": 1}, "z": {"d7": 1, "d3": 0}}
    assert label_overlap(train, test) == {"x": 2, "y": 1}
    assert label_overlap(train, test, at_least=2) == {"x": 2}
    assert label_overlap(train, test, min_grade=2) == {}


def test_qrels_are_read_and_damage_is_named(tmp_path):
    path = tmp_path / "train.qrel"
    path.write_text("q1\t0\td1\t1\nq1 Q0 d2 0\n\nq2 0 d1 2\n")
    assert read_qrels(path) == {"q1": {"d1": 1.0, "d2": 0.0}, "q2": {"d1": 2.0}}
    for text, message in [("q1 0 d1\n", r"train.qrel:1: 'q1 0 d1'"), ("q 0 d nan\n", ":1:"), ("", "no judgement")]:
        path.write_text(text)
        with pytest.raises(FormatError, match=message):
            read_qrels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="UTF-8"):
        read_qrels(path)
    with pytest.raises(InputError, match="cannot read"):
        read_qrels(tmp_path / "none")
