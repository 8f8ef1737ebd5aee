"""Made-up forecasts and backtests of known shape, for the tests of everything that presents them."""

from __future__ import annotations

import numpy as np
import polars as pl

from farfield.curves.data import Curves, Metric
from farfield.curves.results import Backtest, Calibration, Forecast, ForecastStatus
from farfield.predictive import Gaussian

CYCLE = (
    ForecastStatus.CONTINUE,
    ForecastStatus.UNLIKELY_BEST,
    ForecastStatus.DECAY_TO_COME,
    ForecastStatus.FINISHED,
    ForecastStatus.PLATEAU,
    ForecastStatus.TOO_SHORT,
    ForecastStatus.CONTINUE,
    ForecastStatus.TURNED,
    ForecastStatus.SCHEDULE_UNKNOWN,
    ForecastStatus.DIVERGED,
    ForecastStatus.FAR,
    ForecastStatus.UNLIKELY_BEST,
)
PLANNED_END = 2000.0


def make_forecast(n: int = 12, *, seed: int = 0, goal: str = "min", names: list[str] | None = None, **changes: object) -> Forecast:
    """`n` power-law runs seen to different lengths, the statuses of CYCLE in turn; `changes` replace fields."""
    rng = np.random.default_rng(seed)
    status = tuple(CYCLE[i % len(CYCLE)] for i in range(n))
    names = names or [f"{('cosine', 'wsd', 'constant')[i % 3]}-lr{3 * 10.0 ** -(2 + i % 3):g}-seed{i}" for i in range(n)]
    sign = 1.0 if goal == "min" else -1.0
    floor, scale, power = rng.uniform(2.0, 2.6, n), rng.uniform(3.0, 6.0, n), rng.uniform(0.3, 0.5, n)
    offset = 0.0 if goal == "min" else 10.0

    def curve(i: int, x: np.ndarray) -> np.ndarray:
        rise = 2e-4 * np.maximum(x - 900.0, 0.0) if status[i] is ForecastStatus.TURNED else 0.0
        return offset + sign * (floor[i] + scale[i] * x ** -power[i] + rise)

    run, xs, ys = [], [], []
    for i, s in enumerate(status):
        end = {ForecastStatus.FINISHED: PLANNED_END, ForecastStatus.TOO_SHORT: 40.0}.get(s, float(400 + 100 * (i * 7 % 11)))
        x = np.arange(20.0, end + 1, 20.0)
        y = curve(i, x) + rng.normal(0, 0.02, x.size)
        if s is ForecastStatus.DIVERGED:
            y[-5:] = y[-6] + sign * 3.0 ** np.arange(1, 6)
        run += [names[i]] * x.size
        xs.append(x)
        ys.append(y)
    rows = [{"run": names[i], "group": f"group {i // 3}", "planned_end": PLANNED_END} for i in range(n)]
    metric = Metric("val_loss" if goal == "min" else "accuracy", goal)
    curves = Curves.from_points(run, np.concatenate(xs), np.concatenate(ys), attributes=rows, metric=metric)

    last = curves.last_x
    refused = np.array([s.refused for s in status])
    at = np.where(refused, np.nan, PLANNED_END)
    path_at = np.where(refused[:, None], np.nan, last[:, None] + (PLANNED_END - last)[:, None] * np.linspace(0, 1, 24))
    loc = np.stack([curve(i, np.nan_to_num(path_at[i], nan=1.0)) for i in range(n)])
    spread = 0.01 + 0.04 * np.log(np.nan_to_num(path_at, nan=1.0) / last[:, None] + 1e-9).clip(0)
    path = Gaussian(loc, spread)
    weights = rng.dirichlet([2.0, 1.0, 0.5], n)
    p_best = np.where(refused, np.nan, rng.dirichlet(np.full(n, 0.5)))
    fields: dict[str, object] = {
        "curves": curves,
        "at": at,
        "predictive": Gaussian(loc[:, -1:], spread[:, -1:]),
        "path_at": path_at,
        "path": path,
        "level": 0.8,
        "estimate": "final",
        "target": "logged",
        "members": ("pow3", "janoschek", "ilog2"),
        "weights": weights,
        "status": status,
        "calibration": Calibration(
            9, 3, "these runs, each group held out in turn", "only runs that survived to this reach could be used"
        ),
        "calibrated": np.array([s.forecasts and s is not ForecastStatus.FAR for s in status]),
        "p_best": p_best,
        "warnings": ("1 run has a learning-rate decay still to come: its end will be better than its curve so far suggests",),
        "backtest": make_backtest(metric, seed=seed),
        "decay_at": np.array([1600.0 if s is ForecastStatus.DECAY_TO_COME else np.nan for s in status]),
        "notes": tuple("loss grew 200-fold" if s is ForecastStatus.DIVERGED else "" for s in status),
        **changes,
    }
    return Forecast(**fields)  # type: ignore[arg-type]


def make_hidden(f: Forecast, error: float = 0.0) -> Curves:
    """What came after the seen points of `f`: straight to `error` intervals' half widths above the median, for every second run."""
    low, high = f.interval
    x = [
        np.linspace(f.curves.last_x[i], f.at[i], 6)[1:] if i % 2 == 0 and i in f.forecast_index else np.zeros(0)
        for i in range(len(f.curves))
    ]
    y = [np.full(v.size, f.median[i] + error * (high[i] - low[i]) / 2) for i, v in enumerate(x)]
    names = [run for run, v in zip(f.curves.runs, x, strict=True) for _ in v]
    rows = [{"run": run} for run in f.curves.runs]
    return Curves.from_points(names, np.concatenate(x), np.concatenate(y), attributes=rows, metric=f.curves.metric)


def make_backtest(metric: Metric | None = None, *, seed: int = 0) -> Backtest:
    """Sixty scored forecasts in three bands of reach, ours and three baselines."""
    rng = np.random.default_rng(seed)
    bands = ((1.0, 1.5), (1.5, 2.5), (2.5, 5.0))
    rows, scores = [], []
    for k in range(60):
        band = bands[k % 3]
        reach = rng.uniform(*band)
        truth, error = 2.2 + 0.1 * rng.normal(), 0.02 * reach * rng.normal()
        half = 1.2816 * 0.02 * reach
        rows.append(
            {
                "run": f"run {k % 20}",
                "group": f"group {k % 20 // 4}",
                "cut": 1000 / reach,
                "at": 1000.0,
                "reach": reach,
                "y_true": truth,
                "median": truth + error,
                "low80": truth + error - half,
                "high80": truth + error + half,
            }
        )
    for method, error in (("farfield", 0.016), ("last value", 0.031), ("last-5 mean", 0.036), ("best so far", 0.03)):
        for low, high in ((None, None), *bands):
            far = 1.0 if low is None else {1.0: 0.6, 1.5: 1.0, 2.5: 1.5}[low]
            row: dict[str, object] = {"method": method, "reach_low": low, "reach_high": high, "n": 60 if low is None else 20}
            row |= {"mae": error * far, "mae_low": 0.8 * error * far, "mae_high": 1.25 * error * far}
            if method == "farfield":
                for level in (50, 80, 90):
                    cover = level / 100 + (0.03 if low == 1.0 else -0.02)
                    row |= {f"coverage{level}": cover, f"coverage{level}_low": cover - 0.06, f"coverage{level}_high": cover + 0.05}
                    row[f"width{level}"] = 0.05 * far * level / 80
            scores.append(row)
    return Backtest(
        scores=pl.DataFrame(scores, infer_schema_length=None),
        rows=pl.DataFrame(rows),
        metric=metric or Metric("val_loss", "min"),
    )
