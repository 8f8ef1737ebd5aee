"""Hex on many boards at once: cells as arrays, connections as rows of bits.

Two players place stones in turn on an n x n rhombus; the first connects top and bottom, the second left and right. A cell (r, c)
touches (r, c +- 1), (r - 1, c), (r - 1, c + 1), (r + 1, c) and (r + 1, c - 1). There are no draws: a full board has one winner.
The transpose of the board swaps the players' tasks, so one connection test serves both.

A row of a player's stones is one integer. Whether top and bottom are joined is found by sweeps down and up; within a row a table
answers which runs of stones are touched, so that a sweep costs a few array operations a row, whatever the number of boards.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.errors import InputError

Cells = NDArray[np.int8]  # (boards, n * n): 0 empty, 1 first player, 2 second player
SIZES = range(2, 10)


def size_of(cells: Cells) -> int:
    """n of (boards, n * n) cells; InputError where that is no board of 2 to 9."""
    n = int(np.sqrt(cells.shape[-1]) + 0.5)
    if cells.ndim != 2 or n * n != cells.shape[-1] or n not in SIZES:
        raise InputError(f"cells has shape {cells.shape}; allowed: (boards, n * n) with n from {SIZES[0]} to {SIZES[-1]}")
    return n


def empty(boards: int, size: int) -> Cells:
    """(boards, size * size) empty cells."""
    n = checks.count("size", size)
    if n not in SIZES:
        raise InputError(f"size is {n}; allowed: {SIZES[0]} to {SIZES[-1]}")
    return np.zeros((checks.count("boards", boards, least=0), n * n), dtype=np.int8)


def to_move(cells: Cells) -> NDArray[np.int8]:
    """(boards,) whose turn it is: the first player's where both have placed as many stones."""
    return np.where((cells == 1).sum(1) > (cells == 2).sum(1), 2, 1).astype(np.int8)


@cache
def _touched(n: int) -> NDArray[np.uint16]:
    """(2**n, 2**n) [stones, seeds]: the runs of `stones` that hold one of `seeds`."""
    stones = np.arange(2**n, dtype=np.uint16)[:, None]
    out: NDArray[np.uint16] = np.bitwise_and(stones, np.arange(2**n, dtype=np.uint16)[None])
    for _ in range(n - 1):
        out = np.asarray((out | (out << 1) | (out >> 1)) & stones, dtype=np.uint16)
    return out


def connected(stones: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(boards,) whether stones (boards, n, n) join the top row to the bottom row."""
    boards, n = stones.shape[:2]
    rows = (stones @ (1 << np.arange(n, dtype=np.uint16))).astype(np.uint16)
    table = _touched(n)
    reach = np.zeros((n, boards), dtype=np.uint16)
    rows = np.ascontiguousarray(rows.T)
    reach[0] = rows[0]
    while True:
        for r in range(1, n):
            above = reach[r - 1]
            reach[r] = table[rows[r], reach[r] | above | (above >> 1)]
        # a path that turns up and comes down again needs more sweeps; most boards have none
        change = False
        for r in range(n - 2, -1, -1):
            below = reach[r + 1]
            new = table[rows[r], (reach[r] | below | (below << 1)) & rows[r]]
            change = change or bool((new != reach[r]).any())
            reach[r] = new
        if not change:
            return np.asarray(reach[n - 1] != 0)


def has_won(cells: Cells, player: NDArray[np.int8] | int) -> NDArray[np.bool_]:
    """(boards,) whether `player` (one a board, or one for all) has joined his sides."""
    n = size_of(cells)
    who = np.broadcast_to(np.asarray(player, dtype=np.int8), len(cells))
    mine = (cells == who[:, None]).reshape(-1, n, n)
    return connected(np.where((who == 1)[:, None, None], mine, mine.transpose(0, 2, 1)))


def play_out(cells: Cells, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(boards,) whether the first player wins when the empty cells are filled at random, turn by turn.

    The order of moves does not matter once the board is full, so a random half of the empty cells is his.
    """
    n = size_of(cells)
    free = cells == 0
    count = free.sum(1)
    first = np.where(to_move(cells) == 1, (count + 1) // 2, count // 2)
    keys = np.where(free, rng.random(cells.shape, dtype=np.float32), np.float32(2))
    order = np.argsort(keys, axis=1)
    stones = cells == 1
    chosen = np.arange(n * n)[None] < first[:, None]
    np.put_along_axis(stones, order, np.take_along_axis(stones, order, 1) | chosen, axis=1)
    return connected(stones.reshape(-1, n, n))


def text(cells: NDArray[np.int8]) -> str:
    """One position (n * n,) as a slanted diagram: X for the first player, who joins top and bottom, O for the second."""
    n = size_of(cells[None])
    return "\n".join(" " * r + " ".join(".XO"[v] for v in row) for r, row in enumerate(cells.reshape(n, n)))
