"""What every test runs under: no network, one hypothesis profile, and needs that are stated instead of skipped.

A test that needs an optional dependency set, a peer package, real data, a browser or an accelerator carries a marker. Where the
need is absent the test is deselected and the run ends with a list of what was left out and what it needs. A file whose imports
already need an extra says ``pytestmark = pytest.mark.extra("torch")`` and is then left out as a whole.
"""

from __future__ import annotations

import ast
import importlib.util
import ipaddress
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

from farfield import loops
from farfield.errors import EXTRA_MODULES

settings.register_profile("farfield", deadline=None, database=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("farfield")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "firefox")

_left_out: pytest.StashKey[Counter[str]] = pytest.StashKey()


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _has_gpu() -> bool:
    if not _installed("torch"):
        return False
    import torch

    return bool(torch.cuda.is_available())


def absent_need(marker: str, name: str | None, config: pytest.Config) -> str | None:
    """What a test with this marker lacks here, or None where it can run."""
    if marker == "extra":
        assert name in EXTRA_MODULES, f"unknown extra {name!r}; allowed: {', '.join(EXTRA_MODULES)}"
        return None if _installed(EXTRA_MODULES[name]) else f"the '{name}' extra"
    if marker == "peer":
        return None if name and _installed(name.replace("-", "_")) else f"the package {name}"
    if marker == "data":
        return None if os.environ.get("FARFIELD_DATA") else "real data at $FARFIELD_DATA"
    if marker == "browser":
        return None if any(map(shutil.which, BROWSERS)) else "a browser"
    if marker == "gpu":
        return None if _has_gpu() else "an accelerator"
    if marker == "compiled":
        return None if loops.library({}) else "the inner loops compiled: a C compiler, then farfield installed again"
    if marker == "claim":
        return None if "claim" in config.option.markexpr else "to be asked for: pytest -m claim"
    return None


def file_needs(source: str) -> list[tuple[str, str]]:
    """(marker, name) of the extras and peers that a file's ``pytestmark`` names, read without importing the file."""
    assigned = (n.value for n in ast.parse(source).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark")
    calls = (call for value in assigned for call in ast.walk(value) if isinstance(call, ast.Call))
    found = ((ast.unparse(call.func).removeprefix("pytest.mark."), call.args) for call in calls)
    return [(marker, str(ast.literal_eval(args[0]))) for marker, args in found if marker in ("extra", "peer") and args]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = Counter()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    for marker, name in file_needs(collection_path.read_text(encoding="utf-8")):
        need = absent_need(marker, name, config)
        if need:
            config.stash[_left_out][f"{need}: all of {collection_path.relative_to(config.rootpath)}"] += 1
            return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left = [], []
    for item in items:
        needs = [absent_need(m.name, m.args[0] if m.args else None, config) for m in item.iter_markers()]
        need = next((n for n in needs if n), None)
        if need:
            config.stash[_left_out][f"{need}: {item.nodeid}"] += 1
            left.append(item)
        else:
            kept.append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


# under pytest-xdist only the workers collect; each hands its list to the process that prints
def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[_left_out])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[_left_out] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left_out = config.stash[_left_out]
    if left_out:
        terminalreporter.section("deselected for what they need")
        for line in sorted(left_out):
            terminalreporter.line(line)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Any:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to connect to {host}; tests open no network connection")
        connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]
