"""`farfield weights extrapolate | merge | sweep`: exit codes, what is written, what is refused."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farfield import formats
from farfield.cli import main
from farfield.weights.io import Checkpoint, CheckpointWriter

SCORE = """
import sys
from farfield.weights.io import Checkpoint
with Checkpoint.open(sys.argv[1]) as model:
    w = float(model.read_float64("w")[0])
print("some log line")
print([-(w - 1 - float(sys.argv[2])) ** 2 + noise for noise in (0.1, 0.0, -0.1)])
"""


def write(path: Path, value: float) -> str:
    layout = [("model.safetensors", [("w", "BF16", (2, 2)), ("v", "BF16", (3,))])]
    with CheckpointWriter(path, layout, side_files={"config.json": b"{}"}, sync=False) as writer:
        writer.write("w", 0, formats.round_to(np.full(4, value), "BF16"))
        writer.write("v", 0, formats.round_to(np.full(3, value), "BF16"))
        writer.finish()
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return ["--base", write(tmp_path / "sft", 0.0), "--tuned", write(tmp_path / "dpo", 1.0)]


def values(path: Path, name: str = "w") -> list[float]:
    with Checkpoint.open(path) as checkpoint:
        found: list[float] = np.unique(checkpoint.read_float64(name)).tolist()
    return found


def run(*arguments: str) -> int:
    return main(["weights", *arguments])


def test_extrapolate_writes_a_checkpoint(tmp_path: Path, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("extrapolate", *pair, "--alpha", "0.5", "-o", str(out), "--dry-run") == 0
    assert not out.exists()
    assert "dry run" in capsys.readouterr().err
    assert run("extrapolate", *pair, "--alpha", "0.5", "-o", str(out), "--exclude", "v", "--threads", "2") == 0
    assert (values(out), values(out, "v")) == ([1.5], [1.0])
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    assert "1 tensors merged, 1 copied" in capsys.readouterr().err
    assert run("extrapolate", *pair, "--alpha", "0.5", "-o", str(tmp_path / "wide"), "--dtype", "float32") == 0
    with Checkpoint.open(tmp_path / "wide") as checkpoint:
        assert {t.dtype for t in checkpoint.tensors.values()} == {"F32"}


Change = Callable[[Path, list[str]], list[str]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, a: [*a, "-o", str(p / "sft")], "input"),
        (lambda p, a: [*a[:3], a[1], "-o", str(p / "out")], "same checkpoint"),
        (lambda p, a: [*a, "-o", str(p / "out"), "--include", "("], "regular expression"),
        (lambda p, a: [*a, "-o", str(p / "out"), "--include", "nothing"], "nothing to merge"),
        (lambda p, a: [*a, "-o", str(p / "out"), "--dtype", "int4"], "unknown dtype"),
        (lambda p, a: [*a[:3], str(p / "none"), "-o", str(p / "out")], "none"),
        (lambda p, a: [*a, "-o", str(p / "none" / "out")], "no directory"),
    ],
)
def test_bad_input_is_refused_before_a_byte_is_written(
    tmp_path: Path, pair: list[str], capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run("extrapolate", "--alpha", "0.5", *change(tmp_path, pair)) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_merge_by_recipe(tmp_path: Path, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('method = "slerp"\nt = 0.5\n[[models]]\npath = "sft"\n[[models]]\npath = "dpo"\n')
    assert run("merge", str(recipe), "-o", str(tmp_path / "dry"), "--dry-run") == 0
    assert not (tmp_path / "dry").exists()
    assert run("merge", str(recipe), "-o", str(tmp_path / "out"), "--dtype", "float16") == 0
    assert values(tmp_path / "out") == [0.5]
    assert "slerp, 2 tensors merged" in capsys.readouterr().err
    recipe.write_text('method = "sleep"\n')
    assert run("merge", str(recipe), "-o", str(tmp_path / "out2")) == 2
    assert "slerp" in capsys.readouterr().err


def test_sweep_by_a_command(tmp_path: Path, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    script, figure, state = tmp_path / "score it.py", tmp_path / "sweep.svg", tmp_path / "state.json"
    script.write_text(SCORE)
    command = f"{sys.executable} '{script}' {{model}} "
    arguments = ["sweep", *pair, "--score-cmd", f"{command} 1", "--test-cmd", f"{command} 0.75", "--alphas", "1,2"]
    assert run(*arguments, "--json", "--plot", str(figure), "--state", str(state)) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["alphas"], result["best_alpha"], result["status"]) == ([0, 1, 2], 1, "gain")
    assert result["test"]["best"] == pytest.approx(-(0.25**2))
    assert "<svg" in figure.read_text()
    script.write_text("raise SystemExit(3)")
    assert run(*arguments, "--state", str(state)) == 0  # every score is kept
    assert "best alpha 1" in capsys.readouterr().out
    assert run(*arguments) == 2
    assert "ended with 3" in capsys.readouterr().err


def test_no_gain_is_exit_code_1(pair: list[str], tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCORE)
    assert run("sweep", *pair, "--score-cmd", f"{sys.executable} {script} {{model}} -0.5", "--alphas", "1") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("score it", "{model}"),
        ("score '{model}", "split"),
        ("/no/such/program {model}", "cannot run"),
        (f"{sys.executable} -c pass {{model}}", "last line"),
        (f"{sys.executable} -c 'print(chr(110))' {{model}}", "allowed"),
        (f"{sys.executable} -c 'import time; time.sleep(9)' {{model}}", "longer"),
    ],
)
def test_score_commands_that_give_none(pair: list[str], capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert run("sweep", *pair, "--score-cmd", command, "--timeout", "1") == 2
    assert message in capsys.readouterr().err


def test_alphas_that_are_none(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", *pair, "--score-cmd", "s {model}", "--alphas", "0:1") == 2
    assert "commas" in capsys.readouterr().err


def test_help_is_quick_and_nothing_here_needs_torch(tmp_path: Path, pair: list[str]) -> None:
    took = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "farfield", "weights", "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - start)
    assert statistics.median(took) <= 0.3
    command = ["-m", "farfield", "weights", "extrapolate", *pair, "--alpha", "1", "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "farfield.weights.extrapolate" in loaded
    assert loaded & {"torch", "scipy", "matplotlib", "polars"} == set()
