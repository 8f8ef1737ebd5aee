"""Four dialogue games: taboo, wordle, a reference game on grids, and private-shared (after clembench, arXiv 2305.13455).

Each states its rules in the first prompt and asks for replies of one form, ``WORD: ...``; any other form breaks the rules.
Qualities are clembench's: 100 / (turns needed) for taboo and wordle, right or wrong for reference, and for private-shared the
harmonic mean of slots filled rightly and of Cohen's kappa of knowing what has been said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from farfield.evals.dialogue import Course, RuleBroken
from farfield.evals.words import LEXICON, WORDS


def read_reply(reply: str, key: str) -> str:
    """What follows ``KEY:`` in a reply of one line; raises RuleBroken for any other form."""
    lines = [line for line in reply.strip().splitlines() if line.strip()]
    if len(lines) != 1 or not lines[0].startswith(f"{key}:"):
        raise RuleBroken(f"the reply is not one line that begins with {key}: ({reply.strip()[:60]!r})")
    return lines[0][len(key) + 1 :].strip()


def one_word(text: str) -> str:
    """A single word, in lower case; raises RuleBroken otherwise."""
    word = text.strip(" .!\"'").lower()
    if not re.fullmatch(r"[a-z]+", word):
        raise RuleBroken(f"not one word: {text[:60]!r}")
    return word


def names(clue: str, word: str) -> bool:
    """Whether the clue uses the word, an inflection of it, or a stem of four letters or more."""
    said = re.findall(r"[a-z]+", clue.lower())
    return any(w.startswith(word) or (len(w) >= 4 and word.startswith(w)) for w in said)


@dataclass(frozen=True)
class Taboo:
    """One describes a word without using it or its closest associates, the other guesses; quality 100 / turns."""

    turns: int = 3
    forbidden: int = 3  # associates that must not be used
    name: str = "taboo"
    players: int = 2

    def course(self, rng: np.random.Generator) -> Course:
        target = str(rng.choice(sorted(LEXICON)))
        barred = [target, *LEXICON[target][: self.forbidden]]
        to_a = (
            "Describe a word so that your partner guesses it. Reply with one line that begins with CLUE: and never use the word or "
            f"one of those not allowed, in any form.\nTARGET: {target}\nNOT ALLOWED: {', '.join(barred[1:])}"
        )
        to_b = "Guess the word that your partner describes. Reply with one line: GUESS: and a single word."
        for turn in range(1, self.turns + 1):
            clue = read_reply((yield 0, to_a), "CLUE")
            used = [word for word in barred if names(clue, word)]
            if used:
                raise RuleBroken(f"the clue uses {used[0]!r}")
            guess = one_word(read_reply((yield 1, f"{to_b}\nCLUE: {clue}"), "GUESS"))
            if guess == target:
                return 100.0 / turn
            to_a, to_b = f"WRONG GUESS: {guess}. Give another clue.", f"{guess} is wrong."
        return 0.0


def feedback(guess: str, target: str) -> str:
    """Wordle's marks, one a letter: g right place, y elsewhere, . absent; repeated letters count as often as they occur."""
    marks = ["g" if a == b else "." for a, b in zip(guess, target, strict=True)]
    left = [b for a, b in zip(guess, target, strict=True) if a != b]
    for i, letter in enumerate(guess):
        if marks[i] == "." and letter in left:
            marks[i] = "y"
            left.remove(letter)
    return "".join(marks)


@dataclass(frozen=True)
class Wordle:
    """Find a word of five letters in six guesses, told after each which letters are right; quality 100 / guesses."""

    guesses: int = 6
    name: str = "wordle"
    players: int = 1

    def course(self, rng: np.random.Generator) -> Course:
        target = str(rng.choice(WORDS))
        prompt = (
            "Find an English word of five letters. Reply with one line: GUESS: and a word. After each guess you are told for every "
            "letter: g right place, y in the word but elsewhere, . not in the word."
        )
        for turn in range(1, self.guesses + 1):
            guess = one_word(read_reply((yield 0, prompt), "GUESS"))
            if len(guess) != 5:
                raise RuleBroken(f"{guess!r} has {len(guess)} letters, not five")
            if guess == target:
                return 100.0 / turn
            prompt = f"FEEDBACK: {guess} {feedback(guess, target)}"
        return 0.0


def grid_text(grid: np.ndarray) -> str:
    """Rows of X and - ; "X - X" a line."""
    return "\n".join(" ".join("X" if cell else "-" for cell in row) for row in grid)


@dataclass(frozen=True)
class Reference:
    """One describes one of three grids, the other says which it was; quality 100 or 0."""

    side: int = 5
    changed: int = 4  # most cells in which a distractor differs from the target
    name: str = "reference"
    players: int = 2

    def course(self, rng: np.random.Generator) -> Course:
        target = rng.random((self.side, self.side)) < 0.5
        grids = [target]
        while len(grids) < 3:
            other = target.copy().ravel()
            flip = rng.choice(other.size, size=int(rng.integers(1, self.changed + 1)), replace=False)
            other[flip] ^= True
            if not any((other.reshape(target.shape) == grid).all() for grid in grids):
                grids.append(other.reshape(target.shape))
        order, places = rng.permutation(3), ("first", "second", "third")
        shown = rng.permutation(3)  # the describer sees another order
        to_a = "Describe the target grid so that your partner can tell it from the others. Reply with one line: EXPRESSION: ..."
        to_a += f"\nTARGET:\n{grid_text(target)}"
        for k, i in enumerate(i for i in shown if i):
            to_a += f"\nOTHER {k + 1}:\n{grid_text(grids[i])}"
        said = read_reply((yield 0, to_a), "EXPRESSION")
        to_b = "Which grid does your partner mean? Reply with one line: ANSWER: first, second or third."
        for place, i in zip(places, order, strict=True):
            to_b += f"\n{place.upper()}:\n{grid_text(grids[i])}"
        answer = one_word(read_reply((yield 1, f"{to_b}\nEXPRESSION: {said}"), "ANSWER"))
        if answer not in places:
            raise RuleBroken(f"the answer is {answer!r}, not first, second or third")
        return 100.0 * bool(order[places.index(answer)] == 0)


SLOTS = {
    "from": ("Berlin", "Oslo", "Porto", "Turin"),
    "to": ("Vienna", "Lyon", "Gdansk", "Bergen"),
    "by": ("train", "bus", "plane", "ferry"),
    "class": ("first", "second", "sleeper", "open"),
    "when": ("Monday", "Tuesday", "Friday", "Sunday"),
}


@dataclass(frozen=True)
class PrivateShared:
    """A customer answers an agent's questions and is asked aside what the agent knows by now; quality a harmonic mean.

    Of the share of slots answered rightly and of Cohen's kappa (at least 0) of the answers aside.
    """

    name: str = "private-shared"
    players: int = 1

    def course(self, rng: np.random.Generator) -> Course:
        facts = {slot: str(rng.choice(values)) for slot, values in SLOTS.items()}
        asked = [str(slot) for slot in rng.permutation(list(SLOTS))]
        intro = (
            "You are booking a journey. Answer the agent with the one word that the facts give: ANSWER: and a word. Aside, I ask "
            "whether the agent has been told something yet: ANSWER: yes or ANSWER: no.\nFACTS: "
            + "; ".join(f"{slot} = {value}" for slot, value in facts.items())
            + "\n"
        )
        right, said, truth = 0, [], []
        for turn, slot in enumerate(asked):
            answer = one_word(read_reply((yield 0, f"{intro}AGENT: {slot}?"), "ANSWER"))
            intro = ""
            right += answer == facts[slot].lower()
            for other in rng.permutation(asked):
                aside = one_word(read_reply((yield 0, f"ASIDE: does the agent know {other}?"), "ANSWER"))
                if aside not in ("yes", "no"):
                    raise RuleBroken(f"the answer aside is {aside!r}, not yes or no")
                said.append(aside == "yes")
                truth.append(str(other) in asked[: turn + 1])
        accuracy, kappa = right / len(asked), max(cohen_kappa(said, truth), 0.0)
        return 100.0 * (2 * accuracy * kappa / (accuracy + kappa) if accuracy + kappa else 0.0)


def cohen_kappa(a: list[bool], b: list[bool]) -> float:
    """Agreement beyond chance of two yes-or-no judgements of the same cases; 0 where chance alone would agree always."""
    x, y = np.array(a, dtype=float), np.array(b, dtype=float)
    agree = float((x == y).mean())
    chance = float(x.mean() * y.mean() + (1 - x.mean()) * (1 - y.mean()))
    return (agree - chance) / (1 - chance) if chance < 1 else 0.0
