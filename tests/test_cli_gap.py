"""`farfield gap`: what it prints and writes, its JSON, models of one's own, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from farfield.cli import main
from farfield.gap.tables import prepare, read_table

pytestmark = pytest.mark.extra("sklearn")

OWN = """
import numpy as np

class Line:
    def fit(self, X, y):
        self.w = np.linalg.lstsq(np.c_[X["a"], np.ones(len(X))], y, rcond=None)[0]
        return self
    def predict(self, X):
        return np.c_[X["a"], np.ones(len(X))] @ self.w

class Nan(Line):
    def predict(self, X):
        return np.full(len(X), np.nan)

def broken():
    raise RuntimeError("no such weights")

def number():
    return 3
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    n = 120
    a = rng.uniform(0, 10, n)
    frame = pl.DataFrame({
        "a": a,
        "b": [None if i % 17 == 0 else float(v) for i, v in enumerate(rng.normal(size=n))],
        "colour": rng.choice(["red", "green", "blue"], n),
        "name": [f"item {i}" for i in range(n)],
        "when": [f"2020-01-{1 + i % 28:02d}" for i in range(n)],
        "who": [f"w{i % 30}" for i in range(n)],
        "y": [None if i == 3 else float(v) for i, v in enumerate(a**2 / 10 + rng.normal(size=n) * 0.3)],
        "big": ["yes" if v > 0.5 else "no" for v in rng.uniform(size=n) + a / 40],
    })  # fmt: skip
    frame.write_csv(tmp_path / "data.csv")
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "data.csv")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["gap", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_table_of_the_parts_and_the_pipeline(table: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figure, report = tmp_path / "gap.png", tmp_path / "gap.html"
    code, out, err = run(
        capsys, table, "--target", "y", "--beyond", "a>q80", "--model", "ridge", "--compare", "constant", "--repeats", "2",
        "--plot", str(figure), "--report", str(report),
    )  # fmt: skip
    assert code == 0
    assert "beyond a>" in out
    assert "selected by the score inside: ridge" in out
    assert "left out: name (text with 119 different values)" in out
    assert "note: 1 rows without y are left out" in err
    assert figure.read_bytes()[:4] == b"\x89PNG"
    page = report.read_text()
    assert "<svg" in page
    assert "extrapolation" in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    cells = page[page.index("<tbody>") : page.index("</tbody>")]
    assert cells.count("<br>") == 2 * 6  # intervals below their values: all six quantities fit the page
    assert "Search of settings: none." in page


def test_json_holds_everything(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, table, "--target", "y", "--beyond", "a>q80", "--model", "linear", "--json", "-q", "--repeats", "2")
    assert code == 0
    found = json.loads(out)
    [r] = found["results"]
    assert r["gap"]["value"] == pytest.approx(r["difficulty"]["value"] + r["extrapolation"]["value"])
    assert r["lower_is_better"] is True
    assert len(r["per_split"]) == 2
    assert found["pipeline"].startswith("numbers, median where missing")
    again = json.loads(run(capsys, table, "--target", "y", "--beyond", "a>q80", "--model", "linear", "--json", "--repeats", "2")[1])
    assert again == found


def test_classes_groups_and_categories(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, table, "--target", "big", "--beyond", "colour==red", "--model", "ridge", "--group", "who", "--csv", "--repeats", "1"
    )
    assert code == 0
    assert out.startswith("model,quantity,value,low,high,n,std_error")
    code, out, _ = run(
        capsys, table, "--target", "big", "--beyond", "a>q70", "--model", "ridge", "--score", "auc", "--json", "--repeats", "1"
    )
    assert code == 0
    assert json.loads(out)["results"][0]["label"] == "AUC"


def test_a_model_of_ones_own_and_one_that_fails_beside_it(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = str(Path(table).parent / "own.py")
    code, out, err = run(
        capsys, table, "--target", "y", "--beyond", "a>q80", "--model", f"{own}:Line", "--compare", f"{own}:Nan", "--repeats", "1",
        "--json",
    )  # fmt: skip
    assert code == 2
    assert [r["model"].endswith("Line") for r in json.loads(out)["results"]] == [True]
    assert "NaN or infinite" in json.loads(out)["failures"][f"{own}:Nan"]
    assert "1 of 2 models failed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "z", "--beyond", "a>q80"], "unknown column 'z'"),
        (["--target", "y", "--beyond", "a >"], "cannot read the region at letter 4"),
        (["--target", "y", "--beyond", "aa>q80"], "unknown column 'aa'"),
        (["--target", "y", "--beyond", "a>99"], "no row lies beyond"),
        (["--target", "y", "--beyond", "a>3 and a<5"], "inside the seen range of a"),
        (["--target", "y", "--beyond", "a>q80", "--model", "forrest"], "unknown model 'forrest'; nearest: forest"),
        (["--target", "y", "--beyond", "a>q80", "--model", "nowhere.py:f"], "no file 'nowhere.py'"),
        (["--target", "y", "--beyond", "a>q80", "--model", "OWN:broken"], "no such weights"),
        (["--target", "y", "--beyond", "a>q80", "--model", "OWN:number"], "has no predict"),
        (["--target", "y", "--beyond", "a>q80", "--model", "OWN:brokn"], "unknown factory"),
        (["--target", "y", "--beyond", "a>q80", "--score", "speed"], "unknown score 'speed'"),
        (["--target", "big", "--beyond", "a>q80", "--score", "mae"], "big holds words, such as"),
        (["--target", "y", "--beyond", "a>q80", "--score", "auc"], "y holds numbers, which linear predicts as such, and AUC needs"),
        (["--target", "y", "--beyond", "a>q80", "--group", "nobody"], "unknown column 'nobody'"),
        (["--target", "y", "--beyond", "a>q80", "--plot", "x.gif"], "must end in one of .png, .svg, .pdf"),
        (["--target", "y", "--beyond", "a>q80", "--report", "x.pdf"], "must end in .html"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_a_message_and_code_2(
    table: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    own = str(Path(table).parent / "own.py")
    given: list[Any] = [a.replace("OWN", own) for a in arguments]
    if "--model" not in given:
        given += ["--model", "linear"]
    code, out, err = run(capsys, table, *given)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "cannot be read|no rows"), ("a,y\n", "no rows"), ("a,y\n1,2\n", "rows have a y"),
     ("a,y\n" + "1,2\n" * 20, "2.0 in every row"),
     ("a,y\n" + "".join(f"1,{i}\n" for i in range(20)), "no row lies beyond|every row")],
)  # fmt: skip
def test_tables_that_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    import re

    path = tmp_path / "t.csv"
    path.write_text(text)
    code, _, err = run(capsys, str(path), "--target", "y", "--beyond", "a>q80", "--model", "constant")
    assert code == 2
    assert re.search(message, err)


def test_dates_count_years_and_columns_are_left_out_by_name(table: str) -> None:
    frame = read_table(table)
    assert frame["when"][0] == 2020.0
    found = prepare(frame, "y")
    assert found.n_dropped == 1
    assert list(found.left_out) == ["name"]
    assert found.task == "regression"
