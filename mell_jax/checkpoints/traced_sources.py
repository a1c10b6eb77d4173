"""Reads sources on devices: what `Source.read` does in host memory, in JAX.

It is traced and compiled, so that arrays of a trainer never leave their devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mell_jax.checkpoints.sources import (
    Affine,
    Concatenate,
    Pick,
    Reorder,
    Reshape,
    Slice,
    Source,
    Stack,
    Take,
    Transpose,
)


def trace_source(  # noqa: C901, PLR0911
    source: Source, arrays: Mapping[str, jax.Array], *, dtype: Any
) -> jax.Array:
    """Returns what a source makes of arrays, in the type `dtype`.

    Args:
      source: of names that are all there, and whose shapes fit.
      arrays: by name, of any floating type.
      dtype: of the result.
    """

    def read(inner: Source) -> jax.Array:
        return trace_source(inner, arrays, dtype=dtype)

    match source:
        case Take(name):
            return arrays[name].astype(dtype)
        case Slice(inner, axis, start, stop):
            return jax.lax.slice_in_dim(read(inner), start, stop, axis=axis)
        case Pick(inner, axis, index):
            return jax.lax.index_in_dim(read(inner), index, axis, keepdims=False)
        case Stack(sources):
            return jnp.stack([read(one) for one in sources])
        case Concatenate(sources, axis):
            return jnp.concatenate([read(one) for one in sources], axis)
        case Transpose(inner, axes):
            return jnp.transpose(read(inner), axes)
        case Reshape(inner, wanted):
            return jnp.reshape(read(inner), wanted)
        case Reorder(inner, axis, order):
            return jnp.take(read(inner), jnp.array(order), axis=axis)
        case Affine(inner, factor, plus):
            wide = trace_source(inner, arrays, dtype=jnp.float32)
            wide = wide * jnp.float32(factor) + jnp.float32(plus)
            rounded: jax.Array = wide.astype(dtype)
            return rounded
    raise NotImplementedError(f"{type(source).__name__} is not read on devices")
