"""Where the reader fixtures are, and what was handed to the programs that wrote them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, dict[str, dict[str, Any]]] = json.loads((DATA / "expected.json").read_text())


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A writable copy of one fixture folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(DATA / name, tmp_path / name))

    return copy
