"""Numeral tokens against Python's own digits, problems that do not repeat, accuracy against decoding, and a model that learns."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.numbers.numerals import ArithmeticTask, DataScaling, NumeralTokenizer


@pytest.mark.parametrize("base", [10, 100, 1000])
@pytest.mark.parametrize("reverse", [True, False])
def test_tokens_are_the_pieces_of_the_written_number(base, reverse):
    tokenizer, size = NumeralTokenizer(base, reverse), len(str(base)) - 1
    values = np.array([0, 7, 10, 999, 1000, 120_456, 9_999_999])
    got = tokenizer.encode(values, 7)
    width = -(-7 // size)
    for value, row in zip(values, got, strict=True):
        text = f"{value:0{width * size}d}"
        pieces = [int(text[i : i + size]) for i in range(0, len(text), size)]
        assert row.tolist() == (pieces[::-1] if reverse else pieces)
    np.testing.assert_array_equal(tokenizer.decode(got), values)
    assert tokenizer.length(7) == width
    assert tokenizer.vocab == base + 3


def test_synonyms_mean_the_same_and_are_evenly_used():
    tokenizer = NumeralTokenizer(10, synonyms=4)
    values = np.random.default_rng(0).integers(0, 1000, 4000)
    tokens = tokenizer.encode(values, 3, rng=1)
    np.testing.assert_array_equal(tokenizer.decode(tokens), values)
    used = np.bincount(tokens.ravel(), minlength=40)
    assert used.size == 40
    assert used.min() > 230  # 300 expected of each, standard deviation 17
    np.testing.assert_array_equal(tokenizer.encode(values, 3), tokens % 10)
    assert tokenizer.vocab == 43


@pytest.mark.parametrize(
    ("operation", "digits", "of"), [("addition", (3, 3), int.__add__), ("multiplication", (1, 3), int.__mul__)]
)
def test_rows_spell_problem_and_answer(operation, digits, of):
    task, tokenizer = ArithmeticTask(operation, digits), NumeralTokenizer(100)
    problems = task.problems(200, 0)
    rows, start = task.tokens(problems, tokenizer)
    k = tokenizer.length(3)
    assert start == 2 * k + 2
    assert set(rows[:, k]) == {tokenizer.sign(operation)}
    assert set(rows[:, start - 1]) == {tokenizer.equals}
    assert tokenizer.decode(rows[:, start:]).tolist() == [of(a, b) for a, b in problems.tolist()]
    assert tokenizer.decode(rows[:, k + 1 : 2 * k + 1]).tolist() == problems[:, 1].tolist()


def test_problems_are_different_and_lengths_even():
    task = ArithmeticTask(digits=(2, 4))
    held = task.problems(500, 1)
    found = task.problems(3000, 2, without=held)
    assert len({*map(tuple, held.tolist()), *map(tuple, found.tolist())}) == 3500
    share = np.bincount([len(str(v)) for v in found.ravel()])[2:] / found.size
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    np.testing.assert_array_equal(task.problems(3000, 2, without=held), found)
    with pytest.raises(InputError, match="up to half"):
        ArithmeticTask(digits=(1, 1)).problems(51)


def test_samples_for_a_level_are_read_off_in_log_size():
    found = DataScaling(10, (100, 200, 400), 5, np.array([0.1, 0.5, 0.95]), np.array([0.5, 0.8, 0.99]))
    assert found.samples_for(0.9) == pytest.approx(200 * 2 ** (0.4 / 0.45))
    assert found.samples_for(0.99) == float("inf")
    assert found.samples_for(0.05) == 100
    assert found.to_frame()["exact_match"].to_list() == [0.1, 0.5, 0.95]
    assert "200 examples: 50.0 % exact" in found.summary()
    assert found.plot().get_xscale() == "log"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: NumeralTokenizer(12), "10, 100, 1000"),
        (lambda: NumeralTokenizer(10).encode([1.5], 3), "integers"),
        (lambda: NumeralTokenizer(10).encode([-1], 3), "holds -1"),
        (lambda: NumeralTokenizer(10).encode([1000], 3), "0 to 999"),
        (lambda: NumeralTokenizer(10).encode([1], 19), "1 to 18"),
        (lambda: NumeralTokenizer(10).decode([[3, 12]]), "numerals are 0 to 9"),
        (lambda: ArithmeticTask("division"), "unknown operation"),
        (lambda: ArithmeticTask(digits=(4, 3)), r"\(4, 3\)"),
        (lambda: ArithmeticTask("multiplication", (1, 10)), "18 digits"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(InputError, match=match):
        call()
