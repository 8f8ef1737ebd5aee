"""Retrievers that rank documents for a query: BM25, latent semantic analysis, any embedding, and a dense encoder that trains.

All have ``fit(documents, queries=(), relevance=None)``, where training queries and their judgements are used by those that train,
and ``scores(queries) -> (n_queries, n_documents)``, larger is better.

    BM25     sum over query words t of idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)),
             idf = ln(1 + (N - df + 1/2) / (df + 1/2));  k1 = 1.2, b = 0.75 (Robertson & Zaragoza 2009, section 3)
    LSA      cosine of tf-idf vectors projected on the first right singular vectors of the documents' (Deerwester et al. 1990)
    Encoder  s(q, d) = scale <q W, d> over embeddings of unit length; W, first the identity, minimises the cross-entropy of the
             relevant document among all documents plus ridge |W - I|^2 (the softmax loss of dense retrieval, Karpukhin et al.
             2020, equation 2, with every document as a negative; linear, so that its minimum is found and not a seed's)
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse
from scipy.sparse.linalg import svds

from farfield import checks
from farfield.errors import ConvergenceWarning, InputError
from farfield.estimator import Parameters

FloatArray = NDArray[np.float64]
Texts = Sequence[str]
Tokenise = Callable[[str], Sequence[str]]

_FIT = "fit(documents)"
_WORD = re.compile(r"[^\W_]+")


@runtime_checkable
class Retriever(Protocol):
    """Ranks documents for queries."""

    def fit(self, documents: Texts, queries: Texts = (), relevance: Any = None) -> Self:
        """Take in the documents and, where the retriever trains, queries with judgements (n_queries, n_documents)."""

    def scores(self, queries: Texts) -> FloatArray:
        """(n_queries, n_documents), larger is better."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


class _Counts:
    """Word counts over the vocabulary of the documents."""

    def __init__(self, documents: Texts, tokenise: Tokenise) -> None:
        if isinstance(documents, str) or len(documents) < 2:
            raise InputError("documents must be a list of at least two texts")
        self.tokenise = tokenise
        self.vocabulary: dict[str, int] = {}
        for text in documents:
            for word in tokenise(text):
                self.vocabulary.setdefault(word, len(self.vocabulary))
        if not self.vocabulary:
            raise InputError("the documents hold no word")
        self.matrix = self(documents)
        self.document_frequency = np.bincount(self.matrix.indices, minlength=len(self.vocabulary)).astype(np.float64)

    def __call__(self, texts: Texts) -> Any:
        """CSR (n_texts, n_words); words that are in no document are left out, since they match nothing."""
        if isinstance(texts, str):
            raise InputError("texts is one text; allowed: a list of texts")
        indices: list[int] = []
        pointer = [0]
        for text in texts:
            indices += [self.vocabulary[w] for w in self.tokenise(text) if w in self.vocabulary]
            pointer.append(len(indices))
        out = sparse.csr_matrix((np.ones(len(indices)), indices, pointer), shape=(len(texts), len(self.vocabulary)))
        out.sum_duplicates()
        return out


@dataclass(eq=False)
class BM25(Parameters):
    """Okapi BM25 with the idf that is never negative; nothing is trained.

    Parameters
    ----------
    k1 : saturation of the word count, 0 counts a word once
    b : how much long documents are discounted, 0 to 1
    tokenise : text -> words

    Source: Robertson & Zaragoza 2009, "The probabilistic relevance framework", section 3; idf as in Lucene.
    """

    k1: float = 1.2
    b: float = 0.75
    tokenise: Tokenise = words

    def fit(self, documents: Texts, queries: Texts = (), relevance: Any = None) -> Self:
        """Index the documents."""
        if not (self.k1 >= 0 and 0 <= self.b <= 1):
            raise InputError(f"k1 is {self.k1} and b is {self.b}; allowed: k1 from 0 up, b from 0 to 1")
        self.counts_ = _Counts(documents, self.tokenise)
        tf, df = self.counts_.matrix, self.counts_.document_frequency
        n = tf.shape[0]
        length = np.asarray(tf.sum(axis=1)).ravel()
        norm = self.k1 * (1 - self.b + self.b * length / length.mean())
        idf = np.log1p((n - df + 0.5) / (df + 0.5))
        weight = tf.data * (self.k1 + 1) / (tf.data + np.repeat(norm, np.diff(tf.indptr))) * idf[tf.indices]
        self.index_ = sparse.csr_matrix((weight, tf.indices, tf.indptr), shape=tf.shape).T.tocsr()
        return self

    def scores(self, queries: Texts) -> FloatArray:
        """(n_queries, n_documents); a word that stands twice in a query counts twice."""
        checks.fitted(self, "index_", _FIT)
        return np.asarray((self.counts_(queries) @ self.index_).toarray())


@dataclass(eq=False)
class LSA(Parameters):
    """Latent semantic analysis: cosine between tf-idf vectors projected on the leading singular directions.

    Parameters
    ----------
    n_components : dimensions kept; fewer where the documents have fewer
    tokenise : text -> words

    tf-idf is (1 + ln tf) (1 + ln((1 + N) / (1 + df))), rows of unit length. Source: Deerwester et al. 1990.
    """

    n_components: int = 100
    tokenise: Tokenise = words

    def fit(self, documents: Texts, queries: Texts = (), relevance: Any = None) -> Self:
        """Find the directions of the documents; training queries are not used."""
        self.counts_ = _Counts(documents, self.tokenise)
        df = self.counts_.document_frequency
        self.idf_ = 1 + np.log((1 + len(documents)) / (1 + df))
        tfidf = self._tfidf(documents)
        k = min(checks.count("n_components", self.n_components), min(tfidf.shape) - 1)
        if k < 1:
            raise InputError("latent semantic analysis needs at least two different words in the documents")
        values, directions = _right_singular(tfidf, k)
        self.singular_values_, self.directions_ = values, directions
        self.documents_ = unit(tfidf @ self.directions_)
        return self

    def _tfidf(self, texts: Texts) -> Any:
        counts = self.counts_(texts)
        counts.data = (1 + np.log(counts.data)) * self.idf_[counts.indices]
        length = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
        return sparse.diags_array(1 / np.where(length > 0, length, 1.0)) @ counts

    def embed(self, texts: Texts) -> FloatArray:
        """(n_texts, k) of unit length; zeros for a text without a known word."""
        checks.fitted(self, "documents_", _FIT)
        return unit(self._tfidf(texts) @ self.directions_)

    def scores(self, queries: Texts) -> FloatArray:
        """(n_queries, n_documents) cosines."""
        return np.asarray(self.embed(queries) @ self.documents_.T)


@dataclass(eq=False)
class Embedding(Parameters):
    """Any embedding as a retriever: cosine between what `encode` makes of query and document.

    Parameters
    ----------
    encode : texts -> (n_texts, d), called on lists of texts; the network's own batching is its own affair
    encode_documents : the same for documents, where they have an encoder of their own
    """

    encode: Callable[[Texts], ArrayLike]
    encode_documents: Callable[[Texts], ArrayLike] | None = None

    def fit(self, documents: Texts, queries: Texts = (), relevance: Any = None) -> Self:
        """Embed the documents."""
        self.documents_ = self._of(self.encode_documents or self.encode, documents)
        return self

    def _of(self, encode: Callable[[Texts], ArrayLike], texts: Texts) -> FloatArray:
        return unit(checks.finite("embedding", encode(texts), shape=(len(texts), None)))

    def embed(self, texts: Texts) -> FloatArray:
        """(n_texts, d) of unit length."""
        return self._of(self.encode, texts)

    def scores(self, queries: Texts) -> FloatArray:
        """(n_queries, n_documents) cosines."""
        checks.fitted(self, "documents_", _FIT)
        found = self.embed(queries)
        if found.shape[1] != self.documents_.shape[1]:
            raise InputError(f"queries are embedded in {found.shape[1]} dimensions, documents in {self.documents_.shape[1]}")
        return np.asarray(found @ self.documents_.T)


@dataclass(eq=False)
class TrainedEncoder(Parameters):
    """A dense encoder that trains: a linear query tower over a fixed embedding, fitted by softmax cross-entropy.

    Parameters
    ----------
    base : a retriever with ``embed`` and, once fitted, ``documents_``: :class:`LSA` or :class:`Embedding`
    scale : inverse temperature of the softmax
    ridge : weight of |W - I|^2; without training queries W is the identity
    max_iter : iterations of L-BFGS

    A query with several relevant documents has its probability spread over them in proportion to their grades.
    """

    base: Any = field(default_factory=LSA)
    scale: float = 20.0
    ridge: float = 0.1
    max_iter: int = 200

    def fit(self, documents: Texts, queries: Texts = (), relevance: Any = None) -> Self:
        """Fit the base on the documents, then W on the training queries."""
        checks.positive("scale", self.scale)
        checks.positive("ridge", self.ridge)
        self.base_ = copy.copy(self.base).fit(documents)  # what was given stays as it is, and may serve elsewhere
        d = self.base_.documents_
        self.weights_ = np.eye(d.shape[1])
        if len(queries):
            if relevance is None or relevance.shape != (len(queries), len(documents)):
                raise InputError(f"relevance must be ({len(queries)}, {len(documents)}) grades, one row a training query")
            target = sparse.csr_matrix(relevance, dtype=np.float64)
            idle = np.flatnonzero(np.asarray(target.sum(axis=1)).ravel() <= 0)
            if idle.size:
                raise InputError(f"training query {idle[0]} has no relevant document; leave it out")
            target = sparse.diags_array(1 / np.asarray(target.sum(axis=1)).ravel()) @ target
            found = optimize.minimize(
                self.loss,
                self.weights_.ravel(),
                args=(self.base_.embed(queries), d, target),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": self.max_iter},
            )
            if not found.success:
                warnings.warn(
                    f"training stopped before it settled: {found.message}; raise max_iter", ConvergenceWarning, stacklevel=2
                )
            self.weights_ = found.x.reshape(self.weights_.shape)
        return self

    def loss(self, weights: FloatArray, q: FloatArray, d: FloatArray, target: Any) -> tuple[float, FloatArray]:
        """Mean cross-entropy plus ridge |W - I|^2, and its gradient (k k,) in W.

        weights (k k,), embeddings of queries (n, k) and documents (m, k), sparse target probabilities (n, m).
        """
        w = weights.reshape(q.shape[1], d.shape[1])
        logits = self.scale * (q @ w) @ d.T
        logits -= logits.max(axis=1, keepdims=True)
        probability = np.exp(logits)
        total = probability.sum(axis=1, keepdims=True)
        probability /= total
        at = target.tocoo()
        log_p = logits[at.row, at.col] - np.log(total[at.row, 0])
        away = w - np.eye(*w.shape)
        value = -float(at.data @ log_p) / len(q) + self.ridge * float((away**2).sum())
        gradient = self.scale / len(q) * (q.T @ (probability @ d - target @ d)) + 2 * self.ridge * away
        return value, gradient.ravel()

    def embed(self, texts: Texts) -> FloatArray:
        """(n_texts, k) queries after the trained map."""
        checks.fitted(self, "weights_", _FIT)
        return np.asarray(self.base_.embed(texts) @ self.weights_)

    def scores(self, queries: Texts) -> FloatArray:
        """(n_queries, n_documents)."""
        return np.asarray(self.embed(queries) @ self.base_.documents_.T)


def _right_singular(matrix: Any, k: int) -> tuple[FloatArray, FloatArray]:
    """The k largest singular values and their right vectors (n_columns, k): ARPACK, or dense where that is faster."""
    if min(matrix.shape) <= max(300, 3 * k):
        _, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return values[:k], np.ascontiguousarray(right[:k].T)
    start = np.random.default_rng(0).normal(size=min(matrix.shape))  # a fixed start, so that the result is the same each time
    _, values, right = svds(matrix, k=k, v0=start)
    return values[::-1].copy(), np.ascontiguousarray(right[::-1].T)


def unit(x: ArrayLike) -> FloatArray:
    """Rows of `x` (n, d) at unit length; rows of zeros stay."""
    rows = np.asarray(x, dtype=np.float64)
    length = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(length > 0, length, 1.0))
