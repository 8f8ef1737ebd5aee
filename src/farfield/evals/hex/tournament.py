"""Tournaments of Hex agents: every pair plays both colours, all games of a tournament side by side, and Elo ratings come out.

An agent is tree search with a number of simulations, or anything with `moves(cells, rng)`, such as perfect play. In each turn the
positions of all search agents with the same evaluator go through one batched search, whatever their numbers of simulations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.evals import elo
from farfield.evals.hex import board, search
from farfield.evals.hex.solver import Solver, masks
from farfield.seeds import Seed, generator


class Agent(Protocol):
    """Anything that moves."""

    def moves(self, cells: board.Cells, rng: np.random.Generator) -> NDArray[np.int64]:
        """(boards,) an empty cell for each position that is not over."""
        ...


@dataclass(frozen=True)
class Searcher:
    """Tree search: `simulations` a move, with play-outs or another evaluator, and `c` as in `search.visits`."""

    simulations: int
    evaluator: search.Evaluator = search.play_outs
    c: float = 1.0

    def moves(self, cells: board.Cells, rng: np.random.Generator) -> NDArray[np.int64]:
        """(boards,) the most tried move of each search."""
        return search.pick(search.visits(cells, self.simulations, self.evaluator, c=self.c, rng=rng), rng)


class Perfect:
    """Exact play: a winning move whenever there is one; in a lost position what `otherwise` would do within the must-play region.

    Parameters
    ----------
    size : of the board, 2 to 6
    nodes : largest search for a proof, None for no limit. Where it is reached the move is `otherwise`'s, and whether that is
        perfect is not known: early positions of boards of 5 take seconds to a minute, of boards of 6 hours
    otherwise : the agent of lost and of undecided positions
    opening : prove the game won from the empty board first, without a limit: then play as first player is exact throughout

    `unproved` counts the undecided positions met.
    """

    def __init__(self, size: int, *, nodes: int | None = None, otherwise: Agent | None = None, opening: bool = False) -> None:
        self.solver = Solver(size)
        self.nodes = nodes
        self.otherwise: Agent = Searcher(64) if otherwise is None else otherwise
        if opening:
            self.solver.winning_move(0, 0)
        self.unproved = 0

    def moves(self, cells: board.Cells, rng: np.random.Generator) -> NDArray[np.int64]:
        """(boards,) a cell each."""
        out = np.full(len(cells), -1, dtype=np.int64)
        regions: dict[int, int] = {}
        for k, position in enumerate(cells):
            first, second = masks(position)
            move = self.solver.winning_move(first, second, self.nodes)
            if move is not None and move >= 0:
                out[k] = move
            else:
                self.unproved += move is not None
                regions[k] = self.solver.must_play(first, second)
        left = np.flatnonzero(out < 0)
        if left.size:
            out[left] = self.otherwise.moves(cells[left], rng)
            for k in left.tolist():
                if regions[k] and not regions[k] >> int(out[k]) & 1:
                    out[k] = rng.choice([i for i in range(self.solver.cells) if regions[k] >> i & 1])
        return out


@dataclass(frozen=True)
class Tournament:
    """Results: first_wins, first_games (agents, agents) [i, j] with i moving first; moves played in all."""

    first_wins: NDArray[np.float64]
    first_games: NDArray[np.float64]
    moves: int

    def ratings(self, *, anchor: int, pseudo: float = 1.0) -> elo.Ratings:
        """Elo ratings with both colours counted alike and `anchor`, the index of an agent, at 0."""
        return elo.fit(*elo.symmetrise(self.first_wins, self.first_games), anchor=anchor, pseudo=pseudo)


def play(agents: Sequence[Agent], pairs: Sequence[tuple[int, int]], games: int, size: int, *, rng: Seed = None) -> Tournament:
    """Play every pair of agents on empty boards.

    Parameters
    ----------
    agents : the players
    pairs : indices of those who meet
    games : of each pair with each colour
    size : of the board, 2 to 9
    """
    draw, each = generator(rng), checks.count("games", games)
    for i, j in pairs:
        if i == j or not (0 <= i < len(agents) and 0 <= j < len(agents)):
            raise InputError(f"pair ({i}, {j}); allowed: two different agents of 0 to {len(agents) - 1}")
    sides = np.array([p for i, j in pairs for p in ((i, j), (j, i))]).repeat(each, axis=0)
    cells = board.empty(len(sides), size)
    winner = np.zeros(len(sides), dtype=np.int8)
    for turn in range(size * size):
        player = turn % 2
        live = np.flatnonzero(winner == 0)
        if not live.size:
            break
        who = sides[live, player]
        chosen = np.full(live.size, -1, dtype=np.int64)
        groups: dict[tuple[int, float], list[int]] = {}
        for a in np.unique(who):
            agent = agents[a]
            if isinstance(agent, Searcher):
                groups.setdefault((id(agent.evaluator), agent.c), []).append(int(a))
            else:
                chosen[who == a] = agent.moves(cells[live[who == a]], draw)
        for (_, c), members in groups.items():
            simulations = np.array([a.simulations if isinstance(a, Searcher) else 0 for a in agents])
            rows = np.isin(who, members)
            evaluator = agents[members[0]].evaluator  # type: ignore[attr-defined]
            counts = search.visits(cells[live[rows]], simulations[who[rows]], evaluator, c=c, rng=draw)
            chosen[rows] = search.pick(counts, draw)
        cells[live, chosen] = player + 1
        won = board.has_won(cells[live], player + 1)
        winner[live[won]] = player + 1
    wins, counted = (np.zeros((len(agents), len(agents))) for _ in range(2))
    np.add.at(wins, (sides[:, 0], sides[:, 1]), winner == 1)
    np.add.at(counted, (sides[:, 0], sides[:, 1]), 1)
    return Tournament(wins, counted, int((cells != 0).sum()))


def ladder(agents: int, *, apart: int = 2) -> list[tuple[int, int]]:
    """Pairs of agents in order of strength that stand at most `apart` places from each other: near equals tell most."""
    return [(i, j) for j in range(agents) for i in range(max(0, j - apart), j)]
