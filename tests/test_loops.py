"""The library of compiled loops: where it does not load, or is another version's, there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from farfield import loops


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_without_a_file_that_loads_there_are_none(content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "_loops.so"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(loops, "FILE", file)
    library, why = loops._loaded.__wrapped__()
    assert library is None
    assert why == ("not there" if content is None else "not for this machine")


@pytest.mark.compiled
def test_a_library_of_other_source_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_sources", lambda: 0)
    assert loops._loaded.__wrapped__() == (None, "built from other source than is here")


@pytest.mark.compiled
def test_a_library_without_the_function_asked_for_is_not_used() -> None:
    assert loops.library({"farfield_no_such_function": (None, ())}) is None
    assert loops.library({}) is not None
