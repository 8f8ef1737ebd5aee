"""A small learner of Hex by self-play (after Silver and others 2017, AlphaZero): a network guides the search that teaches it.

A position is shown as the player to move sees it: his stones and the other's, on a board turned so that he joins top and bottom.
Two hidden layers give a policy over cells and the expected outcome. Each round plays a batch of games with tree search that takes
priors and values from the network, with moves drawn in proportion to visits; then the network learns the visits (cross entropy) and
the outcomes (squares) of the latest positions, by Adam. Compute is counted, not timed: 2 FLOPs a parameter for a position looked
at and 6 for one learned from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.evals.hex import board, search
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float32]
Weights = dict[str, FloatArray]
_SHARE = 0.25  # of noise in the root's priors


def seen(cells: board.Cells) -> FloatArray:
    """(boards, 2 n n) positions as the player to move sees them."""
    n, turn = board.size_of(cells), board.to_move(cells)
    own, other = cells == turn[:, None], (cells != 0) & (cells != turn[:, None])
    planes = np.stack([own, other], axis=1).reshape(-1, 2, n, n)
    turned = np.where((turn == 1)[:, None, None, None], planes, planes.transpose(0, 1, 3, 2))
    return turned.reshape(len(cells), -1).astype(np.float32)


def turned(values: FloatArray, cells: board.Cells) -> FloatArray:
    """(boards, n n) values of cells between the board's view and that of the player to move, either way."""
    n = board.size_of(cells)
    square = values.reshape(-1, n, n)
    first = (board.to_move(cells) == 1)[:, None, None]
    return np.where(first, square, square.transpose(0, 2, 1)).reshape(len(cells), -1)


@dataclass(frozen=True)
class Network:
    """Policy and value of positions; an evaluator for `search.visits`.

    `weights` as `Network.new` makes them. `looked` counts the positions evaluated so far, in its one entry.
    """

    weights: Weights
    looked: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def new(cls, size: int, width: int = 64, *, rng: Seed = None) -> Network:
        """Random weights for a board of `size` with hidden layers of `width`; the outputs start at zero."""
        draw, cells = generator(rng), checks.count("size", size) ** 2
        shapes = {"1": (2 * cells, width), "2": (width, width)}
        weights = {f"w{k}": (draw.standard_normal(s) * np.sqrt(2 / s[0])).astype(np.float32) for k, s in shapes.items()}
        weights |= {f"b{k}": np.zeros(s[1], dtype=np.float32) for k, s in shapes.items()}
        weights |= {"wp": np.zeros((width, cells), dtype=np.float32), "bp": np.zeros(cells, dtype=np.float32)}
        weights |= {"wv": np.zeros((width, 1), dtype=np.float32), "bv": np.zeros(1, dtype=np.float32)}
        return cls(weights)

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return sum(w.size for w in self.weights.values())

    def forward(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Hidden layers, logits (b, cells) and value (b,) for the player to move, from `seen` positions."""
        w = self.weights
        one = np.maximum(x @ w["w1"] + w["b1"], 0)
        two = np.maximum(one @ w["w2"] + w["b2"], 0)
        return one, two, two @ w["wp"] + w["bp"], np.tanh(two @ w["wv"] + w["bv"])[:, 0]

    def __call__(self, cells: board.Cells, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        self.looked[0] += len(cells)
        _, _, logits, value = self.forward(seen(cells))
        logits = np.where(cells == 0, turned(logits, cells), -np.inf)
        prior = np.exp(logits - logits.max(1, keepdims=True))
        return np.where(board.to_move(cells) == 1, value, -value), prior.astype(np.float32)

    def loss(self, x: FloatArray, policy: FloatArray, outcome: FloatArray) -> tuple[float, Weights]:
        """Mean cross entropy plus mean squared error of the value, and the gradient.

        x : (b, 2 cells) `seen` positions; policy : (b, cells) shares, occupied cells 0, turned alike; outcome : (b,) for the mover
        """
        one, two, logits, value = self.forward(x)
        cells = policy.shape[1]
        taken = (x[:, :cells] + x[:, cells:]) > 0
        logits = np.where(taken, np.float32(-1e9), logits)
        log = logits - logits.max(1, keepdims=True)
        log = log - np.log(np.exp(log).sum(1, keepdims=True))
        b = len(x)
        total = float(-(policy * np.where(taken, 0, log)).sum() / b + ((value - outcome) ** 2).sum() / b)
        d_logits = np.where(taken, 0, np.exp(log) * policy.sum(1, keepdims=True) - policy) / b
        d_value = (2 * (value - outcome) * (1 - value**2) / b)[:, None]
        w = self.weights
        d_two = (d_logits @ w["wp"].T + d_value @ w["wv"].T) * (two > 0)
        d_one = (d_two @ w["w2"].T) * (one > 0)
        slopes = {"wp": two.T @ d_logits, "bp": d_logits.sum(0), "wv": two.T @ d_value, "bv": d_value.sum(0)}
        slopes |= {"w2": one.T @ d_two, "b2": d_two.sum(0), "w1": x.T @ d_one, "b1": d_one.sum(0)}
        return total, slopes


@dataclass(frozen=True)
class Snapshot:
    """A network part of the way: `flops` spent on it by then, self-play and learning together; `loss` of the last round."""

    network: Network
    flops: float
    loss: float


def train(
    size: int,
    rounds: int,
    *,
    games: int = 128,
    simulations: int = 32,
    width: int = 64,
    batches: int = 30,
    batch: int = 256,
    rate: float = 3e-3,
    keep: int = 4,
    rng: Seed = None,
) -> list[Snapshot]:
    """Snapshots of a network before training and after each round.

    Parameters
    ----------
    size : of the board; rounds, games : rounds, and games of self-play in each
    simulations : a move, in self-play
    width : of the hidden layers; batches, batch, rate : Adam steps a round, positions in each, step size
    keep : rounds whose positions are learned from
    """
    draw = generator(rng)
    network = Network.new(size, width, rng=draw)
    moments = {k: (np.zeros_like(v), np.zeros_like(v)) for k, v in network.weights.items()}
    learned, step = 0, 0
    memory: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    out = [_snapshot(network, learned, float("nan"))]
    for _ in range(checks.count("rounds", rounds)):
        memory = [*memory, self_play(network, size, games, simulations, draw)][-keep:]
        x, policy, outcome = (np.concatenate(parts) for parts in zip(*memory, strict=True))
        losses = []
        for _ in range(batches):
            rows = draw.integers(0, len(x), batch)
            value, slopes = network.loss(x[rows], policy[rows], outcome[rows])
            losses.append(value)
            step += 1
            learned += batch
            for k, g in slopes.items():
                m, v = moments[k]
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                network.weights[k] -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        out.append(_snapshot(network, learned, float(np.mean(losses))))
    return out


def self_play(
    network: Network, size: int, games: int, simulations: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Positions as seen (k, 2 cells), visit shares (k, cells) and outcomes (k,) for the mover, of a network's games."""
    cells = board.empty(games, size)
    winner = np.zeros(games, dtype=np.int8)
    rows: list[tuple[NDArray[np.int64], FloatArray, FloatArray, int]] = []
    for turn in range(size * size):
        live = np.flatnonzero(winner == 0)
        if not live.size:
            break
        now, player = cells[live], turn % 2 + 1
        counts = search.visits(now, simulations, network, noise=_SHARE, rng=rng)
        shares = (counts / counts.sum(1, keepdims=True)).astype(np.float32)
        rows.append((live, seen(now), turned(shares, now), player))
        cells[live, search.pick(counts, rng, sample=True)] = player
        winner[live[board.has_won(cells[live], player)]] = player
    outcome = [np.where(winner[live] == player, np.float32(1), np.float32(-1)) for live, _, _, player in rows]
    return np.concatenate([r[1] for r in rows]), np.concatenate([r[2] for r in rows]), np.concatenate(outcome)


def _snapshot(network: Network, learned: int, loss: float) -> Snapshot:
    flops = network.n_params * (2.0 * network.looked[0] + 6.0 * learned)
    return Snapshot(Network({k: v.copy() for k, v in network.weights.items()}), flops, loss)
