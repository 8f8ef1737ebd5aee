"""Linear structural equation models against their recursion, and what interventions leave alone."""

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.shift.sem import LinearSEM


def test_second_moments_are_those_of_the_recursion():
    """E[x x^T] built row by row from E[x_i x_j] = sum_k B_ik E[x_k x_j] + mean parts, in plain loops."""
    sem = LinearSEM.random(5, in_degree=3, rng=0)
    sem = LinearSEM(sem.weights, sem.noise, np.linspace(-1, 1, 5))
    d, b = 5, sem.weights
    mean, cov = np.zeros(d), np.zeros((d, d))
    for i in range(d):
        mean[i] = sem.shift[i] + sum(b[i, k] * mean[k] for k in range(i))
        for j in range(i):
            cov[i, j] = cov[j, i] = sum(b[i, k] * cov[k, j] for k in range(i))
        cov[i, i] = sem.noise[i] ** 2 + sum(b[i, k] * b[i, m] * cov[k, m] for k in range(i) for m in range(i))
    np.testing.assert_allclose(sem.second_moments(), cov + np.outer(mean, mean), rtol=1e-12)


def test_samples_have_the_second_moments():
    sem = LinearSEM.random(4, size=(3,), rng=1)
    x = sem.sample(50_000, rng=2)
    found = x.swapaxes(-1, -2) @ x / x.shape[-2]
    expected = sem.second_moments()
    scale = np.sqrt(np.einsum("...ii->...i", expected))
    np.testing.assert_allclose(
        found / (scale[:, :, None] * scale[:, None]), expected / (scale[:, :, None] * scale[:, None]), atol=0.02
    )


def test_random_models_have_as_many_parents_as_asked():
    sem = LinearSEM.random(7, in_degree=3, size=(50,), rng=0)
    assert ((sem.weights != 0).sum(-1) == np.minimum(np.arange(7), 3)).all()
    assert not np.triu(sem.weights).any()


@pytest.mark.parametrize("kind", ["mechanism", "scale", "shift", "do"])
def test_an_intervention_changes_its_nodes_alone(kind):
    sem = LinearSEM.random(5, size=(4,), rng=0)
    nodes = np.zeros((3, 5), dtype=bool)
    nodes[1, 2] = nodes[2, 4] = True
    changed = sem.intervene(nodes, kind, rng=1)
    assert changed.weights.shape == (4, 3, 5, 5)
    for e in range(3):
        for i in range(5):
            same = all(
                np.array_equal(getattr(changed, part)[:, e, i], getattr(sem, part)[:, i]) for part in ("weights", "noise", "shift")
            )
            assert same != nodes[e, i]
    assert ((changed.weights != 0) <= (sem.weights != 0)[:, None]).all()
    assert not (kind == "do" and changed.weights[:, 1, 2].any())


def test_refusals():
    sem = LinearSEM.random(3, rng=0)
    with pytest.raises(InputError, match="cycle"):
        LinearSEM(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2), np.zeros(2))
    with pytest.raises(InputError, match="noise has shape"):
        LinearSEM(np.zeros((2, 2)), np.ones(3), np.zeros(2))
    with pytest.raises(InputError, match="booleans"):
        sem.intervene([[0, 1]])
    with pytest.raises(InputError, match="unknown kind"):
        sem.intervene(np.ones((1, 3), dtype=bool), "noise")
    with pytest.raises(InputError, match="strength is"):
        sem.intervene(np.ones((1, 3), dtype=bool), strength=0.5)
