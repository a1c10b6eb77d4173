"""Attends over a paged KV pool, as plain JAX and as Pallas kernels."""

if __name__ != "mell_jax.pallas_kernels":
    raise ImportError("import mell_jax.pallas_kernels, not pallas_kernels")

from mell_jax.pallas_kernels.attention import ragged_paged_attention
from mell_jax.pallas_kernels.migration import (
    checksum_pages,
    gather_pages,
    scatter_pages,
)
from mell_jax.pallas_kernels.pages import write_kv
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool, make_quantized_pool

__all__ = [
    "Pool",
    "QuantizedPool",
    "checksum_pages",
    "gather_pages",
    "make_quantized_pool",
    "ragged_paged_attention",
    "scatter_pages",
    "write_kv",
]
