"""P006: a small Llama tuned by preferences on part of the data is moved further along the step, by a factor chosen on dev prompts.

The models are transformers' own. A prompt is a step k and a digit; of a good answer each of eight digits is the one before plus k,
modulo 10, and its reward is the share of digits that are. The supervised model learns answers of which 35 % of the digits follow
the rule by intent, the others at random. Preference tuning is DPO (beta 0.1) on pairs of such answers, the better by reward chosen,
one pass over 5, 10, 20, 40 and 100 % of the pairs with a learning rate schedule each. A model's score is the mean reward of
sampled answers, at temperature 1 with common random numbers.

All checkpoints are written by transformers; each point of the ray is written by farfield and read back by transformers. Ablation:
the same distance in a random direction, drawn tensor by tensor with the norm of the step's.
"""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured, Trend
from farfield.errors import require
from farfield.weights.extrapolate import sweep

if TYPE_CHECKING:
    from torch import Tensor, nn

IntArray = NDArray[np.int64]
LENGTH, START, KEEP = 8, 10, 0.35
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 1.0)
FACTORS = (0.0, 0.3, 1.0, 2.5, 5.0, 10.0, 20.0)
BETA = 0.1


def _prompts(n: int, rng: np.random.Generator) -> IntArray:
    """(n, 3): a start token, a step of 1 to 3, a digit."""
    return np.stack([np.full(n, START), rng.integers(1, 4, n), rng.integers(0, 10, n)], axis=1)


def _answers(prompts: IntArray, rng: np.random.Generator) -> IntArray:
    """(n, LENGTH) answers of which a share KEEP of the digits follow the rule, the others at random."""
    out = np.empty((len(prompts), LENGTH), np.int64)
    last = prompts[:, 2]
    for i in range(LENGTH):
        follows = rng.random(len(prompts)) < KEEP
        last = np.where(follows, (last + prompts[:, 1]) % 10, rng.integers(0, 10, len(prompts)))
        out[:, i] = last
    return out


def _rewards(prompts: IntArray, answers: IntArray) -> NDArray[np.float64]:
    before = np.concatenate([prompts[:, 2:], answers[:, :-1]], axis=1)
    right: NDArray[np.float64] = (answers == (before + prompts[:, 1:2]) % 10).mean(axis=1)
    return right


def _log_likelihood(model: nn.Module, prompts: IntArray, answers: IntArray) -> Tensor:
    """(n,) log-likelihood of whole answers."""
    import torch

    tokens = torch.from_numpy(np.concatenate([prompts, answers], axis=1))
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[:, 2:]
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 3:, None]).squeeze(-1).sum(-1)


class _Score:
    """Reward of answers sampled for fixed prompts with fixed random numbers, one number a prompt."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.prompts, self.noise = _prompts(n, rng), rng.gumbel(size=(LENGTH, n, 16))

    def __call__(self, model: Any) -> NDArray[np.float64]:
        import torch
        from transformers import LlamaForCausalLM

        if isinstance(model, Path):
            model = LlamaForCausalLM.from_pretrained(model)
        tokens = torch.from_numpy(self.prompts)
        with torch.no_grad():
            for noise in self.noise:
                logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
                tokens = torch.cat([tokens, (logits + torch.from_numpy(noise)).argmax(-1, keepdim=True)], 1)
        return _rewards(self.prompts, tokens.numpy()[:, 3:])


def _tune(reference: Any, pairs: tuple[IntArray, IntArray, IntArray], steps: int, rate: float, batch: int) -> Any:
    """DPO on the first steps * batch pairs (prompts, better answers, worse ones), each once."""
    import torch

    from farfield.nn.trainer import Recipe, train

    model = copy.deepcopy(reference)
    at = iter(range(steps))

    def loss(model: nn.Module, rng: np.random.Generator) -> Tensor:
        part = slice((i := next(at)) * batch, (i + 1) * batch)
        prompts, better, worse = (p[part] for p in pairs)
        both = np.concatenate([prompts, prompts]), np.concatenate([better, worse])
        with torch.no_grad():
            known = _log_likelihood(reference, *both)
        gain = _log_likelihood(model, *both) - known
        return -torch.nn.functional.logsigmoid(BETA * (gain[: len(prompts)] - gain[len(prompts) :])).mean()

    train(model, loss, Recipe(steps, rate, warmup=0.1), quiet=True)
    return model


def _models(budget: str, seed: int) -> tuple[Any, dict[float, Any]]:
    """The supervised model and those tuned on every fraction of the pairs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from farfield.nn.trainer import Recipe, train

    tiny = budget == "tiny"
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32 if tiny else 48,
        intermediate_size=64 if tiny else 96,
        num_hidden_layers=1 if tiny else 2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=None,
    )
    start = LlamaForCausalLM(config)

    def supervised(model: nn.Module, rng: np.random.Generator) -> Tensor:
        prompts = _prompts(64, rng)
        return -_log_likelihood(model, prompts, _answers(prompts, rng)).mean() / LENGTH

    train(start, supervised, Recipe(150 if tiny else 600, 3e-3), seed=seed, quiet=True)
    steps, batch = (40, 32) if tiny else (160, 32)
    rng = np.random.default_rng((seed, 1))
    prompts = _prompts(3 * steps * batch, rng)
    first, second = _answers(prompts, rng), _answers(prompts, rng)
    difference = _rewards(prompts, first) - _rewards(prompts, second)
    unequal = np.flatnonzero(difference)[: steps * batch]
    swapped = (difference < 0)[:, None]
    better, worse = np.where(swapped, second, first)[unequal], np.where(swapped, first, second)[unequal]
    pairs = prompts[unequal], better, worse
    return start, {f: _tune(start, pairs, max(1, round(f * steps)), 2e-4, batch) for f in FRACTIONS}


def run(budget: str, seed: int) -> Measured:
    """Mean reward on test prompts at the factor chosen on dev prompts, for every fraction of preference data."""
    require("torch", "the claim of P006")
    require("transformers", "the claim of P006")
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    start, tuned = _models(budget, seed)
    n = 128 if budget == "tiny" else 512
    dev, test = _Score(n, 10_000 + seed), _Score(4 * n, 20_000 + seed)
    best: dict[float, float] = {}
    scores: dict[float, float] = {}
    plain: dict[float, float] = {}
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        start.save_pretrained(Path(folder) / "sft")
        for fraction, model in tuned.items():
            model.save_pretrained(Path(folder) / f"dpo-{fraction}")
            result = sweep(Path(folder) / "sft", Path(folder) / f"dpo-{fraction}", dev, alphas=FACTORS, test=test, scratch=folder)
            assert result.test is not None
            best[fraction], (plain[fraction], scores[fraction]) = result.best_alpha, result.test
            curves.append(Curve(f"{fraction:.0%} of the pairs", result.alphas.tolist(), result.scores.tolist()))
    part = tuned[0.2]
    random = copy.deepcopy(part)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p, q, s in zip(random.parameters(), part.parameters(), start.parameters(), strict=True):
            direction = torch.randn(p.shape, generator=generator)
            p += best[0.2] * (q - s).norm() / direction.norm() * direction
    gap = plain[1.0] - plain[0.2]
    return Measured(
        ours={
            "score": scores[0.2],
            "gap_closed": (scores[0.2] - plain[0.2]) / gap,
            "best_factor_by_training": Trend([math.log(f) for f in FRACTIONS], [math.log1p(best[f]) for f in FRACTIONS]),
            "score_random": scores[0.2],
        },
        baseline={"score": plain[0.2], "gap_closed": 0.8},
        ablation={"score_random": float(test(random).mean())},
        curves=curves,
        axes=("factor alpha", "mean reward on dev prompts"),
        notes={
            "reward of the supervised model": float(test(start).mean()),
            "reward as tuned": {f"{f:g}": plain[f] for f in FRACTIONS},
            "reward at the best factor": {f"{f:g}": scores[f] for f in FRACTIONS},
            "best factor": {f"{f:g}": best[f] for f in FRACTIONS},
            "parameters": sum(p.numel() for p in start.parameters()),
        },
    )
