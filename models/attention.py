"""Attends within one layer; where keys and values live is the caller's business.

The caller passes `attend`, which takes the queries, keys and values of one layer and
returns the attended values together with the next state of whatever cache it keeps.
Training passes `causal_attention` and no cache; the engine passes a function that
writes to and reads from its page pool.

Source: grouped-query attention (arXiv 2305.13245).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.config import AttentionConfig, ModelConfig
from mell_jax.models.linear import JoinedLinear, make_linear
from mell_jax.models.norm import Norm
from mell_jax.models.rope import rotate

Cache = TypeVar("Cache")
RopeTable = tuple[jax.Array, jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttention:
    """Tells `attend` which layer asks, and how its scores are made."""

    index: int  # of the layer, from 0
    scale: float  # of the scores
    window: int | None = None  # tokens, the own one included; None sees everything
    soft_cap: float | None = None


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
        layer: LayerAttention,
    ) -> tuple[Cache, jax.Array]:  # attended: [..., T, N, H]
        ...


def causal_attention(
    cache: None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    layer: LayerAttention,
) -> tuple[None, jax.Array]:
    """Returns plain causal attention over [B, T, heads, H] or [T, heads, H], for
    training and as a reference.
    """
    if layer.soft_cap is not None:
        return cache, _capped_attention(q, k, v, layer=layer)
    local = None if layer.window is None else (layer.window - 1, 0)
    out = jax.nn.dot_product_attention(
        q, k, v, scale=layer.scale, is_causal=True, local_window_size=local
    )
    return cache, out


def _capped_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, layer: LayerAttention
) -> jax.Array:
    """The same with capped scores, which jax.nn has no word for."""
    *_, length, heads, size = q.shape
    kv_heads = k.shape[-2]
    grouped = q.reshape(*q.shape[:-2], kv_heads, heads // kv_heads, size)
    scores = jnp.einsum(
        "...tkgh,...skh->...kgts", grouped, k, preferred_element_type=jnp.float32
    )
    cap = jnp.float32(layer.soft_cap)
    scores = cap * jnp.tanh(scores * jnp.float32(layer.scale) / cap)
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None]
    is_seen = (distance >= 0) & (distance < (layer.window or length))
    weights = jax.nn.softmax(jnp.where(is_seen, scores, -jnp.inf), axis=-1)
    out = jnp.einsum("...kgts,...skh->...tkgh", weights.astype(v.dtype), v)
    return out.reshape(q.shape)


class Attention(nnx.Module):
    """Attends with grouped queries, as an `AttentionConfig` says."""

    def __init__(
        self, config: ModelConfig, *, layer: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.config = mine = config.layers[layer].attention
        self.layer = LayerAttention(
            index=layer,
            scale=mine.score_scale,
            window=mine.window,
            soft_cap=mine.soft_cap,
        )
        width = config.hidden_size
        query_width = mine.num_heads * mine.head_dim
        kv_width = mine.num_kv_heads * mine.head_dim

        def linear(width_in: int, width_out: int, has_bias: bool) -> nnx.Linear:
            return make_linear(
                width_in, width_out, has_bias=has_bias, dtype=dtype, rngs=rngs
            )

        self.q_proj = linear(width, query_width, mine.query_bias)
        self.k_proj = linear(width, kv_width, mine.key_bias)
        self.v_proj = linear(width, kv_width, mine.value_bias)
        self.qkv_proj: JoinedLinear | None = nnx.data(None)  # in place of these
        self.o_proj = linear(query_width, width, mine.output_bias)
        self.q_norm = _qk_norm(mine, heads=mine.num_heads, dtype=dtype)
        self.k_norm = _qk_norm(mine, heads=mine.num_kv_heads, dtype=dtype)

    def __call__(
        self, x: jax.Array, rope: RopeTable | None, cache: Cache, attend: Attend[Cache]
    ) -> tuple[jax.Array, Cache]:
        """Returns what the layer adds for `x` [..., T, D], and the cache.

        Args:
          rope: the angles of the tokens' positions; None where it is not rotated.
        """
        q, k, v = self._project(x)
        q, k = self._heads(q, self.q_norm), self._heads(k, self.k_norm)
        v = self._heads(v, None)
        if rope is not None and self.config.rope is not None:
            is_interleaved = self.config.rope.is_interleaved
            q = rotate(q, rope, is_interleaved=is_interleaved)
            k = rotate(k, rope, is_interleaved=is_interleaved)
        cache, out = attend(cache, q, k, v, layer=self.layer)
        return self.o_proj(out.reshape(*x.shape[:-1], -1)), cache

    def join(self) -> None:
        """Makes the maps to queries, keys and values one."""
        self.qkv_proj = JoinedLinear((self.q_proj, self.k_proj, self.v_proj))
        del self.q_proj, self.k_proj, self.v_proj

    def _project(self, x: jax.Array) -> Sequence[jax.Array]:
        if self.qkv_proj is not None:
            return self.qkv_proj(x)
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def _heads(self, x: jax.Array, norm: Norm | None) -> jax.Array:
        """Cuts [..., T, N * H] into heads [..., T, N, H], normed."""
        if norm is not None and self.config.qk_norm_span == "width":
            x = norm(x)
        x = x.reshape(*x.shape[:-1], -1, self.config.head_dim)
        if norm is not None and self.config.qk_norm_span != "width":
            x = norm(x)
        return x


def _qk_norm(config: AttentionConfig, *, heads: int, dtype: jnp.dtype) -> Norm | None:
    if config.qk_norm is None:
        return None
    shapes = {
        "head": (config.head_dim,),
        "each_head": (heads, config.head_dim),
        "width": (heads * config.head_dim,),
    }
    return Norm(shapes[config.qk_norm_span], config=config.qk_norm, dtype=dtype)
