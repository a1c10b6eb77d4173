"""A module is served if it has sizes, a forward pass over somebody's cache, and logits.

The engine knows no more of a model than `ServableModel`; `Decoder` is one of them. One
of your own, or an adapter around one, calls `attend` where it would have attended:

    cache, out = attend(cache, q, k, v, layer=LayerAttention(index=3, scale=0.125))

`check_servable` says what is missing, before anything is loaded or compiled.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mell_jax.models.attention import Attend, Cache, LayerAttention
from mell_jax.models.config import AttentionConfig, ModelConfig

_TOKENS = 8  # of the forward pass that is traced


class ServableModel(Protocol):
    """An NNX module with these can be served.

    Serving, `tokens` and `positions` are [T]: the tokens of several sequences one after
    another, without a batch axis. What is computed for a token may depend on the token,
    its position and what `attend` returns, and on nothing else. `attend` is called once
    for each layer, and the cache that it returns is what the next layer is given.
    """

    @property
    def config(self) -> ModelConfig:
        """Returns the sizes: vocabulary, context, and heads and window of each layer.

        Of a module other than `Decoder` its other fields only have to be valid; see
        `models.uniform`.
        """
        ...

    def __call__(
        self,
        tokens: jax.Array,  # int32 [T]
        positions: jax.Array,  # int32 [T]
        cache: Cache,
        attend: Attend[Cache],
        /,
    ) -> tuple[jax.Array, Cache]:  # hidden: [T, D]
        ...

    def logits(self, hidden: jax.Array, /) -> jax.Array:
        """Returns scores of the next token, [..., V], for `hidden` [..., D]."""
        ...


def check_servable(module: object) -> None:
    """Refuses a module that is no `ServableModel`, or whose sizes are not its own.

    The forward pass is traced for shapes alone.

    Raises:
      TypeError: something is missing; the message says all of it.
      ValueError: what it computes has other sizes than its `config`.
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"a served model is an nnx.Module, got {type(module).__name__}")
    missing = []
    if not isinstance(getattr(module, "config", None), ModelConfig):
        missing.append(
            "an attribute config, a mell_jax.models.config.ModelConfig with its sizes"
        )
    if not callable(module):
        missing.append("__call__(tokens, positions, cache, attend) -> (hidden, cache)")
    if not callable(getattr(module, "logits", None)):
        missing.append("logits(hidden), which returns scores of the next token")
    if missing:
        raise TypeError(
            f"{type(module).__name__} is no ServableModel (mell_jax.models.servable): "
            f"it lacks {'; and '.join(missing)}. Give it these, or serve a small "
            "module that has them and calls this one"
        )
    _trace(module)


def _trace(module: Any) -> None:
    config: ModelConfig = module.config
    name = type(module).__name__
    graphdef, state = nnx.split(module)
    # Without devices: axes of a mesh may be part of an array's type.
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    called: list[LayerAttention] = []

    def attend(
        cache: jax.Array,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        layer: LayerAttention,
    ) -> tuple[jax.Array, jax.Array]:
        called.append(layer)
        if layer.index < config.num_layers:  # or else complained about below
            sizes = config.layers[layer.index].attention
            _check_heads(name, sizes, q=q, k=k, v=v)
        return cache, q

    def run(state: Any, tokens: jax.Array, cache: jax.Array) -> Any:
        merged = nnx.merge(graphdef, state)
        hidden, cache = merged(tokens, tokens, cache, attend)
        return hidden, cache, merged.logits(hidden)

    tokens = jax.ShapeDtypeStruct((_TOKENS,), jnp.int32)
    cache = jax.ShapeDtypeStruct((1,), jnp.float32)
    # Flax's norms mix float32 and bfloat16, which a program may have forbidden.
    with jax.numpy_dtype_promotion("standard"):
        hidden, after, logits = jax.eval_shape(run, state, tokens, cache)
    _check_shape(name, "hidden states", hidden.shape, (_TOKENS, hidden.shape[-1]))
    _check_shape(name, "logits", logits.shape, (_TOKENS, config.vocab_size))
    _check_shape(name, "the cache", after.shape, cache.shape)
    _check_layers(name, config, called)


def _check_heads(
    name: str, sizes: AttentionConfig, *, q: jax.Array, k: jax.Array, v: jax.Array
) -> None:
    _check_shape(name, "queries", q.shape, (_TOKENS, sizes.num_heads, sizes.head_dim))
    kept = (_TOKENS, sizes.num_kv_heads, sizes.head_dim)
    _check_shape(name, "keys", k.shape, kept)
    _check_shape(name, "values", v.shape, kept)


def _check_shape(
    name: str, what: str, found: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if tuple(found) != expected:
        raise ValueError(
            f"{name}: {what} of {_TOKENS} tokens have the shape {list(found)}, but its "
            f"config makes it {list(expected)}; correct the one or the other"
        )


def _check_layers(
    name: str, config: ModelConfig, called: Sequence[LayerAttention]
) -> None:
    numbers = [layer.index for layer in called]
    if sorted(numbers) != list(range(config.num_layers)):
        raise ValueError(
            f"{name}: attend was called for the layers {numbers[:20]}, but its config "
            f"has {config.num_layers}; each is one call, by its number from 0"
        )
    for layer in called:
        kept = config.layers[layer.index].attention.window
        if kept is not None and (layer.window is None or layer.window > kept):
            raise ValueError(
                f"{name}: layer {layer.index} attends with the window {layer.window}, "
                f"but its config says {kept}, and older tokens may be forgotten"
            )
