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


def build(out: Path, **environment: str) -> Path:
    # without isolation the build uses the hatchling that is installed and downloads nothing
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ, **environment})
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


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
    doctor = run(sys.executable, "-m", "farfield", "doctor")
    assert "core" in doctor
    assert "built from other source" not in doctor
    assert "P015" in run(sys.executable, "-m", "farfield", "papers", "show", "P015")


@pytest.mark.compiled
def test_the_loops_make_a_wheel_of_this_platform_and_any_python(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "farfield/loops/_loops.so" in archive.namelist()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "true", 'cc "'])
def test_without_a_compiler_the_wheel_is_for_any_platform(compiler: str, tmp_path: Path) -> None:
    """And an editable installation's loops stay where they are."""
    before = list(PACKAGE.rglob("*.so"))
    wheel = build(tmp_path, CC=compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    assert list(PACKAGE.rglob("*.so")) == before
