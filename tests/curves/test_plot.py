"""Figures: what is drawn is the data, seen and beyond differ in colour and in line, the same forecast gives the same file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from curves.synthetic import make_backtest, make_forecast
from farfield.curves.data import FloatArray
from farfield.curves.panels import draw_order, log_x, panels, shared_y, thin
from farfield.curves.plot import backtest_figure, forecast_figure, plot_backtest
from farfield.curves.results import Forecast, ForecastStatus
from farfield.errors import InputError
from farfield.figures import save_figure


def test_a_panel_draws_the_seen_points_solid_and_the_median_beyond_dashed_in_another_colour() -> None:
    f = make_forecast(3, backtest=None)
    figure = forecast_figure(f)
    panel = panels(f, draw_order(f)[:1])[0]
    seen, beyond = figure.axes[0].lines[:2]
    np.testing.assert_array_equal(seen.get_xydata(), np.column_stack([panel.x, panel.y]))
    np.testing.assert_allclose(beyond.get_xydata()[-1], [f.at[panel.index], f.median[panel.index]], rtol=1e-12)
    assert seen.get_linestyle() == "-"
    assert beyond.is_dashed()
    luminance = [np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722)) for line in (seen, beyond)]
    assert abs(luminance[0] - luminance[1]) > 0.15  # told apart in grey too


def test_small_multiples_are_best_first_with_the_backtest_last() -> None:
    f = make_forecast(30)
    figure = forecast_figure(f, most=8)
    live = [i for i in f.order if f.status[i].forecasts]
    titles = [ax.get_title(loc="left").strip() for ax in figure.axes if ax.get_visible()]
    assert titles[:7] == [f.curves.runs[i] for i in live[:7]]
    assert titles[7] == "backtest: intervals that held, %"
    assert len(live) == 22
    assert "the 7 best runs of 22 forecast" in figure.texts[0].get_text()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_same_forecast_same_file(suffix: str, tmp_path: Path) -> None:
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    for path in (one, two):
        save_figure(forecast_figure(make_forecast(5)), path)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 5000


def test_another_ending_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in one of \.png, \.svg, \.pdf; \.jpg was given"):
        save_figure(Figure(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_names_with_dollars_other_scripts_and_control_characters(tmp_path: Path) -> None:
    f = make_forecast(4, names=["a$b_{$", "训练一", "x\x1b[31my\nz", "n" * 300])
    save_figure(forecast_figure(f), tmp_path / "a.png")
    assert forecast_figure(f).axes[0].get_title(loc="left").count("\x1b") == 0


@pytest.mark.parametrize("goal", ["min", "max"])
def test_overlay_labels_the_best_and_keeps_the_style_to_itself(goal: str) -> None:
    before = dict(matplotlib.rcParams)
    f = make_forecast(12, goal=goal)
    ax = f.plot(ax=Figure().add_subplot())
    labels = [t.get_text() for t in ax.texts]
    assert any(label.startswith(f.curves.runs[next(i for i in f.order if f.status[i].forecasts)]) for label in labels)
    assert ax.get_ylabel() == f.curves.metric.name
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("status", [ForecastStatus.DIVERGED, ForecastStatus.TOO_SHORT, ForecastStatus.FINISHED])
def test_nothing_to_forecast_is_still_drawn(status: ForecastStatus) -> None:
    f = make_forecast(1, status=(status,), notes=(), backtest=None)
    figure = forecast_figure(f)
    assert [ax.get_title(loc="left").strip() for ax in figure.axes] == [f.curves.runs[0]]
    f.plot(ax=Figure().add_subplot())


def test_backtest_figures_show_each_score_that_was_measured() -> None:
    b = make_backtest()
    titles = [ax.get_title(loc="left") for ax in backtest_figure(b).axes]
    assert titles == ["backtest: intervals that held, %", "mean absolute error of val_loss", "mean width of 80 % intervals"]
    ax = plot_backtest(b, Figure().add_subplot())
    own = b.by_reach.filter(b.by_reach["method"] == "farfield")
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(drawn, [100 * own[f"coverage{level}"].to_numpy() for level in (50, 80, 90)])


def test_plain_plot_opens_a_figure() -> None:
    import matplotlib.pyplot as plt

    for thing in (make_forecast(3), make_backtest()):
        figure = thing.plot().figure
        assert plt.fignum_exists(figure.number)  # type: ignore[union-attr]
        plt.close(figure)  # type: ignore[arg-type]


def test_importing_the_figures_loads_no_matplotlib() -> None:
    code = "import sys, farfield.curves.plot, farfield.curves.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what is drawn, whoever draws it ------------------------------------------------------------------------------------------


def test_thinning_keeps_the_extremes_and_the_order() -> None:
    rng = np.random.default_rng(0)
    x, y = np.arange(100_000.0), rng.normal(size=100_000)
    y[31_415] = 99.0
    short_x, short_y = thin(x, y, 160)
    assert short_x.size <= 160
    assert (np.diff(short_x) > 0).all()
    assert short_y.max() == 99.0
    assert short_y.min() == y.min()
    np.testing.assert_array_equal(y[short_x.astype(int)], short_y)


def _with_x(x: FloatArray) -> Forecast:
    f = make_forecast(1)
    y = 2 + x**-0.5
    curves = type(f.curves).from_points(["a"] * x.size, x, y, attributes=[{"run": "a", "planned_end": 2 * x[-1]}])
    return make_forecast(1, curves=curves, at=2 * x[-1:], path_at=np.linspace(x[-1], 2 * x[-1], 24)[None])


def test_log_axis_for_log_spaced_points_only() -> None:
    assert log_x(panels(_with_x(np.geomspace(16, 4096, 17)), np.array([0])))
    assert not log_x(panels(_with_x(np.linspace(16, 4096, 17)), np.array([0])))
    assert not log_x(panels(_with_x(np.array([0.5, 1.0, 2.0])), np.array([0])))


def test_a_wild_band_does_not_flatten_the_curve() -> None:
    from farfield.predictive import Gaussian

    f = make_forecast(1)
    wild = make_forecast(1, path=Gaussian(f.path.mean(), np.full(f.path.shape, 1e6)))
    low, high = panels(wild, np.array([0]))[0].y_range
    y = f.curves.y
    assert high - low < 10 * (y.max() - y.min())


def test_the_decay_is_marked_only_while_it_is_to_come() -> None:
    f = make_forecast(3)
    last = f.curves.last_x
    marked = panels(make_forecast(3, decay_at=np.array([last[0] + 1, last[1] - 1, np.nan])), np.arange(3))
    assert [p.decay_at for p in marked[:1]] == [last[0] + 1]
    assert np.isnan([p.decay_at for p in marked[1:]]).all()


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_best_seen_is_in_view_and_the_first_transient_is_not(goal: str) -> None:
    sign = 1.0 if goal == "min" else -1.0
    f = make_forecast(1, goal=goal)
    y = f.curves.y.copy()
    y[0], y[1] = y[0] + 50 * sign, y[-1] - 5 * sign
    curves = dataclasses.replace(f.curves, y=y)
    low, high = panels(make_forecast(1, goal=goal, curves=curves), np.array([0]))[0].y_range
    assert low <= y[1] <= high
    assert not low <= y[0] <= high


def test_one_scale_only_where_it_leaves_every_panel_readable() -> None:
    f = make_forecast(12)
    assert shared_y([]) is None
    near = panels(f, f.order[:3])
    limits = shared_y(near)
    assert limits is not None
    assert limits[0] <= min(p.y_range[0] for p in near)
    assert shared_y(panels(f, np.arange(12))) is None
