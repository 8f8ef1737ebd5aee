"""The report: one file without a request in it, hostile names stay text, the drawing is the data, large inputs stay small."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import BROWSERS
from curves.synthetic import make_forecast
from farfield.curves.panels import panels
from farfield.curves.report import headline, report_html, save_report
from farfield.curves.results import ForecastStatus
from farfield.curves.svg import BOTTOM, LEFT, RIGHT, TOP, Scale, run_panel

HOSTILE = "</style></script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each element kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(k for k, _ in attrs)))
        self.values += [(k, v or "") for k, v in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_makes_no_request() -> None:
    html = report_html(make_forecast(12), command="farfield forecast runs --report r.html")
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in page.tags}
    assert not {"src", "href", "xlink:href", "srcset", "action"} & {name for name, _ in page.values}
    assert not any(name.startswith("on") for name, _ in page.values)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\([^)]*\)", html)) == {"url(#hatch)"}


def test_only_the_pages_own_script_may_run() -> None:
    html = report_html(make_forecast(4))
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1) | st.just(HOSTILE) | st.just('"><svg onload=x>'), min_size=6, max_size=6, unique=True))
def test_names_stay_text_whatever_they_hold(names: list[str]) -> None:
    f = make_forecast(6, names=names, warnings=(names[0],), notes=tuple(names))
    plainly = make_forecast(6, warnings=("w",), notes=("n",) * 6)
    assert Page(report_html(f, command=names[1])).tags == Page(report_html(plainly, command="c")).tags


def test_every_run_every_status_and_every_warning_is_named() -> None:
    f = make_forecast(24)
    words = " ".join(Page(report_html(f)).words)
    for run in f.curves.runs:
        assert words.count(run) >= 2  # in the table and at its panel
    for status in ForecastStatus:
        assert (status.value in words) == (status in f.status)
    assert headline(f) == "Final val_loss of 24 runs at step 2,000"
    for part in (*f.warnings, f.calibration.caveat, f.interval_label):
        assert part in words


def test_the_panel_draws_the_data() -> None:
    f = make_forecast(1)
    p = panels(f, np.array([0]))[0]
    drawn = run_panel(p, log=False)
    seen = re.search(r'class="seen" d="M([^"]*)"', drawn)
    assert seen
    points = np.array([[float(v) for v in pair.split()] for pair in seen[1].split("L")])
    low, high = p.y_range
    pad = 0.06 * (high - low)
    x0, x1 = p.x_range
    x = x0 - 0.02 * (x1 - x0) + (points[:, 0] - LEFT) / (RIGHT - LEFT) * 1.05 * (x1 - x0)
    y = low - pad + (BOTTOM - points[:, 1]) / (BOTTOM - TOP) * (high - low + 2 * pad)
    np.testing.assert_allclose(x, p.x, atol=0.06 * 1.05 * (x1 - x0) / (RIGHT - LEFT))
    np.testing.assert_allclose(y, p.y, atol=0.06 * (high - low + 2 * pad) / (BOTTOM - TOP))


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.0, 2000.0, False, [0, 500, 1000, 1500, 2000]),
        (2.13, 2.91, False, [2.2, 2.4, 2.6, 2.8]),
        (3.0, 3.0, False, [3.0]),
        (0.0, 5e-324, False, [0.0]),
        (10.0, 1e5, True, [1e1, 1e2, 1e3, 1e4, 1e5]),
        (1.0, 1e9, True, [1.0, 1e2, 1e4, 1e6, 1e8]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, expected: list[float]) -> None:
    np.testing.assert_allclose(Scale(low, high, 0, 100, log).ticks(5), expected, rtol=1e-12)


def test_five_hundred_runs_fit_in_five_megabytes_and_more_are_counted() -> None:
    f = make_forecast(500)
    assert len(report_html(f).encode()) <= 5_000_000
    short = report_html(f, most_panels=20, most_rows=30)
    assert short.count("<figure data-run") == 20
    assert short.count("<tr data-run") == 30
    assert "The first 20 of 500 runs are drawn." in short
    assert "The first 30 of 500 runs." in short


def test_a_run_of_the_largest_floats_is_drawn() -> None:
    """The range of a run that explodes is no float any more."""
    f = make_forecast(6)
    y = f.curves.y.copy()
    y[f.curves.points(0)] = 1e308 * (-1.0) ** np.arange(f.curves.lengths[0])
    wild = dataclasses.replace(f, curves=dataclasses.replace(f.curves, y=y))
    low, high = panels(wild, np.array([0]))[0].y_range
    assert np.isfinite(3 * (high - low))
    assert "inf" not in run_panel(panels(wild, np.array([0]))[0], log=False)


def test_withheld_probabilities_are_explained_and_not_shown() -> None:
    html = report_html(make_forecast(6, p_best=None, p_best_withheld="runs end at different steps; use --compare own-end"))
    assert "P(ends best) is withheld: runs end at different steps; use --compare own-end." in html
    assert "<button>P(ends best)</button>" not in html


@pytest.mark.parametrize("status", list(ForecastStatus))
def test_any_single_run_makes_a_page(status: ForecastStatus, tmp_path: Path) -> None:
    f = make_forecast(1, status=(status,), backtest=None, warnings=())
    save_report(f, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text("utf-8")
    assert not re.search(r"\b(nan|inf)\b", html)
    assert status.short in html


@pytest.mark.browser
def test_a_browser_shows_sorts_and_runs_nothing_foreign(tmp_path: Path) -> None:
    browser = next(found for name in BROWSERS if "fire" not in name and (found := shutil.which(name)))
    names = [HOSTILE, *(f"run {i}" for i in range(11))]
    html = report_html(make_forecast(12, names=names))
    press = "const b = [...document.querySelectorAll('th button')].find((b) => b.textContent === 'Last'); b.click(); b.click();"
    loose = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", f"<script>{press}</script></body>")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]

    def dom(text: str) -> str:
        (tmp_path / "page.html").write_text(text, "utf-8")
        command = [browser, *flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    shown = dom(html)
    assert "<title>Final val_loss of 12 runs at step 2,000</title>" in shown
    values = [float(v) for v in re.findall(r'<tr data-run=.*?</td><td class="n".*?</td><td class="n" data-v="([^"]*)"', dom(loose))]
    assert len(values) == 12
    assert values == sorted(values, reverse=True)
