"""Rep4Ex: its penalty against NumPy, and a hidden state that only the penalty straightens."""

import numpy as np
import pytest

from farfield.errors import InputError

pytestmark = pytest.mark.extra("torch")


def test_the_penalty_is_the_restriction_and_carries_a_gradient():
    import torch

    from farfield.shift.control import linear_invariance
    from farfield.shift.rep4ex import invariance_penalty

    rng = np.random.default_rng(0)
    a, z = rng.uniform(-1, 1, (60, 2)), rng.normal(size=(60, 3))
    codes = torch.tensor(z, requires_grad=True)
    value = invariance_penalty(codes, torch.tensor(a), 0.8)
    assert float(value.detach()) == pytest.approx(linear_invariance(z, a, 0.8), rel=1e-9)
    value.backward()
    assert codes.grad is not None
    # the scale carries no gradient: compare along a direction that keeps it to first order
    step = rng.normal(size=z.shape)
    step -= step.mean(0)
    centred = z - z.mean(0)
    step -= centred * (step * centred).mean(0) / (centred**2).mean(0)
    numeric = (linear_invariance(z + 1e-6 * step, a, 0.8) - linear_invariance(z - 1e-6 * step, a, 0.8)) / 2e-6
    assert float((codes.grad.numpy() * step).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def hidden(n=600, seed=0):
    rng = np.random.default_rng(seed)
    a, v = rng.uniform(-1, 1, (n, 1)), rng.normal(size=(n, 1))
    z = 1.5 * a + v
    x = np.column_stack([np.exp(0.4 * z), z + 0.2 * z**3, np.tanh(z)])
    return x, a, 2 * z[:, 0] + 1.5 * v[:, 0], z


def test_the_penalty_lowers_the_restriction_and_a_seed_repeats():
    from farfield.shift.rep4ex import Rep4Ex

    x, a, y, z = hidden()
    with_penalty, again, without = (Rep4Ex(1, penalty=p, steps=80, width=16, batch=256).fit(x, a, y) for p in (20.0, 20.0, 0.0))
    assert with_penalty.restriction_ < without.restriction_ + 1e-3
    np.testing.assert_allclose(with_penalty.predict_do([[2.0]]), again.predict_do([[2.0]]), rtol=1e-6)  # sums of single precision
    assert abs(np.corrcoef(with_penalty.transform(x)[:, 0], z[:, 0])[0, 1]) > 0.95
    np.testing.assert_allclose(with_penalty.transform(x[:3]), [with_penalty.transform(r[None])[0] for r in x[:3]], atol=1e-5)
    assert abs(with_penalty.predict_do([[1.0]])[0] - 3.0) < 1.0  # 2 * 1.5 * a, which the confounded slope 3.5 * 1.5 is not


def test_a_penalty_that_costs_reconstruction_is_not_chosen(monkeypatch):
    from farfield.shift import rep4ex

    x, a, y, _ = hidden()
    tried = []
    fit = rep4ex.Rep4Ex._autoencode

    def watched(self, x, a, penalty):
        found = fit(self, x, a, penalty)
        tried.append((penalty, found[1]))
        return found

    monkeypatch.setattr(rep4ex.Rep4Ex, "_autoencode", watched)
    found = rep4ex.Rep4Ex(1, steps=60, width=16, batch=256).fit(x, a, y)
    plain = tried[0][1]
    cheap = [p for p, error in tried[1:] if error <= 1.2 * plain]
    assert found.penalty_ == (cheap[0] if cheap else 0.0)
    assert found.reconstruction_ <= 1.2 * plain
    tried.clear()
    # pure noise in A: to straighten the code against it costs reconstruction
    noise = np.random.default_rng(9).uniform(-1, 1, (600, 1))
    monkeypatch.setattr(rep4ex, "PENALTIES", (1e6,))
    found = rep4ex.Rep4Ex(1, steps=60, width=16, batch=64).fit(x, noise, y)
    assert found.penalty_ == 0
    same = rep4ex.Rep4Ex(1, penalty=0, steps=60, width=16, batch=64).fit(x, noise, y)
    np.testing.assert_array_equal(found.transform(x), same.transform(x))


def test_refusals():
    from farfield.shift.rep4ex import Rep4Ex

    x, a, y, _ = hidden(50)
    with pytest.raises(InputError, match="penalty is -1"):
        Rep4Ex(penalty=-1).fit(x, a, y)
    with pytest.raises(InputError, match="penalty is 'best'"):
        Rep4Ex(penalty="best").fit(x, a, y)
    with pytest.raises(InputError, match="X has 3 columns"):
        Rep4Ex(4).fit(x, a, y)
    with pytest.raises(InputError, match="X has 50 rows"):
        Rep4Ex().fit(x, a[:3], y)
