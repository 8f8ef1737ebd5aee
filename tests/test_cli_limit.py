"""`farfield limit`: the library's numbers as a table and as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from farfield.cli import main
from farfield.curves.image_scores import fid_infinity, is_infinity


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "fake.npy", rng.normal(size=(400, 6)) + 0.2)
    np.save(tmp_path / "real.npy", rng.normal(size=(300, 6)))
    np.save(tmp_path / "classes.npy", rng.dirichlet(np.full(8, 0.2), 200))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_distance_measured_at_a_size_and_at_infinity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "fake.npy", "--reference", "real.npy", "--at", "2000", "--seed", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    expected = fid_infinity("fake.npy", "real.npy", rng=5)
    assert shown["estimate"] == expected.estimate
    assert [row["n"] for row in shown["at"]] == [400, 2000, None, None]
    assert [row["value"] for row in shown["at"]] == expected.to_frame([2000])["value"].to_list()


def test_the_table_says_it_in_one_line_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "fake.npy", "--reference", "real.npy"]) == 0
    shown = capsys.readouterr().out
    assert "low 80 %" in shown
    assert "50000" in shown
    assert fid_infinity("fake.npy", "real.npy", rng=0).summary() in shown


def test_the_inception_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "classes.npy", "--metric", "is", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("n,reference,value")
    assert float(lines[-1].split(",")[2]) == pytest.approx(is_infinity("classes.npy", rng=0).estimate)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fake.npy"], "give --reference FILE"),
        (["classes.npy", "--metric", "is", "--reference", "real.npy"], "has no reference"),
        (["fake.npy", "--metric", "is"], "take the softmax first"),
        ([".", "--reference", "real.npy"], "is a folder; features of the samples in it are made by"),
        (["absent.npy", "--reference", "real.npy"], "there is no file absent.npy"),
        (["fake.npy", "--reference", "classes.npy"], "fake has 6 features and reference 8"),
        (["fake.npy", "--reference", "real.npy", "--at", "-1"], "allowed: a finite number above 0"),
        (["fake.npy", "--reference", "real.npy", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_refusals(folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", *arguments]) == 2
    assert says in capsys.readouterr().err
