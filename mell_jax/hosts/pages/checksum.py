"""A checksum of pages that hardly takes longer than to copy them.

    rows of 1,024 numbers: r0 r1 r2 ...  ->  w0 r0 + w1 r1 + w2 r2 + ...  ->  CRC-32

All weights are odd and no two alike: a change within one number always shows. Whatever
else happens, also rows that change places, goes unseen about as seldom as with a CRC-32
of all of it, which takes ten times as long and so longer than sending. It is made
slice by slice, each while it is in the processor's cache anyway.
"""

import functools
import zlib
from typing import final

import numpy as np
import numpy.typing as npt

_ROW = 1024  # numbers of 4 bytes
_ROW_BYTES = 4 * _ROW
_SPREAD = np.uint32(0x9E3779B2)  # even, and no two multiples below 2**31 are alike


@final
class Checksum:
    """A checksum of slices; both ends have to cut alike.

    Attributes:
      value: from 0 to 2**32 - 1.
    """

    def __init__(self) -> None:
        self.value = 0

    def add(self, data: memoryview) -> None:
        """Goes on with the next slice."""
        count = len(data) // _ROW_BYTES
        cut = count * _ROW_BYTES
        if count:
            rows = np.frombuffer(data[:cut], "<u4").reshape(count, _ROW)
            folded = np.einsum("i,ij->j", _weights(count), rows)
            self.value = zlib.crc32(folded, self.value)
        if cut < len(data):
            self.value = zlib.crc32(data[cut:], self.value)


@functools.lru_cache(maxsize=8)
def _weights(count: int) -> npt.NDArray[np.uint32]:
    return np.arange(count, dtype=np.uint32) * _SPREAD + np.uint32(1)
