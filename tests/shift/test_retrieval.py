"""ReSTTest and ReSTrain: who trains on what, what a retriever without training shows, and a corpus on which training is local."""

import numpy as np
import pytest
from scipy import sparse

from farfield.errors import InputError
from farfield.shift.ranking import ndcg
from farfield.shift.retrieval import Collection, restrain, resttest
from farfield.shift.retrievers import BM25, LSA, Embedding, TrainedEncoder
from shift.topics import bag, corpus


class Recorder(BM25):
    """BM25 that notes which queries it was given to train on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def fit(self, documents, queries=(), relevance=None):
        assert relevance.shape == (len(queries), len(documents))
        self.seen.append(list(queries))
        return super().fit(documents)


def test_resttest_trains_on_the_other_buckets_and_scores_every_test_query_on_both_sides():
    collection, topics = corpus(n_topics=4, per_topic=10)
    test = np.arange(0, 40, 5)
    recorder = Recorder()
    found = resttest(collection, recorder, test=test, buckets=topics, rng=0)
    assert found.per_query[:, 0].tolist() == test.tolist()
    for bucket, queries in enumerate(recorder.seen):
        assert set(queries) == {q for i, q in enumerate(collection.queries) if topics[i] != bucket and i not in test}
    assert found.n_train == (24,) * 4
    assert found.gap.value == 0  # nothing was trained, and each query counts once on either side
    assert (
        found.inside.value
        == found.beyond.value
        == pytest.approx(collection.scored(BM25().fit(collection.documents), test, ndcg).mean())
    )


def test_restrain_gives_sets_of_one_size_with_and_without_the_neighbours():
    collection, _ = corpus(n_topics=5, per_topic=12)
    recorder, test = Recorder(), np.array([0, 1, 2, 3, 4, 5])  # all of topic 0
    found = restrain(collection, recorder, test=test, n_neighbors=6, max_train=6, rng=0)
    near, far = recorder.seen
    assert len(near) == len(far) == 6 == found.n_train[0]
    assert set(near) <= set(collection.queries[6:12])  # the other queries of topic 0
    assert not set(far) & set(collection.queries[:12])
    assert (found.gap.value, found.gap.low, found.gap.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["ndcg@10", "mrr@10"])
def test_what_is_learned_within_a_topic_does_not_carry_to_others(metric):
    collection, topics = corpus(n_topics=3, per_topic=60)
    encoder = TrainedEncoder(Embedding(bag(collection)), scale=10.0, ridge=0.01)
    found = resttest(collection, encoder, buckets=topics, test=0.5, metric=metric, rng=1)
    assert found.gap.low > 0.02
    same = resttest(collection, encoder, buckets=topics, test=0.5, metric=metric, rng=1)
    assert same.to_dict() == found.to_dict()
    assert found.beyond.value < found.inside.value
    assert "gap" in found.summary()
    assert found.to_frame()["quantity"].to_list() == ["inside", "beyond", "gap"]


def test_clusters_of_queries_find_the_topics():
    collection, topics = corpus(n_topics=4, per_topic=10)
    recorder = Recorder()
    resttest(collection, recorder, n_buckets=4, test=np.arange(0, 40, 2), embed=LSA(20).fit(collection.documents).embed, rng=0)
    of = dict(zip(collection.queries, topics, strict=True))
    assert [len({of[q] for q in queries}) for queries in recorder.seen] == [3, 3, 3, 3]


def test_altering_test_judgements_leaves_the_fit_alone():
    collection, topics = corpus(n_topics=3, per_topic=10)
    test = np.arange(0, 30, 3)
    changed = collection.relevance.toarray()
    changed[test] = np.roll(changed[test], 1, axis=1)
    fitted = []
    for c in (collection, Collection(collection.documents, collection.queries, sparse.csr_matrix(changed))):
        encoder = TrainedEncoder(LSA(20))
        resttest(c, encoder, test=test, buckets=topics, rng=0)
        fitted.append(encoder.weights_)
    np.testing.assert_array_equal(*fitted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: resttest(c, BM25(), metric="map"), "unknown metric 'map'"),
        (lambda c: resttest(c, BM25(), buckets=np.zeros(30)), "at least two different"),
        (lambda c: resttest(c, BM25(), buckets=[1, 2]), r"allowed: \(30,\)"),
        (lambda c: resttest(c, BM25(), test=[0, 99]), "0 to 29"),
        (lambda c: resttest(c, BM25(), test=[0.5]), "whole numbers"),
        (lambda c: resttest(c, BM25(), test=[0, 1], buckets=np.repeat([0, 1, 2], 10)), "every test query"),
        (lambda c: resttest(c, BM25(), test=np.arange(29), buckets=[0] * 15 + [1] * 15), "every training query"),
        (lambda c: restrain(c, BM25(), n_neighbors=100), "n_neighbors is 100"),
        (lambda c: restrain(c, BM25(), embed=lambda q: np.ones((3, 2))), "one a query"),
        (lambda c: Collection(c.documents, c.queries, sparse.csr_matrix((3, 3))), "allowed: "),
        (lambda c: Collection(c.documents, c.queries[:1], [(0, 0, 1)]), "at least two"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call(corpus(n_topics=3, per_topic=10)[0])
