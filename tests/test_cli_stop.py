"""`farfield stop`: its tables, formats and replay, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from farfield.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 runs, planned to 40 and finished, with a learning rate each."""
    rng = np.random.default_rng(0)
    lines = ["run,step,val_loss,lr_setting"]
    for i in range(40):
        floor, rate = rng.uniform(0.2, 1.0), 10 ** rng.uniform(-4, -1)
        lines += [f"run{i},{s},{floor + 2 * s**-0.6 + 0.01 * rng.normal():.5f},{rate:.5g}" for s in range(1, 41)]
    path = tmp_path_factory.mktemp("stop") / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_table_says_what_to_stop_and_what_came(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stop", str(runs), "--metric", "val_loss", "--as-of", "16", "--to", "40"]
    assert main([*arguments, "--despite", "schedule", "--despite", "uncalibrated", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "P(lose the winner)" in out
    assert "as of step 16: the winner run" in out
    assert out.splitlines()[0].split()[:2] == ["run", "status"]


def test_json_and_csv_hold_every_column(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["stop", str(runs), "--metric", "val_loss", "--as-of", "16", "--to", "40", "--quiet"]
    assert main([*base, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "farfield.advice/1"
    assert len(document["runs"]) == 40
    assert document["replay"]["as_of"] == 16
    assert main([*base, "-o", str(tmp_path / "a.csv")]) == 0
    assert (tmp_path / "a.csv").read_text().startswith("run,stop,status,why,")


def test_ranks_and_proposals(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["stop", str(runs), "--metric", "val_loss", "--as-of", "16", "--to", "40", "--quiet"]
    assert main([*base, "--rank-at", "8", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("run,x,value,rank,end,expected,rank_at_end,p_best,status")
    assert main([*base, "--next", "2"]) in (0, 2)  # 2 where the reader takes the column for no setting
    said = capsys.readouterr()
    assert "improvement" in said.out or "setting" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--risk", "2"], "0 to 1"),
        (["--as-of", "0.5"], "no run has a point"),
        (["--rank", "--next", "2"], "cannot both"),
        (["--price", "2"], "--price belongs to --rule regret; the rule is probability"),
        (["--rule", "hope"], "probability"),
        (["--rank-at", "1000"], "no run has reached"),
        (["--budget", "-1"], "budget"),
        (["--context", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input_is_refused_in_one_line(runs: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", str(runs), "--metric", "val_loss", *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
