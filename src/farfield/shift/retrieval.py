"""Is a retriever good only on queries like those it was trained on? (Zhan et al. 2022, arXiv 2204.11447, CIKM 2022)

Queries similar to training queries and queries unlike all of them are scored apart. Two ways to make both kinds (section 3):

* ReSTTest: queries are clustered into K = 5 buckets by the cosine of their embeddings (k-means). For each bucket a model is trained
  on the training queries of the others: test queries of the others are *inside*, those of the bucket left out *beyond*. Every test
  query is beyond once and inside K - 1 times, so the two are paired.
* ReSTrain: the test queries stay, and two training sets of one size are drawn: one holds the nearest training queries of every test
  query (*inside*), from the other they are removed (*beyond*). The same queries are scored, so the difference is no difficulty.

Scores are NDCG@10 or MRR@10, and queries are what is resampled for the intervals: buckets differ in size, so means run over
queries. The embedding behind buckets and neighbours must not have been trained on the test queries: by default it is latent
semantic analysis of the documents, with no label of any query in it.

Deviations: the two training sets of ReSTrain have exactly one size (published pairs differ by 3-5 %). Buckets may also be given
(an entity, a topic, a month), where the shift of interest is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from farfield import checks, seeds
from farfield.errors import InputError
from farfield.gap.result import Estimate
from farfield.intervals import bootstrap
from farfield.shift.ranking import Metric, judgements, ndcg, reciprocal_rank
from farfield.shift.retrievers import LSA, Retriever, Texts, unit
from farfield.splits import NeighborResample
from farfield.splits.clouds import k_means

if TYPE_CHECKING:
    import polars as pl

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Embed = Callable[[Texts], ArrayLike]

METRICS: dict[str, Metric] = {"ndcg@10": ndcg, "mrr@10": reciprocal_rank}


@dataclass(frozen=True, repr=False)
class Collection:
    """Documents, queries and which documents are relevant to which query.

    Parameters
    ----------
    documents, queries : texts
    relevance : sparse (n_queries, n_documents) grades, or triples (query, document, grade) by number

    Raises InputError for queries without a relevant document and numbers that do not fit.
    """

    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevance: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "documents", tuple(self.documents))
        object.__setattr__(self, "queries", tuple(self.queries))
        shape = (len(self.queries), len(self.documents))
        if min(shape) < 2:
            raise InputError(f"{shape[0]} queries and {shape[1]} documents; at least two of each are needed")
        given = self.relevance
        if sparse.issparse(given):
            if given.shape != shape:
                raise InputError(f"relevance has shape {given.shape}; allowed: {shape}, queries by documents")
            at = given.tocoo()
            given = np.column_stack([at.row, at.col, at.data]).astype(np.float64)
        object.__setattr__(self, "relevance", judgements(given, *shape))

    def __repr__(self) -> str:
        return f"Collection({len(self.queries)} queries, {len(self.documents)} documents, {self.relevance.nnz} relevant pairs)"

    def embed(self, n_components: int = 100) -> FloatArray:
        """(n_queries, k) queries in the latent semantic space of the documents, unit length; no label of any query is used."""
        return LSA(n_components).fit(self.documents).embed(self.queries)

    def fitted(self, retriever: Retriever, train: IntArray) -> Retriever:
        """`retriever` itself, fitted on all documents and the training queries `train`."""
        return retriever.fit(self.documents, [self.queries[i] for i in train], self.relevance[train])

    def scored(self, retriever: Retriever, rows: IntArray, metric: Metric, k: int = 10) -> FloatArray:
        """(n_rows,) the metric of each of the queries `rows`."""
        return metric(retriever.scores([self.queries[i] for i in rows]), self.relevance[rows], k)


@dataclass(frozen=True, repr=False)
class RetrievalGap:
    """A retriever inside and beyond its training queries: means over test queries with intervals.

    `gap` is inside minus beyond, positive where the retriever is worse beyond; `per_query` (n, 3) holds the number of each test
    query and its scores inside and beyond; `n_train` the sizes of the training sets.
    """

    name: str
    metric: str
    inside: Estimate
    beyond: Estimate
    gap: Estimate
    level: float
    per_query: FloatArray = field(compare=False)
    n_train: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"RetrievalGap({self.name}, {self.metric}: {self.inside.value:.4g} inside, {self.beyond.value:.4g} beyond)"

    def summary(self) -> str:
        """The numbers in one line."""
        return f"{self.name}, {self.metric}: inside {self.inside}, beyond {self.beyond}, gap {self.gap} ({self.inside.n} queries)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        parts = {name: getattr(self, name)._asdict() for name in ("inside", "beyond", "gap")}
        return {"name": self.name, "metric": self.metric, "level": self.level, "n_train": list(self.n_train), **parts}

    def to_frame(self) -> pl.DataFrame:
        """One row a quantity: name, metric, quantity, value, low, high, n, std_error."""
        import polars as pl

        rows = [(quantity, getattr(self, quantity)) for quantity in ("inside", "beyond", "gap")]
        return pl.DataFrame([{"name": self.name, "metric": self.metric, "quantity": q, **e._asdict()} for q, e in rows])


def resttest(
    collection: Collection,
    retriever: Retriever,
    *,
    test: ArrayLike | float | None = None,
    n_buckets: int = 5,
    buckets: ArrayLike | None = None,
    embed: Embed | None = None,
    metric: str = "ndcg@10",
    n_repeats: int = 1,
    level: float = 0.95,
    n_boot: int = 2000,
    rng: seeds.Seed = None,
) -> RetrievalGap:
    """ReSTTest: buckets of similar queries, each left out of training in turn.

    Parameters
    ----------
    collection : documents, queries and their judgements
    retriever : what is tried; it is fitted again for every bucket, each time from the beginning, and stays as last fitted
    test : numbers of the test queries, or a share of the queries drawn in each of `n_repeats` (None: a fifth); all others train
    n_buckets : buckets made by k-means on unit vectors
    embed : queries -> (n, d) for that; latent semantic analysis of the documents where not given
    buckets : (n_queries,) labels to use instead: an entity, a topic, a month
    metric : ``ndcg@10`` or ``mrr@10``
    level, n_boot : of the intervals, a bootstrap over test queries
    rng : seed of the test queries, the buckets and the intervals

    Raises InputError for an empty test set, fewer than two buckets, a bucket that holds all training or all test queries. Source:
    Zhan et al. 2022, section 3.
    """
    measure = METRICS[checks.choice("metric", metric, METRICS)]
    root = seeds.root(rng)
    n = len(collection.queries)
    found = _Scores(n)
    labels = _labels(collection, n_buckets, buckets, embed, seeds.child(root, 0))
    for repeat in range(checks.count("n_repeats", n_repeats)):
        testing = _test(test, n, seeds.child(root, 1, repeat))
        training = np.setdiff1d(np.arange(n), testing)
        for bucket in np.unique(labels[testing]):
            kept = training[labels[training] != bucket]
            out = labels[testing] == bucket
            if kept.size == 0 or out.all():
                raise InputError(f"bucket {bucket} holds every {'test' if kept.size else 'training'} query; use other buckets")
            fitted = collection.fitted(retriever, kept)
            found.add(1, testing[out], collection.scored(fitted, testing[out], measure))
            found.add(0, testing[~out], collection.scored(fitted, testing[~out], measure))
            found.n_train.append(kept.size)
    return found.result(_name(retriever), metric, level, n_boot, seeds.child(root, 2))


def restrain(
    collection: Collection,
    retriever: Retriever,
    *,
    test: ArrayLike | float | None = None,
    n_neighbors: int = 5,
    max_train: int | None = None,
    embed: Embed | None = None,
    metric: str = "ndcg@10",
    n_repeats: int = 1,
    level: float = 0.95,
    n_boot: int = 2000,
    rng: seeds.Seed = None,
) -> RetrievalGap:
    """ReSTrain: the same test queries after training on their neighbours and after training without them, on sets of one size.

    Parameters
    ----------
    collection, retriever : as in :func:`resttest`
    test : numbers of the test queries, or a share of the queries drawn in each of `n_repeats` (None: a fifth)
    n_neighbors : nearest other queries of each test query that count as its neighbours
    max_train : largest training set; with it small the near set holds neighbours alone
    embed, metric, level, n_boot, rng : as in :func:`resttest`

    Raises InputError where hardly a training query is no neighbour: then there is no beyond to be had. Source: Zhan et al. 2022,
    section 3.
    """
    measure = METRICS[checks.choice("metric", metric, METRICS)]
    root = seeds.root(rng)
    points = _points(collection, embed)
    given = test if test is None or isinstance(test, float) else _rows("test", test, len(collection.queries))
    splitter = NeighborResample(
        n_neighbors, test=given, inside_size=1e-9, max_train=max_train, n_repeats=n_repeats, random_state=seeds.child(root, 0)
    )
    found = _Scores(len(collection.queries))
    for region in splitter.regions(points):
        near, tested = region.reference[0]
        for part, rows in ((0, near), (1, region.train)):
            found.add(part, tested, collection.scored(collection.fitted(retriever, rows), tested, measure))
        found.n_train.append(near.size)
    return found.result(_name(retriever), metric, level, n_boot, seeds.child(root, 1))


class _Scores:
    """Sums of scores a query, inside (0) and beyond (1), over the models that scored it."""

    def __init__(self, n: int) -> None:
        self.total = np.zeros((n, 2))
        self.times = np.zeros((n, 2))
        self.n_train: list[int] = []

    def add(self, part: int, rows: IntArray, values: FloatArray) -> None:
        self.total[rows, part] += values
        self.times[rows, part] += 1

    def result(self, name: str, metric: str, level: float, n_boot: int, rng: np.random.Generator) -> RetrievalGap:
        rows = np.flatnonzero(self.times[:, 1])
        if rows.size < 2:
            raise InputError(f"{rows.size} test query; at least two are needed for an interval")
        scores = self.total[rows] / self.times[rows]
        columns = np.column_stack([scores, scores[:, 0] - scores[:, 1]])
        low, high = bootstrap(columns, level=level, n_boot=n_boot, rng=rng)
        error = columns.std(axis=0, ddof=1) / np.sqrt(rows.size)
        inside, beyond, gap = (
            Estimate(float(columns[:, i].mean()), float(low[i]), float(high[i]), rows.size, float(error[i])) for i in range(3)
        )
        return RetrievalGap(name, metric, inside, beyond, gap, level, np.column_stack([rows, scores]), tuple(self.n_train))


def _name(retriever: Retriever) -> str:
    return type(retriever).__name__


def _points(collection: Collection, embed: Embed | None) -> FloatArray:
    found = collection.embed() if embed is None else unit(checks.finite("embed(queries)", embed(collection.queries), ndim=2))
    if found.shape[0] != len(collection.queries):
        raise InputError(f"embed gave {found.shape[0]} rows for {len(collection.queries)} queries; it must give one a query")
    return found


def _labels(
    collection: Collection, n_buckets: int, buckets: ArrayLike | None, embed: Embed | None, rng: np.random.Generator
) -> NDArray[Any]:
    n = len(collection.queries)
    if buckets is not None:
        labels = np.asarray(buckets)
        if labels.shape != (n,) or np.unique(labels).size < 2:
            raise InputError(f"buckets has shape {labels.shape}; allowed: ({n},), one label a query, at least two different ones")
        return labels
    return k_means(_points(collection, embed), checks.count("n_buckets", n_buckets, least=2), np.arange(n), rng)


def _test(test: ArrayLike | float | None, n: int, rng: np.random.Generator) -> IntArray:
    if test is None or isinstance(test, float):
        share = 0.2 if test is None else checks.level("test", test)
        return np.sort(rng.permutation(n)[: max(2, round(share * n))])
    return _rows("test", test, n)


def _rows(name: str, value: ArrayLike, n: int) -> IntArray:
    rows = np.unique(checks.finite(name, value, ndim=1))
    if rows.size == 0 or rows[0] < 0 or rows[-1] >= n or (rows % 1 != 0).any():
        raise InputError(f"{name} holds {rows.size} query numbers; allowed: at least one, whole numbers from 0 to {n - 1}")
    return rows.astype(np.int64)
