"""A merge done in several ways, which must come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield.weights import compiled
from farfield.weights.algebra import Plan, execute


def assert_one_result(planned: Plan, out: Path, monkeypatch: pytest.MonkeyPatch, *, chunk: int) -> None:
    """The same file, with the compiled loops and without, in pieces of `chunk` by two threads and whole by one."""
    seen = set()
    for k, (piece, threads, plain) in enumerate([(1 << 18, 1, False), (chunk, 2, False), (1 << 18, 1, True), (chunk, 2, True)]):
        with monkeypatch.context() as without:
            if plain:
                without.setattr(compiled, "library", lambda: None)
            written = execute(planned, out / f"out{k}", chunk=piece, threads=threads, sync=False)
        seen.add((written / "model.safetensors").read_bytes())
    assert len(seen) == 1
