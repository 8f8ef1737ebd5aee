"""CRC-32C of many slices at once equals the byte-by-byte definition and the published check values."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.curves.readers.crc import crc32c, crc32c_reference, unmasked


@pytest.mark.parametrize(
    ("data", "value"),
    [  # RFC 3720, appendix B.4, and the catalogue's check value
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_published_values(data: bytes, value: int) -> None:
    assert crc32c_reference(data) == value
    array = np.frombuffer(data, dtype=np.uint8)
    assert crc32c(array, np.array([0]), np.array([len(data)])).tolist() == [value]


def test_slices_of_every_length_at_once() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 60_000, dtype=np.uint8)
    length = np.concatenate([np.arange(140), [511, 512, 513, 1023, 1024, 1025, 5000, 20_000], rng.integers(0, 3000, 40)])
    start = rng.integers(0, 60_000 - 20_000, length.size)
    want = [crc32c_reference(data[s : s + n].tobytes()) for s, n in zip(start, length, strict=True)]
    assert crc32c(data, start, length).tolist() == want


def test_no_slices() -> None:
    assert crc32c(np.zeros(4, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)).size == 0


def test_unmasking_inverts_the_masking_of_tfrecord() -> None:
    crc = np.random.default_rng(1).integers(0, 2**32, 1000, dtype=np.uint64)
    masked = ((((crc >> 15) | (crc << 17)) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
    np.testing.assert_array_equal(unmasked(masked.astype(np.uint32)), crc.astype(np.uint32))
