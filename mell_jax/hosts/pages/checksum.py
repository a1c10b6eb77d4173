"""A checksum of pages at the speed of memory.

    rows of 4,096 numbers: r0 r1 r2 ...  ->  w0 r0 + w1 r1 + w2 r2 + ...  ->  CRC-32

All weights are odd and no two alike: a change within one number always shows. Whatever
else happens to a piece, also rows that change places, goes unseen about as seldom as
with a CRC-32 of all of it, which takes ten times as long and so longer than sending.
"""

import functools
import zlib

import numpy as np
import numpy.typing as npt

_ROW = 4096  # numbers of 4 bytes
_SPREAD = np.uint32(0x9E3779B2)  # even, and no two multiples below 2**31 are alike


def checksum(data: memoryview) -> int:
    """Returns a number from 0 to 2**32 - 1 that tells whether bytes have changed."""
    whole = len(data) // (4 * _ROW)
    cut = whole * 4 * _ROW
    crc = zlib.crc32(data[cut:], len(data) & 0xFFFFFFFF)
    if not whole:
        return crc
    rows = np.frombuffer(data[:cut], "<u4").reshape(whole, _ROW)
    return zlib.crc32(np.einsum("i,ij->j", _weights(whole), rows), crc)


@functools.lru_cache(maxsize=8)
def _weights(count: int) -> npt.NDArray[np.uint32]:
    return np.arange(count, dtype=np.uint32) * _SPREAD + np.uint32(1)
