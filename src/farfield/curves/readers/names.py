"""What the name of a logged column implies: its unit, whether it is a metric, which way is better, its hard bounds.

Nothing here looks at values except :func:`bounds`, which believes a name only as far as the values agree. A name that says
nothing gets no answer; callers ask the person instead of guessing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from farfield.curves.data import FloatArray, Goal
from farfield.curves.readers.record import Scalar, as_number

# last part of a name, squeezed to letters and digits -> what it counts
_UNITS = {
    "step": (
        "step globalstep iteration iterations iter iters trainingiteration numupdates update updates trainstep "
        "currentstep optimizerstep totalsteps numsteps nsteps boostinground round batchidx"
    ),
    "epoch": "epoch epochs epochidx currentepoch",
    "tokens": (
        "tokens ntokens numtokens tokensseen seentokens traintokens totaltokens consumedtokens processedtokens "
        "numinputtokensseen numtokensseen tokensprocessed"
    ),
    "time": (
        "time elapsed elapsedtime runtime walltime seconds timetotals totaltime timeelapsed relativetime "
        "relativetimeprocess relativetimewall"
    ),
    "timestamp": "timestamp datetime date",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
STEP_NAMES = ("step", "epoch", "tokens", "time")  # preference when a table has no column named as its position

_LR = re.compile(r"^(current_|base_|actual_)?(lr|learning_?rate)(?=$|[-_ .:0-9])", re.IGNORECASE)
_HOUSEKEEPING = re.compile(
    r"(^|[/_. -])(lr|learning_?rate|grad(ient)?_?norm|weight_?norm|param(eter)?_?norm|runtime|throughput|per_sec(ond)?|per_s|speed|"
    r"gpu|cpu|ram|vram|mem|memory|disk|util(i[sz]ation)?|power|temp(erature)?|time|duration|timestamp|timesteps?|date|elapsed|seconds|"
    r"total_flos|flops?|flos|mfu|momentum|weight_?decay|wd|beta[12]?|batch_?size|loss_?scale|scaler?|seed|random_state|pid|hostname|"
    r"node_ip|done|checkpoint(_index)?|iterations_since_restore|num_samples|n_samples|world_size|rank|eta|"
    r"time_this_iter_s|time_total_s|time_since_restore|samples|sec|it/s)($|[/_. -])",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MIN_WORDS = _words(
    "loss losses error err errors perplexity ppl nll ce xent crossentropy mse rmse mae mape rmsle wer cer "
    "fid kid kl bpb bpc bpd regret deviance brier ece logloss cost chamfer epe lpips violation "
    "residual mlogloss merror"
)
_MAX_WORDS = _words(
    "acc accuracy acc1 acc5 top1 top5 f1 f1score auc auroc auprc auprg rocauc prauc ap map map50 precision recall "
    "bleu rouge rouge1 rouge2 rougel meteor chrf reward rewards return returns r2 psnr ssim iou miou dice mrr ndcg "
    "exactmatch em success winrate likelihood loglikelihood hits hit pass sharpe elo kappa mcc specificity "
    "sensitivity spearman pearson win wins correct"
)
_UNIT_INTERVAL = _words(
    "acc accuracy acc1 acc5 top1 top5 f1 f1score auc auroc auprc rocauc prauc ap map precision recall iou miou dice "
    "mrr ndcg exactmatch em specificity sensitivity success winrate"
)
_NEVER_NEGATIVE = _words(
    "loss losses error err errors perplexity ppl nll ce xent crossentropy mse rmse mae mape rmsle wer cer fid bpb "
    "bpc bpd brier ece logloss mlogloss merror"
)
_SEEDS = _words("seed randomseed randomstate rngseed globalseed torchseed trainseed")
_PLANNED = {
    "step": (
        "maxsteps totalsteps trainsteps numsteps nsteps numtrainsteps maxtrainsteps trainingsteps numtrainingsteps "
        "totaltrainingsteps maxiters maxiter numiters totaliters maxiterations numiterations niterations "
        "totaliterations maxupdates numupdates traininiters trainiters numboostround nestimators trainingiteration"
    ),
    "epoch": "epochs maxepochs maxepoch numepochs nepochs numtrainepochs totalepochs trainepochs",
    "tokens": "totaltokens traintokens maxtraintokens numtraintokens tokenbudget trainingtokens ntokens",
}
_PLANNED_UNIT = {word: unit for unit, words in _PLANNED.items() for word in words.split()}


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def last_part(name: str) -> str:
    """The part of a name behind the last slash or colon."""
    return re.split(r"[/:|]", name)[-1].strip()


def words(name: str) -> list[str]:
    """A name in lower-case words: ``valAccuracy_top1/x`` -> val, accuracy, top1, x."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z0-9]+", spaced.casefold())


def unit(name: str) -> str | None:
    """``step``, ``epoch``, ``tokens``, ``time`` or ``timestamp`` if that is what a column of this name counts, else None."""
    return _UNIT_OF.get(_squeeze(last_part(name)))


def is_lr(name: str) -> bool:
    """Whether a column of this name is a learning rate."""
    return not _tells(name) and any(_LR.match(part.strip()) for part in re.split(r"[/:|]", name))


def is_housekeeping(name: str) -> bool:
    """Whether a column is about the run and not about how good the model is."""
    if _tells(name):
        return False
    return unit(name) is not None or is_lr(name) or bool(_HOUSEKEEPING.search(name)) or name.startswith(("system/", "_"))


def _tells(name: str) -> bool:
    """Whether the last word of a name is that of a metric: ``lr_0.1/val_loss`` is a loss, not a learning rate."""
    last = words(name)[-1:]
    return bool(last) and (last[0] in _MIN_WORDS or last[0] in _MAX_WORDS)


def goal(name: str) -> Goal | None:
    """Whether less or more of the metric is better, from the last telling word of its name; None if no word tells."""
    parts = words(name)
    pairs = ["".join(p) for p in itertools.pairwise(parts)]
    for i in range(len(parts) - 1, -1, -1):
        for word in (pairs[i - 1] if i else "", parts[i]):
            found: Goal | None = "min" if word in _MIN_WORDS else "max" if word in _MAX_WORDS else None
            if found:
                negated = any(p in ("neg", "negative", "minus") for p in parts[:i])
                return found if not negated else "max" if found == "min" else "min"
    return None


def bounds(name: str, values: FloatArray) -> tuple[float, float]:
    """Hard bounds that the name implies and the values obey; infinite otherwise."""
    parts = words(name)
    names = {*parts, *("".join(p) for p in itertools.pairwise(parts))}
    if not values.size or any(p in ("neg", "negative", "minus") and goal(name) == "max" for p in parts):
        return float("-inf"), float("inf")
    least, most = float(values.min()), float(values.max())
    if names & _NEVER_NEGATIVE and goal(name) == "min":
        return (0.0 if least >= 0 else float("-inf")), float("inf")
    if names & _UNIT_INTERVAL and goal(name) == "max" and least >= 0 and most <= 1:
        return 0.0, 1.0
    return float("-inf"), float("inf")


def seed_of(config: Mapping[str, Scalar]) -> int | None:
    """The seed in a configuration, from ``seed``, ``random_state`` and the like; the least nested wins."""
    for key in sorted(config, key=lambda k: (k.count("."), len(k))):
        number = as_number(config[key])
        if is_seed(key) and number is not None and number == number and abs(number) < 2**53 and number == int(number):
            return int(number)
    return None


def is_seed(key: str) -> bool:
    """Whether a configuration key names a random seed."""
    return _squeeze(key.rpartition(".")[2].rpartition("/")[2]) in _SEEDS


def planned_ends(config: Mapping[str, Scalar]) -> dict[str, float]:
    """Unit -> planned end from keys such as ``max_steps`` and ``num_train_epochs``; unset ones (<= 0) are left out."""
    out: dict[str, float] = {}
    for key in sorted(config, key=lambda k: (k.count("."), len(k))):
        found = _PLANNED_UNIT.get(_squeeze(key.rpartition(".")[2].rpartition("/")[2]))
        number = as_number(config[key])
        if found and number is not None and 0 < number < float("inf"):
            out.setdefault(found, number)
    return out


def covariate(kind: str, names: Iterable[str]) -> str | None:
    """The column that is the learning rate (``lr``), ``tokens``, ``epoch`` or ``time`` of a run: the plainest such name."""
    fits = [n for n in names if (is_lr(n) if kind == "lr" else unit(n) == kind)]
    return min(fits, key=lambda n: (n.count("/"), len(n), n), default=None)


def status_of(text: Any) -> str | None:
    """A status column's word as one of farfield's statuses."""
    word = _squeeze(str(text))
    for status, known in _STATUS_WORDS.items():
        if word in known.split():
            return status
    return None


_STATUS_WORDS = {
    "finished": "finished complete completed done success succeeded terminated",
    "running": "running live active pending",
    "pruned": "pruned earlystopped stoppedearly",
    "killed": "killed crashed failed fail error cancelled canceled preempted timeout",
    "diverged": "diverged nan",
}
