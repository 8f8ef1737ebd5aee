"""Feature arrays: every format gives the same numbers, moments are those of the definition, what is damaged is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from farfield.curves import features
from farfield.curves.features import load, moments
from farfield.errors import FormatError, InputError
from tolerances import assert_close

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def write(folder: Path, ending: str) -> str:
    path = folder / f"features{ending}"
    match ending:
        case ".npy":
            np.save(path, ROWS)
        case ".npz":
            np.savez(path, pool3=ROWS)
        case ".safetensors":
            save_file({"pool3": ROWS}, path)
        case ".parquet":
            pl.DataFrame({f"f{i}": ROWS[:, i] for i in range(6)}).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet"])
def test_every_format_holds_the_same_rows(ending: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load("fake", write(tmp_path, ending)), ROWS)


def test_an_npy_file_is_mapped(tmp_path: Path) -> None:
    assert isinstance(load("fake", write(tmp_path, ".npy")), np.memmap)


def test_one_array_or_column_of_several(tmp_path: Path) -> None:
    archive, tensors, table = tmp_path / "a.npz", tmp_path / "a.safetensors", tmp_path / "a.parquet"
    np.savez(archive, x=ROWS, y=ROWS + 1)
    save_file({"x": ROWS, "y": ROWS + 1}, tensors)
    pl.DataFrame({"name": ["a"] * 40, "y": pl.Series((ROWS + 1).tolist())}).write_parquet(table)
    for path in (archive, tensors, table):
        np.testing.assert_array_equal(load("fake", f"{path}::y"), ROWS + 1)
    with pytest.raises(InputError, match=r"holds 2 arrays \(x, y\); say which: .*a\.npz::x"):
        load("fake", archive)
    with pytest.raises(InputError, match=r"unknown array of .* 'z'"):
        load("fake", f"{tensors}::z")
    with pytest.raises(InputError, match="column 'name' holds no numbers"):
        load("fake", table)


@pytest.mark.parametrize("n", [3, 6, 7, 40])
def test_moments_are_those_of_the_definition(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_CHUNK", 6 * 5)  # five rows at a time
    x = ROWS[:n].astype(np.float64)
    found = moments("x", x)
    assert (found.cov is None) == (n <= 6)
    assert_close(found.mean, [float(sum(map(Fraction, column.tolist())) / n) for column in x.T])
    assert_close(found.dense_cov(), np.cov(x.T))
    assert found.trace == pytest.approx(np.trace(np.cov(x.T)), rel=1e-12)
    index = np.array([2, 0, 1])
    assert_close(moments("x", x, index).dense_cov(), np.cov(x[:3].T))


def test_a_large_offset_costs_no_digits() -> None:
    x = ROWS.astype(np.float64)
    far = moments("x", np.round(x, 3) + 2.0**30)
    near = moments("x", np.round(x, 3))
    np.testing.assert_allclose(far.dense_cov(), near.dense_cov(), atol=1e-6)  # rounding of the sums that were handed in


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet"])
def test_damaged_files_are_refused(ending: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path, ending))
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"\x00" * 300):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="cannot be read as"):
            load("fake", path)


def test_refusals(tmp_path: Path) -> None:
    for source, says in [
        (tmp_path / "absent.npy", "there is no file"),
        ("features.mat", r"allowed: \.npy, \.npz"),
        (np.zeros(5), r"shape \(5,\); allowed: \(samples, features\)"),
        (np.zeros((1, 5)), "at least two"),
        (np.array([["a"], ["b"]]), "allowed: real numbers"),
    ]:
        with pytest.raises(InputError, match=says):
            load("fake", source)
    bad = ROWS.copy()
    bad[17, 2] = np.nan
    with pytest.raises(InputError, match="first is in row 17 of 40"):
        moments("fake", bad)
    with pytest.raises(InputError, match="first is in row 17 of 40"):
        moments("fake", bad, np.array([3, 17, 20]))
    pl.DataFrame({"y": [[1.0], [1.0, 2.0]]}).write_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(InputError, match="differ in length"):
        load("fake", tmp_path / "ragged.parquet")
