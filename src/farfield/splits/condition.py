"""What lies beyond, said in words: ``Weight > q80 and (Origin == "Japan" or Year >= 1980)``, and the splitter that obeys it.

    region     := all { "or" all }                all := one { "and" one }
    one        := "(" region ")" | column comparison value
    column     := a name, or any text between backticks: `Weight in lbs`
    comparison := > | >= | < | <= | == | !=       (= is read as ==)
    value      := a number, a quantile of the column qNN (q80, q97.5), or a word, quoted where it has blanks

``and`` binds tighter than ``or``. Nothing is evaluated as code.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.errors import InputError
from farfield.splits.base import Part, RegionSplitter, Table
from farfield.splits.clouds import away
from farfield.splits.hull import hull_distance
from farfield.splits.ranges import along
from farfield.splits.rows import FloatArray, IntArray, column

BoolArray = NDArray[np.bool_]
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<open>\() | (?P<close>\)) | (?P<op>>=|<=|==|!=|>|<|=) |
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w])) |
    `(?P<name>[^`]+)` | "(?P<double>[^"]*)" | '(?P<single>[^']*)' |
    (?P<word>[^\s()<>=!"'`]+)
    )""",
    re.VERBOSE,
)
_QUANTILE = re.compile(r"q(\d{1,2}(?:\.\d+)?)$")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Comparison:
    """One comparison of a column with a number, a quantile of the column (as a share) or a word."""

    column: str
    op: str
    value: float | str
    quantile: bool = False

    def __str__(self) -> str:
        name = self.column if re.fullmatch(r"[^\s()<>=!\"'`]+", self.column) else f"`{self.column}`"
        value = f"{self.value:g}" if isinstance(self.value, float) else repr(self.value)
        return f"{name}{self.op}{value}"


@dataclass(frozen=True)
class Both:
    """Several conditions joined by ``and`` or ``or``."""

    word: str
    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(f"({p})" if isinstance(p, Both) else str(p) for p in self.parts)


Condition = Comparison | Both


def parse(text: str) -> Condition:
    """The condition that `text` says; InputError that points at the place where it does not follow the grammar."""
    tokens = list(_tokens(text))
    condition, rest = _joined(text, tokens, 0, "or")
    if tokens[rest].kind != "end":
        raise _wrong(text, tokens[rest].at, "nothing more, or `and` or `or`")
    return condition


def comparisons(condition: Condition) -> list[Comparison]:
    """Every comparison in it, from the left."""
    if isinstance(condition, Comparison):
        return [condition]
    return [c for part in condition.parts for c in comparisons(part)]


def columns(condition: Condition) -> list[str]:
    """The columns it names, each once."""
    return list(dict.fromkeys(c.column for c in comparisons(condition)))


def resolve(condition: Condition, X: Any) -> Condition:
    """The condition with the quantiles of these data in place of qNN; InputError for unknown columns and text compared by size."""
    if isinstance(condition, Both):
        return replace(condition, parts=tuple(resolve(p, X) for p in condition.parts))
    values = column(X, condition.column)
    if not _is_text(values):
        if isinstance(condition.value, str):
            raise InputError(f"column {condition.column!r} holds numbers and is compared with the word {condition.value!r}")
        if condition.quantile:
            edge = float(np.nanquantile(values.astype(np.float64), condition.value))
            return replace(condition, value=edge, quantile=False)
        return condition
    if condition.op not in ("==", "!="):
        raise InputError(f"column {condition.column!r} holds text, which {condition.op} cannot compare; allowed: == and !=")
    if condition.quantile:
        raise InputError(f"column {condition.column!r} holds text, which has no quantiles")
    return replace(condition, value=condition.value if isinstance(condition.value, str) else f"{condition.value:g}")


def holds(condition: Condition, X: Any) -> BoolArray:
    """(n,) where a resolved condition holds; a missing value satisfies no comparison."""
    if isinstance(condition, Both):
        joined = np.logical_and if condition.word == "and" else np.logical_or
        return np.asarray(joined.reduce([holds(p, X) for p in condition.parts]))
    values = column(X, condition.column)
    known = ~_missing(values)
    out = np.zeros(values.shape[0], dtype=bool)
    kind = str if _is_text(values) else np.float64
    out[known] = _COMPARE[condition.op](values[known].astype(kind), condition.value)
    return out


@dataclass(eq=False)
class ConditionSplit(RegionSplitter):
    """Beyond: where a condition on named columns holds, such as ``"Weight > q80 and Origin == 'Japan'"``.

    Parameters
    ----------
    beyond : the condition, in the grammar of :mod:`farfield.splits.condition`; X must be a data frame
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Rows that lack a value the condition needs are neither seen nor beyond, with a warning that counts them. Rows that satisfy it
    and yet lie within what is seen (of the columns named: inside the hull of the seen values, in categories seen together) are no
    extrapolation: all of them is an error, some a warning. Distance: to the nearest seen row in the columns compared as numbers,
    over the extent of the seen rows; NaN where only text is compared.
    """

    beyond: str

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        condition = resolve(parse(self.beyond), table.X)
        names = columns(condition)
        values = {name: column(table.X, name) for name in names}
        lacking = np.logical_or.reduce([_missing(v) for v in values.values()])
        true = holds(condition, table.X)
        tag = str(condition)
        there, here = np.flatnonzero(true & ~lacking), np.flatnonzero(~true & ~lacking)
        if there.size == 0 or here.size == 0:
            where = "no row lies" if there.size == 0 else "every row lies"
            raise InputError(f"{where} beyond {self.beyond!r} ({tag}); {int(lacking.sum())} of {table.n} rows lack a value")
        if lacking.any():
            warnings.warn(
                f"{int(lacking.sum())} of {lacking.size} rows lack {' or '.join(names)}: left out of both sides", stacklevel=2
            )
        numeric = [v.astype(np.float64) for v in values.values() if not _is_text(v)]
        words = [v for v in values.values() if _is_text(v)]
        within = _within(numeric, words, there, here)
        if within.all():
            raise InputError(
                f"the region {tag} lies inside the seen range of {', '.join(names)}: that is interpolation, not beyond"
            )
        if within.any():
            warnings.warn(f"{int(within.sum())} of {there.size} rows beyond ({tag}) lie inside the seen range", stacklevel=2)
        if not numeric:
            distance = np.full(there.size, np.nan)
        elif len(numeric) == 1:
            distance = along(numeric[0], there, here)
        else:
            distance = away(_scaled(numeric, here), there, here)
        yield Part(here, there, distance, tag)


def _within(numeric: list[FloatArray], words: list[NDArray[Any]], there: IntArray, here: IntArray) -> BoolArray:
    """Which rows beyond lie within what is seen: a seen combination of words, and in the box and the hull of the seen numbers."""
    within: BoolArray = np.ones(there.size, dtype=bool)
    if words:
        rows = np.array(list(zip(*(w.astype(str) for w in words), strict=True)), dtype=object)
        seen = {tuple(r) for r in rows[here]}
        within &= np.array([tuple(r) in seen for r in rows[there]])
    if numeric:
        points = _scaled(numeric, here)
        low, high = points[here].min(axis=0), points[here].max(axis=0)
        within &= ((points[there] >= low) & (points[there] <= high)).all(axis=1)
        if len(numeric) > 1 and within.any():
            rows_within = np.flatnonzero(within)
            within[rows_within] = hull_distance(points[there[rows_within]], points[here]) == 0
    return within


def _scaled(numeric: list[FloatArray], here: IntArray) -> FloatArray:
    points = np.column_stack(numeric)
    spread = np.ptp(points[here], axis=0)
    return np.asarray(points / np.where(spread > 0, spread, 1.0))


def _is_text(values: NDArray[Any]) -> bool:
    return values.dtype.kind not in "biuf" and any(isinstance(v, str) for v in values.tolist())


def _missing(values: NDArray[Any]) -> BoolArray:
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values), dtype=bool)
    if values.dtype.kind in "biu":
        return np.zeros(values.shape, dtype=bool)
    return np.asarray([v is None or v != v for v in values.tolist()], dtype=bool)


# -- reading ----------------------------------------------------------------------------------------------------------------------


def _tokens(text: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise _wrong(text, at + len(text[at:]) - len(text[at:].lstrip()), "a column, a comparison or a value")
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind))
        at = found.end()
    yield _Token("end", "", end)


def _joined(text: str, tokens: list[_Token], i: int, word: str) -> tuple[Condition, int]:
    parts: list[Condition] = []
    while True:
        part, i = _joined(text, tokens, i, "and") if word == "or" else _one(text, tokens, i)
        parts.append(part)
        if tokens[i].kind != "word" or tokens[i].text.casefold() != word:
            return (parts[0] if len(parts) == 1 else Both(word, tuple(parts))), i
        i += 1


def _one(text: str, tokens: list[_Token], i: int) -> tuple[Condition, int]:
    token = tokens[i]
    if token.kind == "open":
        if i > 200:
            raise _wrong(text, token.at, "fewer brackets")
        inner, i = _joined(text, tokens, i + 1, "or")
        if tokens[i].kind != "close":
            raise _wrong(text, tokens[i].at, f"`)`, to close the bracket at {token.at + 1}")
        return inner, i + 1
    if token.kind not in ("word", "name") or (token.kind == "word" and token.text.casefold() in ("and", "or")):
        raise _wrong(text, token.at, "a column, as Weight or `Weight in lbs`")
    if tokens[i + 1].kind != "op":
        raise _wrong(text, tokens[i + 1].at, "a comparison: > >= < <= == !=")
    op = tokens[i + 1].text.replace("=", "==") if tokens[i + 1].text == "=" else tokens[i + 1].text
    value = tokens[i + 2]
    quantile = _QUANTILE.match(value.text) if value.kind == "word" else None
    if quantile:
        if op in ("==", "!="):
            raise _wrong(text, value.at, "a number or a word after == or !=; quantiles go with > >= < <=")
        share = float(quantile[1]) / 100
        if not 0 < share < 1:
            raise _wrong(text, value.at, "a quantile above q0 and below q100")
        return Comparison(token.text, op, share, quantile=True), i + 3
    if value.kind == "number":
        return Comparison(token.text, op, float(value.text)), i + 3
    if value.kind not in ("word", "double", "single"):
        raise _wrong(text, value.at, "a value: a number, a quantile as q80, or a word")
    return Comparison(token.text, op, value.text), i + 3


def _wrong(text: str, at: int, wanted: str) -> InputError:
    got = f"{text[at : at + 12]!r}" if at < len(text.rstrip()) else "the end"
    return InputError(f"cannot read the region at letter {at + 1}: got {got}, expected {wanted}\n  {text}\n  {' ' * at}^")
