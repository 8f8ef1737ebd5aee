"""Search by plain-language questions: word matches (SQLite FTS5, bm25) fused with character n-grams (TF-IDF), no model.

Words, stemmed and weighted by field, find what is said; n-grams of 3 to 5 characters find it misspelt or in another word form.
Each gives every paper a score relative to its best one, and the fused score is their weighted mean. The user's text never reaches a
query as it is: it is cut into words of letters and digits first, and these are quoted.
"""

from __future__ import annotations

import math
import re
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from farfield.errors import InputError

# field of a record -> its weight in bm25 and in the n-gram counts
FIELDS = {"title": 3.0, "question": 3.0, "aka": 3.0, "use_when": 1.0, "summary": 1.0}
GRAM_SIZES = (3, 4, 5)
WORD_SHARE = 0.6  # of bm25 in the fused score; the rest is the n-grams'
MAX_WORDS = 48  # of a question; what follows is not read

# words of questions that carry no topic; without them long questions are not matched by their grammar
_STOP = frozenset(
    """a about all already also am an and any are as at be because been before being but by can could did do does doing done each
    else ever few for from get gets getting give gives go goes going got had has have having help her here him his how i if in into
    is it its just keep keeps let like lot make makes making many may me might more most much my need needs no not now of off on one
    only or other our out over own put really same say see seem shall she should so some something still such take than that the
    their them then there these they thing things this those to too try up use used using very want wants was way we were what when
    where whether which while who whom whose why will with without work works would yet you your""".split()  # noqa: SIM905 - a list of 170 literals is not easier to read
)


def words(text: str) -> list[str]:
    """The words of a text, of letters and digits, folded to lower case."""
    return re.findall(r"[^\W_]+", text.casefold())


def query_words(text: str) -> list[str]:
    """The distinct words of a question that carry its topic (all of them if none does), at most `MAX_WORDS`.

    Raises InputError if there is no letter or digit in it.
    """
    # far more characters than MAX_WORDS words have; bounds the work on a text of any length
    found = list(dict.fromkeys(words(text[: 64 * MAX_WORDS])))
    if not found:
        raise InputError(f"nothing to search for in {text[:40]!r}; give some words, such as: learning curve")
    return ([w for w in found if w not in _STOP] or found)[:MAX_WORDS]


def grams(text: Iterable[str]) -> Counter[str]:
    """Counts of the character n-grams of words, each word between marks of its ends."""
    counts: Counter[str] = Counter()
    for word in text:
        marked = f"<{word[:40]}>"
        for size in GRAM_SIZES:
            counts.update(marked[i : i + size] for i in range(max(1, len(marked) - size + 1)))
    return counts


def create(db: sqlite3.Connection, documents: Mapping[str, Mapping[str, str]]) -> None:
    """Write the search tables for `documents` (id -> field -> text) into `db`."""
    db.execute(f"CREATE VIRTUAL TABLE words USING fts5(id UNINDEXED, {', '.join(FIELDS)}, tokenize = 'porter unicode61')")
    db.execute("CREATE TABLE grams (gram TEXT PRIMARY KEY, idf REAL, documents BLOB, weights BLOB) WITHOUT ROWID")
    postings: dict[str, list[tuple[int, float]]] = {}
    for row, (key, fields) in enumerate(documents.items()):
        db.execute(
            f"INSERT INTO words(rowid, id, {', '.join(FIELDS)}) VALUES (?, ?{', ?' * len(FIELDS)})",
            (row, key, *(" ".join(words(fields[name])) for name in FIELDS)),
        )
        counts: defaultdict[str, float] = defaultdict(float)
        for name, weight in FIELDS.items():
            for gram, n in grams(w for w in words(fields[name]) if w not in _STOP).items():
                counts[gram] += weight * n
        for gram, count in counts.items():
            postings.setdefault(gram, []).append((row, 1 + math.log(max(count, 1))))
    idf = {gram: math.log((1 + len(documents)) / (1 + len(found))) + 1 for gram, found in postings.items()}
    norms: defaultdict[int, float] = defaultdict(float)
    for gram, found in postings.items():
        for row, weight in found:
            norms[row] += (weight * idf[gram]) ** 2
    for gram, found in sorted(postings.items()):
        rows, weights = zip(*((row, weight * idf[gram] / math.sqrt(norms[row])) for row, weight in found), strict=True)
        packed = struct.pack(f"<{len(rows)}H", *rows), struct.pack(f"<{len(rows)}f", *weights)
        db.execute("INSERT INTO grams VALUES (?, ?, ?, ?)", (gram, idf[gram], *packed))


def search(db: sqlite3.Connection, text: str, n: int = 5) -> list[tuple[str, float]]:
    """The `n` best ids for a question with their scores, 0 to 1, best first; none if nothing matches.

    Raises InputError if `text` has no letter or digit in it.
    """
    topic = query_words(text)
    by_words, by_grams = _relative(_word_scores(db, topic)), _relative(_gram_scores(db, topic))
    score = {row: WORD_SHARE * by_words.get(row, 0.0) + (1 - WORD_SHARE) * by_grams.get(row, 0.0) for row in {*by_words, *by_grams}}
    best = sorted(score, key=lambda row: (-score[row], row))[: max(n, 0)]
    ids = dict(db.execute(f"SELECT rowid, id FROM words WHERE rowid IN ({', '.join('?' * len(best))})", best).fetchall())
    return [(ids[row], score[row]) for row in best]


def _word_scores(db: sqlite3.Connection, topic: Sequence[str]) -> dict[int, float]:
    weights = ", ".join(str(w) for w in (0.0, *FIELDS.values()))
    match = " OR ".join(f'"{word}"' for word in topic)
    return {
        row: -score for row, score in db.execute(f"SELECT rowid, bm25(words, {weights}) FROM words WHERE words MATCH ?", (match,))
    }


def _gram_scores(db: sqlite3.Connection, topic: Sequence[str]) -> dict[int, float]:
    asked = grams(topic)
    scores: defaultdict[int, float] = defaultdict(float)
    keys = list(asked)
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        marks = ", ".join("?" * len(some))
        for gram, idf, documents, weights in db.execute(f"SELECT * FROM grams WHERE gram IN ({marks})", some):
            factor = idf * (1 + math.log(asked[gram]))
            count = len(documents) // 2
            for row, weight in zip(struct.unpack(f"<{count}H", documents), struct.unpack(f"<{count}f", weights), strict=True):
                scores[row] += factor * weight
    return dict(scores)


def _relative(scores: Mapping[int, float]) -> dict[int, float]:
    top = max(scores.values(), default=0.0)
    return {row: score / top for row, score in scores.items()} if top > 0 else {}
