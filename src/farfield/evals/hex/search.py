"""Monte Carlo tree search of many Hex positions at once, with a number of simulations of its own for each.

A simulation walks down from the root to a position not seen before, along

    argmax_a  Q(a) + c P(a) sqrt(1 + sum N) / (1 + N(a))            (PUCT: Silver and others 2017)

where N, Q, P are visits, mean outcome and prior of a move. The new position gets a value, by a random play-out or by a network,
which also gives its priors; a finished game has its own. The value is added to every move on the way. All boards walk in step: one
array operation serves them all, and a board that has had its simulations drops out. The number of simulations is the agent's
*compute*.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.evals.hex import board
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class Evaluator(Protocol):
    """Values and priors of positions that are not over."""

    def __call__(self, cells: board.Cells, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Value (boards,) for the *first* player, -1 to 1, and prior (boards, n * n) of moves, of any scale on occupied cells."""
        ...


def play_outs(cells: board.Cells, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """One random play-out each, and equal priors."""
    value = np.where(board.play_out(cells, rng), np.float32(1), np.float32(-1))
    free = cells == 0
    return value, (free / np.maximum(free.sum(1, keepdims=True), 1)).astype(np.float32)


def visits(
    cells: board.Cells,
    simulations: ArrayLike,
    evaluator: Evaluator = play_outs,
    *,
    c: float = 1.0,
    noise: float = 0.0,
    rng: Seed = None,
) -> IntArray:
    """(boards, n * n) how often each move was tried at the root.

    Parameters
    ----------
    cells : (boards, n * n) positions that are not over
    simulations : one number, or one a board, 1 or more
    evaluator : of new positions
    c : weight of the prior, > 0
    noise : share of a flat Dirichlet draw in the priors of the root, as in self-play
    """
    n = board.size_of(cells)
    many = np.broadcast_to(np.asarray(simulations, dtype=np.int64), len(cells))
    if len(cells) == 0:
        return np.zeros(cells.shape, dtype=np.int64)
    if many.min() < 1:
        raise InputError(f"simulations is {many.min()}; allowed: 1 or more")
    checks.positive("c", c)
    draw = generator(rng)
    order = np.argsort(-many, kind="stable")  # the boards still searched are always the first ones
    out = np.zeros(cells.shape, dtype=np.int64)
    out[order] = _search(cells[order], many[order], evaluator, c, noise, draw, n * n)
    return out


def _search(
    cells: board.Cells, many: IntArray, evaluator: Evaluator, c: float, noise: float, rng: np.random.Generator, moves: int
) -> IntArray:
    boards, nodes = len(cells), int(many[0]) + 1
    tried = np.zeros((boards, nodes, moves), dtype=np.float32)
    total = np.zeros((boards, nodes, moves), dtype=np.float32)
    prior = np.zeros((boards, nodes, moves), dtype=np.float32)
    child = np.zeros((boards, nodes, moves), dtype=np.int32)  # 0, the root, is nobody's child
    over = np.zeros((boards, nodes), dtype=np.float32)  # outcome of a finished game
    turn = board.to_move(cells)
    first = evaluator(cells, rng)[1] * (cells == 0)
    first /= first.sum(1, keepdims=True)
    if noise:
        random = rng.standard_exponential(first.shape, dtype=np.float32) * (cells == 0)
        first = (1 - noise) * first + noise * random / random.sum(1, keepdims=True)
    prior[:, 0] = first
    jitter = 1e-3 * rng.random((boards, moves), dtype=np.float32)  # breaks ties
    for simulation in range(nodes - 1):
        active = int(np.searchsorted(-many, -simulation, side="left"))
        now = cells[:active].copy()
        player = turn[:active].copy()
        index, node = np.arange(active), np.zeros(active, dtype=np.int64)
        path: list[tuple[IntArray, IntArray, IntArray, FloatArray]] = []
        leaf = np.zeros(active, dtype=np.int64)
        while index.size:
            count, free = tried[index, node], now[index] == 0
            sums = count.sum(1, keepdims=True)
            explore = np.float32(c) * np.sqrt(sums + 1) * (prior[index, node] + jitter[index]) / (1 + count)
            score = np.where(free, total[index, node] / np.maximum(count, 1) + explore, -np.inf)
            move = score.argmax(1)
            sign = np.where(player[index] == 1, np.float32(1), np.float32(-1))
            path.append((index, node, move, sign))
            now[index, move] = player[index]
            player[index] = 3 - player[index]
            below = child[index, node, move]
            fresh = below == 0
            child[index[fresh], node[fresh], move[fresh]] = simulation + 1
            below = np.where(fresh, simulation + 1, below)
            leaf[index] = below
            going = ~fresh & (over[index, below] == 0)
            index, node = index[going], below[going]
        every = np.arange(active)
        value = over[every, leaf].copy()
        new = np.flatnonzero((leaf == simulation + 1) & (value == 0))
        last = (3 - player[new]).astype(np.int8)
        won = board.has_won(now[new], last)
        value[new[won]] = over[new[won], simulation + 1] = np.where(last[won] == 1, 1, -1)
        rest = new[~won]
        if rest.size:
            value[rest], weights = evaluator(now[rest], rng)
            weights = weights * (now[rest] == 0)
            prior[rest, simulation + 1] = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
        for index, node, move, sign in path:
            tried[index, node, move] += 1
            total[index, node, move] += sign * value[index]
    return tried[:, 0].astype(np.int64)


def pick(counts: IntArray, rng: np.random.Generator, *, sample: bool = False) -> IntArray:
    """(boards,) the most tried move, ties at random; or with `sample` a move drawn in proportion to tries."""
    keys = rng.random(counts.shape)
    if sample:
        with np.errstate(divide="ignore"):
            return np.asarray((np.log(counts) - np.log(-np.log(keys))).argmax(1))  # Gumbel's trick
    return np.asarray((counts + 0.5 * keys).argmax(1))
