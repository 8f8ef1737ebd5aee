"""Features by a torch module: its own precision and device, evaluation mode and no gradients, and afterwards as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import farfield
from farfield.cli import main
from farfield.curves.extraction import extract_features
from farfield.errors import InputError

pytestmark = pytest.mark.extra("torch")


def network(seed: int = 0) -> Any:
    """Three features of 2 x 4 x 4 pictures, with parts that behave otherwise in training."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1))


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(21, 2, 4, 4))  # float64, where the module is float32


def test_a_module_in_batches_gives_its_evaluation_without_gradients(pictures: np.ndarray) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    module = network()
    module[0].eval()  # part of it in one mode, part in the other
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen = []
    module.register_forward_hook(lambda part, given, made: seen.append((part.training, made.requires_grad)))
    found = extract_features(module, pictures, batch_size=8)
    assert [m.training for m in module.modules()] == [True, False, True, True, True]
    assert seen == [(False, False)] * 3
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.is_grad_enabled()
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(pictures).float()).squeeze(3).squeeze(2).numpy()
    assert found.shape == (21, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    labelled = TensorDataset(torch.from_numpy(pictures), torch.zeros(21))
    for source in (torch.from_numpy(pictures), labelled, DataLoader(labelled, batch_size=8)):
        np.testing.assert_allclose(extract_features(module, source, batch_size=8, device="cpu"), found, atol=1e-6)


def test_the_module_is_as_it_was_after_a_failure_too(pictures: np.ndarray) -> None:
    import torch

    module = network()
    with pytest.raises(InputError, match=r"failed on samples 0 to 20 of samples, shape \(21, 1, 4, 4\): RuntimeError"):
        extract_features(module, pictures[:, :1])
    assert module.training
    with pytest.raises(InputError, match="cannot be moved to device 'nowhere'"):
        extract_features(module, pictures, device="nowhere")
    assert module.training
    assert next(module.parameters()).device == torch.device("cpu")
    pictures[13] = np.nan
    with pytest.raises(InputError, match="features of sample 13 of samples are not finite"):
        extract_features(module, pictures, batch_size=8)


def test_low_precision_whole_numbers_and_functions_of_tensors(pictures: np.ndarray) -> None:
    import torch
    from torch import nn

    found = extract_features(network().bfloat16(), pictures)
    assert found.dtype == np.float32
    table = nn.Sequential(nn.Embedding(10, 2), nn.Flatten()).double()
    tokens = np.arange(12).reshape(4, 3) % 10
    assert extract_features(table, tokens).shape == (4, 6)
    assert extract_features(table, tokens).dtype == np.float64
    found = extract_features(lambda t: torch.sum(t, dim=(2, 3)), pictures, device="cpu")
    np.testing.assert_allclose(found, pictures.sum((2, 3)), atol=1e-12)


def test_the_command_with_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    fake, real = rng.normal(size=(150, 2, 4, 4)) * 1.3, rng.normal(size=(150, 2, 4, 4))
    np.save(tmp_path / "fake.npy", fake)
    np.save(tmp_path / "real.npy", real)
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def factory():\n    torch.manual_seed(0)\n    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--features", "own.py:factory", "--device", "cpu", "--batch-size", "40"]
    assert main(["limit", "fake.npy", "--reference", "real.npy", *arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.AdaptiveAvgPool2d(1))
    direct = farfield.fid_infinity(extract_features(module, fake), extract_features(module, real), rng=0)
    assert shown["estimate"] == pytest.approx(direct.estimate, rel=1e-4)
    assert main(["limit", "fake.npy", "--reference", "real.npy", "--features", "own.py:factory", "--device", "nowhere"]) == 2
    assert "cannot be moved to device 'nowhere'" in capsys.readouterr().err
