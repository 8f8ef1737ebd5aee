"""Features by a function of a batch: every kind of samples gives the same matrix, and what is wrong is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import farfield
from farfield.cli import main
from farfield.curves.extraction import extract_features
from farfield.errors import FormatError, InputError

MIX = np.random.default_rng(3).normal(size=(12, 4))


def mixed(batch: Any) -> np.ndarray:
    """Four features of samples of twelve numbers."""
    rows = np.asarray(batch, dtype=np.float64).reshape(len(batch), -1)
    return np.tanh((rows[:, :, None] * MIX).sum(axis=1))  # the same bits whatever the batch


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(23, 3, 4))


@pytest.mark.parametrize("size", [1, 5, 23, 100])
def test_an_array_a_file_a_data_set_and_batches_give_the_same_features(samples: np.ndarray, tmp_path: Path, size: int) -> None:
    expected = mixed(samples)
    np.save(tmp_path / "samples.npy", samples)
    np.savez(tmp_path / "both.npz", first=samples, other=np.zeros(3))
    (tmp_path / "each" / "b").mkdir(parents=True)
    for i, sample in enumerate(samples):
        np.save(tmp_path / "each" / ("b" if i > 20 else ".") / f"{i:02}.npy", sample)

    def batches() -> Any:
        for start in range(0, len(samples), size):
            yield samples[start : start + size], np.zeros(1)

    for source in (samples, tmp_path / "samples.npy", f"{tmp_path / 'both.npz'}::first", list(samples), batches()):
        assert np.array_equal(extract_features(mixed, source, batch_size=size), expected)
    assert np.array_equal(extract_features(mixed, [(s, 0) for s in samples], batch_size=size), expected)
    assert np.array_equal(extract_features(mixed, tmp_path / "each", batch_size=size), expected)  # 00 to 20, then the folder b


def test_features_stream_into_a_file_that_is_mapped(samples: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    found = extract_features(mixed, iter([samples[:10], samples[10:]]), out=out)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, mixed(samples))
    assert np.array_equal(np.load(out), mixed(samples))
    before = out.read_bytes()
    with pytest.raises(InputError, match="sample 14 of samples are not finite"):
        extract_features(lambda batch: np.where(batch > 13, np.inf, batch), np.arange(20.0)[:, None], batch_size=8, out=out)
    assert out.read_bytes() == before


def test_what_comes_out_is_what_the_limits_take(samples: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    fake, real = rng.normal(size=(120, 3, 4)) + 0.3, rng.normal(size=(150, 3, 4))
    direct = farfield.fid_infinity(mixed(fake), mixed(real), rng=0)
    found = farfield.fid_infinity(farfield.extract_features(mixed, fake), farfield.extract_features(mixed, real), rng=0)
    assert found.to_dict() == direct.to_dict()


def test_images_are_seen_in_order_of_their_names_from_0_to_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, size=(5, 6, 7, 3), dtype=np.uint8)
    for i in (3, 0, 4, 2):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
    Image.fromarray(pixels[1][..., 0]).save(tmp_path / "1.PNG")  # grey
    (tmp_path / "notes.txt").write_text("left out")
    seen: list[np.ndarray] = []

    def keep(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return batch.mean(axis=(2, 3))

    with pytest.warns(UserWarning, match="1 of 6 files"):
        found = extract_features(keep, tmp_path, batch_size=2)
    assert [b.shape for b in seen] == [(2, 3, 6, 7), (2, 3, 6, 7), (1, 3, 6, 7)]
    pixels[1] = pixels[1][..., :1]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels.mean(axis=(1, 2)) / 255, rtol=1e-6)


def test_texts_reach_the_function_as_a_list() -> None:
    found = extract_features(lambda batch: np.array([[len(t), t.count("a")] for t in batch]), ["a", "banana", "cd"], batch_size=2)
    assert found.tolist() == [[1, 1], [6, 3], [2, 0]]


def ragged() -> Any:
    return [np.zeros(3), np.zeros(3), np.zeros(4)]


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        (3, np.zeros((4, 3)), "module is int"),
        (mixed, 5, "samples is int"),
        (mixed, "absent.npy", "there is no file"),
        (mixed, np.zeros((0, 12)), "holds no samples"),
        (mixed, [], "holds no samples"),
        (mixed, iter([1.0, 2.0]), "yielded float where a batch"),
        (lambda b: b, ragged(), r"sample 2 of samples has shape \(4,\) and sample 0 \(3,\)"),
        (mixed, np.zeros((9, 11)), r"failed on samples 0 to 7 of samples, shape \(8, 11\): ValueError"),
        (lambda b: b.sum(1), np.zeros((4, 3)), r"returned shape \(4,\) .*allowed: \(4, features\)"),
        (lambda b: b[:, :, None] + np.zeros(2), np.zeros((4, 3)), r"returned shape \(4, 3, 2\)"),
        (lambda b: b[:2], np.zeros((4, 3)), r"returned shape \(2, 3\)"),
        (lambda b: (b, b), np.zeros((4, 3)), "returned tuple"),
        (lambda b: b.astype(str), np.zeros((4, 3)), "returned <U32"),
        (
            lambda b: np.zeros((len(b), len(b))),
            np.zeros((12, 3)),
            "returned 4 features for samples 8 to 11 of samples and 8 before",
        ),
        (lambda b: np.where(b > 8, np.nan, b), np.arange(12.0)[:, None], "features of sample 9 of samples are not finite"),
        (lambda b: b / b, np.ones((9, 2)) - np.eye(9, 2, -8), "features of sample 8 of samples are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_wrong_is_named(module: Callable[[Any], Any], source: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        extract_features(module, source, batch_size=8)


def test_files_that_are_no_images_and_folders_without_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds none of the files"):
        extract_features(mixed, tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(FormatError, match=r"a\.png cannot be read as an image"):
        extract_features(mixed, tmp_path)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="mode I;16"):
        extract_features(mixed, tmp_path)
    with pytest.raises(InputError, match=r"ends in \.npy"):
        extract_features(mixed, np.zeros((4, 12)), out=tmp_path / "features.bin")


def test_torch_is_not_imported_where_nothing_is_torchs() -> None:
    code = (
        "import sys, numpy as np; from farfield import extract_features; "
        "extract_features(lambda b: b, np.ones((9, 2))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the command --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "fake.npy", rng.normal(size=(200, 3, 4)) + 0.2)
    np.save(tmp_path / "real.npy", rng.normal(size=(160, 3, 4)))
    np.savez(tmp_path / "known.npz", mu=np.zeros(2), sigma=np.eye(2))
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def factory():\n    return lambda batch: batch.mean(axis=2)[:, :2] * 2\n"
        "def probabilities():\n    return lambda batch: np.abs(batch[:, 0]) / np.abs(batch[:, 0]).sum(1, keepdims=True)\n"
        "def nothing():\n    return None\n"
        "def broken():\n    raise KeyError('weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_makes_the_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["limit", "fake.npy", "--reference", "real.npy", "--features", "own.py:factory", "--json"]
    assert main([*arguments, "--batch-size", "7", "--keep-features", "."]) == 2  # fake.npy would be overwritten while it is read
    assert "is read for FAKE or --reference" in capsys.readouterr().err
    (folder / "kept").mkdir()
    assert main([*arguments, "--batch-size", "7", "--keep-features", "kept"]) == 0
    shown = json.loads(capsys.readouterr().out)
    fake, real = (np.load(name).mean(axis=2)[:, :2] * 2 for name in ("fake.npy", "real.npy"))
    assert shown["estimate"] == farfield.fid_infinity(fake, real, rng=0).estimate
    assert main(["limit", "kept/fake.npy", "--reference", "kept/reference.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"] == shown["estimate"]
    assert main(["limit", "fake.npy", "--reference", "known.npz", "--features", "own.py:factory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["m"] is None
    assert main(["limit", "fake.npy", "--metric", "is", "--features", "own.py:probabilities", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "IS"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--features", "absent.py:factory"], "no file 'absent.py' for --features"),
        (["--features", "own.py:factori"], "nearest: factory"),
        (["--features", "own.py:nothing"], "returned NoneType"),
        (["--features", "own.py:broken"], "KeyError: 'weights'"),
        (["--features", "own.py:factory", "--keep-features", "absent"], "there is no folder absent"),
        (["--batch-size", "3"], "--features FILE.py:FACTORY, which is missing"),
    ],
)
def test_what_the_command_refuses(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["limit", "fake.npy", "--reference", "real.npy", *arguments]) == 2
    assert says in capsys.readouterr().err
