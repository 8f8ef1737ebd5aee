"""The public table of open base models that several claims rest on: sizes, training tokens and compute, eight benchmark scores.

Read from `$FARFIELD_DATA`. One row (BTLM) gives its 627 billion tokens as 627 trillion, a hundred times more than anyone had, and
its FLOPs follow from them; both are mended as they are read.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.claims.data import data_file

FILE = "curves/obsscaling_base_llm_benchmarks.csv"
FLOPS, SIZE, TOKENS = "FLOPs (1E21)", "Model Size (B)", "Pretraining Data Size (T)"
# score of guessing: four choices, two choices, or free text
CHANCE = {
    "MMLU": 0.25,
    "ARC-C": 0.25,
    "HellaSwag": 0.25,
    "Winograd": 0.5,
    "TruthfulQA": 0.25,
    "GSM8K": 0.0,
    "XWinograd": 0.5,
    "HumanEval": 0.0,
}
_MOST_TOKENS = 100.0  # trillions
FloatArray = NDArray[np.float64]
Row = dict[str, str]


def models(known: Sequence[str]) -> list[Row]:
    """The rows in which all of the columns `known` are filled. Raises MissingDataError where the table is not there."""
    with data_file(FILE).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[name] for name in known)]


def column(rows: Sequence[Row], name: str) -> FloatArray:
    """(n,) one column as it stands in the table."""
    return np.array([float(row[name]) for row in rows])


def families(rows: Sequence[Row]) -> list[str]:
    """(n,) the family of each model."""
    return [row["Model Family"] for row in rows]


def tokens(rows: Sequence[Row]) -> FloatArray:
    """(n,) training tokens."""
    stated = column(rows, TOKENS)
    return np.asarray(1e12 * np.where(stated > _MOST_TOKENS, stated / 1000, stated))


def compute(rows: Sequence[Row]) -> FloatArray:
    """(n,) training compute in FLOP; tokens need not be known."""
    stated = np.array([float(row[TOKENS] or 0) for row in rows])
    return np.asarray(1e21 * column(rows, FLOPS) / np.where(stated > _MOST_TOKENS, 1000.0, 1.0))


def above_chance(rows: Sequence[Row]) -> FloatArray:
    """(n, 8) scores counted from chance, (score - chance) / (1 - chance), in the order of `CHANCE`."""
    chance = np.array(list(CHANCE.values()))
    return np.asarray((np.stack([column(rows, name) for name in CHANCE], axis=1) - chance) / (1 - chance))
