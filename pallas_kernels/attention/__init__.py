"""Ragged paged attention is one op with a body per platform."""

from mell_jax.pallas_kernels.attention.api import ragged_paged_attention

__all__ = ["ragged_paged_attention"]
