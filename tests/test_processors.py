"""OMP_NUM_THREADS bounds our threads; nonsense in it does not."""

from __future__ import annotations

import pytest

from farfield import processors


@pytest.mark.parametrize(("said", "expected"), [("1", 1), ("0", 1), ("64", 3), ("", 3), ("4,2", 3)])
def test_threads(monkeypatch: pytest.MonkeyPatch, said: str, expected: int) -> None:
    monkeypatch.setattr(processors, "usable", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert processors.threads(8) == expected
    assert processors.threads(1) == 1


def test_one_processor_is_usable_at_least() -> None:
    assert processors.usable() >= 1
