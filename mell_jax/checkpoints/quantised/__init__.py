"""Quantised weights as they are published, dequantised on load, a tensor at a time."""

from mell_jax.checkpoints.quantised.cost import cost_line
from mell_jax.checkpoints.quantised.read import read_scheme
from mell_jax.checkpoints.quantised.scheme import Scheme
from mell_jax.checkpoints.quantised.unused import is_unused, is_zero_bias, unused_line

__all__ = [
    "Scheme",
    "cost_line",
    "is_unused",
    "is_zero_bias",
    "read_scheme",
    "unused_line",
]
