"""The compiled loops give NumPy's bits, and where they are not there NumPy does their work."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled, pairs
from farfield.weights.crc import FOLD, Crc32
from farfield.weights.edits import Linear

EVERY = np.arange(1 << 16).astype("<u2")


def cases() -> list[tuple[Raw, Raw]]:
    """Small steps, any numbers, every bit pattern beside a random other and beside its own negative."""
    rng = np.random.default_rng(2)
    first = formats.round_to(rng.normal(0, 0.02, 100_001), "BF16")
    second = formats.round_to(formats.widen(first, "BF16") + rng.normal(0, 6e-4, first.size), "BF16")
    one, other = (rng.integers(0, 1 << 16, 30_001).astype("<u2") for _ in range(2))
    return [(first, second), (one, other), (EVERY, rng.permutation(EVERY)), (EVERY, EVERY ^ np.uint16(0x8000))]


@pytest.mark.compiled
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.123456, -1.7])
def test_pairs_come_out_as_by_numpy(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = Linear((-alpha,)).terms(None)
    assert terms is not None
    compared = 0
    for first, second in cases():
        way = pairs.pair_for(terms, first.size)
        assert way is not None
        fast = way(first, second)
        fast = None if fast is None else (fast[0].copy(), fast[1])
        with monkeypatch.context() as without:
            without.setattr(compiled, "library", lambda: None)
            plain = way(first, second)
        assert fast is not None or plain is None or plain[1].size > first.size // 100  # either gives up by its own blocks
        if fast is not None and plain is not None:
            decided = np.setdiff1d(np.arange(first.size), np.union1d(fast[1], plain[1]))
            assert decided.size > first.size // 2
            np.testing.assert_array_equal(fast[0][decided], plain[0][decided])
            compared += 1
    assert compared


@pytest.mark.compiled
def test_what_is_left_is_named_in_order_up_to_a_number() -> None:
    """Numbers of different size among zeros, at places around the ends of blocks."""
    first, second, out = (np.zeros(1300, "<u2") for _ in range(3))
    places = [0, 3, 4, 511, 512, 1023, 1024, 1297, 1299]
    first[places] = 0x3F80
    exact = (1.5, -0.5, 1.0, 0x7FFF, 0, 1, 128, 0, 0x6700)
    left = compiled.pair("exact", first, second, out, len(places), *exact)
    assert left is not None
    assert left.tolist() == places
    assert compiled.pair("exact", first, second, out, len(places) - 1, *exact) is None
    assert not out[first == 0].any()
    near = (1.0, 0.3, 48, 8.0, 2.0**-90)
    found = compiled.pair("near", first, second, out, out.size, *near, 0x7000)
    assert found is not None
    assert found.tolist() == np.flatnonzero(first == 0).tolist()
    assert compiled.pair("near", first, second, out, out.size, *near, 0x3F80) is None


@pytest.mark.compiled
@pytest.mark.parametrize("size", [0, 1, FOLD[0] - FOLD[1], FOLD[0], 70_001])
def test_folded_words_keep_the_crc(size: int) -> None:
    words = np.zeros(2 * FOLD[0], np.uint64)
    before, new = (np.random.default_rng(n).integers(0, 1 << 63, n).astype(np.uint64) for n in (FOLD[0], size))
    words[: FOLD[0]] = before
    words[0] ^= np.uint64(0xFFFFFFFF)
    compiled.fold(words, new, FOLD)
    assert zlib.crc32(words[: FOLD[0]].data, 0xFFFFFFFF) == zlib.crc32(np.concatenate([before, new]).data)


def test_crc_of_a_stream_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "library", lambda: None)
    data = np.random.default_rng(0).integers(0, 256, 700_003).astype(np.uint8)
    crc = Crc32()
    for start in range(0, data.size, 300_000):
        crc.update(data[start : start + 300_000].data)
    assert crc.value == zlib.crc32(data.data)
