"""A decoder-only transformer in Flax NNX trains and serves as the same module.

The model does not know where keys and values live. Its caller passes `attend`, which
takes the queries, keys and values of one layer and returns the attended values together
with the next state of whatever cache it keeps:

    tokens -> embed -> L x (norm, q k v, attend, out; norm, mlp) -> norm -> hidden

Training passes `causal_attention` and no cache; the engine passes a function that
writes to and reads from its page pool.

Sources: grouped-query attention (arXiv 2305.13245), RMSNorm (arXiv 1910.07467), rotary
positions (arXiv 2104.09864), gated feed-forward with SiLU (arXiv 2002.05202).
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.config import ModelConfig
from mell_jax.models.linear import JoinedLinear, dot_last
from mell_jax.models.rope import RopeConfig, RopeTable, rope_table, rotate

Cache = TypeVar("Cache")


class Attend(Protocol[Cache]):
    """Attends in one layer over whatever the caller keeps as its cache."""

    def __call__(
        self,
        cache: Cache,
        q: jax.Array,  # [..., T, N, H]
        k: jax.Array,  # [..., T, K, H]
        v: jax.Array,  # [..., T, K, H]
        /,
        *,
        layer: int,
        window: int | None,
    ) -> tuple[Cache, jax.Array]:  # attended: [..., T, N, H]
        ...


def causal_attention(
    cache: None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: int,
    window: int | None,
) -> tuple[None, jax.Array]:
    """Returns plain causal attention over [B, T, heads, H], for training and as a
    reference.
    """
    del layer
    local = None if window is None else (window - 1, 0)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=local)
    return cache, out


class Attention(nnx.Module):
    """Attends with grouped queries and rotary positions; optional bias and q/k norm."""

    def __init__(
        self, config: ModelConfig, *, layer: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.layer = layer
        self.window = config.window(layer)
        self.head_dim = config.head_dim
        query_width = config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim

        def linear(width_in: int, width_out: int, bias: bool) -> nnx.Linear:
            return _linear(width_in, width_out, bias=bias, dtype=dtype, rngs=rngs)

        self.q_proj = linear(config.hidden_size, query_width, config.qkv_bias)
        self.k_proj = linear(config.hidden_size, kv_width, config.qkv_bias)
        self.v_proj = linear(config.hidden_size, kv_width, config.qkv_bias)
        self.qkv_proj: JoinedLinear | None = nnx.data(None)  # in place of these
        self.o_proj = linear(query_width, config.hidden_size, config.output_bias)

        def head_norm() -> nnx.RMSNorm | None:
            if not config.qk_norm:
                return None
            return _norm(config.head_dim, config=config, dtype=dtype, rngs=rngs)

        self.q_norm = head_norm()
        self.k_norm = head_norm()

    def __call__(
        self, x: jax.Array, rope: RopeTable, cache: Cache, attend: Attend[Cache]
    ) -> tuple[jax.Array, Cache]:
        q, k, v = map(self._heads, self._project(x))  # [..., T, N or K, H]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rope), rotate(k, rope)
        cache, out = attend(cache, q, k, v, layer=self.layer, window=self.window)
        return self.o_proj(out.reshape(*x.shape[:-1], -1)), cache

    def join(self) -> None:
        """Makes the maps to queries, keys and values one."""
        self.qkv_proj = JoinedLinear((self.q_proj, self.k_proj, self.v_proj))
        del self.q_proj, self.k_proj, self.v_proj

    def _project(self, x: jax.Array) -> Sequence[jax.Array]:
        if self.qkv_proj is not None:
            return self.qkv_proj(x)
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


class Mlp(nnx.Module):
    """Computes the gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        bias = config.mlp_bias
        self.gate_proj = _linear(width, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.up_proj = _linear(width, inner, bias=bias, dtype=dtype, rngs=rngs)
        self.gate_up_proj: JoinedLinear | None = nnx.data(None)  # in place of both
        self.down_proj = _linear(inner, width, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = self._project(x)
        return self.down_proj(nnx.silu(gate) * up)

    def join(self) -> None:
        """Makes the maps to gate and up one."""
        self.gate_up_proj = JoinedLinear((self.gate_proj, self.up_proj))
        del self.gate_proj, self.up_proj

    def _project(self, x: jax.Array) -> Sequence[jax.Array]:
        if self.gate_up_proj is not None:
            return self.gate_up_proj(x)
        return self.gate_proj(x), self.up_proj(x)


class Block(nnx.Module):
    """A block is one layer: attention, feed-forward; each has a norm and a residual."""

    def __init__(
        self, config: ModelConfig, *, layer: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        width = config.hidden_size
        self.input_norm = _norm(width, config=config, dtype=dtype, rngs=rngs)
        self.attention = Attention(config, layer=layer, dtype=dtype, rngs=rngs)
        self.mlp_norm = _norm(width, config=config, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, rope: RopeTable, cache: Cache, attend: Attend[Cache]
    ) -> tuple[jax.Array, Cache]:
        attended, cache = self.attention(self.input_norm(x), rope, cache, attend)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


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
        self.norm = _norm(config.hidden_size, config=config, dtype=dtype, rngs=rngs)
        self.lm_head = (
            None
            if config.tie_embeddings
            else _linear(
                config.hidden_size,
                config.vocab_size,
                bias=False,
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
        setting = RopeConfig(
            theta=self.config.rope_theta, scaling=self.config.rope_scaling
        )
        rope = rope_table(positions, setting, head_dim=self.config.head_dim)
        x = self.embed(tokens)
        for layer in self.layers:
            x, cache = layer(x, rope, cache, attend)
        return self.norm(x), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns scores of the next token, float32 [..., V], for `hidden` [..., D]."""
        if self.lm_head is None:
            return dot_last(hidden, self.embed.embedding[...])
        return self.lm_head(hidden).astype(jnp.float32)


def _linear(
    width_in: int, width_out: int, *, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        width_in,
        width_out,
        use_bias=bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=nnx.initializers.normal(0.02),
        rngs=rngs,
    )


def _norm(
    width: int, *, config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        width, epsilon=config.norm_eps, dtype=dtype, param_dtype=dtype, rngs=rngs
    )
