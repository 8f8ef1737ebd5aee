"""P009: a trained dense encoder loses more than BM25 when its training queries are no neighbours of the test queries.

The text is real and on every machine: docstrings of Python's own standard library, read from the source files of the interpreter
that runs this (so the numbers move a little with its version). A query is the first paragraph of a docstring, its one relevant
document the rest of it. ReSTrain draws a tenth of the queries as test set, with 5 neighbours of each in one training set of up to
600 queries, and without them in another of the same size. The encoder is a linear query tower on latent semantic analysis of the
documents. Ablation: neighbours in a random embedding, which leaves no controlled shift. What varies between corpora is what they
are about, so the replicates are twelve blocks of source files, not seeds; a seed draws its own test queries.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.shift.retrieval import Collection, RetrievalGap, restrain
from farfield.shift.retrievers import BM25, LSA, Embedding, TrainedEncoder

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data", "turtledemo", "ensurepip"}
BLOCKS = 12


def docstrings() -> Iterator[tuple[str, str, str]]:
    """(file, first paragraph, the rest) of every docstring of the standard library with at least 4 and 15 words."""
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT & set(path.relative_to(root).parts[:-1]):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # templates of old syntax or in another encoding: no text of this library's
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                query = " ".join(first.split())
                if len(query.split()) >= 4 and len(rest.split()) >= 15 and query not in seen:
                    seen.add(query)
                    yield str(path.relative_to(root)), query, " ".join(rest.split())


def run(budget: str, seed: int) -> Measured:
    """Drop of NDCG@10 from near to distant training queries: gap, gap_random_split one a block of files, gap_bm25 overall."""
    files, queries, documents = zip(*docstrings(), strict=True)
    repeats = 1 if budget == "tiny" else 10
    collection = Collection(documents, queries, [(i, i, 1.0) for i in range(len(queries))])
    space = LSA(100).fit(documents)  # no query in it; computed once, since every model has the same documents
    names, position = np.unique(files, return_inverse=True)
    end = np.cumsum(np.bincount(position))
    block = ((end[position] - 1) * BLOCKS // len(queries)).astype(np.int64)
    encoder = TrainedEncoder(Embedding(space.embed))
    at_random = np.random.default_rng(seed).normal(size=(len(queries), 20))

    def gap(retriever: BM25 | Embedding | TrainedEncoder, random: bool = False) -> RetrievalGap:
        return restrain(
            collection,
            retriever,
            test=0.1,
            max_train=600,
            embed=(lambda _: at_random) if random else space.embed,
            n_repeats=repeats,
            n_boot=200,
            rng=seed,
        )

    def by_block(found: RetrievalGap) -> list[float]:
        of = block[found.per_query[:, 0].astype(np.int64)]
        return [float(lost(found)[of == b].mean()) for b in range(BLOCKS)]

    def lost(found: RetrievalGap) -> NDArray[np.float64]:
        return found.per_query[:, 1] - found.per_query[:, 2]

    ours, unshifted, bm25, untrained = gap(encoder), gap(encoder, random=True), gap(BM25()), gap(Embedding(space.embed))
    sides = [("dense encoder", ours), ("dense encoder, random sets", unshifted), ("BM25", bm25), ("LSA, untrained", untrained)]
    return Measured(
        ours={"gap": by_block(ours), "gap_random_split": by_block(ours), "gap_bm25": bm25.gap.value},
        baseline={"gap": by_block(bm25), "gap_bm25": 0.0},
        ablation={"gap_random_split": by_block(unshifted)},
        units=[f"files {b + 1}/{BLOCKS}" for b in range(BLOCKS)],
        curves=[Curve(name, [0.0, 1.0], [found.inside.value, found.beyond.value]) for name, found in sides],
        axes=("training queries: neighbours (0), or none of them (1)", "NDCG@10"),
        notes={
            "queries": len(queries),
            "files": len(names),
            "training queries": ours.n_train[0],
            **{f"{name}, inside and beyond": f"{found.inside.value:.4f} {found.beyond.value:.4f}" for name, found in sides},
        },
    )
