"""Data scaling: accuracy in one pass is that of greedy decoding, models learn, seeds decide, and curves go to the forecaster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import farfield
from farfield.curves.data import Curves, Metric
from farfield.errors import InputError
from farfield.nn.decoder import Decoder, DecoderConfig
from farfield.nn.trainer import Recipe
from farfield.numbers.numerals import ArithmeticTask, DataScaling, NumeralTokenizer, data_scaling, exact_match

pytestmark = pytest.mark.extra("torch")

TASK = ArithmeticTask(digits=(2, 2))
SMALL = DecoderConfig(vocab=1, layers=1, heads=2, width=32)
SHORT = Recipe(150, 1e-2, weight_decay=0.1)


def test_accuracy_in_one_pass_is_that_of_greedy_decoding():
    tokenizer = NumeralTokenizer(10)
    problems = TASK.problems(400, 0)
    rows, start = TASK.tokens(problems, tokenizer)
    model = Decoder(DecoderConfig(tokenizer.vocab, 1, 2, 32), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    examples = torch.from_numpy(rows)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(
            model(examples[:, :-1])[:, start - 1 :].flatten(0, 1), examples[:, start:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    exact, token = exact_match(model, TASK, tokenizer, problems)
    said = model.generate(examples[:, :start], 3)[:, start:]
    right = [tokenizer.decode(row[None].numpy())[0] == a + b for row, (a, b) in zip(said, problems, strict=True)]
    assert 0.02 < exact < 0.98
    assert exact == pytest.approx(np.mean(right))
    assert exact <= token


def test_more_examples_help_and_the_same_seed_gives_the_same():
    found = data_scaling(TASK, [50, 2000], config=SMALL, recipe=SHORT, n_test=300, seed=3)
    assert found.token_accuracy[1] > found.token_accuracy[0] + 0.05
    again = data_scaling(TASK, [50, 2000], config=SMALL, recipe=SHORT, n_test=300, seed=3)
    np.testing.assert_array_equal(found.token_accuracy, again.token_accuracy)
    assert found.steps == 150


def test_longer_operands_are_only_another_task():
    tokenizer = NumeralTokenizer(10)
    model = Decoder(DecoderConfig(tokenizer.vocab, 1, 2, 32))
    longer = ArithmeticTask(digits=(5, 5))
    exact, token = exact_match(model, longer, tokenizer, longer.problems(50, 0))
    assert 0 <= exact <= token < 1


def test_curves_go_to_the_forecaster():
    sizes = (500, 1000, 2000, 4000, 8000)
    found = DataScaling(10, sizes, 5, np.array([0.05, 0.3, 0.6, 0.8, 0.9]), np.ones(5))
    frame = found.to_frame()
    metric = Metric("exact_match", "max", 0.0, 1.0)
    curves = Curves.from_points(frame["run"].to_list(), frame["step"], frame["exact_match"], metric=metric)
    said = farfield.forecast(curves, to=16_000, with_backtest=False)
    low, high = said.predictive.interval(0.8)
    assert 0.8 < low[0] <= high[0] <= 1.0


@pytest.mark.parametrize("sizes", [[], [200, 100], [100, 100], [0]])
def test_sizes_that_do_not_rise_are_refused(sizes):
    with pytest.raises(InputError, match="sizes is"):
        data_scaling(TASK, sizes)
