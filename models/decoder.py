"""A decoder-only transformer in Flax NNX trains and serves as the same module.

    tokens -> embed -> L x (norm, attention; norm, feed-forward) -> norm -> hidden

Each layer is made as its `LayerConfig` says; the model does not know where keys and
values live (`models.attention`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.attention import Attend, Attention, Cache
from mell_jax.models.config import ModelConfig
from mell_jax.models.feed_forward import Mlp
from mell_jax.models.linear import dot_last, make_linear
from mell_jax.models.norm import Norm
from mell_jax.models.rope import RopeConfig, RopeTable, rope_table


class Block(nnx.Module):
    """A block is one layer: attention and feed-forward, each added to the residual."""

    def __init__(
        self, config: ModelConfig, *, layer: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        mine = config.layers[layer]
        self.rope = mine.attention.rope
        self.is_parallel = mine.is_parallel
        self.residual_multiplier = config.residual_multiplier

        def norm(is_there: bool) -> Norm | None:
            if not is_there:
                return None
            return Norm((config.hidden_size,), config=mine.norm, dtype=dtype)

        is_before = mine.norm_places != "after"
        is_after = mine.norm_places != "before"
        self.input_norm = norm(is_before)
        self.attention = Attention(config, layer=layer, dtype=dtype, rngs=rngs)
        self.attention_out_norm = norm(is_after)
        self.mlp_norm = norm(is_before and not mine.is_parallel)
        self.mlp = Mlp(
            mine.feed_forward, width=config.hidden_size, dtype=dtype, rngs=rngs
        )
        self.mlp_out_norm = norm(is_after)

    def __call__(
        self, x: jax.Array, rope: RopeTable | None, cache: Cache, attend: Attend[Cache]
    ) -> tuple[jax.Array, Cache]:
        """Returns the next residual stream for `x` [..., T, D], and the cache."""
        normed = _apply(self.input_norm, x)
        attended, cache = self.attention(normed, rope, cache, attend)
        attended = _apply(self.attention_out_norm, attended)
        if self.is_parallel:
            added = attended + self.mlp(normed)
            return x + _scaled(added, self.residual_multiplier), cache
        x = x + _scaled(attended, self.residual_multiplier)
        added = _apply(self.mlp_out_norm, self.mlp(_apply(self.mlp_norm, x)))
        return x + _scaled(added, self.residual_multiplier), cache


class Decoder(nnx.Module):
    """The decoder is the whole model: arithmetic in `dtype`, logits in float32.

    Layers are separate arrays in a list and the loop over them is unrolled: a scan
    over stacked weights copies every layer's weights on a GPU.
    """

    def __init__(
        self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32
    ) -> None:
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            dtype=dtype,
            param_dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.layers = nnx.List(
            [
                Block(config, layer=layer, dtype=dtype, rngs=rngs)
                for layer in range(config.num_layers)
            ]
        )
        self.norm = Norm((config.hidden_size,), config=config.norm, dtype=dtype)
        self.lm_head = (
            None
            if config.tie_embeddings
            else make_linear(
                config.hidden_size,
                config.vocab_size,
                has_bias=False,
                dtype=dtype,
                rngs=rngs,
            )
        )

    def __call__(
        self,
        tokens: jax.Array,  # int32 [..., T], every id in [0, V)
        positions: jax.Array,  # int32 [..., T]
        cache: Cache,
        attend: Attend[Cache],
    ) -> tuple[jax.Array, Cache]:
        """Runs all layers; returns normed hidden states [..., T, D] and the cache."""
        tables = self._rope_tables(positions)
        x = _times(self.embed(tokens), self.config.embedding_multiplier)
        for layer in self.layers:
            rope = None if layer.rope is None else tables[layer.rope]
            x, cache = layer(x, rope, cache, attend)
        return self.norm(x), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns scores of the next token, float32 [..., V], for `hidden` [..., D]."""
        if self.lm_head is None:
            logits = dot_last(hidden, self.embed.embedding[...])
        else:
            logits = self.lm_head(hidden).astype(jnp.float32)
        logits = _times(logits, self.config.logit_multiplier)
        if self.config.logit_soft_cap is not None:
            cap = jnp.float32(self.config.logit_soft_cap)
            logits = cap * jnp.tanh(logits / cap)
        return logits

    def _rope_tables(self, positions: jax.Array) -> Mapping[RopeConfig, RopeTable]:
        """One table of angles serves all layers that are rotated alike."""
        ropes = (layer.rope for layer in self.layers if layer.rope is not None)
        return {
            rope: rope_table(positions, rope, head_dim=self.config.head_dim)
            for rope in dict.fromkeys(ropes)
        }


def _apply(norm: Norm | None, x: jax.Array) -> jax.Array:
    return x if norm is None else norm(x)


def _times(x: jax.Array, factor: float) -> jax.Array:
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def _scaled(added: jax.Array, factor: float) -> jax.Array:
    """Rounds the product and not the factor: bfloat16 has no 0.22."""
    if factor == 1.0:
        return added
    return _times(added.astype(jnp.float32), factor).astype(added.dtype)
