"""How well documents are ranked for queries: relevance judgements, NDCG and reciprocal rank a query, overlap of labels.

Judgements are a sparse matrix (n_queries, n_documents) of grades, 0 where nothing was judged relevant. Scores are a dense matrix of
the same shape. Documents are ranked by score, equal scores by their number. With g_i the grade at rank i and best_i those of the
best possible ranking,

    NDCG@k = sum_i<=k g_i / log2(i + 1)  /  sum_i<=k best_i / log2(i + 1),     RR@k = 1 / rank of the first relevant, 0 beyond k

(gain linear in the grade, as trec_eval has it). Both are means over queries only once the caller takes the mean: the query is what
varies, and what a bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from farfield import checks
from farfield.errors import FormatError, InputError

FloatArray = NDArray[np.float64]
Metric = Callable[[ArrayLike, Any, int], FloatArray]
Qrels = Mapping[str, Mapping[str, float]]


def judgements(grades: Iterable[tuple[int, int, float]], n_queries: int, n_documents: int) -> Any:
    """CSR matrix (n_queries, n_documents) of grades from triples (query, document, grade).

    Raises InputError for numbers outside the matrix, negative grades, a pair judged twice, a query without a relevant document.
    """
    rows = checks.finite("grades", [list(g) for g in grades], ndim=2) if not isinstance(grades, np.ndarray) else grades
    if rows.shape[1:] != (3,):
        raise InputError(f"grades has shape {rows.shape}; allowed: (n, 3), query, document and grade")
    query, document, grade = rows.T
    for name, index, n in (("query", query, n_queries), ("document", document, n_documents)):
        if (index < 0).any() or (index >= n).any() or (index % 1 != 0).any():
            raise InputError(f"a {name} of the grades is outside 0 to {n - 1}")
    if (grade < 0).any():
        raise InputError(f"{int((grade < 0).sum())} grades are negative; allowed: 0 (not relevant) and up")
    if np.unique(rows[:, :2], axis=0).shape[0] < rows.shape[0]:
        raise InputError("a pair of query and document is judged twice; give one grade a pair")
    out = sparse.csr_matrix((grade, (query.astype(np.int64), document.astype(np.int64))), shape=(n_queries, n_documents))
    out.eliminate_zeros()
    return _with_relevant(out)


def ndcg(scores: ArrayLike, relevance: Any, k: int = 10) -> FloatArray:
    """(n_queries,) normalised discounted cumulative gain of the first `k`.

    Parameters
    ----------
    scores : (n_queries, n_documents) finite, larger is better
    relevance : sparse (n_queries, n_documents) grades

    Raises InputError for shapes that differ and for queries without a relevant document. Source: Järvelin & Kekäläinen 2002.
    """
    ranked, grades = _top(scores, relevance, k)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.zeros((grades.shape[0], k))
    for row in range(grades.shape[0]):
        ideal = np.sort(grades.data[grades.indptr[row] : grades.indptr[row + 1]])[::-1][:k]
        best[row, : ideal.size] = ideal
    return np.asarray((ranked @ discount[: ranked.shape[1]]) / (best @ discount))


def reciprocal_rank(scores: ArrayLike, relevance: Any, k: int = 10) -> FloatArray:
    """(n_queries,) one over the rank of the first relevant document, 0 where none is among the first `k`; as :func:`ndcg`."""
    ranked, _ = _top(scores, relevance, k)
    hit = ranked > 0
    return np.where(hit.any(axis=1), 1 / (1 + hit.argmax(axis=1)), 0.0)


def _with_relevant(relevance: Any) -> Any:
    without = np.flatnonzero(np.diff(relevance.indptr) == 0)
    if without.size:
        raise InputError(f"{without.size} queries have no relevant document, the first is {int(without[0])}; leave them out")
    return relevance


def _top(scores: ArrayLike, relevance: Any, k: int) -> tuple[FloatArray, Any]:
    """Grades of the first k documents, (n_queries, min(k, n_documents)), and the judgements as CSR."""
    checks.count("k", k)
    values = checks.finite("scores", scores, ndim=2)
    grades = sparse.csr_matrix(relevance)
    if values.shape != grades.shape:
        raise InputError(f"scores has shape {values.shape} and relevance {grades.shape}; one score a query and document")
    grades.eliminate_zeros()
    _with_relevant(grades)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    rows = np.repeat(np.arange(values.shape[0]), order.shape[1])
    return np.asarray(grades[rows, order.ravel()], dtype=np.float64).reshape(order.shape), grades


# -- judgements by name, and what training and test share -------------------------------------------------------------------


def read_qrels(path: str | Path) -> dict[str, dict[str, float]]:
    """Judgements of a TREC qrels file: query, iteration (unused), document, grade a line, between blanks or tabs.

    Raises FormatError with the line for one that is not; InputError where there is no such file.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not UTF-8 text; a qrels file holds query, 0, document, grade a line") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        try:
            query, _, document, grade = parts
            value = float(grade)
            if not np.isfinite(value):
                raise ValueError
        except ValueError:
            raise FormatError(f"{path}:{number}: {line[:60]!r}; allowed: query, 0, document, grade") from None
        found.setdefault(query, {})[document] = value
    if not found:
        raise FormatError(f"{path}: no judgement in it; allowed: query, 0, document, grade a line")
    return found


def label_overlap(train: Qrels, test: Qrels, *, min_grade: float = 1.0, at_least: int = 1) -> dict[str, int]:
    """For every test query the number of its relevant documents that are relevant to some training query; only those that have any.

    Parameters
    ----------
    train, test : query -> document -> grade
    min_grade : lowest grade that is relevant
    at_least : leave out queries that share fewer documents

    ``len(label_overlap(train, test)) / len(test)`` is the share of test queries whose answer was seen in training. Source: Zhan
    et al. 2022, section 3 (the published script asks for more than one shared document: ``at_least=2``).
    """
    least = checks.count("at_least", at_least)
    seen = {document for grades in train.values() for document, grade in grades.items() if grade >= min_grade}
    shared = {q: sum(grade >= min_grade and d in seen for d, grade in grades.items()) for q, grades in test.items()}
    return {query: n for query, n in shared.items() if n >= least}
