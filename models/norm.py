"""Normalises channels by a `NormConfig`; statistics are taken in float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.config import NormConfig


class Norm(nnx.Module):
    """Divides by root mean square or, centred, by deviation; scales, maybe shifts.

    Args:
      shape: of the scale; the last axis is the one that is normalised.
    """

    def __init__(
        self, shape: tuple[int, ...], *, config: NormConfig, dtype: jnp.dtype
    ) -> None:
        self.config = config
        self.dtype = dtype
        neutral = jnp.zeros if config.is_offset else jnp.ones
        self.scale = nnx.Param(neutral(shape, dtype))
        self.bias = nnx.Param(jnp.zeros(shape, dtype)) if config.has_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        if self.config.kind == "layer":
            x = x - x.mean(-1, keepdims=True)
        size = jnp.square(x).mean(-1, keepdims=True)
        scale = self._wide(self.scale, x)
        if self.config.is_offset:
            scale = scale + jnp.float32(1.0)
        x = x * (jax.lax.rsqrt(size + jnp.float32(self.config.eps)) * scale)
        if self.bias is not None:
            x = x + self._wide(self.bias, x)
        return x.astype(self.dtype)

    def _wide(self, param: nnx.Param[jax.Array], x: jax.Array) -> jax.Array:
        values = param[...].astype(jnp.float32)
        return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)
