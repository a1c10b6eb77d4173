"""Ragged paged attention: one op, one body per platform."""

from mell_jax.pallas_kernels.attention.api import ragged_paged_attention

__all__ = ["ragged_paged_attention"]
