"""A corpus with known topics: queries have words of their own, which only training on the same topic can teach."""

import numpy as np

from farfield.shift.retrieval import Collection
from farfield.shift.retrievers import words

CONCEPTS = 8


def corpus(n_topics=4, per_topic=20, seed=0):
    """(Collection, topic of each query): a query asks for three of its document's four concepts, two of them in other words."""
    rng = np.random.default_rng(seed)
    documents, queries, topics = [], [], []
    for topic in range(n_topics):
        for _ in range(per_topic):
            concepts = rng.choice(CONCEPTS, size=4, replace=False)
            documents.append(" ".join([f"t{topic}"] + [f"d{topic}x{c}" for c in concepts]))
            a, b, c = rng.choice(concepts, size=3, replace=False)
            queries.append(f"t{topic} d{topic}x{a} q{topic}x{b} q{topic}x{c}")
            topics.append(topic)
    return Collection(documents, queries, [(i, i, 1.0) for i in range(len(queries))]), np.array(topics)


def bag(collection):
    """texts -> counts of every word of the collection, those of queries too."""
    place = {w: i for i, w in enumerate(sorted({w for t in collection.documents + collection.queries for w in words(t)}))}

    def counts(texts):
        out = np.zeros((len(texts), len(place)))
        for row, text in enumerate(texts):
            for word in words(text):
                out[row, place[word]] += 1
        return out

    return counts
