"""The table of base models: what must be known, the one row that is mended, and scores counted from chance."""

import csv

import numpy as np
import pytest

from farfield.claims import base_models
from farfield.claims.data import MissingDataError


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Three models: one as it should be, one with tokens a thousand times too many, one of which tokens and a score are missing."""
    half = {name: 0.5 * (1 + chance) for name, chance in base_models.CHANCE.items()}
    rows = [
        {"Model Family": "a", base_models.FLOPS: 2.0, base_models.SIZE: 7.0, base_models.TOKENS: 1.5, **half},
        {"Model Family": "b", base_models.FLOPS: 3000.0, base_models.SIZE: 3.0, base_models.TOKENS: 627.0, **base_models.CHANCE},
        {"Model Family": "c", base_models.FLOPS: 1.0, base_models.SIZE: 1.0, base_models.TOKENS: "", **half, "GSM8K": ""},
    ]
    file = tmp_path / base_models.FILE
    file.parent.mkdir()
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path))


def test_models_of_which_all_is_known_with_the_one_row_mended(table):
    rows = base_models.models((base_models.TOKENS, *base_models.CHANCE))
    assert base_models.families(rows) == ["a", "b"]
    np.testing.assert_allclose(base_models.tokens(rows), [1.5e12, 0.627e12], rtol=1e-15)
    np.testing.assert_allclose(base_models.compute(rows), [2e21, 3e21], rtol=1e-15)
    np.testing.assert_allclose(base_models.above_chance(rows), [[0.5] * 8, [0.0] * 8], atol=1e-15)


def test_compute_does_not_ask_for_tokens(table):
    rows = base_models.models((base_models.FLOPS,))
    np.testing.assert_allclose(base_models.compute(rows), [2e21, 3e21, 1e21], rtol=1e-15)


def test_a_table_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FARFIELD_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match=base_models.FILE):
        base_models.models(())
