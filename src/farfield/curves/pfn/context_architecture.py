"""Sizes of the context network: what it takes from `questions`, and what it says (see :mod:`context_network`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from farfield import checks
from farfield.curves.pfn.architecture import Architecture
from farfield.curves.pfn.questions import GUESSES, PAIR_INPUTS, target_inputs, token_inputs
from farfield.curves.pfn.stored import Sizes


@dataclass(frozen=True)
class ContextArchitecture(Sizes):
    """Sizes of a context network on top of a first network with `asked_inputs` inputs a question and `mixture` components."""

    kind: ClassVar[str] = "context network"

    asked_inputs: int = 8
    mixture: int = 8
    width: int = 96  # of a token and of an asked run
    layers: int = 2
    heads: int = 4
    hidden: int = 192  # of the perceptron in each layer and of the head
    pair_hidden: int = 24  # of the perceptron that says how alike two runs are
    pointers: int = 4  # averages of guesses that locations are combinations of
    pointer_width: int = 24
    components: int = 6  # of the distribution of the score
    least_scale: float = 0.01  # added to every predicted scale of the score

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[:-1]:
            checks.count(field.name, getattr(self, field.name))
        checks.positive("least_scale", self.least_scale)

    @classmethod
    def on(cls, arch: Architecture, **sizes: Any) -> Self:
        """For a first network of this architecture."""
        return cls(arch.asked_inputs, arch.components, **sizes)

    @property
    def inputs(self) -> tuple[int, int, int]:
        """Numbers a token, an asked run and a pair are made from."""
        return token_inputs(self.asked_inputs, self.mixture), target_inputs(self.asked_inputs, self.mixture), PAIR_INPUTS

    @property
    def biases(self) -> int:
        """Numbers a pair ends in: one a head and layer, one a pointer."""
        return self.layers * self.heads + self.pointers

    @property
    def pointed(self) -> int:
        """Pointed guesses, which locations are combinations of."""
        return self.pointers * GUESSES

    @property
    def head_inputs(self) -> int:
        """Numbers the head is made from: the asked run, pointed guesses, their spreads, and how little each pointer rests on."""
        return self.width + 2 * self.pointed + self.pointers

    @property
    def outputs(self) -> int:
        """Numbers an asked run ends in: for each component a weight, a shift, a scale and a combination of pointed guesses."""
        return self.components * (3 + self.pointed)
