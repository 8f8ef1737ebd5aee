"""New rows without labels: reach against a slow loop, errors foretold against the truth, what is unsupported, what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from farfield.cli import main
from farfield.errors import InputError
from farfield.gap.check import GapCheck, _expected, _Hidden, gap_check
from farfield.gap.reach import Cloud, shells
from farfield.gap.scores import get_score


class Line:
    def fit(self, X: Any, y: Any) -> Line:
        X = np.asarray(X, dtype=float)
        self.w_ = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
        return self

    def predict(self, X: Any) -> Any:
        return np.c_[np.asarray(X, dtype=float), np.ones(len(X))] @ self.w_


class Nan(Line):
    def predict(self, X: Any) -> Any:
        return np.full(len(X), np.nan)


class Zero:
    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


def data(seed: int = 0, n: int = 400, shift: float = 0.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) + np.array([shift, 0.0])
    return X, X[:, 0] + 0.3 * X[:, 0] ** 2 + rng.normal(0, 0.5, n)


def checked(shift: float = 0.0, model: Any = None, **kw: Any) -> GapCheck:
    X, y = data()
    return gap_check(model or Line(), X, y, data(1, 200, shift)[0], n_boot=300, **kw)


def test_reach_is_what_a_slow_loop_over_numbers_and_words_finds() -> None:
    rng = np.random.default_rng(0)
    seen = pl.DataFrame({"a": rng.normal(size=40) * 3, "b": [None, *rng.normal(size=39)], "w": list("xyzz") * 10})
    new = pl.DataFrame({"a": [0.0, 30.0, 1.0], "b": [0.0, None, 1.0], "w": ["x", "z", "q"]})
    cloud = Cloud(seen, k=3, edge=0.9)

    def point(frame: pl.DataFrame, i: int) -> Any:
        b = seen["b"].drop_nulls().to_numpy()
        value = frame["b"][i]
        return [frame["a"][i] / seen["a"].to_numpy().std(), (np.median(b) if value is None else value) / b.std()] + [
            (frame["w"][i] == w) / np.sqrt(2) for w in "xyz"
        ]

    points = [point(seen, i) for i in range(40)]
    own = [sorted(float(np.linalg.norm(np.subtract(p, q))) for q in points)[3] for p in points]
    edge = np.quantile(own, 0.9)
    np.testing.assert_allclose(cloud.own, np.array(own) / edge, rtol=1e-12)
    slow = [sorted(float(np.linalg.norm(np.subtract(point(new, i), q))) for q in points)[2] / edge for i in range(2)]
    np.testing.assert_allclose(cloud.reach(new), [*slow, np.inf], rtol=1e-12)
    said = cloud.outside(new)
    assert said[0] == ""
    assert said[1].startswith("a 30 > ")
    assert said[2] == "w 'q' was not seen"


def test_the_far_end_is_hidden_on_the_side_of_the_new_rows() -> None:
    X, _ = data()
    cloud = Cloud(X)
    far = X[shells(cloud.order(np.array([[5.0, 0.0], [6.0, 0.1]])), (0.1,))[0][1]]
    assert far.shape == (40, 2)
    assert far[:, 0].min() > 0.9
    around = X[shells(cloud.order(np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])), (0.1,))[0][1]]
    assert (np.linalg.norm(around, axis=1) > 1.5).all()


def test_the_error_of_rows_like_those_seen_is_foretold() -> None:
    hits = 0
    for seed in range(20):
        X, y = data(seed)
        new, truth = data(100 + seed, 2000)
        found = gap_check(Line(), X, y, new, n_boot=300, rng=seed)
        ok = np.array([s != "unsupported" for s in found.status])
        error = np.abs(Line().fit(X, y).predict(new) - truth)[ok].mean()
        assert found.expected is not None
        hits += found.expected.low <= error <= found.expected.high
        assert found.beyond_share.value == pytest.approx(0.05, abs=0.04)
    assert hits >= 17


def test_errors_beyond_are_expected_to_be_larger_and_past_the_backtest_there_is_no_figure() -> None:
    near, far, gone = checked(), checked(2.0), checked(30.0)
    assert near.expected is not None
    assert far.expected is not None
    assert far.expected.value > 1.3 * near.expected.value
    X, y = data()
    new, truth = data(1, 200, 2.0)
    beyond = np.array(far.status) == "beyond"
    error = np.abs(Line().fit(X, y).predict(new) - truth)
    foretold = far.to_frame()["expected"].to_numpy()
    assert 0.4 < foretold[beyond].mean() / error[beyond].mean() < 1.6
    assert gone.n("unsupported") == 200
    assert gone.expected is None
    assert gone.to_frame()["expected"].null_count() == 200
    assert "unsupported for every row" in gone.summary()
    assert far.horizon == max(b.high for b in far.bins)
    assert ((far.reach <= far.horizon) == (np.array(far.status) != "unsupported")).all()


def test_shells_that_do_not_foretell_each_other_widen_the_interval_beyond() -> None:
    # losses that rise with each fit at the same reach: nothing but the misfit can know
    rng = np.random.default_rng(0)
    rows = [np.arange(40 * i, 40 * (i + 1)) for i in range(8)]
    reach = rng.uniform(1.1, 1.9, size=40)
    widths = []
    for step in (0.0, 1.0):
        tests = [
            _Hidden(r, reach - (i < 5), 5 + step * max(i - 4, 0) + rng.uniform(-0.1, 0.1, 40), i > 4) for i, r in enumerate(rows)
        ]
        bins, _, _, expected = _expected(tests, np.full(50, 1.5), get_score("mae"), 0.95, 400, rng)
        assert expected is not None
        widths.append(expected.high - expected.low)
        assert all(b.expected_low >= 0 for b in bins)
    assert widths[0] < 0.2
    assert widths[1] > 1.5


def test_a_fitted_model_predicts_as_it_is_and_one_without_fit_has_no_backtest() -> None:
    X, y = data()
    own = Line().fit(X[:50], y[:50])
    assert checked(model=own).answers == pytest.approx(own.predict(data(1, 200)[0]))
    assert checked().answers == pytest.approx(Line().fit(X, y).predict(data(1, 200)[0]))
    with pytest.warns(UserWarning, match="no fit"):
        found = checked(model=Zero())
    assert found.n("unsupported") == 200


def test_the_same_seed_gives_the_same_and_the_targets_of_hidden_rows_do_not_move_reach() -> None:
    assert checked(1.0).to_dict() == checked(1.0).to_dict()
    X, y = data()
    other = gap_check(Line(), X, y[::-1].copy(), data(1, 200, 1.0)[0], n_boot=300)
    np.testing.assert_array_equal(other.reach, checked(1.0).reach)
    assert "\n" not in repr(other)
    assert other.to_bins()["n_new"].sum() == 200 - other.n("unsupported")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring": "median"}, "no mean over rows"),
        ({"new": np.zeros((0, 2))}, "no new rows"),
        ({"new": np.zeros((3, 4))}, "4 columns; those seen have 2"),
        ({"new": np.full((3, 2), np.nan)}, "missing or infinite"),
        ({"model": Nan()}, "NaN or infinite"),
        ({"model": object()}, "has no predict"),
        ({"k": 0}, "from 1 up"),
        ({"k": 399}, "needs at least 401"),
        ({"edge": 95}, "did you mean 0.95"),
        ({"X": np.zeros((400, 2))}, "no column differs"),
    ],
)
def test_what_cannot_be_checked_is_refused(change: dict[str, Any], message: str) -> None:
    X, y = data()
    given: dict[str, Any] = {"model": Line(), "X": X, "y": y, "new": X[:5], **change}
    with pytest.raises(InputError, match=message):
        gap_check(**given)


def test_new_rows_are_named_as_the_seen_ones_are() -> None:
    X, y = data()
    seen = pl.DataFrame(X, schema=["a", "b"])
    with pytest.raises(InputError, match="have no names of columns and those seen have"):
        gap_check(Line(), seen, y, X[:5])
    with pytest.raises(InputError, match="column 'b' is missing in the new rows, which have a, c"):
        gap_check(Line(), seen, y, pl.DataFrame(X[:5], schema=["a", "c"]))


# -- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, n, shift in (("train", 150, 0.0), ("new", 40, 2.0)):
        a = rng.normal(size=n) + shift
        pl.DataFrame({
            "a": a, "w": rng.choice(["red", "green"], n), "note": [f"item {i}" for i in range(n)],
            "y": [None if i == 3 else v for i, v in enumerate(a + rng.normal(size=n) * 0.2)],
        }).write_csv(tmp_path / f"{name}.csv")  # fmt: skip
    new = pl.read_csv(tmp_path / "new.csv")
    new.rename({"a": "aa"}).write_csv(tmp_path / "renamed.csv")
    new.with_columns(a=pl.lit("much")).write_csv(tmp_path / "words.csv")
    new.with_columns(w=pl.lit("blue")).write_csv(tmp_path / "blue.csv")
    (tmp_path / "own.py").write_text(
        "import numpy as np\nclass Line:\n    def fit(self, X, y):\n        self.m_=np.polyfit(X['a'], y, 1)\n        return self\n"
        "    def predict(self, X):\n        return np.polyval(self.m_, X['a'])\n"
    )
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], folder: Path, new: str, *arguments: str) -> tuple[int, str, str]:
    train = str(folder / "train.csv")
    code = main(["gap", "check", train, str(folder / new), "--target", "y", "--model", f"{folder / 'own.py'}:Line", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_shows_bins_and_writes_every_row(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tables, "new.csv")
    assert code == 0
    assert "reach_low" in out
    assert "of 40 new rows" in out
    assert "note: columns of " in err
    code, out, err = run(capsys, tables, "new.csv", "-o", str(tables / "rows.csv"), "--at-most", "0")
    rows = pl.read_csv(tables / "rows.csv")
    assert rows.height == 40
    assert rows.columns == ["row", "reach", "status", "prediction", "expected", "expected_low", "expected_high", "outside"]
    unsupported = rows.filter(pl.col("status") == "unsupported")
    assert unsupported["expected"].null_count() == unsupported.height
    assert (code, out) == (1 if unsupported.height else 0, "")


def test_json_holds_everything(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, tables, "blue.csv", "--json", "-q")
    found = json.loads(out)
    assert code == 0
    assert found["n_unsupported"] == found["n_new"] == 40
    assert found["expected"] is None
    assert found["rows"][0]["reach"] is None
    assert found["rows"][0]["outside"] == "w 'blue' was not seen"
    assert found["ignored"] == ["y"]


@pytest.mark.parametrize(
    ("new", "arguments", "message"),
    [
        ("renamed.csv", [], "the new rows lack 1 of the 3 columns: a; it has instead: aa"),
        ("words.csv", [], "column a holds text in the new rows, such as 'much', and numbers in those seen"),
        ("nowhere.csv", [], "no file"),
        ("new.csv", ["--score", "median"], "no mean over rows"),
        ("new.csv", ["--edge", "2"], "edge is 2"),
        ("new.csv", ["--target", "z"], "unknown column 'z'"),
    ],
)
def test_bad_input_is_named(tables: Path, capsys: pytest.CaptureFixture[str], new: str, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, tables, new, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_classes_are_checked_by_accuracy_and_by_log_loss() -> None:
    class Sign(Line):
        classes_ = np.array(["no", "yes"])

        def fit(self, X: Any, y: Any) -> Sign:
            return self

        def predict(self, X: Any) -> Any:
            return self.classes_[(X[:, 0] > 0).astype(int)]

        def predict_proba(self, X: Any) -> Any:
            p = 1 / (1 + np.exp(-3 * X[:, 0]))
            return np.c_[1 - p, p]

    X, y = data()
    words = np.where(y > 0, "yes", "no")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scoring in ("accuracy", "log_loss"):
            found = gap_check(Sign(), X, words, data(1, 50)[0], scoring=scoring, n_boot=200)
            assert found.answers is not None
            assert set(found.answers) <= {"no", "yes"}
            assert found.expected is not None
