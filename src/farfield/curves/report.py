"""The report: one HTML file that holds a whole forecast and needs nothing else, no network, no font, no library.

What comes from outside (run names, metric names, messages) is escaped wherever it is written, and the page's content security
policy admits no script but its own, by hash, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np

from farfield import __version__
from farfield.curves.data import FloatArray
from farfield.curves.panels import INNER, Panel, draw_order, log_x, panels, shared_y
from farfield.curves.results import Backtest, Forecast, ForecastStatus
from farfield.curves.svg import Series, reach_chart, run_panel, strip, text
from farfield.wording import count, name_of, number, percent, position, reach_band

MOST_PANELS = 500
MOST_ROWS = 5000


def save_report(forecast: Forecast, path: str | Path, *, command: str = "") -> None:
    """Write the report to `path`; a killed run leaves the old file or the new one."""
    from farfield.files import write_atomic

    write_atomic(path, report_html(forecast, command=command).encode("utf-8"))


def report_html(forecast: Forecast, *, command: str = "", most_panels: int = MOST_PANELS, most_rows: int = MOST_ROWS) -> str:
    """The report as text; `command` is the command line that made it, shown at its foot."""
    page = resources.files("farfield.curves") / "page"
    style, script = (page / "report.css").read_text("utf-8"), (page / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = text(name_of(headline(forecast)))
    main = [
        _header(forecast),
        _table(forecast, most_rows),
        _panels(forecast, most_panels),
        _backtest(forecast.backtest),
        _reading(forecast),
    ]
    made = f"Made by farfield {__version__}" + (f" with <code>{text(name_of(command))}</code>" if command else "")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n<body>\n"
        f"{_HATCH}\n"
        + "\n".join(part for part in main if part)
        + f"\n<footer>{made}.</footer>\n<script>{script}</script>\n</body></html>\n"
    )


def headline(forecast: Forecast) -> str:
    """The sentence of what was forecast, e.g. ``Final val_loss of 84 runs at step 2,000``."""
    ends = np.unique(forecast.at[forecast.forecast_index])
    label = forecast.estimate_label
    where = f" at {forecast.curves.x_name} {number(ends[0])}" if ends.size == 1 else f", each at its own {forecast.curves.x_name}"
    return f"{label[0].upper()}{label[1:]} of {count(len(forecast.curves), 'run')}{where if ends.size else ''}"


_HATCH = (
    '<svg width="0" height="0" style="position:absolute;width:0;height:0" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="hatch" d="M0 0V5"/></pattern></defs></svg>'
)


def _header(forecast: Forecast) -> str:
    curves = forecast.curves
    out = [f"<h1>{text(name_of(headline(forecast)))}</h1>"]
    if forecast.forecast_index.size:
        i, (low, high) = int(forecast.order[0]), forecast.interval
        sentence = f"Best: <b>{text(name_of(curves.runs[i]))}</b> at {number(forecast.median[i])}"
        if math.isfinite(low[i]):
            sentence += f" [{number(low[i])}, {number(high[i])}]"
        if forecast.p_best is not None:
            sentence += f", ends best with probability {percent(forecast.p_best[i])}"
        out.append(f'<p class="lede">{sentence}.</p>')
    out.append(f'<p class="muted">{text(forecast.interval_label)}.</p>')
    if forecast.came_label:
        out.append(f'<p class="muted">{text(forecast.came_label)}.</p>')
    if forecast.backtest is not None:
        out.append(f'<p class="muted">{text(_capital(forecast.backtest.summary()))}.</p>')
    tally = Counter(forecast.status)
    items = [f'<li><b>{tally[s]}</b>{s.words} <span class="muted">{text(s.value)}</span></li>' for s in ForecastStatus if tally[s]]
    out.append(f'<ul class="tally">{"".join(items)}</ul>')
    if forecast.warnings:
        lines = "".join(f"<li>{text(name_of(w))}</li>" for w in forecast.warnings)
        out.append(f'<div class="warnings" role="note"><ul>{lines}</ul></div>')
    return f"<header>{''.join(out)}</header>"


def _table(forecast: Forecast, most: int) -> str:
    curves, order = forecast.curves, forecast.order
    median, (low, high) = forecast.median, forecast.interval
    last_x, last_y, p_best = curves.last_x, curves.last_y, forecast.p_best
    limits = _strip_limits(median, low, high, last_y)
    heads = ['<th class="text"><button>Run</button></th>']
    names = [f"Last {curves.x_name}", "Last", "At", "Forecast", f"{100 * forecast.level:g} % interval"]
    heads += [f'<th class="n"><button>{text(name_of(n))}</button></th>' for n in names]
    heads += ['<th class="plain muted" aria-label="last value and interval, drawn">| last &nbsp;• forecast</th>']
    heads += ['<th class="n"><button>Came</button></th>'] if forecast.hidden is not None else []
    heads += ['<th class="n"><button>P(ends best)</button></th>'] if p_best is not None else []
    heads += ['<th class="text"><button>Status</button></th>']
    rows = []
    for i in order[:most]:
        status, note = forecast.status[i], forecast.notes[i] if forecast.notes else ""
        name = text(name_of(curves.runs[i]))
        cells = [f'<td class="run" data-v="{name}">{name}</td>']
        cells += [
            _cell(v, shown)
            for v, shown in ((last_x[i], position(last_x[i])), (last_y[i], None), (forecast.at[i], position(forecast.at[i])))
        ]
        cells.append(_cell(median[i], None, "n f" if status.forecasts else "n"))
        interval = f"{number(low[i])} to {number(high[i])}" + ("" if forecast.calibrated[i] else " *")
        cells.append(_cell(high[i] - low[i], interval))
        cells.append(f"<td class='drawn'>{strip(low[i], median[i], high[i], last_y[i], limits, bool(forecast.calibrated[i]))}</td>")
        if forecast.hidden is not None:
            missed = not low[i] <= forecast.came[i] <= high[i]
            cells.append(_cell(forecast.came[i], number(forecast.came[i]) + " ✗" * missed))
        if p_best is not None:
            cells.append(_cell(p_best[i], percent(p_best[i])))
        words = status.words + (f' <span class="muted">{text(name_of(note))}</span>' if note else "")
        cells.append(f'<td class="status" data-v="{status.words}">{words}</td>')
        rows.append(f'<tr data-run="{name}">{"".join(cells)}</tr>')
    notes = ["Best first; click a heading to sort. The interval column sorts by width."]
    if any(s.forecasts and not c for s, c in zip(forecast.status, forecast.calibrated, strict=True)):
        notes.append("* uncalibrated.")
    if forecast.hidden is not None:
        notes.append("✗ came outside the interval.")
    if len(order) > most:
        notes.append(f"The first {most:,} of {len(order):,} runs.")
    if p_best is None and forecast.p_best_withheld:
        notes.append(f"P(ends best) is withheld: {forecast.p_best_withheld}.")
    return (
        '<section><h2>Runs</h2><p><input type="search" placeholder="Show runs named ..." aria-label="Show runs named"></p>'
        f'<div class="scroll"><table><caption>{text(" ".join(notes))}</caption><thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table></div></section>"
    )


def _cell(value: float, shown: str | None = None, style: str = "n") -> str:
    if not math.isfinite(value):
        return f'<td class="{style}">–</td>'
    return f'<td class="{style}" data-v="{value:.8g}">{shown or number(value)}</td>'


def _strip_limits(median: FloatArray, low: FloatArray, high: FloatArray, last: FloatArray) -> tuple[float, float]:
    """The range that holds nine tenths of what the rows show, so that a single wild run does not flatten the rest."""
    values = np.concatenate([median, low, high, last])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return (0.0, 1.0)
    a, b = np.quantile(values, [0.0, 0.9]) if values.size > 20 else (values.min(), values.max())
    c = np.quantile(values, 0.1) if values.size > 20 and np.median(values) - a > 3 * (b - np.median(values)) else a
    return (float(c), float(b)) if b > c else (float(c) - 0.5, float(c) + 0.5)


def _panels(forecast: Forecast, most: int) -> str:
    order = draw_order(forecast)
    drawn = panels(forecast, order[:most])
    on_log, limits = log_x(drawn), shared_y(drawn)
    figures = [_figure(p, on_log, limits) for p in drawn]
    scale = "All panels share one y scale." if limits else "Each panel has its own y scale."
    shown = f" The first {len(drawn):,} of {len(order):,} runs are drawn." if len(drawn) < len(order) else ""
    key = [("seen", '<path class="seen" d="M0 6H26"/>'), ("beyond (median)", '<path class="beyond" d="M0 6H26"/>')]
    key += [
        (f"{100 * INNER:g} %", '<path class="inner" d="M0 1H26V11H0Z"/>'),
        (f"{100 * forecast.level:g} %", '<path class="outer" d="M0 1H26V11H0Z"/>'),
    ]
    if any(p.hidden_x.size for p in drawn):
        key.append(("hidden: what came", '<path class="came" d="M0 6H26"/>'))
    if any(p.beyond.size and not p.calibrated for p in drawn):
        key.append(("uncalibrated", '<path class="outer loose" d="M0 1H26V11H0Z"/>'))
    if any(math.isfinite(p.planned_end) for p in drawn):
        key.append(("planned end", '<path class="end" d="M13 0V12"/>'))
    if any(math.isfinite(p.decay_at) for p in drawn):
        key.append(
            ("learning-rate decay begins", '<path class="decay" d="M13 0V12"/><path class="decay-tip" d="M9.5 0h7l-3.5 6z"/>')
        )
    legend = "".join(f'<span><svg viewBox="0 0 26 12" aria-hidden="true">{mark}</svg>{text(label)}</span>' for label, mark in key)
    axis = f"{forecast.curves.metric.name} by {forecast.curves.x_name}"
    return (
        f'<section><h2>Seen and beyond: {text(name_of(axis))}</h2><div class="key">{legend}</div>'
        f'<div class="panels">{chr(10).join(figures)}</div><p class="muted">{scale}{shown}</p></section>'
    )


def _figure(p: Panel, on_log: bool, limits: tuple[float, float] | None) -> str:
    name = text(name_of(p.run))
    value = f'<span class="value">{number(p.value)}' if math.isfinite(p.value) else '<span class="value">'
    if math.isfinite(p.low):
        value += f" [{number(p.low)}, {number(p.high)}]" + ("" if p.calibrated else " uncalibrated")
    words = "" if p.status is ForecastStatus.CONTINUE else f' <span class="muted">{p.status.words}</span>'
    caption = f"<figcaption><b>{name}</b>{value}</span>{words}</figcaption>"
    return f'<figure data-run="{name}">{caption}{run_panel(p, log=on_log, y_limits=limits)}</figure>'


def _backtest(backtest: Backtest | None) -> str:
    if backtest is None or backtest.n == 0:
        return ""
    frame = backtest.by_reach
    own = frame.filter(frame["method"] == backtest.method)
    bands = [reach_band(a, b) for a, b in zip(own["reach_low"], own["reach_high"], strict=True)]
    charts = []
    levels = [level for level in (50, 80, 90) if f"coverage{level}" in own.columns]
    cover = [_series(own, f"coverage{level}", f"{level} %", f"l{level}", 100.0) for level in levels]
    if cover and bands:
        chart = reach_chart(bands, cover, limits=(0.0, 103.0), nominal=[float(v) for v in levels], name="coverage by reach")
        charts.append(("Intervals that held, % (dotted: as stated)", chart))
    for score, words in (("mae", f"Mean absolute error of {backtest.metric.name}"), ("width80", "Mean width of 80 % intervals")):
        series = []
        for k, method in enumerate(backtest.methods):
            rows = frame.filter(frame["method"] == method)
            if bands and score in frame.columns and rows[score].is_not_null().any():
                series.append(_series(rows, score, method, f"base{(k - 1) % 4 + 1}" if method != backtest.method else "ours"))
        if series:
            tops = np.concatenate([np.concatenate([s.values, s.high if s.high is not None else s.values]) for s in series])
            charts.append((words, reach_chart(bands, series, limits=(0.0, 1.08 * float(np.nanmax(tops))), name=words)))
    figures = "".join(f"<figure><figcaption><b>{text(name_of(words))}</b></figcaption>{chart}</figure>" for words, chart in charts)
    lines = "".join(f"<p class='muted'>{text(name_of(w))}</p>" for w in backtest.warnings)
    return (
        f"<section><h2>The evidence: a backtest</h2><p>{text(_capital(backtest.summary()))}.</p>{lines}"
        f'<div class="charts">{figures}</div></section>'
    )


def _series(rows: object, score: str, label: str, style: str, scale: float = 1.0) -> Series:
    import polars as pl

    assert isinstance(rows, pl.DataFrame)

    def column(name: str) -> FloatArray | None:
        return scale * rows[name].cast(pl.Float64).fill_null(math.nan).to_numpy() if name in rows.columns else None

    values = column(score)
    assert values is not None
    low, high = (column(f"{score}_{side}") if style == "ours" or style.startswith("l") else None for side in ("low", "high"))
    return Series(label, style, values, low, high)


def _reading(forecast: Forecast) -> str:
    target = "the noise-free curve" if forecast.target == "latent" else "the value that will be logged, its noise included,"
    entries = [
        (
            "Forecast",
            f"the median of the predictive distribution of the {forecast.estimate_label}; the line beyond is its path.",
        ),
        (
            "Interval",
            f"holds {target} in {100 * forecast.level:g} of 100 cases, if these runs go on like those it was calibrated on.",
        ),
        ("Calibration", _capital(forecast.calibration.summary()) + "."),
        ("Uncalibrated", "no runs were observed that far beyond: the interval comes from the model alone; read it as a guess."),
        ("P(ends best)", "how often a run ends best when all runs are drawn together."),
        (
            "Learning rate",
            "a decay that is still to come improves the end of a curve; until it has been seen, do not stop a run on its forecast.",
        ),
    ]
    if forecast.members:
        mean = (
            forecast.weights[forecast.forecast_index].mean(axis=0)
            if forecast.forecast_index.size
            else np.zeros(len(forecast.members))
        )
        top = sorted(zip(mean.tolist(), forecast.members, strict=True), reverse=True)[:6]
        entries.append(("Curve forms", "mean weights: " + ", ".join(f"{m} {percent(w)}" for w, m in top) + "."))
    items = "".join(f"<dt>{text(k)}</dt><dd>{text(name_of(v))}</dd>" for k, v in entries)
    return f"<section><h2>How to read this</h2><dl>{items}</dl></section>"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
