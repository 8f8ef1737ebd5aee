"""Hex: connections by a plain flood, the solver by searching everything, search and learner against exact play."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.evals.hex import board, learner, search, tournament
from farfield.evals.hex.solver import Solver, masks

AROUND = ((0, 1), (0, -1), (-1, 0), (-1, 1), (1, 0), (1, -1))


def joined(position, n, player):
    """A flood fill, cell by cell."""
    grid = np.asarray(position).reshape(n, n)
    grid = grid if player == 1 else grid.T
    todo = [(0, c) for c in range(n) if grid[0, c] == player]
    reached = set(todo)
    while todo:
        r, c = todo.pop()
        if r == n - 1:
            return True
        for i, j in AROUND:
            at = (r + i, c + j)
            if 0 <= at[0] < n and 0 <= at[1] < n and grid[at] == player and at not in reached:
                reached.add(at)
                todo.append(at)
    return False


@cache
def wins(position):
    """Whether the player to move wins: every game is played to its end."""
    n = int(len(position) ** 0.5)
    player = 1 if position.count(1) == position.count(2) else 2
    if joined(position, n, 3 - player):
        return False
    return any(not wins((*position[:k], player, *position[k + 1 :])) for k, v in enumerate(position) if v == 0)


def random_positions(rng, n, many, stones=None):
    """Positions with as many stones of the first player as of the second, or one more."""
    out = np.zeros((many, n * n), dtype=np.int8)
    for row in out:
        k = rng.integers(0, n * n + 1) if stones is None else stones
        row[rng.permutation(n * n)[:k]] = np.arange(k) % 2 + 1
    return out


@pytest.mark.parametrize("n", [2, 3, 4, 6, 9])
def test_connections_by_a_plain_flood(n):
    cells = random_positions(np.random.default_rng(n), n, 150)
    for player in (1, 2):
        assert board.has_won(cells, player).tolist() == [joined(row, n, player) for row in cells]
    full = random_positions(np.random.default_rng(n), n, 200, n * n)
    assert (board.has_won(full, 1) != board.has_won(full, 2)).all()  # no draws


def test_a_path_that_winds_up_and_down():
    n = 9
    grid = np.zeros((n, n), dtype=np.int8)
    for c in range(0, n, 2):
        grid[:, c] = 1
    # columns two apart do not touch; join them at the bottom and at row 1 in turn, and cut the first and last columns' ends
    for k, c in enumerate(range(1, n, 2)):
        grid[n - 2 if k % 2 == 0 else 1, c] = 1
    grid[n - 1, : n - 1] = 0
    grid[0, 1:] = 0
    row = grid.reshape(1, -1)
    assert joined(row[0], n, 1)
    assert board.has_won(row, 1)[0]
    grid[1, 3] = 0
    assert not joined(row[0], n, 1)
    assert not board.has_won(row, 1)[0]


def test_play_outs_have_the_odds_of_all_completions():
    position = np.array([[1, 0, 0, 2, 0, 0, 0, 0, 0]], dtype=np.int8)
    free = np.flatnonzero(position[0] == 0)
    outcomes = []
    for bits in range(2**7):
        if bits.bit_count() == 4:  # seven cells are left and the first player is to move
            full = position[0].copy()
            full[free] = [1 if bits >> k & 1 else 2 for k in range(7)]
            outcomes.append(joined(full, 3, 1))
    rate = board.play_out(np.repeat(position, 20_000, 0), np.random.default_rng(0)).mean()
    assert rate == pytest.approx(np.mean(outcomes), abs=0.015)


def test_the_solver_by_plain_search_of_every_position():
    for n in (2, 3):
        solver = Solver(n)
        for code in range(3 ** (n * n)):
            position = tuple(code // 3**k % 3 for k in range(n * n))
            if position.count(1) - position.count(2) not in (0, 1) or joined(position, n, 1) or joined(position, n, 2):
                continue
            first, second = masks(np.array(position, dtype=np.int8))
            move = solver.winning_move(first, second)
            assert (move is not None) == wins(position)
            player = 1 if position.count(1) == position.count(2) else 2
            if move is not None:
                assert not wins((*position[:move], player, *position[move + 1 :]))
            region = solver.must_play(first, second)
            outside = [k for k in range(n * n) if position[k] == 0 and not region >> k & 1]
            assert all(wins((*position[:k], player, *position[k + 1 :])) for k in outside)


def test_the_solver_on_later_positions_of_larger_boards():
    rng = np.random.default_rng(1)
    for n, stones, many in ((4, 7, 60), (5, 16, 25)):
        solver = Solver(n)
        for row in random_positions(rng, n, many, stones):
            if not joined(row, n, 1) and not joined(row, n, 2):
                assert solver.wins(*masks(row)) == wins(tuple(int(v) for v in row))


def test_the_winning_first_moves_of_4_x_4_are_the_short_diagonal():
    solver = Solver(4)
    assert [k for k in range(16) if not solver.wins(1 << k, 0)] == [3, 6, 9, 12]
    assert solver.winning_move(0, 0) in (3, 6, 9, 12)
    assert Solver(5).winning_move(0, 0, nodes=5) == -1  # undecided


def test_visits_are_spent_and_find_what_wins():
    rng = np.random.default_rng(0)
    cells = np.concatenate([board.empty(3, 3), random_positions(rng, 3, 1, 2)])
    simulations = np.array([1, 40, 7, 12])
    counts = search.visits(cells, simulations, rng=0)
    assert counts.sum(1).tolist() == simulations.tolist()
    assert (counts[cells != 0] == 0).all()
    assert (search.visits(cells, simulations, rng=0) == counts).all()
    # the first player has two of three in a column, and the second threatens nothing
    near = np.array([[1, 2, 0, 1, 2, 0, 0, 0, 0]], dtype=np.int8)
    assert search.visits(near, 100, rng=0).argmax() == 6


def test_more_search_is_stronger_and_much_is_perfect():
    agents = [*(tournament.Searcher(k) for k in (1, 16, 256)), tournament.Perfect(3)]
    played = tournament.play(agents, tournament.ladder(4, apart=3), 12, 3, rng=0)
    ratings = played.ratings(anchor=3)
    assert (np.diff(ratings.elo) > 0)[:2].all()
    assert ratings.elo[3] == 0
    assert ratings.elo[2] > -150
    assert (played.first_wins[3, :3] == 12).all()  # perfect play wins every game in which it moves first
    assert played.first_games[np.triu_indices(4, 1)].tolist() == [12.0] * 6


def test_what_the_mover_sees_does_not_depend_on_his_colour():
    rng = np.random.default_rng(3)
    cells = random_positions(rng, 4, 6, 6)
    # the same position for the other colour: transposed, colours swapped; then the second player is to move with one stone less
    other = np.where(cells == 0, 0, 3 - cells).reshape(-1, 4, 4).transpose(0, 2, 1).reshape(6, 16).astype(np.int8)
    extra = np.array([np.flatnonzero(row == 0)[0] for row in other])
    view = learner.seen(cells)
    swapped = other.copy()
    swapped[np.arange(6), extra] = 1  # one more stone of the first player makes it the second's turn
    again = learner.seen(swapped)
    square = extra // 4 + 4 * (extra % 4)
    view[np.arange(6), 16 + square] = 1
    assert (view == again).all()
    values = rng.normal(size=(6, 16)).astype(np.float32)
    assert (learner.turned(learner.turned(values, swapped), swapped) == values).all()


def test_the_gradient_of_the_loss_is_finite_differences():
    rng = np.random.default_rng(4)
    net = learner.Network.new(3, 8, rng=0)
    for key, value in net.weights.items():
        net.weights[key] = (value + 0.3 * rng.normal(size=value.shape)).astype(np.float64)
    cells = random_positions(rng, 3, 5, 4)
    x = learner.seen(cells).astype(np.float64)
    taken = (x[:, :9] + x[:, 9:]) > 0
    policy = np.where(taken, 0, rng.uniform(size=(5, 9)))
    policy /= policy.sum(1, keepdims=True)
    outcome = np.array([1.0, -1, 1, 1, -1])
    _, slopes = net.loss(x, policy, outcome)
    for key, slope in slopes.items():
        at = tuple(rng.integers(0, s) for s in slope.shape)
        keep, h = net.weights[key][at], 1e-6
        values = []
        for sign in (1, -1):
            net.weights[key][at] = keep + sign * h
            values.append(net.loss(x, policy, outcome)[0])
        net.weights[key][at] = keep
        assert slope[at] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-7)


def test_training_is_repeatable_and_makes_a_stronger_player():
    options = {"games": 48, "simulations": 16, "width": 32, "batches": 20}
    runs = [learner.train(3, 6, rng=0, **options) for _ in range(2)]
    assert all((runs[0][-1].network.weights[k] == w).all() for k, w in runs[1][-1].network.weights.items())
    flops = [s.flops for s in runs[0]]
    assert flops[0] == 0
    assert (np.diff(flops) > 0).all()
    assert runs[0][-1].loss < runs[0][1].loss
    agents = [tournament.Searcher(2, s.network) for s in (runs[0][0], runs[0][-1])]
    played = tournament.play(agents, [(0, 1)], 40, 3, rng=1)
    assert played.ratings(anchor=0).elo[1] > 100


def test_refusals():
    with pytest.raises(InputError, match="size is 12"):
        board.empty(1, 12)
    with pytest.raises(InputError, match="n \\* n"):
        board.has_won(np.zeros((2, 8), dtype=np.int8), 1)
    with pytest.raises(InputError, match="2 to 6"):
        Solver(7)
    with pytest.raises(InputError, match="simulations is 0"):
        search.visits(board.empty(1, 3), 0)
    with pytest.raises(InputError, match="two different agents"):
        tournament.play([tournament.Searcher(1)], [(0, 0)], 1, 3)
    assert board.text(np.array([1, 2, 0, 0], dtype=np.int8)) == "X O\n . ."
