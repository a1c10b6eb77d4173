"""Unpacks what formats store: small whole numbers in words, and scales in any type.

    word    bits 0..3 | 4..7 | ... | 28..31      eight values of 4 bits

The first value is in the lowest bits.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

WORD_BITS = 32
FLOAT_TYPES = tuple(
    np.dtype(kind) for kind in (np.float32, np.float16, jnp.bfloat16, np.float64)
)
E8M0 = np.dtype(jnp.float8_e8m0fnu)
"""Powers of two in a byte: 2 to the (byte - 127)."""


def unpack(words: npt.NDArray[Any], *, bits: int) -> npt.NDArray[np.uint8]:
    """Returns the values of `bits` bits (2, 4 or 8) in 32-bit words [rows, words], as
    uint8 [rows, words * 32 / bits].

    Raises:
      ValueError: `words` are not 32-bit integers in rows.
    """
    if words.ndim != 2 or words.dtype not in (np.int32, np.uint32):
        raise ValueError(
            f"packed values must be 32-bit integers in two dimensions, found "
            f"{words.dtype} {list(words.shape)}"
        )
    # In little endian the bytes of a word are in the order of its values.
    octets = np.ascontiguousarray(words, words.dtype.newbyteorder("<"))
    return unpack_bytes(octets.view(np.uint8), bits=bits)


def unpack_bytes(octets: npt.NDArray[np.uint8], *, bits: int) -> npt.NDArray[np.uint8]:
    """Returns the values of `bits` bits (2, 4 or 8) in bytes [rows, bytes], the lowest
    bits first, as uint8 [rows, bytes * 8 / bits].
    """
    if bits == 8:
        return octets
    rows, count = octets.shape
    per_byte = 8 // bits
    out = np.empty((rows, count * per_byte), np.uint8)
    for place in range(per_byte):
        values = out[:, place::per_byte]
        np.right_shift(octets, place * bits, out=values)
        np.bitwise_and(values, (1 << bits) - 1, out=values)
    return out


def as_float(scales: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns scales as float32; bytes are powers of two (E8M0).

    Raises:
      ValueError: they have a type that no format has for scales.
    """
    if scales.dtype == np.uint8:
        scales = scales.view(E8M0)
    if scales.dtype != E8M0 and scales.dtype not in FLOAT_TYPES:
        raise ValueError(f"scales must be floating point, found {scales.dtype}")
    return scales.astype(np.float32)


def as_groups(order: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Returns the group of each input, of a stored g_idx.

    Raises:
      ValueError: it holds no integers.
    """
    if order.dtype not in (np.int32, np.int64):
        raise ValueError(f"has a g_idx of {order.dtype}, no integers")
    return order.astype(np.intp)
