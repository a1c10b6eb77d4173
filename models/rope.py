"""Rotates queries and keys by their positions (RoPE, arXiv 2104.09864).

One table of angles per step serves every layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.models.config import Llama3Rope, ModelConfig


def inverse_frequencies(config: ModelConfig) -> npt.NDArray[np.float32]:
    """Returns radians per token of each pair of channels, [H/2]."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequency = config.rope_theta**-exponent
    if config.rope_scaling is not None:
        frequency = _stretch(frequency, config.rope_scaling)
    return frequency.astype(np.float32)


def rope_table(
    positions: jax.Array, config: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines for `positions` [..., T]: two float32 arrays [..., T,
    1, H/2].

    The axis of size one broadcasts over heads.
    """
    frequency = jnp.asarray(inverse_frequencies(config))
    angle = positions.astype(jnp.float32)[..., None] * frequency.reshape(
        (1,) * positions.ndim + (-1,)
    )
    return jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates `x` [..., T, heads, H]: channel i turns together with channel i + H/2."""
    cos, sin = table
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return turned.astype(x.dtype)


def _stretch(
    frequency: npt.NDArray[np.float64], scaling: Llama3Rope
) -> npt.NDArray[np.float64]:
    turns = scaling.original_context * frequency / (2 * np.pi)  # turns per context
    keep = (turns - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    keep = np.clip(keep, 0.0, 1.0)  # 1: short waves stay, 0: long waves are stretched
    return (1.0 - keep) * frequency / scaling.factor + keep * frequency
