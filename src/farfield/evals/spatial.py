"""Two dialogue games of space: drawing by instruction and finding one's way through rooms (after clembench, arXiv 2305.13455).

In *drawing* one player sees a grid and dictates it step by step, the other redraws it after every instruction; quality is 100 F1 of
the filled cells. In *navigation* a player walks through rooms, told only the doors of the one it is in, and says when it has seen
all. Its quality is the harmonic mean of exploration, the share of the other rooms seen, and of efficiency, the fewest moves that
see those rooms over the moves made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from farfield.errors import InputError
from farfield.evals.dialogue import Course, RuleBroken
from farfield.evals.games import grid_text, read_reply

STEPS = {"north": (-1, 0), "east": (0, 1), "south": (1, 0), "west": (0, -1)}
ROOMS = (
    "attic", "bakery", "cellar", "chapel", "garden", "gallery", "kitchen", "library", "office", "pantry", "stable", "studio",
)  # fmt: skip
Cell = tuple[int, int]
Rooms = Mapping[Cell, frozenset[str]]  # cell -> directions with a door


def read_grid(reply: str, side: int) -> np.ndarray:
    """The (side, side) filled cells of a reply of as many lines of X and -; raises RuleBroken for any other form."""
    rows = [line.split() for line in reply.strip().splitlines()]
    if len(rows) != side or any(len(row) != side or set(row) - {"X", "-"} for row in rows):
        raise RuleBroken(f"the reply is not {side} lines of {side} cells, X or -: {reply.strip()[:60]!r}")
    return np.array([[cell == "X" for cell in row] for row in rows])


def f1(drawn: np.ndarray, target: np.ndarray) -> float:
    """Harmonic mean of precision and recall of the filled cells; 0 where nothing is right."""
    right = float((drawn & target).sum())
    return 2 * right / float(drawn.sum() + target.sum()) if right else 0.0


@dataclass(frozen=True)
class Drawing:
    """One dictates a grid, the other draws it after each instruction; quality 100 F1 of the filled cells at the end."""

    side: int = 5
    turns: int = 8  # most instructions
    name: str = "drawing"
    players: int = 2

    def course(self, rng: np.random.Generator) -> Course:
        target = rng.random((self.side, self.side)) < 0.4
        target[tuple(rng.integers(self.side, size=2))] = True
        drawn = np.zeros_like(target)
        to_a = (
            f"Let your partner, who cannot see it, draw this grid, in at most {self.turns} instructions. Reply with one line: "
            f"INSTRUCTION: and what to draw, or DONE when the drawing is complete.\nDRAWING:\n{grid_text(target)}"
        )
        to_b = (
            f"Draw what your partner says into a grid of {self.side} x {self.side} cells, X filled and - empty. After each "
            f"instruction reply with the whole grid, {self.side} lines of cells with blanks between.\nGRID:\n{grid_text(drawn)}\n"
        )
        for _ in range(self.turns):
            said = yield 0, to_a
            if said.strip() == "DONE":
                break
            drawn = read_grid((yield 1, f"{to_b}INSTRUCTION: {read_reply(said, 'INSTRUCTION')}"), self.side)
            to_a, to_b = "Your partner has drawn something. Give the next instruction, or say DONE.", ""
        return 100.0 * f1(drawn, target)


def random_rooms(rng: np.random.Generator, n: int) -> dict[Cell, frozenset[str]]:
    """`n` rooms on a grid, connected: each new one beside an old one, with a door; a fifth of the other walls have doors too."""
    doors: dict[Cell, set[str]] = {(0, 0): set()}
    while len(doors) < n:
        at = list(doors)[int(rng.integers(len(doors)))]
        direction = list(STEPS)[int(rng.integers(4))]
        if (new := step(at, direction)) not in doors:
            doors[new] = set()
            _open(doors, at, direction)
    for at in list(doors):
        for direction in ("east", "south"):
            if step(at, direction) in doors and rng.random() < 0.2:
                _open(doors, at, direction)
    return {at: frozenset(through) for at, through in doors.items()}


def step(at: Cell, direction: str) -> Cell:
    """The cell in that direction."""
    return at[0] + STEPS[direction][0], at[1] + STEPS[direction][1]


def _open(doors: dict[Cell, set[str]], at: Cell, direction: str) -> None:
    back = {"north": "south", "south": "north", "east": "west", "west": "east"}[direction]
    doors[at].add(direction)
    doors[step(at, direction)].add(back)


def fewest_moves(rooms: Rooms, start: Cell, wanted: frozenset[Cell]) -> int:
    """The fewest moves from `start` that enter every wanted room: a search over (room, rooms entered)."""
    front, moves = {(start, wanted - {start})}, 0
    known = set(front)
    while all(left for _, left in front):
        front = {
            (there := step(at, direction), left - {there}) for at, left in front for direction in rooms[at]
        } - known  # fmt: skip
        known |= front
        moves += 1
    return moves


@dataclass(frozen=True)
class Navigation:
    """See every room of a house and say so, told only the doors of the room one is in; quality a harmonic mean (see above)."""

    rooms: int = 8
    moves: int = 24  # most of them
    name: str = "navigation"
    players: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.rooms <= len(ROOMS):
            raise InputError(f"rooms is {self.rooms}; allowed: 2 to {len(ROOMS)}")

    def course(self, rng: np.random.Generator) -> Course:
        house = random_rooms(rng, self.rooms)
        called = dict(zip(house, rng.permutation(np.array(ROOMS))[: self.rooms], strict=True))
        at = list(house)[int(rng.integers(len(house)))]
        start, seen, made = at, {at}, 0
        prompt = (
            "You are in a house and shall see all its rooms, in as few moves as you can. Reply with one line: GO: and the "
            "direction of a door, or DONE when you have seen every room.\n"
        )
        while made < self.moves:
            doors = [d for d in STEPS if d in house[at]]
            reply = yield 0, f"{prompt}ROOM: {called[at]}. DOORS: {', '.join(doors)}"
            if reply.strip() == "DONE":
                break
            direction = read_reply(reply, "GO").strip(" .").lower()
            if direction not in doors:
                raise RuleBroken(f"there is no door {direction[:20]!r}; the doors are {', '.join(doors)}")
            at, made, prompt = step(at, direction), made + 1, ""
            seen.add(at)
        exploration = (len(seen) - 1) / (self.rooms - 1)
        efficiency = fewest_moves(house, start, frozenset(seen)) / made if made else 0.0
        return 100.0 * (2 * exploration * efficiency / (exploration + efficiency) if exploration else 0.0)
