"""Reads a GGUF file, the format of llama.cpp, as one of the families that we know."""

from mell_jax.checkpoints.gguf.model import gguf_in, open_gguf
from mell_jax.checkpoints.gguf.spec import (
    architecture_of,
    read_gguf_ends,
    read_gguf_spec,
)
from mell_jax.checkpoints.gguf.weights import find_gguf_weights

__all__ = [
    "architecture_of",
    "find_gguf_weights",
    "gguf_in",
    "open_gguf",
    "read_gguf_ends",
    "read_gguf_spec",
]
