"""Scripted players of graded skill: they read the prompts and answer by rules, the better the more skill they have.

What skill buys: the share of a lexicon's associations that is known (taboo), of words and of feedback remembered (wordle), of a
grid that is described and read without error (reference, drawing), of a conversation that is remembered (private-shared), and of
moves that lead to the nearest door not yet taken (navigation).
*Discipline* is separate: the share of replies in the form that was asked for, so a player may be able and unruly. They stand in
for models where none can be run, and calibrate the games: a game whose score does not rise with skill measures something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from farfield import seeds
from farfield.errors import InputError
from farfield.evals.dialogue import Message
from farfield.evals.games import SLOTS, feedback
from farfield.evals.spatial import Cell, step
from farfield.evals.words import LEXICON, WORDS
from farfield.seeds import Seed


class ScriptedPlayer:
    """A player of all games here, called with a chat history.

    Parameters
    ----------
    skill : 0 to 1
    discipline : 0 to 1, share of replies that keep the form
    random_state : seed of what it knows and of its guesses

    Raises InputError for shares outside 0 to 1, and for prompts of other games.
    """

    def __init__(self, skill: float, *, discipline: float = 0.99, random_state: Seed = 0) -> None:
        for name, value in (("skill", skill), ("discipline", discipline)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; allowed: 0 to 1")
        self.skill, self.discipline = float(skill), float(discipline)
        self._rng = seeds.generator(random_state)
        self._known = {w: {a for a in associates if self._sure()} for w, associates in sorted(LEXICON.items())}
        self._words = [w for w in WORDS if self._rng.random() < 0.3 + 0.7 * self.skill]

    def __repr__(self) -> str:
        return f"ScriptedPlayer(skill={self.skill:g}, discipline={self.discipline:g})"

    def __call__(self, messages: Sequence[Message]) -> str:
        first, last = messages[0]["content"], messages[-1]["content"]
        prompts = [m["content"] for m in messages if m["role"] == "user"]
        replies = [m["content"] for m in messages if m["role"] == "assistant"]
        if "TARGET: " in first:
            reply = f"CLUE: {self._clue(first, replies)}"
        elif "CLUE: " in first:
            reply = f"GUESS: {self._guess(prompts, replies)}"
        elif "five letters" in first:
            reply = f"GUESS: {self._wordle(prompts)}"
        elif "EXPRESSION: ..." in first:
            reply = f"EXPRESSION: {self._describe(first)}"
        elif "EXPRESSION: " in first:
            reply = f"ANSWER: {self._which(first)}"
        elif "FACTS: " in first:
            reply = f"ANSWER: {self._told(prompts, last)}"
        elif "DRAWING:" in first:
            reply = self._dictate(first, len(replies))
        elif "GRID:" in first:
            reply = self._draw(replies[-1] if replies else first.split("GRID:\n")[1].split("\nINSTRUCTION")[0], last)
        elif "ROOM: " in first:
            reply = self._go(prompts, replies)
        else:
            known = "taboo, wordle, reference, private-shared, drawing and navigation"
            raise InputError(f"a scripted player knows {known}; got {first[:80]!r}")
        return reply if self._rng.random() < self.discipline else f"Sure! {reply}"

    def _sure(self) -> bool:
        return bool(self._rng.random() < self.skill)

    def _pick(self, options: Sequence[str]) -> str:
        return str(options[int(self._rng.integers(len(options)))])

    def _clue(self, first: str, replies: Sequence[str]) -> str:
        target = re.findall(r"TARGET: (\w+)", first)[0]
        barred = re.findall(r"NOT ALLOWED: (.*)", first)[0].split(", ")
        said = " ".join(replies)
        fit = [a for a in LEXICON[target] if a in self._known[target] and a not in barred and a not in said]
        return ", ".join(fit[:2]) or "something you know"

    def _guess(self, prompts: Sequence[str], replies: Sequence[str]) -> str:
        clues = set(re.findall(r"[a-z]+", " ".join(p.split("CLUE: ")[1] for p in prompts)))
        open_ = [w for w in self._known if f"GUESS: {w}" not in replies]
        overlap = np.array([len(self._known[w] & clues) for w in open_])
        return self._pick([w for w, n in zip(open_, overlap, strict=True) if n == overlap.max()])

    def _wordle(self, prompts: Sequence[str]) -> str:
        told = [tuple(p.split()[1:3]) for p in prompts[1:]]
        remembered = [pair for pair in told if self._sure()]
        fit = [w for w in self._words if all(feedback(guess, w) == marks for guess, marks in remembered)]
        return self._pick(fit or self._words or WORDS)

    def _grid(self, text: str) -> list[str]:
        """The cells of a grid, row by row, some misread."""
        cells = re.findall(r"[X-]", text)
        return [c if self._rng.random() < 0.85 + 0.15 * self.skill else self._pick("X-") for c in cells]

    def _describe(self, first: str) -> str:
        cells = self._grid(first.split("TARGET:\n")[1].split("\nOTHER")[0])
        side = int(np.sqrt(len(cells)))
        rows = [f"row {i + 1} is {' '.join(cells[i * side : (i + 1) * side])}" for i in range(side) if self._sure()]
        return ", ".join(rows) or "some squares are filled"

    def _which(self, first: str) -> str:
        said = {int(i): row.split() for i, row in re.findall(r"row (\d) is ([X\- ]+)", first.split("EXPRESSION: ")[1])}
        score = {}
        for place in ("first", "second", "third"):
            cells = self._grid(first.split(f"{place.upper()}:\n")[1].split("\n" + "EXPRESSION")[0].split(":")[0])
            score[place] = sum(cells[(i - 1) * len(row) + j] == c for i, row in said.items() for j, c in enumerate(row))
        best = max(score.values())
        return self._pick([place for place, n in score.items() if n == best])

    def _told(self, prompts: Sequence[str], last: str) -> str:
        if "AGENT: " in last:
            slot = re.findall(r"AGENT: (\w+)", last)[0]
            value = re.findall(rf"\b{slot} = (\w+)", prompts[0])[0]
            return value if self._rng.random() < 0.4 + 0.6 * self.skill else self._pick(SLOTS[slot])
        slot = re.findall(r"know (\w+)", last)[0]
        truth = any(f"AGENT: {slot}?" in p for p in prompts)
        return ("yes" if truth else "no") if self._sure() else self._pick(("yes", "no"))

    def _dictate(self, first: str, turn: int) -> str:
        rows = first.split("DRAWING:\n")[1].splitlines()
        if turn >= len(rows):
            return "DONE"
        return f"INSTRUCTION: row {turn + 1} is {' '.join(self._grid(rows[turn]))}"

    def _draw(self, grid: str, last: str) -> str:
        rows = grid.removeprefix("Sure! ").splitlines()
        for i, row in re.findall(r"row (\d) is ([X\- ]+)", last):
            rows[int(i) - 1] = " ".join(self._grid(row))
        return "\n".join(rows)

    def _go(self, prompts: Sequence[str], replies: Sequence[str]) -> str:
        """Towards the nearest door not yet taken, over the map that the conversation tells; at random where skill fails."""
        at: Cell = (0, 0)
        doors: dict[Cell, list[str]] = {}
        for prompt, reply in zip(prompts, [*replies, ""], strict=True):
            doors[at] = prompt.split("DOORS: ")[1].split(", ")
            at = step(at, reply.split("GO: ")[1]) if reply else at
        if self._rng.random() > 0.4 + 0.6 * self.skill:
            return "DONE" if self._rng.random() < 0.2 else f"GO: {self._pick(doors[at])}"
        front: dict[Cell, str] = {step(at, d): d for d in doors[at]}
        reached = {at, *front}
        while front:
            unseen = [first for cell, first in front.items() if cell not in doors]
            if unseen:
                return f"GO: {self._pick(unseen)}"
            front = {step(c, d): first for c, first in front.items() for d in doors[c] if step(c, d) not in reached}
            reached |= set(front)
        return "DONE"
