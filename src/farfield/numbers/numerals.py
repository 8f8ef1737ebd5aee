"""In which base should a language model read numbers? (Zhou et al. 2024, arXiv 2409.17391.)

A number is cut into tokens of 1, 2 or 3 decimal digits, which makes it a numeral in base 10, 100 or 1000 with a vocabulary of as
many tokens. The same decoder is trained on sums or products written in one base; what is followed is the share of problems it gets
wholly right (*exact match*) over the number of different training examples, with everything else equal:

- a larger base makes sequences shorter, and every token rarer: a table of base^2 sums replaces one of 100;
- the paper finds base 10 the most data-efficient from scratch at every model size, for addition and multiplication.

`data_scaling` gives exact match and token accuracy over training sizes, `DataScaling.samples_for` the size that reaches a level;
the curves are learning curves in the number of examples, which `farfield.forecast` takes as they are.

Deviations: two-layer decoders from scratch in place of Pythia; numbers are padded with zeros to one width, and may be written
least significant token first, in every base alike (the paper writes them as text), so that thousands of examples suffice.
`synonyms`, ours, makes the tokens of a base as rare as those of a larger one: it tells rarity from what a digit means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, seeds
from farfield.errors import InputError, require
from farfield.figures import axes_or_new, style
from farfield.seeds import Seed

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

    from farfield.nn.decoder import Decoder, DecoderConfig
    from farfield.nn.trainer import Recipe

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Operation = Literal["addition", "multiplication"]
_DIGITS = {10: 1, 100: 2, 1000: 3}
_SIGNS = {"addition": 0, "multiplication": 1}  # places of the signs behind the numerals, "=" after them
_MOST_DIGITS = 18  # of a 64-bit integer


@dataclass(frozen=True)
class NumeralTokenizer:
    """Numbers as tokens of 1, 2 or 3 decimal digits.

    Parameters
    ----------
    base : 10, 100 or 1000
    reverse : least significant token first
    synonyms : tokens that mean the same numeral; which one stands in an operand is drawn at random (1: no synonyms)

    Tokens 0 to base - 1 are the numerals, token ``base * s + i`` is their s-th synonym; then come "+", "x" and "=".
    Raises InputError for another base.
    """

    base: int = 10
    reverse: bool = True
    synonyms: int = 1

    def __post_init__(self) -> None:
        if self.base not in _DIGITS:
            raise InputError(f"base is {self.base!r}; allowed: 10, 100, 1000 (1, 2 or 3 decimal digits a token)")
        checks.count("synonyms", self.synonyms)

    @property
    def vocab(self) -> int:
        """Tokens in all."""
        return self.base * self.synonyms + 3

    def sign(self, operation: Operation) -> int:
        """The token of "+" or "x"."""
        return self.base * self.synonyms + _SIGNS[checks.choice("operation", operation, _SIGNS)]

    @property
    def equals(self) -> int:
        """The token of "="."""
        return self.vocab - 1

    def length(self, digits: int) -> int:
        """Tokens of a number of `digits` decimal digits."""
        return -(-checks.count("digits", digits) // _DIGITS[self.base])

    def encode(self, values: ArrayLike, digits: int, rng: Seed = None) -> IntArray:
        """Tokens (n, k) of whole numbers (n,), padded with zeros to `digits` decimal digits.

        `rng` draws the synonyms; None takes the first of each. Raises InputError for values that are not whole numbers from 0 up,
        or have more digits.
        """
        numbers = np.asarray(values)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise InputError(f"values has shape {numbers.shape} and type {numbers.dtype}; allowed: (n,) integers")
        if not 1 <= checks.count("digits", digits) <= _MOST_DIGITS:
            raise InputError(f"digits is {digits}; allowed: 1 to {_MOST_DIGITS}")
        outside = (numbers < 0) | (numbers >= 10**digits)
        if outside.any():
            raise InputError(f"values holds {numbers[outside][0]}; allowed with {digits} digits: 0 to {10**digits - 1}")
        k = self.length(digits)
        tokens = numbers.astype(np.int64)[:, None] // self.base ** np.arange(k) % self.base
        if self.synonyms > 1 and rng is not None:
            tokens = tokens + self.base * seeds.generator(rng).integers(0, self.synonyms, tokens.shape)
        return np.ascontiguousarray(tokens if self.reverse else tokens[:, ::-1])

    def decode(self, tokens: ArrayLike) -> IntArray:
        """The numbers (n,) that tokens (n, k) stand for; raises InputError where one is not a numeral."""
        pieces = np.asarray(tokens)
        if pieces.ndim != 2 or pieces.dtype.kind not in "iu":
            raise InputError(f"tokens has shape {pieces.shape} and type {pieces.dtype}; allowed: (n, k) integers")
        if pieces.size and not (pieces.min() >= 0 and pieces.max() < self.base * self.synonyms):
            raise InputError(
                f"tokens runs from {pieces.min()} to {pieces.max()}; numerals are 0 to {self.base * self.synonyms - 1}"
            )
        ordered = (pieces if self.reverse else pieces[:, ::-1]).astype(np.int64) % self.base
        return np.asarray(ordered @ self.base ** np.arange(ordered.shape[1], dtype=np.int64))


@dataclass(frozen=True)
class ArithmeticTask:
    """Sums or products of two whole numbers.

    Parameters
    ----------
    operation : "addition" or "multiplication"
    digits : (shortest, longest) operand; each operand's length is drawn uniformly, then its digits, the first not 0
    """

    operation: Operation = "addition"
    digits: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        checks.choice("operation", self.operation, _SIGNS)
        low, high = (checks.count("digits", d) for d in self.digits)
        if low > high or self.answer_digits > _MOST_DIGITS:
            raise InputError(
                f"digits is {self.digits} for {self.operation}; allowed: (shortest, longest) with answers of up to "
                f"{_MOST_DIGITS} digits"
            )

    @property
    def answer_digits(self) -> int:
        """Decimal digits that any answer fits in."""
        return self.digits[1] + 1 if self.operation == "addition" else 2 * self.digits[1]

    def problems(self, n: int, rng: Seed = None, *, without: IntArray | None = None) -> IntArray:
        """`n` different problems (n, 2), none of them in `without` (m, 2).

        Raises InputError where fewer than twice as many exist: then draws would be far from even.
        """
        random, (low, high) = seeds.generator(rng), self.digits
        taken = np.zeros((0, 2), dtype=np.int64) if without is None else without
        exist = (10**high - (10 ** (low - 1) if low > 1 else 0)) ** 2
        if 2 * (n + len(taken)) > exist:
            raise InputError(
                f"{n + len(taken)} different problems of {exist} are asked for; allowed: up to half. Use longer operands"
            )
        found, n_taken = taken, len(taken)
        while len(found) < n + n_taken:
            length = random.integers(low, high + 1, (n, 2))
            first = np.where(length > 1, 10 ** (length - 1), 0)
            drawn = random.integers(first, 10**length)
            both = np.concatenate([found, drawn])
            order = np.sort(np.unique(both, axis=0, return_index=True)[1])
            found = both[order]
        return found[n_taken : n_taken + n]

    def answers(self, problems: IntArray) -> IntArray:
        """(n,) sums or products."""
        a, b = problems.T
        return np.asarray(a + b if self.operation == "addition" else a * b)

    def tokens(self, problems: IntArray, tokenizer: NumeralTokenizer, rng: Seed = None) -> tuple[IntArray, int]:
        """Problems with answers as rows of tokens (n, t), and where the answer begins. `rng` draws the operands' synonyms."""
        random = None if rng is None else seeds.generator(rng)
        a, b = (tokenizer.encode(column, self.digits[1], random) for column in problems.T)
        answer = tokenizer.encode(self.answers(problems), self.answer_digits)
        sign, equals = (np.full((len(a), 1), token) for token in (tokenizer.sign(self.operation), tokenizer.equals))
        return np.hstack([a, sign, b, equals, answer]), 2 * a.shape[1] + 2


@dataclass(frozen=True)
class DataScaling:
    """Accuracy over the number of training examples, at equal updates.

    Attributes
    ----------
    base : of the numerals; sizes : (k,) different training examples, rising; steps : updates each model had
    exact_match : (k,) share of new problems with every token of the answer right
    token_accuracy : (k,) share of answer tokens right, the right ones before them given
    """

    base: int
    sizes: tuple[int, ...]
    steps: int
    exact_match: FloatArray
    token_accuracy: FloatArray

    def samples_for(self, level: float = 0.9) -> float:
        """Examples at which exact match first reaches `level`, by straight lines in log size; infinity where it never does."""
        checks.level("level", level)
        above = np.flatnonzero(self.exact_match >= level)
        if not above.size:
            return float("inf")
        i = int(above[0])
        if i == 0:
            return float(self.sizes[0])
        low, high = self.exact_match[i - 1], self.exact_match[i]
        a, b = np.log(self.sizes[i - 1]), np.log(self.sizes[i])
        return float(np.exp(a + (b - a) * (level - low) / (high - low)))

    def __repr__(self) -> str:
        return f"DataScaling(base {self.base}, {self.sizes[0]} to {self.sizes[-1]} examples, 90 % at {self.samples_for():.4g})"

    def summary(self) -> str:
        """One line a size."""
        rows = zip(self.sizes, self.exact_match, self.token_accuracy, strict=True)
        return "\n".join(f"base {self.base}, {n:,} examples: {100 * e:.1f} % exact, {100 * t:.1f} % of tokens" for n, e, t in rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "base": self.base,
            "sizes": list(self.sizes),
            "steps": self.steps,
            "exact_match": self.exact_match.tolist(),
            "token_accuracy": self.token_accuracy.tolist(),
        }

    def to_frame(self) -> pl.DataFrame:
        """One row a size, with a run name: a table that `farfield forecast` reads."""
        import polars as pl

        table = {"run": f"base-{self.base}", "step": list(self.sizes), "exact_match": self.exact_match}
        return pl.DataFrame({**table, "token_accuracy": self.token_accuracy})

    @style()
    def plot(self, ax: Axes | None = None) -> Axes:
        """Exact match over examples."""
        ax = axes_or_new(ax, (6.4, 4.0))
        ax.semilogx(self.sizes, self.exact_match, "o-", label=f"base {self.base}")
        ax.set(xlabel="training examples", ylabel="exact match", ylim=(-0.02, 1.02))
        return ax


def exact_match(
    model: Decoder, task: ArithmeticTask, tokenizer: NumeralTokenizer, problems: IntArray, rng: Seed = None
) -> tuple[float, float]:
    """Shares of problems (n, 2) wholly right, and of answer tokens right given the right ones before them.

    Greedy decoding is wholly right exactly where every token is right with the right ones before it, so one pass tells both.
    """
    import torch

    tokens, start = task.tokens(problems, tokenizer, rng)
    right = []
    with torch.no_grad():
        for part in torch.from_numpy(tokens).split(512):
            right.append(model(part[:, :-1])[:, start - 1 :].argmax(-1) == part[:, start:])
    told = torch.cat(right)
    return float(told.all(1).double().mean()), float(told.double().mean())


def data_scaling(
    task: ArithmeticTask,
    sizes: Sequence[int],
    base: int = 10,
    *,
    reverse: bool = True,
    synonyms: int = 1,
    config: DecoderConfig | None = None,
    recipe: Recipe | None = None,
    batch: int = 64,
    n_test: int = 1000,
    seed: int = 0,
    quiet: bool = True,
) -> DataScaling:
    """Train one decoder a size from scratch and measure it on new problems.

    Parameters
    ----------
    task : what is learnt; sizes : different training examples, rising; those of a smaller size are among those of a larger
    base, reverse, synonyms : of the tokenizer
    config : sizes of the decoder (its vocabulary is set here); None for two layers of width 64 with rotary positions
    recipe : of training; None for 800 updates at a peak rate of 0.003. Every size gets the same updates of `batch` problems
    n_test : problems, none of them among the training examples of any size
    seed : of problems, weights and batches

    Raises InputError for sizes that do not rise, MissingExtraError without torch.
    """
    require("torch", "data_scaling")
    import dataclasses

    import torch
    from torch.nn import functional

    from farfield.nn.decoder import Decoder, DecoderConfig
    from farfield.nn.trainer import Recipe, train

    wanted = [checks.count("sizes", n) for n in sizes]
    if not wanted or wanted != sorted(set(wanted)):
        raise InputError(f"sizes is {list(sizes)}; allowed: rising numbers of examples")
    tokenizer = NumeralTokenizer(base, reverse, synonyms)
    shape = dataclasses.replace(config or DecoderConfig(vocab=1, width=64), vocab=tokenizer.vocab)
    how = recipe or Recipe(800, 3e-3, weight_decay=0.1, betas=(0.9, 0.98))
    root = seeds.root(seed)
    test = task.problems(checks.count("n_test", n_test), seeds.child(root, 0))
    pool = task.problems(wanted[-1], seeds.child(root, 1), without=test)
    rows, start = task.tokens(pool, tokenizer, seeds.child(root, 2))
    examples = torch.from_numpy(rows)
    scores = []
    for n in wanted:

        def loss(model: Any, rng: np.random.Generator, n: int = n) -> Any:
            drawn = examples[torch.from_numpy(rng.integers(0, n, batch))]
            logits = model(drawn[:, :-1])[:, start - 1 :]
            return functional.cross_entropy(logits.flatten(0, 1), drawn[:, start:].flatten())

        model = Decoder(shape, seed=seed)
        train(model, loss, how, seed=seed, label=f"base {base}, {n} examples", quiet=quiet)
        scores.append(exact_match(model, task, tokenizer, test, seeds.child(root, 3)))
    exact, token = np.array(scores).T
    return DataScaling(base, tuple(wanted), how.steps, exact, token)
