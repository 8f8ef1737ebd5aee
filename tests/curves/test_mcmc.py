"""The stretch move on targets with known answers and against emcee; posteriors against weighted draws of the prior."""

import math

import numpy as np
import pytest
from scipy import stats

from farfield.curves.mcmc import SETTINGS, Setting, ensemble, log_posterior, sample_posterior
from farfield.curves.priors import DomhanPrior, FlatPrior
from farfield.curves.priors.eleven import FORMS
from farfield.errors import InputError

# -- the sampler ----------------------------------------------------------------------------------------------------------


def test_gaussians_of_different_means_and_covariances():
    means = np.array([[0.0, 0.0, 0.0], [5.0, -2.0, 1.0]])
    roots = np.array([np.eye(3), [[2.0, 0, 0], [1.5, 0.5, 0], [-1.0, 0.3, 0.1]]])
    inverse = np.linalg.inv(roots)

    def log_density(x):
        z = np.einsum("nij,nwj->nwi", inverse, x - means[:, None])
        return -0.5 * (z**2).sum(axis=-1)

    starts = np.random.default_rng(0).normal(size=(2, 40, 3)) * 3
    chains = ensemble(log_density, starts, 2500, burn_in=300, thin=5, rng=1)
    assert chains.draws.shape == (2, 40 * 440, 3)
    for draws, mean, root in zip(chains.draws, means, roots, strict=True):
        covariance = root @ root.T
        # the move is affine invariant, so both converge alike; about 2,000 effective draws
        assert np.abs(np.linalg.solve(root, (draws - mean).mean(axis=0))).max() < 0.11
        whitened = np.linalg.inv(root) @ (np.cov(draws.T) - covariance) @ np.linalg.inv(root).T
        assert np.abs(whitened).max() < 0.17
    np.testing.assert_allclose(chains.log_density, log_density(chains.draws), rtol=1e-9, atol=1e-9)
    assert abs(chains.accepted[0] - chains.accepted[1]) < 0.02


def test_a_bounded_density_with_a_kink():
    # exponential on x > 0, whose quantiles are known
    chains = ensemble(
        lambda x: np.where(x[..., 0] > 0, -x[..., 0], -np.inf), np.full((1, 20, 1), 1.0) + np.arange(20)[:, None] / 20, 4000,
        burn_in=200, thin=4, rng=0,
    )  # fmt: skip
    q = np.array([0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(np.quantile(chains.draws[0, :, 0], q), -np.log(1 - q), rtol=0.08)


@pytest.mark.peer("emcee")
def test_the_moments_of_emcee():
    import emcee

    prior = DomhanPrior(20)
    y = np.full((1, 20), np.nan)
    y[0, :5] = [0.62, 0.55, 0.7, 0.58, 0.66]
    at = np.array([3.0, 8.0, 20.0])

    def told(draws):  # of the curve and its noise
        return np.concatenate([prior.curve(draws, at), draws[..., -1:]], axis=-1)

    starts = sample_posterior(prior, y.repeat(12, 0), Setting(300, 40, 299), draws=40, rng=2).chains.draws
    ours = ensemble(log_posterior(prior, y.repeat(12, 0)), starts, 1500, burn_in=300, thin=10, rng=1)
    target = log_posterior(prior, y)
    sampler = emcee.EnsembleSampler(40, 13, lambda x: target(x[None])[0], vectorize=True)
    sampler.random_state = np.random.RandomState(5).get_state()
    sampler.run_mcmc(starts[0], 3000)
    theirs = told(sampler.get_chain(discard=300, thin=10))
    assert ours.accepted.mean() == pytest.approx(sampler.acceptance_fraction.mean(), abs=0.02)
    chains = told(ours.draws)
    for moment in (lambda x, axis: x.mean(axis=axis), lambda x, axis: x.std(axis=axis)):
        mine = moment(chains, 1)  # of each of 12 chains
        parts = np.array([moment(part, (0, 1)) for part in np.array_split(theirs, 6)])
        error = np.sqrt(mine.var(axis=0, ddof=1) / 12 + parts.var(axis=0, ddof=1) / 6)
        assert (np.abs(mine.mean(axis=0) - moment(theirs, (0, 1))) < 5 * error).all()
        assert (error < 0.15 * chains.std(axis=(0, 1))).all()  # the comparison means something


def test_refusals_of_the_sampler():
    def flat(x):
        return np.zeros(x.shape[:2])

    with pytest.raises(InputError, match="5 walkers in 2 dimensions"):
        ensemble(flat, np.zeros((1, 5, 2)), 10)
    with pytest.raises(InputError, match="2 walkers in 2 dimensions; allowed: an even number from 4 up"):
        ensemble(flat, np.zeros((1, 2, 2)), 10)
    with pytest.raises(InputError, match="at least burn_in"):
        ensemble(flat, np.zeros((1, 4, 2)), 10, burn_in=10)
    with pytest.raises(InputError, match="8 of the starts have no density"):
        ensemble(lambda x: np.full(x.shape[:2], -np.inf), np.zeros((2, 4, 2)), 10)


# -- posteriors -----------------------------------------------------------------------------------------------------------


def test_the_log_posterior_of_a_plain_loop():
    prior = DomhanPrior(20)
    y = prior.sample(3, 0).y
    y[0, 5:] = np.nan
    y[1, [0, 3, 19]] = np.nan
    y[2, :4] = np.nan
    p = prior.propose(3 * 50, 1).reshape(3, 50, 13)
    p[0, 0, 0] = 1.2  # outside its box
    got = log_posterior(prior, y)(p)
    for i in range(3):
        for j in range(50):
            curve = prior.curve(p[i, j], prior.steps)
            if not prior.admits(p[i, j]) or not np.isfinite(prior.log_density(p[i, j])):
                assert got[i, j] == -np.inf
                continue
            terms = [stats.norm(f, math.exp(p[i, j, -1])).logpdf(v) for f, v in zip(curve, y[i], strict=True) if not math.isnan(v)]
            assert got[i, j] == pytest.approx(prior.log_density(p[i, j]) + sum(terms), rel=1e-10)
    assert np.isfinite(got).mean() > 0.1


@pytest.mark.parametrize("seen", [{0: 0.3, 3: 0.7}, {0: 0.62, 1: 0.55, 2: 0.7, 3: 0.58, 4: 0.66}])
def test_few_points_against_weighted_draws_of_the_prior(seen):
    prior = DomhanPrior(20)
    y = np.full((1, 20), np.nan)
    y[0, list(seen)] = list(seen.values())
    at, later = np.array([2.0, 10.0, 20.0]), np.array([[0.6, 0.72, 0.76]])
    chains = 12
    posterior = sample_posterior(prior, y.repeat(chains, 0), Setting(800, 60, 200), rng=0)
    means = posterior.predict(at).mean()
    densities = np.exp(posterior.log_likelihood(later.repeat(chains, 0), at))
    np.testing.assert_allclose(densities[0], np.exp(posterior.predict(at).log_prob(later))[0], rtol=1e-6)
    p = prior.starts(150_000, 1)
    curves, sigma = prior.curve(p, prior.steps), np.exp(p[:, -1:])
    log_weight = stats.norm.logpdf(y[0, list(seen)], curves[:, list(seen)], sigma).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    f = curves[:, at.astype(int) - 1]
    for got, expected in ((means, f), (densities, stats.norm.pdf(later[0], f, sigma))):
        value = weight @ expected
        error = np.sqrt((weight**2) @ (expected - value) ** 2 + got.var(axis=0, ddof=1) / chains)
        assert (np.abs(got.mean(axis=0) - value) < 4 * error).all()
        assert (error < 0.15 * value).all()


def test_longer_chains_predict_later_points_better_than_the_prior():
    prior = DomhanPrior()
    drawn = prior.sample(12, 4)
    y = np.where(np.arange(100) < 20, drawn.y, np.nan)
    at, later = np.arange(21.0, 101), drawn.y[:, 20:]
    fitted = sample_posterior(prior, y, Setting(300, 50, 100), rng=0).log_likelihood(later, at).mean()
    p = prior.starts(4000, 0)
    f = prior.curve(p, at)
    alone = np.mean([np.log(stats.norm.pdf(row, f, np.exp(p[:, -1:])).mean(axis=0)).mean() for row in later])
    assert fitted > alone + 0.5


def test_settings_of_the_paper():
    assert SETTINGS == {"M1": (2000, 100, 500, 1), "M2": (4000, 100, 100, 100), "M3": (4000, 100, 500, 1)}
    prior = DomhanPrior(20)
    y = np.where(np.arange(20) < 5, prior.sample(2, 0).y, np.nan)
    posterior = sample_posterior(prior, y, Setting(60, 40, 20, 10), draws=80, bank=300, rng=0)
    assert posterior.chains.draws.shape == (2, 80, 13)
    again = sample_posterior(prior, y, Setting(60, 40, 20, 10), draws=80, bank=300, rng=0)
    np.testing.assert_array_equal(again.chains.draws, posterior.chains.draws)


def test_refusals():
    with pytest.raises(InputError, match="setting 'M4'"):
        sample_posterior(DomhanPrior(20), np.zeros((1, 20)), "M4")
    with pytest.raises(InputError, match=r"y has shape \(1, 19\)"):
        sample_posterior(DomhanPrior(20), np.zeros((1, 19)))
    with pytest.raises(InputError, match="curve without a seen one"):
        sample_posterior(DomhanPrior(20), np.full((1, 20), np.nan))


# -- eleven forms ---------------------------------------------------------------------------------------------------------

PLAIN = {
    "vap": lambda t, a, b, c: math.exp(a + b / t + c * math.log(t)),
    "pow3": lambda t, c, a, alpha: c - a * t**-alpha,
    "log_log_linear": lambda t, a, b: math.log(a * math.log(t) + b),
    "hill": lambda t, theta, eta, kappa: theta * t**eta / (kappa**eta + t**eta),
    "log_power": lambda t, a, b, c: a / (1 + (t / math.exp(b)) ** c),
    "pow4": lambda t, c, a, b, alpha: c - (a * t + b) ** -alpha,
    "mmf": lambda t, a, b, k, d: a - (a - b) / (1 + (k * t) ** d),
    "exp4": lambda t, c, a, b, alpha: c - math.exp(-a * t**alpha + b),
    "janoschek": lambda t, a, b, k, d: a - (a - b) * math.exp(-k * t**d),
    "weibull": lambda t, a, b, k, d: a - (a - b) * math.exp(-((k * t) ** d)),
    "ilog2": lambda t, c, a: c - a / math.log(t + 1),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_the_eleven_forms_as_published(name):
    form = FORMS[name]
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = [start * math.exp(0.3 * rng.normal()) for _, _, start in form.box]
        for t in (1.0, 7.0, 100.0):
            assert float(form.curve(np.array(t), *map(np.array, p))) == pytest.approx(PLAIN[name](t, *p), rel=1e-10)


def test_flat_priors_sum_the_forms_and_reject_as_the_paper():
    prior = FlatPrior(50)
    p = prior.starts(300, 1)
    assert p.shape == (300, 48)
    assert len(prior.parameters) == 48
    curves = prior.curve(p, prior.steps)
    assert (curves >= 0).all()
    assert (curves <= 1).all()
    assert (curves[:, -1] > curves[:, 0]).all()
    named = dict(zip(prior.parameters, p[0], strict=True))
    for i in (0, 30):
        total = sum(
            named[f"w_{name}"] * f(float(prior.steps[i]), *(named[f"{name}_{q}"] for q in FORMS[name].parameters))
            for name, f in PLAIN.items()
        )
        assert curves[0, i] == pytest.approx(total, rel=1e-10)
    density = prior.log_density(p)
    assert (density == density[0]).all()
    p[0, 0] = -0.01
    assert prior.log_density(p)[0] == -np.inf
    falling = p[1].copy()
    falling[:11] = 0  # a constant curve ends where it starts
    assert not prior.admitted(falling[None])[0][0]


def test_flat_priors_can_be_sampled():
    prior = FlatPrior(40)
    y = np.where(np.arange(40) < 10, DomhanPrior(40).sample(2, 3).y, np.nan)
    seen = np.nanmean(y, axis=1)
    posterior = sample_posterior(prior, y, Setting(100, 100, 50), rng=0)
    mean = posterior.predict(prior.steps[:10]).mean()
    assert np.abs(mean.mean(axis=1) - seen).max() < 0.05
    assert (posterior.chains.accepted > 0.01).all()
