"""A KV pool holds plain numbers, or numbers of one byte with scales.

A quantised page keeps one scale per layer, key or value, and head; what a token of the
page holds is `pages * scales`. Scales are powers of two, so that raising one later
moves the bits of its page without rounding them twice (see `quantized.py`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

QUANTIZED_DTYPES = ("int8", "float8_e4m3fn")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedPool:
    """The pool has one byte per number; donate it as a plain one."""

    pages: jax.Array  # [P, L, 2, K, S, H] int8 or float8_e4m3fn
    scales: jax.Array  # [P, L, 2, K] float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns [P, L, 2, K, S, H]"""
        return self.pages.shape

    @property
    def dtype(self) -> Any:
        """Returns that of the pages."""
        return self.pages.dtype

    @property
    def ndim(self) -> int:
        return self.pages.ndim

    @property
    def size(self) -> int:
        return self.pages.size


Pool = jax.Array | QuantizedPool


def make_quantized_pool(
    shape: tuple[int, int, int, int, int, int], dtype: Any
) -> QuantizedPool:
    """Returns a pool of zeros `[P, L, 2, K, S, H]`, int8 or float8_e4m3fn.

    Raises:
      ValueError: the dtype is another.
    """
    name = jnp.dtype(dtype).name
    if name not in QUANTIZED_DTYPES:
        raise ValueError(f"a quantised pool is {QUANTIZED_DTYPES}, got {name}")
    return QuantizedPool(
        pages=jnp.zeros(shape, dtype), scales=jnp.zeros(shape[:4], jnp.float32)
    )


def largest(dtype: Any) -> float:
    """Returns the largest number a page of this dtype holds: 127 or 448."""
    return {"int8": 127.0, "float8_e4m3fn": 448.0}[jnp.dtype(dtype).name]
