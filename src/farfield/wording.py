"""How counts, numbers and probabilities read in tables, figures and reports, and how values become plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with NaN and infinities as None and NumPy's scalars and arrays as Python's, through lists and mappings."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # of NumPy, which whoever lists the catalogue need not load
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def count(n: int, noun: str) -> str:
    """``1 run``, ``84 runs``, ``10,000 runs``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def number(value: float | None, digits: int = 4) -> str:
    """A value to `digits` significant digits without losing whole ones; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e7 or magnitude < 1e-4:
        return f"{value:.{digits - 1}g}"
    if magnitude >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits - 1 - math.floor(math.log10(magnitude))}f}"


def tick(value: float, most: float = 0.0) -> str:
    """A position on an axis in as few characters as it takes: ``800``, ``20k``, ``1.5M``, ``3e-4``.

    `most` is the axis's largest: where that counts thousands, 5,000 is ``5k`` too.
    """
    magnitude = abs(value)
    if most >= 1e4 > magnitude >= 1e3:
        return f"{value / 1e3:g}k"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if 1e15 > magnitude >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    if magnitude >= 1000:
        return f"{value:,.5g}" if magnitude < 1e4 else f"{value:.3g}"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+", "e")


def reach_band(low: float, high: float) -> str:
    """A band of reach to two figures, e.g. ``1.6–2.7x``."""
    return f"{low:.2g}–{high:.2g}x"


def position(value: float) -> str:
    """A position in a table: whole numbers in full up to ten million, others as on an axis; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else tick(value)


def percent(value: float | None) -> str:
    """A probability in whole percent, with ``<1 %`` and ``>99 %`` at the ends; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < value < 0.01:
        return "<1 %"
    if 0.99 < value < 1:
        return ">99 %"
    return f"{100 * value:.0f} %"


def size(nbytes: float) -> str:
    """An amount of bytes to three figures: ``50 kB``, ``1.07 GB``."""
    for step, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= 0.9995 * step:
            return f"{nbytes / step:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


def name_of(text: str, width: int = 0) -> str:
    """A name from outside made safe to show: control characters replaced, cut in the middle to `width` characters if given.

    Run names come from files; an escape sequence or line break in one must not reach a terminal or a page.
    """
    safe = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if width and len(safe) > width:
        head = (width - 1) // 2
        return f"{safe[:head]}…{safe[len(safe) - (width - 1 - head) :]}"
    return safe
