"""A small source checkout in a temporary folder: what the catalogue's tests derive statuses and indexes from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from farfield.papers import record

MODEL = Path(record.__file__).with_name("P015.toml")


class Checkout:
    """A root with a package, tests, records and results, to be filled file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file("pyproject.toml", "")
        self.file("src/farfield/__init__.py", '_EXPORTS = {"LCPFN": "farfield.curves.lcpfn"}\n')

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def record(self, key: str = "P015", **values: Any) -> Path:
        """The model record under another id, not yet built, with values replaced."""
        own = {"id": key, "slug": f"slug-{key.lower()}", "arxiv": f"2310.{key[1:]}00", "entry": [], "oracle": []}
        values = own | values
        text = MODEL.read_text(encoding="utf-8")
        for name, value in values.items():
            text, n = re.subn(
                rf"^{name} = (\[\n(.*\n)*?\]|.*)$", lambda _, n=name, v=value: f"{n} = {json.dumps(v)}", text, count=1, flags=re.M
            )
            assert n == 1, name
        return self.file(f"src/farfield/papers/{key}.toml", text)

    def result(self, key: str = "P015", **values: Any) -> Path:
        data = {"verdict": "holds", "date": "2026-01-02", "version": "0.1.0", "reason": "better by 3", **values}
        return self.file(f"results/{key}.json", json.dumps(data))
