"""The paper's prior against a plain loop, against its distributions, and against draws of the published sampler."""

import math

import numpy as np
import pytest
from scipy import stats

from farfield.curves.priors import DomhanPrior
from farfield.curves.priors.domhan import PARAMETERS
from farfield.errors import InputError


def plain_curve(p, m):
    """One curve, one point at a time, as the paper writes it."""
    q = dict(zip(PARAMETERS, map(float, p), strict=True))
    out = []
    for t in range(1, m + 1):
        pow3 = q["pow3_c"] - q["pow3_a"] * t ** -math.exp(q["pow3_log_alpha"])
        grown = math.exp(-math.exp(q["janoschek_log_k"]) * t ** math.exp(q["janoschek_log_d"]))
        janoschek = q["janoschek_a"] - (q["janoschek_a"] - q["janoschek_b"]) * grown
        ilog2 = q["ilog2_c"] - q["ilog2_a"] / math.log(t + 1)
        out.append(q["w_pow3"] * pow3 + q["w_janoschek"] * janoschek + q["w_ilog2"] * ilog2)
    return out


def plain_admits(y):
    return y[-1] > y[0] and all(0 <= v <= 1 for v in y)


@pytest.mark.parametrize("m", [2, 37, 100])
def test_curves_and_rejection_are_those_of_the_plain_loop(m):
    prior = DomhanPrior(m)
    p = prior.propose(800, 3)
    plain = np.array([plain_curve(row, m) for row in p])
    np.testing.assert_allclose(prior.curve(p, prior.steps), plain, rtol=1e-12, atol=1e-14)
    assert prior.admits(p).tolist() == [plain_admits(row) for row in plain.tolist()]


def test_proposals_have_the_stated_distributions():
    p = dict(zip(PARAMETERS, DomhanPrior().propose(40_000, 0).T, strict=True))
    stated = {
        "w_pow3": stats.uniform(), "w_janoschek": stats.uniform(), "w_ilog2": stats.uniform(),
        "pow3_c": stats.uniform(0, 1.25), "pow3_a": stats.uniform(-0.6, 1.2), "pow3_log_alpha": stats.norm(0, 2),
        "janoschek_a": stats.uniform(), "janoschek_b": stats.uniform(0, 2), "janoschek_log_k": stats.norm(-2, 1),
        "janoschek_log_d": stats.norm(0, 0.5), "ilog2_c": stats.uniform(), "ilog2_a": stats.uniform(-0.5, 1),
        "log_sigma": stats.norm(-4, 1),
    }  # fmt: skip
    assert list(stated) == list(p)
    for name, distribution in stated.items():
        assert stats.kstest(p[name], distribution.cdf).pvalue > 1e-4, name
    correlation = np.corrcoef(np.array(list(p.values())))
    assert np.abs(correlation - np.eye(len(p))).max() < 0.025
    expected = sum(d.logpdf(p[name]) for name, d in stated.items())
    got = DomhanPrior().log_density(np.array(list(p.values())).T)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_density_outside_the_box_is_zero():
    p = DomhanPrior().propose(1, 0)[0]
    for i, name in enumerate(PARAMETERS):
        moved = p.copy()
        moved[i] = 3.0
        unbounded = name.startswith("log") or "_log_" in name
        assert np.isfinite(DomhanPrior().log_density(moved)) == unbounded


def test_acceptance_and_moments_are_those_of_the_published_sampler():
    # 60,000 draws of lcpfn 0.1.3, sample_from_prior: noiseless values at t = 1, 10, 50, 100; log of the noise's deviation
    mean, deviation = [0.41800, 0.58116, 0.60623, 0.61207], [0.22624, 0.22265, 0.22558, 0.22690]
    prior = DomhanPrior()
    assert prior.admits(prior.propose(100_000, 1)).mean() == pytest.approx(0.206, abs=0.005)
    drawn = prior.sample(60_000, 2)
    at = drawn.latent[:, [0, 9, 49, 99]]
    np.testing.assert_allclose(at.mean(axis=0), mean, atol=0.007)  # five standard errors of the difference
    np.testing.assert_allclose(at.std(axis=0), deviation, atol=0.006)
    assert np.log(drawn.noise).mean() == pytest.approx(-4, abs=0.03)
    z = (drawn.y - drawn.latent) / drawn.noise[:, None]
    assert stats.kstest(z.ravel()[::60], "norm").pvalue > 1e-4
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.005


def test_what_is_drawn():
    drawn = DomhanPrior().sample(500, 7)
    assert len(drawn) == 500
    assert drawn.x.shape == drawn.y.shape == drawn.latent.shape == (500, 100)
    assert drawn.x.dtype == drawn.y.dtype == np.float64
    assert (drawn.x == np.arange(1, 101)).all()
    assert (drawn.lengths == 100).all()
    assert (drawn.horizon == 100).all()
    assert (drawn.latent >= 0).all()
    assert (drawn.latent <= 1).all()
    assert (drawn.latent[:, -1] > drawn.latent[:, 0]).all()
    again = DomhanPrior().sample(500, 7)
    assert (again.y == drawn.y).all()
    assert (DomhanPrior().sample(500, 8).y != drawn.y).any()


@pytest.mark.parametrize("n", [0, -3, 2.0])
def test_refusals(n):
    with pytest.raises(InputError, match="n is"):
        DomhanPrior().sample(n)
    with pytest.raises(InputError, match="m is 1"):
        DomhanPrior(1)
