"""The wheel: what it holds, and that an installation from it works; built and installed without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import farfield

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "farfield"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # without isolation the build uses the hatchling that is installed and downloads nothing
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_whole_package_its_licence_and_its_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    package = {str(p.relative_to(PACKAGE.parent)) for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert package - held == set()
    assert "farfield/py.typed" in held
    info = f"farfield-{farfield.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in held
    assert {name.split("/")[0] for name in held} == {"farfield", info}


def test_an_installation_from_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=True)
        return done.stdout

    assert run(sys.executable, "-c", "import farfield; print(farfield.__file__)").startswith(str(target))
    assert run(sys.executable, str(target / "bin" / "farfield"), "--version") == f"farfield, version {farfield.__version__}\n"
    assert "core" in run(sys.executable, "-m", "farfield", "doctor")
    assert "P015" in run(sys.executable, "-m", "farfield", "papers", "show", "P015")
