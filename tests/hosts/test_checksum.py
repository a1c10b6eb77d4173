"""Checksums of pages tell whatever may happen to them."""

import os

import numpy as np
import pytest

from mell_jax.hosts.pages.checksum import Checksum


def checksum(*slices: bytes) -> int:
    summed = Checksum()
    for data in slices:
        summed.add(memoryview(data))
    return summed.value


def test_a_checksum_is_of_four_bytes_and_nothing_has_one() -> None:
    assert checksum() == checksum(b"") == 0
    assert 0 < checksum(os.urandom(100_000)) < 2**32


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 2**20, 2**20 + 5])
def test_every_change_shows(size: int) -> None:
    data = bytearray(np.random.default_rng(size).bytes(size))
    was = checksum(data)
    assert checksum(bytes(data)) == was
    for at in {0, size // 2, size - 1}:
        for bit in (1, 128):
            data[at] ^= bit
            assert checksum(data) != was
            data[at] ^= bit
    assert checksum(data[:-1]) != was
    assert checksum(data + b"\0") != was


def test_what_changes_places_shows() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(2**16)
    rows = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    was = checksum(data)
    for one, other in [(0, 1), (0, 15), (3, 9)]:
        moved = list(rows)
        moved[one], moved[other] = rows[other], rows[one]
        assert checksum(b"".join(moved)) != was
    assert checksum(data[4:] + data[:4]) != was


def test_slices_that_are_lost_doubled_or_change_places_show() -> None:
    one, two = np.random.default_rng(1).bytes(8192), bytes(8192)
    sums = {
        checksum(one, two),
        checksum(two, one),
        checksum(one),
        checksum(two),
        checksum(one, one),
        checksum(two, two),
    }
    assert len(sums) == 6
