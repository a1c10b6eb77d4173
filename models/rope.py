"""Rotates queries and keys by their positions (RoPE, arXiv 2104.09864).

One table of angles per step serves every layer with the same `RopeConfig`. Pairs of
channels turn together, the first `dims` of a head, the others pass:

    half-split    (0, R/2) (1, R/2 + 1) ...     interleaved    (0, 1) (2, 3) ...
"""

from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.models.rope_scaling import LongRope, RopeScaling

RopeTable = tuple[jax.Array, jax.Array]
"""Cosines and sines, float32 [..., T, 1, R/2]; the axis of one is that of heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Describes a rotary embedding: how fast which channels of a head turn.

    Raises:
      ValueError: a value is out of range, naming it and the rule.
    """

    theta: float = 10_000.0
    dims: int | None = None
    """The channels of a head that turn, its first ones; None: all of them."""
    is_interleaved: bool = False
    """Neighbours turn together, and not channels that are half of `dims` apart."""
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if not (1.0 < self.theta < float("inf")):
            raise ValueError(f"rope theta must be above 1, got {self.theta}")
        if self.dims is not None:
            self.rotated_dims(self.dims)

    def rotated_dims(self, head_dim: int) -> int:
        """Returns R, how many channels turn of a head with `head_dim` of them.

        Raises:
          ValueError: the head has fewer, an odd number would turn, or the scaling has
            not one factor for each pair.
        """
        dims = head_dim if self.dims is None else self.dims
        if not (2 <= dims <= head_dim) or dims % 2:
            raise ValueError(
                f"rope dims must be even and from 2 to the head size {head_dim}, "
                f"got {dims}"
            )
        if isinstance(self.scaling, LongRope):
            factors = len(self.scaling.short_factor)
            if factors != dims // 2:
                raise ValueError(
                    f"rope short_factor and long_factor must have {dims // 2} numbers "
                    f"each, one for each pair of the {dims} channels that turn, "
                    f"got {factors}"
                )
        return dims

    def for_context(self, tokens: int) -> Self:
        """Returns the same for a server whose longest context has so many tokens.

        Only `LongRope` depends on it.
        """
        if not isinstance(self.scaling, LongRope):
            return self
        return replace(self, scaling=self.scaling.for_context(tokens))


def inverse_frequencies(rope: RopeConfig, *, head_dim: int) -> npt.NDArray[np.float32]:
    """Returns radians per token of each pair of channels, [R/2].

    Raises:
      ValueError: `rope` does not fit a head of `head_dim` channels.
    """
    dims = rope.rotated_dims(head_dim)
    exponent = np.arange(0, dims, 2, dtype=np.float64) / dims
    frequency = rope.theta**-exponent
    if rope.scaling is not None:
        frequency = rope.scaling.stretch(frequency, theta=rope.theta)
    return frequency.astype(np.float32)


def rope_table(positions: jax.Array, rope: RopeConfig, *, head_dim: int) -> RopeTable:
    """Returns cosines and sines for `positions` [..., T]: two float32 arrays [..., T,
    1, R/2], times the gain of a scaling that has one.

    The axis of size one broadcasts over heads.

    Raises:
      ValueError: `rope` does not fit a head of `head_dim` channels.
    """
    frequency = jnp.asarray(inverse_frequencies(rope, head_dim=head_dim))
    angle = positions.astype(jnp.float32)[..., None] * frequency.reshape(
        (1,) * positions.ndim + (-1,)
    )
    gain = 1.0 if rope.scaling is None else rope.scaling.gain
    return gain * jnp.cos(angle)[..., None, :], gain * jnp.sin(angle)[..., None, :]


def rotate(
    x: jax.Array, table: RopeTable, *, is_interleaved: bool = False
) -> jax.Array:
    """Rotates the first R channels of `x` [..., T, heads, H] by a table [..., R/2].

    Channel i turns together with channel i + R/2, or if `is_interleaved` channel 2i
    with channel 2i + 1. It is computed in float32; channels from R on are not touched.
    """
    cos, sin = table
    dims = 2 * cos.shape[-1]
    turning, passing = jnp.split(x, [dims], axis=-1)
    turning = turning.astype(jnp.float32)
    if is_interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = jnp.split(turning, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    if is_interleaved:
        together = jnp.stack(turned, axis=-1).reshape(turning.shape)
    else:
        together = jnp.concatenate(turned, axis=-1)
    return jnp.concatenate([together.astype(x.dtype), passing], axis=-1)
