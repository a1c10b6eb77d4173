"""Samples a batch in one compiled program, as rollouts are made without an engine.

prompts, padded on the left     cache of keys and values, one column a token
    . . a b c                       . . a b c 0 1 2 ...
    d e f g h                       d e f g h 0 1 2 ...

All prompts are prefilled at once, then a `lax.scan` decodes all rows until the longest
answer is done: every row waits for the longest prompt and the longest answer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mell_jax.bench.workload import Int32Array
from mell_jax.models.attention import LayerAttention
from mell_jax.models.decoder import Decoder

Cache = tuple[tuple[jax.Array, jax.Array], ...]  # of each layer: [B, S, K, H], twice


class Sampled(NamedTuple):
    """Answers have been sampled; those after a row's own end are of no use."""

    tokens: jax.Array  # int32 [B, A]
    logprobs: jax.Array  # float32 [B, A]


Sampler = Callable[[Sequence[Int32Array], int], Sampled]
"""Answers prompts, no longer and no more than it was made for, by a seed."""


def make_scan_sampler(
    decoder: Decoder,
    *,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    temperature: float,
) -> Sampler:
    """Compiles a sampler.

    Args:
      decoder: has layers without windows and soft caps.
      batch: B, prompts.
      prompt_tokens: P, of the longest prompt.
      new_tokens: A, of the longest answer.
      temperature: 0 takes the likeliest token.

    Raises:
      ValueError: a layer has a window or a soft cap.
    """
    for layer in decoder.layers:
        mine = layer.attention.layer
        if mine.window is not None or mine.soft_cap is not None:
            raise ValueError("the scan sampler knows neither windows nor soft caps")
    graphdef, state = nnx.split(decoder)
    run = partial(_sample, graphdef, new_tokens=new_tokens, temperature=temperature)
    compiled = (
        jax.jit(run)
        .lower(
            state,
            jax.ShapeDtypeStruct((batch, prompt_tokens), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.eval_shape(lambda: jax.random.key(0)),
        )
        .compile()
    )

    def sample(prompts: Sequence[Int32Array], seed: int) -> Sampled:
        tokens, pads = pad_left(prompts, length=prompt_tokens)
        return Sampled(*compiled(state, tokens, pads, jax.random.key(seed)))

    return sample


def pad_left(
    prompts: Sequence[Int32Array], *, length: int
) -> tuple[Int32Array, Int32Array]:
    """Returns prompts [B, P] that end in one column, and how far each is padded."""
    tokens = np.zeros((len(prompts), length), np.int32)
    pads = np.array([length - len(prompt) for prompt in prompts], np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, pads[row] :] = prompt
    return tokens, pads


def _sample(
    graphdef: nnx.GraphDef[Decoder],
    state: nnx.State[Any, Any],
    tokens: jax.Array,  # int32 [B, P]
    pads: jax.Array,  # int32 [B]
    key: jax.Array,
    *,
    new_tokens: int,
    temperature: float,
) -> Sampled:
    decoder = nnx.merge(graphdef, state)
    choose = partial(_choose, temperature=temperature)
    batch, length = tokens.shape
    positions = jnp.maximum(jnp.arange(length)[None] - pads[:, None], 0)
    hidden, cache = decoder(
        tokens,
        positions,
        _empty(decoder, batch=batch, columns=length + new_tokens),
        partial(_prefill, pads=pads),
    )
    keys = jax.random.split(key, new_tokens)
    first, logprob = choose(decoder.logits(hidden[:, -1]), keys[0])

    def step(
        carry: tuple[Cache, jax.Array], inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[Cache, jax.Array], tuple[jax.Array, jax.Array]]:
        (cache, last), (column, key) = carry, inputs
        attend = partial(_decode, column=column, pads=pads)
        hidden, cache = decoder(last[:, None], (column - pads)[:, None], cache, attend)
        token, logprob = choose(decoder.logits(hidden[:, 0]), key)
        return (cache, token), (token, logprob)

    columns = length + jnp.arange(new_tokens - 1)
    _, (more, logprobs) = jax.lax.scan(step, (cache, first), (columns, keys[1:]))
    return Sampled(
        jnp.concatenate([first[None], more]).T,
        jnp.concatenate([logprob[None], logprobs]).T,
    )


def _empty(decoder: Decoder, *, batch: int, columns: int) -> Cache:
    config = decoder.config
    shape = (batch, columns, config.num_kv_heads, config.head_dim)
    zeros = jnp.zeros(shape, decoder.embed.embedding[...].dtype)
    return ((zeros, zeros),) * config.num_layers


def _prefill(
    cache: Cache,
    q: jax.Array,  # [B, P, N, H]
    k: jax.Array,  # [B, P, K, H]
    v: jax.Array,
    *,
    layer: LayerAttention,
    pads: jax.Array,
) -> tuple[Cache, jax.Array]:
    """Attends among the prompts alone, and keeps their keys and values."""
    columns = jnp.arange(q.shape[1])
    is_seen = columns[None, :] <= columns[:, None]  # [P, P]
    is_seen = is_seen[None] & (columns[None, None, :] >= pads[:, None, None])
    out = jax.nn.dot_product_attention(
        q, k, v, mask=is_seen[:, None], scale=layer.scale
    )
    return _write(cache, k, v, column=jnp.int32(0), layer=layer), out


def _decode(
    cache: Cache,
    q: jax.Array,  # [B, 1, N, H]
    k: jax.Array,  # [B, 1, K, H]
    v: jax.Array,
    *,
    layer: LayerAttention,
    column: jax.Array,
    pads: jax.Array,
) -> tuple[Cache, jax.Array]:
    """Writes one column, and attends over all that is there."""
    cache = _write(cache, k, v, column=column, layer=layer)
    keys, values = cache[layer.index]
    columns = jnp.arange(keys.shape[1])
    is_seen = (columns <= column)[None] & (columns[None] >= pads[:, None])  # [B, S]
    out = jax.nn.dot_product_attention(
        q, keys, values, mask=is_seen[:, None, None], scale=layer.scale
    )
    return cache, out


def _write(
    cache: Cache,
    k: jax.Array,
    v: jax.Array,
    *,
    column: jax.Array,
    layer: LayerAttention,
) -> Cache:
    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new, column, axis=1)

    keys, values = cache[layer.index]
    pair = (put(keys, k), put(values, v))
    return (*cache[: layer.index], pair, *cache[layer.index + 1 :])


def _choose(
    logits: jax.Array, key: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Returns a token of each row [B], and its log probability."""
    scaled = logits / (temperature or 1.0)
    if temperature:
        token = jax.random.categorical(key, scaled)
    else:
        token = jnp.argmax(scaled, axis=-1)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scaled), token[:, None], axis=-1)
    return token.astype(jnp.int32), chosen[:, 0]
