"""The report of a gap: one HTML file with the figure, the numbers and how to read them; it runs nothing."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence

from farfield import __version__
from farfield.gap.plot import gap_figure
from farfield.gap.result import Estimate, GapResult

_STYLE = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 2rem 1.3rem 3rem; color: #1d1d1f; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
p, dd { max-width: 78ch; } .muted, footer { color: #62666d; } .scroll { overflow-x: auto; }
figure { margin: 1.2rem 0; }
figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #e4e5e8; white-space: nowrap; }
th { border-bottom: 1.5px solid #1d1d1f; } dt { font-weight: 600; } dd { margin: 0 0 0.5rem; }
.warnings { padding: 0.5rem 0.9rem; background: #fff4df; border-left: 3px solid #e0a63a; } code { overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; border-top: 1px solid #e4e5e8; padding-top: 0.6rem; font-size: 0.82rem; }
"""
_READING = {
    "inside": "rows held out within what the model saw",
    "beyond": "rows in the region, which the model did not see",
    "reference": "the same rows beyond, predicted by the same learner fitted on as many rows, some of them from the"
    " region (never those it is scored on)",
    "difficulty": "reference minus inside: how much harder the rows are even for a model that has seen such. It"
    " needs labels beyond, and depends on the learner and on how many rows it is fitted on",
    "extrapolation": "beyond minus reference: what not having seen such rows costs. The two add up to the gap",
    "intervals": "rows (or groups) are resampled, reference and beyond on the same ones; what the choice of training rows adds is"
    " estimated from the repeats",
}


def report_html(
    results: Sequence[GapResult], target: str, beyond: str, data: str, pipeline: str = "", failures: Mapping[str, str] | None = None
) -> str:
    """The report as text; whatever comes from outside is escaped, and the page's policy admits no script and no request."""
    first = results[0]
    title = f"{first.scoring.label} of {target} beyond {beyond}"
    heads = ("inside", "reference", "beyond", "gap", "difficulty", "extrapolation")
    rows = "".join(
        f"<tr><td>{_text(r.model)}</td>{''.join(f'<td>{_cell(getattr(r, h))}</td>' for h in heads)}</tr>" for r in results
    )
    said = "".join(f"<p><b>{_text(r.model)}</b>: {_text(r.status.value)}.</p>" for r in results)
    notes = [*dict.fromkeys(w for r in results for w in r.warnings), *(f"{m} failed: {t}" for m, t in (failures or {}).items())]
    warned = f'<div class="warnings"><ul>{"".join(f"<li>{_text(n)}</li>" for n in notes)}</ul></div>' if notes else ""
    reading = "".join(f"<dt>{k}</dt><dd>{_text(v)}</dd>" for k, v in _READING.items())
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    searched = "; ".join(dict.fromkeys(r.selection for r in results))
    counts = f"{first.beyond.n} {first.unit}s beyond, {first.inside.n} inside; {100 * first.level:g} % intervals"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{_text(title)}</h1>\n"
        f'<p class="muted">{_text(data)}: {_text("; ".join(first.regions))}. {_text(counts)}.</p>\n{said}{warned}\n'
        f"<figure>{_svg(results)}</figure>\n<h2>Numbers</h2>\n"
        f'<div class="scroll"><table><thead><tr><th>model</th>{"".join(f"<th>{h}</th>" for h in heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n<h2>How to read this</h2>\n<dl>{reading}</dl>\n"
        f'<p class="muted">Built-in models: {_text(pipeline)}. Search of settings: {_text(searched)}.</p>\n'
        f"<footer>Made by farfield {__version__}.</footer>\n</body></html>\n"
    )


def _svg(results: Sequence[GapResult]) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "farfield", "svg.fonttype": "none"}):
        gap_figure(results).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _cell(e: Estimate | None) -> str:
    return "–" if e is None else f'{e.value:.3g}<br><span class="muted">{e.low:.3g} to {e.high:.3g}</span>'


def _text(value: str) -> str:
    return html.escape(value, quote=True)
