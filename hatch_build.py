"""Packaging hook: the catalogue's index (records, statuses, verdicts, search tables) is written when a wheel is built."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CatalogueIndex(BuildHookInterface):  # type: ignore[type-arg]
    """Puts ``farfield/papers/index.sqlite`` into a wheel; an editable install reads the records themselves."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "src"))
        try:
            from farfield.papers import index
        finally:
            sys.path.pop(0)
        self.folder = Path(tempfile.mkdtemp(prefix="farfield-index-"))
        file = self.folder / index.NAME
        file.write_bytes(index.build(root))
        build_data["force_include"][str(file)] = f"farfield/papers/{index.NAME}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self.folder)
