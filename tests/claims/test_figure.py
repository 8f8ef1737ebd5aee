"""The figure of a claim: nothing runs into anything else, and no two curves look alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from farfield.claims import figure

LONG = "error_beyond_unconstrained lower than the ablation by more than 50 % of the ablation, in every one of the data sets"


def row(text: str, **values: Any) -> dict[str, Any]:
    told = {"verdict": "holds", "text": text, "kind": "superiority", "differences": [1.0, 2.0], "estimate": 1.5}
    return {**told, "low": 1.1, "high": 1.9, "threshold": 0.5, **values}


def drawn(tmp_path: Path, rows: list[dict[str, Any]], curves: list[dict[str, Any]]) -> str:
    result = {"id": "P999", "title": "A title", "verdict": "holds", "budget": "full", "seeds": [0, 1], "date": "2026-01-01"}
    result |= {"reason": "so", "criteria": rows, "curves": curves, "axes": ["x", "y"]}
    figure.draw(result, tmp_path / "figure.svg")
    return (tmp_path / "figure.svg").read_text()


def test_long_criteria_are_wrapped_and_whole(tmp_path: Path) -> None:
    svg = drawn(tmp_path, [row(LONG), row("short")], [{"name": "a", "x": [0, 1], "y": [0, 1]}])
    lines = re.findall(r"<text[^>]*>([^<]*)</text>|<tspan[^>]*>([^<]*)</tspan>", svg)
    said = [a or b for a, b in lines]
    parts = [line for line in said if line and line in f"holds: {LONG}" and len(line) > 10]
    assert " ".join(parts) == f"holds: {LONG}"
    assert max(map(len, parts)) <= 68


def test_every_curve_has_a_look_of_its_own(tmp_path: Path) -> None:
    looks = [figure._look(i, points, 9) for points in (False, True) for i in range(8)]
    assert len({str(sorted(look.items())) for look in looks}) == 16
    curves = [{"name": f"{'.' * (i % 2)}series {i}", "x": [0, 1], "y": [i, i]} for i in range(8)]
    svg = drawn(tmp_path, [row("short")], curves)
    assert all(f"series {i}<" in svg for i in range(8))
    assert len({look["color"] for look in looks}) == 8


def test_an_axis_of_kinds_has_their_names_and_no_lines() -> None:
    assert figure._kinds("0 DEUP, 1 GP, 2 in-sample errors") == {0.0: "DEUP", 1.0: "GP", 2.0: "in-sample\nerrors"}
    for label in ("step", "training queries: neighbours (0), or none of them (1)", "0 ours", "1 a, 2 b", "log10 compute, FLOP"):
        assert figure._kinds(label) == {}


def test_one_point_is_seen_and_one_number_has_room(tmp_path: Path) -> None:
    assert figure._look(0, False, 1)["marker"]
    assert "marker" not in figure._look(0, False, 2)
    same = row("equal", differences=[3e-18], estimate=3e-18, low=3e-18, high=3e-18, threshold=0.0, kind="exact")
    assert "1e\u221218" not in drawn(tmp_path, [same], []).replace("1e-18", "1e\u221218")
