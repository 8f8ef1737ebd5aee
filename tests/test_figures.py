"""How a figure becomes a file: logarithmic axes in plain words under a style that sets no mathematics."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from farfield.errors import InputError
from farfield.figures import save_figure, style


@pytest.mark.parametrize("styled", [False, True])
def test_logarithmic_axes_are_labelled_with_numbers(styled: bool, tmp_path: Path) -> None:
    """And what is written with dollar signs stays as it is."""
    with style():
        figure = Figure()
        axes = figure.subplots()
    if not styled:
        figure = Figure()
        axes = figure.subplots()
    axes.loglog([1, 1e9], [1e-6, 0.1])
    axes.set_title("cost in $ and $$")
    save_figure(figure, tmp_path / "a.pdf")
    labels = [label.get_text() for axis in (axes.xaxis, axes.yaxis) for label in axis.get_majorticklabels()]
    assert {"1", "1e-6", "0.01"} <= set(labels)
    assert not [label for label in labels if "$" in label or "math" in label]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in one of .png, .svg, .pdf"):
        save_figure(Figure(), tmp_path / "a.gif")
