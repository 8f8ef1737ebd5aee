"""farfield scale: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curves.sweeps import TRUTH, chinchilla, design, noisy
from farfield.cli import main


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    x = design()
    path = tmp_path / "sweep.csv"
    frame = pl.DataFrame({"N": x[:, 0], "D": x[:, 1], "final": noisy(x, np.random.default_rng(0))})
    frame.with_columns(C=6.0 * pl.col("N") * pl.col("D")).write_csv(path)
    return path


COLUMNS = ["--params", "N", "--tokens", "D", "--loss", "final", "--refits", "60"]


def test_table_shows_laws_targets_backtest_and_the_most_influential_run(sweep, capsys):
    assert main(["scale", str(sweep), *COLUMNS, "--flops", "C", "--target", "flops=1e22", "--target", "flops=1e27"]) == 0
    shown = capsys.readouterr().out
    for words in ("chinchilla", "kaplan", "pooled", "backtest:", "hidden runs support", "most influential run", "none is left out"):
        assert words in shown


def test_json_csv_and_figure_hold_the_same(sweep, tmp_path, capsys):
    figure = tmp_path / "iso.svg"
    arguments = ["scale", str(sweep), *COLUMNS, "--target", "flops=1e22", "--target", "params=2e9,tokens=4e10"]
    assert main([*arguments, "--json", "--plot", str(figure)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert figure.read_text().lstrip().startswith("<?xml")
    alpha = next(r for r in document["parameters"] if r["law"] == "chinchilla" and r["parameter"] == "alpha")
    assert 0.3 < alpha["low"] < alpha["value"] < alpha["high"] < 0.42
    best = next(r for r in document["targets"] if r["law"] == "pooled")
    assert best["params"] * best["tokens"] * 6 == pytest.approx(1e22, rel=0.05)
    assert best["params_low"] < best["params"] < best["params_high"]
    assert len(document["influential"]) == 5
    out = tmp_path / "t.csv"
    assert main([*arguments, "-o", str(out)]) == 0
    table = pl.read_csv(out)
    assert table.filter(pl.col("law") == "pooled")["loss"].to_list() == [
        r["loss"] for r in document["targets"] if r["law"] == "pooled"
    ]
    assert main(["scale", str(sweep), *COLUMNS, "--csv"]) == 0
    assert capsys.readouterr().out.startswith("law,pooled,parameter")


def test_translate_between_training_sets_and_between_losses(tmp_path, capsys):
    x = design()
    a = noisy(x, np.random.default_rng(0), 0.002)
    b = 0.7 * (chinchilla(x) - TRUTH["E"]) ** 1.1 + 0.9
    sets = pl.DataFrame(
        {"params": np.tile(x[:, 0], 2), "tokens": np.tile(x[:, 1], 2), "loss": np.r_[a, b], "set": ["web"] * 49 + ["code"] * 49}
    )
    sets.write_csv(path := tmp_path / "two.csv")
    options = ["--translate", "web:code", "--data", "set", "--given", "2.1", "--target", "flops=1e22", "--refits", "60"]
    assert main(["scale", str(path), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    given, by_law = document["translations"]
    assert given["loss of code"] == pytest.approx(0.7 * (2.1 - TRUTH["E"]) ** 1.1 + 0.9, rel=0.02)
    assert given["low"] < given["high"]
    assert (given["source"], by_law["source"][:6]) == ("given", "by the")
    assert any("leaves out how sure that law is" in line for line in document["notes"])
    pl.DataFrame({"params": x[:, 0], "tokens": x[:, 1], "train": a, "test": b}).write_csv(wide := tmp_path / "wide.csv")
    assert main(["scale", str(wide), "--translate", "train:test", "--given", "2.1", "--refits", "60"]) == 0
    assert "49 pairs" in capsys.readouterr().out
    assert main(["scale", str(path), "--translate", "web:cod", "--data", "set"]) == 2
    assert "unknown training set 'cod'" in capsys.readouterr().err


def test_points_from_the_middle_of_runs_are_refused_until_told(sweep, tmp_path, capsys):
    frame = pl.read_csv(sweep).with_row_index("run")
    early = frame.with_columns(D=pl.col("D") / 2, final=pl.col("final") * 1.1)
    pl.concat([early, frame]).write_csv(path := tmp_path / "mixed.csv")
    assert main(["scale", str(path), *COLUMNS]) == 2
    said = capsys.readouterr().err
    assert "49 runs with several rows" in said
    assert "--mid-run last" in said
    assert main(["scale", str(path), *COLUMNS, "--mid-run", "last", "--json"]) == 0
    last = capsys.readouterr()
    assert "49 of 98 rows left out" in last.err
    assert main(["scale", str(sweep), *COLUMNS, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    values = [[r["value"] for r in d["parameters"]] for d in (json.loads(last.out), whole)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    pl.read_csv(path).rename({"run": "attempt"}).write_csv(renamed := tmp_path / "renamed.csv")
    assert main(["scale", str(renamed), *COLUMNS, "--run-column", "attempt"]) == 2
    assert "49 runs with several rows" in capsys.readouterr().err
    assert main(["scale", str(path), *COLUMNS, "--mid-run", "keep"]) == 0
    assert "all rows are kept" in capsys.readouterr().err
    frame.with_columns(status=pl.Series(["finished"] * 48 + ["running"])).write_csv(path)
    assert main(["scale", str(path), *COLUMNS]) == 2
    assert "1 row of runs not finished" in capsys.readouterr().err


def test_collinear_sweeps_warn_and_give_no_split(tmp_path, capsys):
    n = np.geomspace(1e8, 1e10, 12)
    x = np.stack([n, 20 * n], 1)
    pl.DataFrame({"params": n, "tokens": 20 * n, "loss": noisy(x, np.random.default_rng(0))}).write_csv(
        path := tmp_path / "line.csv"
    )
    assert main(["scale", str(path), "--target", "flops=1e22", "--refits", "40"]) == 0
    shown = capsys.readouterr().out
    assert "A, B, alpha, beta not identified: all runs lie on one line, tokens = 20 x params" in shown
    assert "no split for flops=1e+22" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params", "M"], "unknown column 'M'"),
        (["--target", "1e24"], "such as flops=1e24"),
        (["--target", "flops=-1"], "above 0"),
        (["--target", "compute=1e24"], "allowed: flops"),
        (["--law", "chinchila"], "unknown law 'chinchila'"),
        (["--given", "2"], "belong to --translate"),
        (["--translate", "final"], "A:B"),
        (["--translate", "final:C", "--plot", "a.svg"], "leave one"),
        (["--plot", "a.gif"], "must end in"),
        (["--level", "90"], "did you mean 0.9?"),
        (["--refits", "0"], "Invalid value for '--refits': 0 is not in the range x>=10"),
        (["--unique", "U"], "unknown column 'U'"),
        (["--group", "G"], "unknown column 'G'"),
    ],
)
def test_bad_usage_ends_with_2_and_a_line_that_says_why(sweep, capsys, arguments, said):
    assert main(["scale", str(sweep), *COLUMNS, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_bad_tables(tmp_path, capsys):
    x = design()
    frame = pl.DataFrame({"params": x[:, 0], "tokens": x[:, 1], "loss": chinchilla(x)})
    path = tmp_path / "t.csv"
    cases = [
        (frame.with_columns(loss=pl.col("loss") - 2.5), "not above 0"),
        (frame.head(3), "3 different settings"),
        (frame.with_columns(loss=pl.lit("low")), "holds text"),
        (frame.with_columns(loss=pl.lit(None)), "no row of 49"),
    ]
    for table, said in cases:
        table.write_csv(path)
        assert main(["scale", str(path)]) == 2
        assert said in capsys.readouterr().err
    for data, said in ((b"", "empty file"), (b"\x1f\x8b\x08\x00", "gzip"), (b"PAR1 nothing", "Parquet")):
        path.write_bytes(data)
        assert main(["scale", str(path)]) == 2
        assert said in capsys.readouterr().err
    assert main(["scale", str(tmp_path / "none.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
