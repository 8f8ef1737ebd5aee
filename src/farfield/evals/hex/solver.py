"""Perfect play of Hex on small boards, by search with memory.

A position is won for a player whose stones are joined side to side by touching or by *bridges* (two empty cells between stones, or
between a stone and its side: whichever the opponent takes, the player takes the other), with no cell in two bridges. If the
opponent, given one more stone at x, would be joined so over cells S, then the player must answer within S and x: the intersection
over all x, the *must-play* region, is all that has to be searched, and an empty one is a loss. Both prune, neither guesses: the
search goes on until one of these proofs is complete, so its answers are exact (Hayward and others 2004, of which this is the core).
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.errors import InputError


class _Undecided(Exception):
    """The limit of a search was reached before its proof."""


class Solver:
    """Who wins a position, and by which moves; what it has found it keeps.

    Parameters
    ----------
    size : of the board, 2 to 6 (6 takes long from early positions)

    Cells are numbered row by row. Positions are pairs of bit masks: the first player's stones and the second's.
    """

    def __init__(self, size: int) -> None:
        n = checks.count("size", size)
        if not 2 <= n <= 6:
            raise InputError(f"size is {n}; allowed: 2 to 6, beyond which exact search is hopeless")
        self.size, self.cells = n, n * n
        self.full = (1 << self.cells) - 1
        self.nodes = 0
        self._limit: int | None = None
        self._memo: dict[tuple[int, int], int] = {}  # position -> bit of a winning move, 0 for a loss
        around = ((0, 1), (0, -1), (-1, 0), (-1, 1), (1, 0), (1, -1))
        # a bridge joins cells that share two neighbours and do not touch
        apart = ((-1, -1), (1, 1), (-1, 2), (1, -2), (-2, 1), (2, -1))

        def inside(r: int, c: int) -> bool:
            return 0 <= r < n and 0 <= c < n

        def near(r: int, c: int) -> set[int]:
            return {(r + i) * n + c + j for i, j in around if inside(r + i, c + j)}

        places = [divmod(k, n) for k in range(self.cells)]
        self._near = [sorted(near(r, c)) for r, c in places]
        self._bridges = [
            [((r + i) * n + c + j, sum(1 << k for k in near(r, c) & near(r + i, c + j))) for i, j in apart if inside(r + i, c + j)]
            for r, c in places
        ]
        # [player][cell] -> None, or the empty cells that join it to the first and to the second side (0: it lies on it)
        self._start: list[list[int | None]] = [[], []]
        self._end: list[list[int | None]] = [[], []]
        for r, c in places:
            for player, (along, across) in enumerate(((r, c), (c, r))):

                def bit(a: int, b: int, player: int = player) -> int:
                    return 1 << (a * n + b if player == 0 else b * n + a)

                first = bit(0, across) | bit(0, across + 1) if along == 1 and across + 1 < n else None
                last = bit(n - 1, across) | bit(n - 1, across - 1) if along == n - 2 and across > 0 else None
                self._start[player].append(0 if along == 0 else first)
                self._end[player].append(0 if along == n - 1 else last)
        middle = (n - 1) / 2
        self._order = sorted(range(self.cells), key=lambda k: (places[k][0] - middle) ** 2 + (places[k][1] - middle) ** 2)

    def joined(self, player: int, own: int, free: int) -> int | None:
        """The empty cells (bits) over which `own` stones of `player` (0 or 1) are joined side to side, or None."""
        start, end = self._start[player], self._end[player]
        todo: deque[tuple[int, int]] = deque()
        for cell in range(self.cells):
            if own >> cell & 1:
                over = start[cell]
                if over == 0:
                    todo.appendleft((cell, 0))
                elif over is not None and not over & ~free:
                    todo.append((cell, over))
        seen = 0
        while todo:
            cell, path = todo.popleft()
            if seen >> cell & 1:
                continue
            seen |= 1 << cell
            over = end[cell]
            if over == 0 or (over is not None and not over & ~free and not over & path):
                return path | over
            for other in self._near[cell]:
                if own >> other & 1 and not seen >> other & 1:
                    todo.appendleft((other, path))
            for other, pair in self._bridges[cell]:
                if own >> other & 1 and not seen >> other & 1 and not pair & ~free and not pair & path:
                    todo.append((other, path | pair))
        return None

    def winning_move(self, first: int, second: int, nodes: int | None = None) -> int | None:
        """A cell that wins for the player to move, None where every move loses (or the game is over), -1 if undecided.

        `nodes` is how many positions may be searched for it; what was proved by then is kept.
        """
        self._limit = self.nodes + nodes if nodes is not None else None
        try:
            move = self._solve(first, second)
        except _Undecided:
            return -1
        finally:
            self._limit = None
        return None if move == 0 else move.bit_length() - 1

    def wins(self, first: int, second: int) -> bool:
        """Whether the player to move wins, given the stones of both as bit masks."""
        return self._solve(first, second) != 0

    def must_play(self, first: int, second: int) -> int:
        """The cells (bits) outside which the player to move loses at once."""
        player, free = self._turn(first, second)
        theirs = (second, first)[player]
        region = free
        for cell in range(self.cells):
            if free >> cell & 1 and region:
                over = self.joined(1 - player, theirs | 1 << cell, free & ~(1 << cell))
                if over is not None:
                    region &= over | 1 << cell
        return region

    def _turn(self, first: int, second: int) -> tuple[int, int]:
        return int(first.bit_count() > second.bit_count()), self.full & ~(first | second)

    def _solve(self, first: int, second: int, region: int | None = None) -> int:
        """The bit of a winning move, 0 where there is none; `region` is the must-play region where the caller knows it."""
        known = self._memo.get((first, second))
        if known is not None:
            return known
        if self._limit is not None and self.nodes >= self._limit:
            raise _Undecided
        self.nodes += 1
        player, free = self._turn(first, second)
        mine, theirs = (first, second) if player == 0 else (second, first)
        answer = 0
        if self.joined(1 - player, theirs, free) is None:
            after = [(1 << k, mine | 1 << k) for k in self._order if free >> k & 1]
            won = (bit for bit, stones in after if self.joined(player, stones, free & ~bit) is not None)
            answer = next(won, 0)
            if not answer:
                region = self.must_play(first, second) if region is None else region
                # the fewer answers a move leaves, the sooner it is decided; where it leaves none it wins
                replies: list[tuple[int, int, tuple[int, int]]] = []
                for bit, stones in after:
                    if region & bit:
                        position = (stones, theirs) if player == 0 else (theirs, stones)
                        replies.append((self.must_play(*position), bit, position))
                replies.sort(key=lambda reply: reply[0].bit_count())
                for left, bit, position in replies:
                    if not left or not self._solve(*position, left):
                        answer = bit
                        break
        self._memo[first, second] = answer
        return answer


def masks(position: NDArray[np.int8]) -> tuple[int, int]:
    """Bit masks of both players' stones of one position (n * n,)."""
    first, second = (sum(1 << int(i) for i in np.flatnonzero(position == p)) for p in (1, 2))
    return first, second
