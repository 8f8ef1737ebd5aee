"""P015: on curves of its prior the network predicts as well as long Markov chains do, over a thousand times faster.

Curves of the three-curve prior with noise, cut at 10, 20, 40 and 80 % of 100 points; scored is the log-likelihood of every later
point, each by itself. Ours is the network that ships. Baseline: the stretch move on the same prior, in the paper's longest setting
(M3: 4000 steps of 100 walkers, 500 dropped; tiny: 300 of 50, 100 dropped). Its time is that of one curve after another, walkers
vectorised, as published samplers run; the network's is that of batches of 64. (Vectorised over all curves too, which is how the
log-likelihoods are computed, chains take less; the ratio then is in the notes.) Times are CPU seconds of one thread, the
network's the median of five passes: they are a thousand times shorter than the chains'.
Ablation: nothing seen, so that the prior is left, a mixture over its draws.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.curves.mcmc import SETTINGS, Setting, sample_posterior
from farfield.curves.pfn import LCPFN
from farfield.curves.priors import DomhanPrior
from farfield.predictive import Mixture

FloatArray = NDArray[np.float64]
BATCH = 64
PASSES = 5
PRIOR_DRAWS = 2000


def run(budget: str, seed: int) -> Measured:
    """log_likelihood: mean over curves, cuts and later points. seconds: of one curve at one cut, in the mean over cuts."""
    tiny = budget == "tiny"
    n, cuts = (30, (10, 20)) if tiny else (40, (10, 20, 40, 80))
    setting = Setting(300, 50, 100) if tiny else SETTINGS["M3"]
    network, prior = LCPFN.load("domhan"), DomhanPrior()
    curves = prior.sample(n, seed)
    timed = prior.sample(BATCH, seed + 1_000_000).y
    steps = prior.steps
    draws = prior.starts(PRIOR_DRAWS, seed)

    score: dict[str, list[float]] = {"network": [], "chains": [], "prior": []}
    seconds: dict[str, list[float]] = {"network": [], "chains": [], "chains, all curves at once": []}
    for cut in cuts:
        at, later = steps[cut:], curves.y[:, cut:]
        seen = np.where(np.arange(len(steps)) < cut, curves.y, np.nan)
        score["network"].append(_mean(network.predict(_rows(steps[:cut], n), curves.y[:, :cut], at), later))
        started = time.process_time()
        posterior = sample_posterior(prior, seen, setting, rng=seed)
        seconds["chains, all curves at once"].append((time.process_time() - started) / n)
        score["chains"].append(float(posterior.log_likelihood(later, at).mean()))
        alone = Mixture(np.ones(1), prior.curve(draws, at).T, np.exp(draws[None, :, -1]))
        score["prior"].append(_mean(alone, later))

        network.predict(_rows(steps[:cut], BATCH), timed[:, :cut], at)  # not counted: the first call of a shape
        passes = []
        for _ in range(PASSES):
            started = time.process_time()
            network.predict(_rows(steps[:cut], BATCH), timed[:, :cut], at)
            passes.append((time.process_time() - started) / BATCH)
        seconds["network"].append(float(np.median(passes)))
        started = time.process_time()
        sample_posterior(prior, seen[:1], setting, rng=seed)
        seconds["chains"].append(time.process_time() - started)

    mean = {name: float(np.mean(values)) for name, values in score.items()}
    took = {name: float(np.mean(values)) for name, values in seconds.items()}
    return Measured(
        ours={"log_likelihood": mean["network"], "log_likelihood_without_seen": mean["network"], "seconds": took["network"]},
        baseline={"log_likelihood": mean["chains"], "seconds": took["chains"]},
        ablation={"log_likelihood_without_seen": mean["prior"]},
        curves=[Curve(name, [float(c) for c in cuts], values) for name, values in score.items()],
        axes=("points seen of 100", "mean log-likelihood of later points"),
        notes={
            "curves": n,
            "steps of chains": setting.steps,
            "walkers": setting.walkers,
            "times as fast": took["chains"] / took["network"],
            "times as fast as chains of all curves at once": took["chains, all curves at once"] / took["network"],
        },
    )


def _rows(x: FloatArray, n: int) -> FloatArray:
    return np.broadcast_to(x, (n, len(x)))


def _mean(predicted: Mixture, later: FloatArray) -> float:
    return float(predicted.log_prob(later).mean())
