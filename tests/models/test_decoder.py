from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mell_jax.models.decoder import Block
from mell_jax.models.uniform import uniform_config


def test_what_a_layer_adds_is_scaled_by_a_factor_that_is_not_rounded():
    config = uniform_config(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=96,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=16,
    )
    config = replace(config, residual_multiplier=0.22)
    block = Block(config, layer=0, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    block.mlp.down_proj.kernel[...] *= jnp.bfloat16(1e6)  # so that the rest is small
    x = jax.random.normal(jax.random.key(1), (1, 64, 64), jnp.bfloat16)
    found, _ = block(x, None, None, see_nothing)
    added = np.asarray(block.mlp(block.mlp_norm(x)), np.float64)
    expected = np.asarray(x, np.float64) + 0.22 * added
    # Roundings of so many products cancel each other. The number of bfloat16 that is
    # next to 0.22 is smaller by 1.2e-3, and so all of them would be.
    found = np.asarray(found, np.float64)
    growth = np.sum(found * expected) / np.sum(expected * expected) - 1.0
    assert abs(growth) < 2e-4


def see_nothing(cache, q, k, v, *, layer):
    return cache, jnp.zeros_like(q)
