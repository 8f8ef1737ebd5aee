"""`farfield forecast` and `farfield backtest`: tables, formats, files, options handed on, refusals and exit codes.

The numerical work is tested elsewhere: here a forecast of known shape stands in for it, except where a test says so.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.core import Context

from curves.synthetic import CYCLE, make_backtest, make_forecast
from farfield.cli import main
from farfield.cli.forecast import beyond, command, command_line, parse_by, split
from farfield.curves.data import Curves
from farfield.curves.results import Backtest, Forecast, ForecastStatus
from farfield.errors import InputError


def write_runs(path: Path, n: int = 12, prefix: str = "run ") -> None:
    rows = [f"{prefix}{i},{step},{3 * step**-0.3 + 0.01 * i:.6f}" for i in range(n) for step in range(1, 41)]
    path.write_text("run,step,val_loss\n" + "\n".join(rows) + "\n")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command handed to the library; `changes` go into the forecast that it gets back."""
    seen: dict[str, Any] = {"changes": {}}

    def forecast(curves: Curves, **options: Any) -> Forecast:
        seen.update(options, curves=curves)
        return make_forecast(len(curves), names=list(curves.runs), **seen["changes"])

    def backtest(curves: Curves, **options: Any) -> Backtest:
        seen.update(options, curves=curves)
        return make_backtest(curves.metric)

    for name, function in (("forecasting", forecast), ("backtesting", backtest)):
        module = types.ModuleType(f"farfield.curves.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


@pytest.fixture
def runs(tmp_path: Path) -> str:
    write_runs(tmp_path / "runs.csv")
    return str(tmp_path / "runs.csv")


def test_table_lists_runs_best_first_with_what_a_reader_must_know(
    runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    f = make_forecast(12, names=[f"run {i}" for i in range(12)])
    lines = out.splitlines()
    assert re.split(r"  +", lines[0]) == ["run", "last step", "last", "at 2,000", "80 % interval", "P(ends best)", "status"]
    live = [i for i in f.order if not f.status[i].refused]
    assert [line.split("  ")[0] for line in lines[1 : 1 + len(live)]] == [f.curves.runs[i] for i in live]
    low, high = f.interval
    for i, line in zip(live, lines[1:], strict=False):
        if f.status[i].forecasts:
            assert f"{low[i]:.3f} to {high[i]:.3f}" in line
        assert line.endswith(f.status[i].key.replace("_", " "))
        assert ("*" in line) == (f.status[i] is ForecastStatus.FAR)
    for text in (*f.warnings, f.backtest.summary(), f.calibration.caveat, f"{f.interval_label} (*)"):  # type: ignore[union-attr]
        assert text in out
    for status in f.status:
        assert (status.short if status.refused else status.value) in out
    assert "not forecast: run 9: diverged (loss grew 200-fold)" in lines
    assert not any(line != line.rstrip() for line in lines)


def test_long_tables_show_the_top_and_a_count(tmp_path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path / "many.csv", 120)
    main(["forecast", str(tmp_path / "many.csv")])
    short = capsys.readouterr().out
    main(["forecast", str(tmp_path / "many.csv"), "--all"])
    whole = capsys.readouterr().out
    assert "40 of 100 runs, the best first; --all shows every one" in short
    assert "not forecast: and 10 more runs; --all names every one" in short
    assert len(re.findall(r"^run \d+ ", short, re.M)) == 40
    assert len(re.findall(r"^run \d+ ", whole, re.M)) == 100
    assert len(re.findall(r"^not forecast: run \d+: ", whole, re.M)) == 20
    assert "--all" not in whole
    assert short.count(" finished\n") == 10  # at most a quarter of the rows while runs are still going


def test_json_csv_and_parquet_hold_the_same_runs(
    runs: str, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(json.dumps(make_forecast(12, names=[f"run {i}" for i in range(12)]).to_dict()))
    assert main(["forecast", runs, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["run"] for r in rows] == [r["run"] for r in data["runs"]]
    for ending in ("json", "csv", "parquet", "txt"):
        assert main(["forecast", runs, "-o", str(tmp_path / f"f.{ending}")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "f.json").read_text()) == data
    assert pl.read_parquet(tmp_path / "f.parquet")["forecast"].to_list() == [r["forecast"] for r in data["runs"]]
    assert pl.read_csv(tmp_path / "f.csv")["status"].to_list() == [r["status"] for r in data["runs"]]
    assert (tmp_path / "f.txt").read_text().startswith("run ")


def test_the_documented_fields_are_those_there_are(runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["forecast", runs, "--json"])
    data = json.loads(capsys.readouterr().out)
    document = (Path(__file__).parents[1] / "docs" / "forecast-json.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)`", document))
    assert set(data) | set(data["runs"][0]) | set(data["calibration"]) | set(data["backtest"]) <= named
    table = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+?) \| (?:yes)? ?\|$", document, re.M))
    assert {s.key: s.value for s in ForecastStatus} == {k: v for k, v in table.items() if k in {s.key for s in ForecastStatus}}
    may_stop = set(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| yes \|$", document, re.M))
    assert may_stop == {s.key for s in ForecastStatus if s.may_stop}
    assert set(Backtest.SCORES) <= named


def test_options_reach_the_library(runs: str, given: dict[str, Any], tmp_path: Path) -> None:
    write_runs(tmp_path / "old.csv", 3, "old ")
    options = ["--level", "0.9", "--estimate", "mean:3", "--method", "pow3", "--lr-schedule", "cosine:100", "--compare", "own-end"]
    options += ["--target", "latent"]
    assert main(["forecast", runs, *options, "--to", "200", "--seed", "7", "--context", str(tmp_path / "old.csv")]) == 0
    expected = {"level": 0.9, "estimate": "mean:3", "method": "pow3", "lr_schedule": "cosine:100", "compare": "own-end"}
    expected["target"] = "latent"
    assert {k: given[k] for k in expected} == expected
    assert (given["to"], given["rng"]) == (200.0, 7)
    assert given["context"].runs == ("old 0", "old 1", "old 2")
    assert given["curves"].metric.name == "val_loss"


def test_by_moves_each_run_on_from_its_own_end(runs: str, given: dict[str, Any]) -> None:
    assert main(["forecast", runs, "--by", "2x"]) == 0
    np.testing.assert_array_equal(given["to"], np.full(12, 80.0))
    assert main(["forecast", runs, "--by", "+500"]) == 0
    np.testing.assert_array_equal(given["to"], np.full(12, 540.0))
    curves = make_forecast(12).curves
    np.testing.assert_array_equal(beyond(curves, *parse_by("1.5x")), 1.5 * curves.last_x)


@pytest.mark.parametrize("text", ["2", "x", "-2x", "1x", "0.5x", "+0", "+-5", "2xx", "nanx", "", "1e3", "1e400x", "+1e400"])
def test_by_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(InputError, match="--by"):
        parse_by(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "5", "--by", "2x"], "--to and --by cannot both be given"),
        (["--plot", "f.jpg"], "--plot f.jpg: the file must end in one of .png, .svg, .pdf"),
        (["--report", "f.pdf"], "--report f.pdf: the file must end in .html"),
        (["-o", "f.xlsx"], "cannot tell the format of f.xlsx"),
        (["--json", "--csv"], "--json and --csv cannot both be given"),
        (["--metric", "lsos"], "unknown metric 'lsos'"),
        (["--goal", "up"], "'up' is not one of"),
        (["--to", "soon"], "'soon' is not a valid float"),
    ],
)
def test_bad_usage_ends_with_2_and_a_line_that_says_why(
    arguments: list[str], message: str, runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert "to" not in given  # the work had not begun


def test_nothing_forecast_is_reported_in_full_and_ends_with_2(
    runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given["changes"] = {"status": (ForecastStatus.TOO_SHORT,) * 12, "notes": (), "backtest": None}
    assert main(["forecast", runs, "--json"]) == 2
    out, err = capsys.readouterr()
    assert {r["status"] for r in json.loads(out)["runs"]} == {"too_short"}
    assert err == "error: none of 12 runs could be forecast: fewer than 3 points\n"


def test_runs_without_a_planned_end_are_answered_with_the_options_that_say_it(
    given: dict[str, Any], runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given["changes"] = {"status": (ForecastStatus.NO_END,) * 12, "notes": (), "backtest": None}
    assert main(["forecast", runs]) == 2
    told = "none of 12 runs could be forecast: planned end unknown; say how far with --to X or --by 2x"
    assert capsys.readouterr().err == f"error: {told}\n"


def test_hostile_names_reach_no_terminal(tmp_path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path / "runs.csv", 12, "\x1b[31m[red]</script>")
    assert main(["forecast", str(tmp_path / "runs.csv"), "--report", str(tmp_path / "r.html")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "�[31m[red]</script>0" in out
    assert "[red]</script>" not in (tmp_path / "r.html").read_text()


def test_figure_and_report_are_written_beside_the_table(
    runs: str, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, report = tmp_path / "f.svg", tmp_path / "r.html"
    assert main(["forecast", runs, "--plot", str(plot), "--report", str(report), "--level", "0.9"]) == 0
    assert capsys.readouterr().out.startswith("run ")
    assert plot.read_text().startswith("<?xml")
    assert f"farfield forecast {runs} --level 0.9" in report.read_text()


def test_command_line_can_be_pasted() -> None:
    arguments = ["a b.csv", "--all", "--context", "x", "--context", "y z", "-q", "--by", "2x"]
    context = Context(command, info_name="farfield forecast")
    command.parse_args(context, list(arguments))
    line = command_line(context)
    assert line == "farfield forecast 'a b.csv' --by 2x --context x --context 'y z' --all --quiet"


def test_withheld_probabilities_leave_no_column(runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    given["changes"] = {"p_best": None, "p_best_withheld": "runs end at different steps; --compare own-end compares them there"}
    assert main(["forecast", runs]) == 0
    out = capsys.readouterr().out
    assert "P(ends best) is withheld: runs end at different steps; --compare own-end compares them there" in out
    assert "P(" not in out.splitlines()[0]


def test_standard_input(given: dict[str, Any], runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(Path(runs).read_bytes()))
    monkeypatch.setattr(sys, "stdin", text)
    assert main(["forecast", "-"]) == 0
    assert len(given["curves"]) == 12


def test_narrow_terminals_keep_every_run_and_status_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from farfield.cli.forecast_table import show_forecast

    for width in (80, 100, 160):
        text = io.StringIO()
        show_forecast(make_forecast(12), Console(file=text, width=width, highlight=False, markup=False, emoji=False))
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        for key in ("decay", "unlikely best", "finished", "continue", "plateau"):
            assert any(key in line for line in lines[1:13])
        assert "…" not in "".join(line[16:] for line in lines[1:13])  # only names are cut


def test_names_are_cut_only_where_they_stay_apart() -> None:
    from rich.console import Console

    from farfield.cli.forecast_table import show_forecast

    def lines(names: list[str]) -> list[str]:
        text = io.StringIO()
        show_forecast(make_forecast(12, names=names), Console(file=text, width=70, highlight=False, markup=False, emoji=False))
        return text.getvalue().splitlines()

    apart = lines([f"{i:02d}-{'x' * 60}" for i in range(12)])
    assert sum("…" in line for line in apart) == 10
    alike = lines([f"{'x' * 30}{i:02d}{'x' * 30}" for i in range(12)])
    assert not any("…" in line for line in alike)
    assert max(map(len, apart + alike)) <= 70


# -- hiding the end -----------------------------------------------------------------------------------------------------------


def test_hide_forecasts_the_seen_part_and_shows_what_came(
    runs: str, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs, "--hide", "0.5", "--report", str(tmp_path / "r.html"), "--plot", str(tmp_path / "f.png")]) == 0
    assert given["curves"].x.max() == 20
    assert set(given["curves"].column("planned_end")) == {40.0}
    assert " came " in capsys.readouterr().out.splitlines()[0]
    assert "hidden: what came" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("share", ["0", "1", "40", "-0.1", "nan"])
def test_hide_takes_a_share(share: str, runs: str, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", runs, "--hide", share]) == 2
    assert "the share must lie between 0 and 1" in capsys.readouterr().err


def test_what_is_hidden_does_not_show_in_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(1.0, 21.0), 3)
    run = np.repeat(["a", "b", "c"], 20)
    rows = [
        {"run": "a", "planned_end": 20.0, "status": "finished"},
        {"run": "b", "planned_end": 40.0, "status": "killed"},
        {"run": "c", "status": "diverged", "n_nonfinite": 3},
    ]

    def seen(end: float) -> Curves:
        y = rng.normal(size=60) * (x > 10) + np.where(x > 10, end, 1 / x)
        return split(Curves.from_points(list(run), x, y, attributes=rows), 0.5)[0]

    one, two = seen(5.0), seen(-3.0)
    assert one.to_frame().filter(pl.col("run") != "b").equals(two.to_frame().filter(pl.col("run") != "b"))
    assert one.attributes.equals(two.attributes)
    assert one.lengths.tolist() == [10, 20, 10]  # b had not come to half its planned length: nothing of it is hidden
    assert one.column("status").to_list() == ["running", "killed", "running"]
    assert one.column("n_nonfinite").to_list() == [0, 0, 0]
    assert one.column("planned_end").to_list() == [20.0, 40.0, 20.0]


# -- backtest ---------------------------------------------------------------------------------------------------------------


def test_backtest_table_and_formats(runs: str, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", runs, "--estimate", "best", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    b = make_backtest()
    assert b.summary() in out
    for method in b.methods:
        assert len(re.findall(rf"\b{method} ", out)) == 4
    assert "78 % [72 %, 83 %]" in out
    assert (given["estimate"], given["rng"]) == ("best", 3)
    assert main(["backtest", runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == b.summary()
    assert main(["backtest", runs, "-o", str(tmp_path / "b.parquet"), "--plot", str(tmp_path / "b.png")]) == 0
    assert pl.read_parquet(tmp_path / "b.parquet").equals(b.scores)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


# -- with the library itself ------------------------------------------------------------------------------------------------------


def test_forecast_and_backtest_of_real_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = str(Path(__file__).parents[1] / "examples" / "runs" / "diabetes_mlp.parquet")
    options = ["--metric", "val_loss", "--quiet"]
    files = ["--plot", str(tmp_path / "f.png"), "--report", str(tmp_path / "r.html")]
    assert main(["forecast", examples, *options, "--hide", "0.5", *files]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "hidden ends came inside their 80 % intervals" in out
    assert "backtest of" in out
    assert (tmp_path / "f.png").stat().st_size > 20_000
    assert "hidden: what came" in (tmp_path / "r.html").read_text()
    assert main(["forecast", examples, *options, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["runs"]) == 14
    for run in data["runs"]:
        if run["interval"] is not None:
            assert run["interval"][0] <= run["forecast"] <= run["interval"][1]
            assert run["quantiles"]["0.1"] == pytest.approx(run["interval"][0], rel=1e-9)
    assert main(["backtest", examples, *options, "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in scored["scores"]} >= {scored["method"], scored["baseline"]}
    assert scored["n"] > 0


# -- cost and interruption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["forecast", "backtest"])
def test_help_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import sys; from farfield.cli import main; main(['{name}', '--help'])\n"
        "print(sorted({'numpy', 'scipy', 'polars', 'matplotlib', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert f"farfield {name} [OPTIONS] PATH..." in done.stdout


def test_presentation_of_a_hundred_runs_is_quick(runs: str) -> None:
    from rich.console import Console

    from farfield.cli.forecast_table import show_forecast
    from farfield.curves.report import report_html

    def seconds(work: Callable[[], object]) -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    table = seconds(lambda: show_forecast(make_forecast(100), Console(file=io.StringIO(), width=120)))
    page = seconds(lambda: report_html(make_forecast(100)))
    assert table + page < 2.0  # 0.2 s where nothing else runs; the margin is for machines that are slow or shared


def test_a_killed_run_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    whole = {}
    for seed in (0, 1):
        from farfield.cli.output import json_text

        whole[json_text(make_forecast(12, seed=seed).to_dict())] = seed
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from curves.synthetic import make_forecast\n"
        "from farfield.cli.output import emit\n"
        "documents = [make_forecast(12, seed=s).to_dict() for s in (0, 1)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for document in documents: emit([], 'json', sys.argv[1], document=document)\n"
    )
    for delay in (0.0, 0.003, 0.01, 0.03, 0.07):
        writer = subprocess.Popen([sys.executable, "-c", code, str(out), str(Path(__file__).parent)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
        assert not out.exists() or out.read_text() in whole
    assert out.exists()


def test_statuses_of_the_stand_in_cover_the_vocabulary() -> None:
    assert set(CYCLE) == set(ForecastStatus) - {ForecastStatus.NO_END}
