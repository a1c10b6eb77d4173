"""Computes linear maps of one input in one product, its matrix either way round."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def make_linear(
    width_in: int, width_out: int, *, has_bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """Returns a linear map of small random weights."""
    return nnx.Linear(
        width_in,
        width_out,
        use_bias=has_bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=nnx.initializers.normal(0.02),
        rngs=rngs,
    )


class JoinedLinear(nnx.Module):
    """Computes several linear maps of one input in one product.

    Args:
      linears: maps of as many inputs; one without a bias gets one of zeros where
        others have one.
    """

    def __init__(self, linears: Sequence[nnx.Linear]) -> None:
        first = linears[0]
        self.ends = tuple(itertools.accumulate(one.out_features for one in linears))
        self.linear = nnx.eval_shape(
            lambda: nnx.Linear(
                first.in_features,
                self.ends[-1],
                use_bias=any(one.use_bias for one in linears),
                dtype=first.dtype,
                param_dtype=first.param_dtype,
                rngs=nnx.Rngs(0),
            )
        )
        kernels = [one.kernel[...] for one in linears]
        self.linear.kernel = nnx.Param(jnp.concatenate(kernels, axis=1))
        if self.linear.bias is not None:
            self.linear.bias = nnx.Param(jnp.concatenate(list(map(_bias, linears))))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        return jnp.split(self.linear(x), self.ends[:-1], axis=-1)


def _bias(linear: nnx.Linear) -> jax.Array:
    if linear.bias is None:
        return jnp.zeros(linear.out_features, linear.param_dtype)
    return linear.bias[...]


def turn(linear: nnx.Linear) -> None:
    """Makes a linear map keep its matrix as [out, in].

    Its products are float32 and rounded afterwards: asked for bfloat16 ones, XLA takes
    five times as long on a CPU (8 rows of 125M parameters: 173 ms instead of 31).
    """
    linear.kernel = nnx.Param(linear.kernel[...].T)
    linear.dot_general = _dot_turned


def dot_last(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns float32 [..., out] for `x` [..., in] and a matrix [out, in]."""
    last = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, matrix, last, preferred_element_type=jnp.float32)


def _dot_turned(x: jax.Array, kernel: jax.Array, _: Any, **__: Any) -> jax.Array:
    return dot_last(x, kernel).astype(x.dtype)
