"""Attention over a paged KV pool, as plain JAX and as Pallas kernels."""

if __name__ != "mell_jax.pallas_kernels":
    raise ImportError("import mell_jax.pallas_kernels, not pallas_kernels")

from mell_jax.pallas_kernels.attention import ragged_paged_attention
from mell_jax.pallas_kernels.pages import write_kv

__all__ = ["ragged_paged_attention", "write_kv"]
