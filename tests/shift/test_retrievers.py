"""BM25 against a slow loop, latent semantics against a dense decomposition, the trained encoder against finite differences."""

import math

import numpy as np
import pytest
from scipy import sparse

from farfield.errors import InputError
from farfield.shift.retrievers import BM25, LSA, Embedding, Retriever, TrainedEncoder, unit, words

TEXTS = [
    "the cat sat on the mat",
    "a dog sat on a log, the dog",
    "mathematics of cats and dogs",
    "the the the",
    "snake_case and camelCase words 42",
    "quantum chromodynamics on the lattice",
]
QUERIES = ["the cat", "dog dog log", "unknown word", "lattice of 42 cats"]


def bm25_by_definition(query, documents, k1, b):
    split = [words(d) for d in documents]
    mean = sum(map(len, split)) / len(split)
    out = []
    for d in split:
        score = 0.0
        for t in words(query):
            df = sum(t in other for other in split)
            if not df:
                continue
            idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
            tf = d.count(t)
            score += tf and idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(d) / mean))
        out.append(score)
    return out


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0.0, 1.0), (2.0, 0.0)])
def test_bm25_is_its_formula(k1, b):
    found = BM25(k1, b).fit(TEXTS).scores(QUERIES)
    np.testing.assert_allclose(found, [bm25_by_definition(q, TEXTS, k1, b) for q in QUERIES], rtol=1e-12, atol=1e-14)


def test_latent_semantic_analysis_is_a_truncated_decomposition():
    model = LSA(3).fit(TEXTS)
    vocabulary = sorted({w for t in TEXTS for w in words(t)})
    df = np.array([sum(v in words(t) for t in TEXTS) for v in vocabulary])
    idf = 1 + np.log((1 + len(TEXTS)) / (1 + df))

    def tfidf(text):
        counts = np.array([words(text).count(v) for v in vocabulary])
        weight = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
        return weight / (np.sqrt((weight**2).sum()) or 1)

    d = np.array([tfidf(t) for t in TEXTS])
    _, values, directions = np.linalg.svd(d)
    q = np.array([tfidf(t) for t in QUERIES])
    expected = unit(q @ directions[:3].T) @ unit(d @ directions[:3].T).T
    np.testing.assert_allclose(model.singular_values_, values[:3], rtol=1e-10)
    np.testing.assert_allclose(model.scores(QUERIES), expected, atol=1e-10)


def test_the_gradient_of_the_training_loss():
    rng = np.random.default_rng(0)
    q, d = unit(rng.normal(size=(5, 3))), unit(rng.normal(size=(7, 3)))
    target = sparse.csr_matrix(np.eye(5, 7))
    model, w, step = TrainedEncoder(scale=4.0, ridge=0.2), rng.normal(size=9), 1e-6
    value, gradient = model.loss(w, q, d, target)
    slow = -np.mean(
        [np.log(np.exp(4 * q[i] @ w.reshape(3, 3) @ d[i]) / np.exp(4 * q[i] @ w.reshape(3, 3) @ d.T).sum()) for i in range(5)]
    )
    assert value == pytest.approx(slow + 0.2 * ((w.reshape(3, 3) - np.eye(3)) ** 2).sum(), rel=1e-12)
    numeric = [
        (model.loss(w + step * e, q, d, target)[0] - model.loss(w - step * e, q, d, target)[0]) / (2 * step) for e in np.eye(9)
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_training_raises_the_rank_of_what_was_trained():
    relevance = sparse.csr_matrix(np.eye(4, 6)[:, [5, 1, 2, 3, 4, 0]])  # the first query is told that the last document answers it
    plain, trained = LSA(4).fit(TEXTS), TrainedEncoder(LSA(4), ridge=1e-4).fit(TEXTS, QUERIES, relevance)
    rank = [int((s.scores(QUERIES[:1])[0] > s.scores(QUERIES[:1])[0, 5]).sum()) for s in (plain, trained)]
    assert rank[1] == 0 < rank[0]
    untrained = TrainedEncoder(LSA(4)).fit(TEXTS)
    np.testing.assert_array_equal(untrained.scores(QUERIES), plain.scores(QUERIES))


def test_any_callable_embeds():
    letters = lambda texts: [[t.count(c) for c in "abcdefgh"] for t in texts]  # noqa: E731
    found = Embedding(letters).fit(TEXTS).scores(QUERIES)
    expected = unit(letters(QUERIES)) @ unit(letters(TEXTS)).T
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(InputError, match="embedding has shape"):
        Embedding(lambda texts: np.ones((1, 2))).fit(TEXTS)
    with pytest.raises(InputError, match="dimensions"):
        Embedding(lambda texts: np.ones((len(texts), 2)), lambda texts: np.ones((len(texts), 3))).fit(TEXTS).scores(QUERIES)


@pytest.mark.parametrize("retriever", [BM25(), LSA(3), TrainedEncoder(LSA(3))], ids=lambda r: type(r).__name__)
def test_a_query_is_scored_by_itself(retriever):
    assert isinstance(retriever, Retriever)
    together = retriever.fit(TEXTS).scores(QUERIES)
    np.testing.assert_allclose(np.vstack([retriever.scores([q]) for q in QUERIES]), together, rtol=1e-12, atol=1e-15)
    with pytest.raises(InputError, match="list of"):
        retriever.scores("one text")
    with pytest.raises(InputError, match="at least two"):
        type(retriever)().fit(["one"])
    with pytest.raises(InputError, match="no word"):
        type(retriever)().fit(["...", "!"])


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="k1 is -1"):
        BM25(k1=-1).fit(TEXTS)
    with pytest.raises(InputError, match="one row a training query"):
        TrainedEncoder(LSA(2)).fit(TEXTS, QUERIES, np.ones((2, 2)))
