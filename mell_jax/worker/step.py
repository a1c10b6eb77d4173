"""The compiled parts of a step but for the sampler's; all that they make stays there.

    forward(weights, pool, last_token, vector) -> (pool, logits, hidden)
    prompt_logprobs(weights, hidden, targets, temperatures, start) -> log probabilities

The pool is donated and updated in place. A bucket has one forward pass, whatever its
rows want of the sampler. No program branches on data, which would make a GPU's host
wait for the device; what is not wanted is not dispatched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import AbstractMesh

from mell_jax.models.servable import ServableModel
from mell_jax.worker.attend import paged_attention
from mell_jax.worker.group import DeviceGroup, gather_logits, whole
from mell_jax.worker.layout import Bucket, cut_vector
from mell_jax.worker.sampling import (
    Logits,
    RowState,
    Sampler,
    SamplerPrograms,
    TokenLogprobs,
    are_finite,
    observe_tokens,
    set_row,
    token_logprobs,
)

Weights = tuple[jax.Array, ...]
"""The arrays of a model in a fixed order: jit takes a tuple apart in C++, where a
state of many Python objects costs more than the rest of a dispatch."""
LOGITS_CHUNK = 128
"""Prompt positions whose logits are alive at once when their logprobs are wanted."""


class Forwarded(NamedTuple):
    """A forward pass made this besides the pool."""

    logits: Logits  # of the B rows' last tokens
    hidden: jax.Array | None  # [T, D], for prompt log probabilities; None when decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The parts are everything of a model but its arrays."""

    graphdef: nnx.GraphDef[Any]
    treedef: jax.tree_util.PyTreeDef
    paths: tuple[tuple[str | int, ...], ...]  # of the weights, in their order
    keys: Mapping[int, Any]  # which of them are random keys, and of which kind

    def join(self, weights: Weights) -> ServableModel:
        leaves = [
            jax.random.wrap_key_data(array, impl=self.keys[number])
            if number in self.keys
            else array
            for number, array in enumerate(weights)
        ]
        model: ServableModel = nnx.merge(
            self.graphdef, jax.tree.unflatten(self.treedef, leaves)
        )
        return model


def split_model(
    graphdef: nnx.GraphDef[Any], state: nnx.State[Any, Any]
) -> tuple[ModelParts, Weights]:
    """Returns a split model as what a compiled step knows and what it is given.

    Random keys, which layers such as dropouts keep, are given as plain numbers.
    """
    leaves, treedef = jax.tree.flatten(state)
    paths = tuple(
        tuple(key if isinstance(key, int) else str(key) for key in path)
        for path, _ in nnx.to_flat_state(state)  # in the order of the leaves
    )
    assert len(paths) == len(leaves), "a parameter is one array"
    keys = {
        number: jax.random.key_impl(leaf)
        for number, leaf in enumerate(leaves)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
    for number in keys:
        leaves[number] = jax.random.key_data(leaves[number])
    parts = ModelParts(graphdef=graphdef, treedef=treedef, paths=paths, keys=keys)
    return parts, tuple(leaves)


def put_weights(
    weights: Weights, *, paths: Sequence[tuple[str | int, ...]], group: DeviceGroup
) -> Weights:
    """Returns the weights on the devices of `group`: copied, cut and gathered as it
    takes.
    """
    shardings = [
        group.weight_sharding(path, array.shape)
        for path, array in zip(paths, weights, strict=True)
    ]
    return tuple(jax.device_put(list(weights), shardings))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """The compiled step depends on these besides its bucket."""

    attention_backend: str
    page_tokens: int  # S
    places: tuple[tuple[int, int], ...]  # of layers; see `CacheLayout`
    layout: AbstractMesh | None = None  # of the group's devices; None for one device


Forward = Callable[
    [Weights, jax.Array, jax.Array, jax.Array | npt.NDArray[np.int32]],
    tuple[jax.Array, Forwarded],
]
PromptLogprobs = Callable[
    [Weights, jax.Array, npt.NDArray[np.int32], npt.NDArray[np.float32], np.int32],
    TokenLogprobs,
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The programs of a model are jitted, or compiled for one group of devices.

    Instances of the model share jitted ones when `StepOptions.layout` is their groups'.
    """

    forwards: Mapping[Bucket, Forward]  # smallest first
    scores: Mapping[Bucket, PromptLogprobs]  # of mixed buckets
    samplers: Mapping[int, Sampler]  # by the rows of a bucket
    set_row: Callable[..., RowState]  # see `sampling.set_row`
    observe: Callable[..., RowState]  # see `sampling.observe_tokens`

    def changed(self, change: Callable[[Any], Any]) -> "Programs":
        """Returns the same with something else in the place of each program."""
        return Programs(
            forwards={key: change(one) for key, one in self.forwards.items()},
            scores={key: change(one) for key, one in self.scores.items()},
            samplers={
                key: Sampler(SamplerPrograms(*map(change, one.programs)))
                for key, one in self.samplers.items()
            },
            set_row=change(self.set_row),
            observe=change(self.observe),
        )


def make_programs(
    parts: ModelParts,
    *,
    buckets: Sequence[Bucket],
    options: StepOptions,
    platform: str,
) -> Programs:
    """Returns the jitted programs of a model for its buckets."""
    ordered = sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.rows))
    score = jax.jit(make_prompt_logprobs(parts, layout=options.layout))
    sampler = Sampler.jitted(platform=platform)
    return Programs(
        forwards={
            bucket: jax.jit(
                make_forward(parts, bucket=bucket, options=options), donate_argnums=1
            )
            for bucket in ordered
        },
        scores={bucket: score for bucket in ordered if not bucket.is_decode},
        samplers={bucket.rows: sampler for bucket in ordered},
        set_row=jax.jit(set_row, donate_argnums=0),
        observe=jax.jit(observe_tokens, donate_argnums=0),
    )


def make_forward(parts: ModelParts, *, bucket: Bucket, options: StepOptions) -> Forward:
    """Builds the forward pass of a bucket, to be jitted with argument 1 donated."""
    layout = options.layout

    def forward(
        weights: Weights,
        pool: jax.Array,
        last_token: jax.Array,
        vector: jax.Array | npt.NDArray[np.int32],
    ) -> tuple[jax.Array, Forwarded]:
        inputs = cut_vector(jnp.asarray(vector), bucket=bucket)
        model = parts.join(weights)
        newest = last_token[inputs.sources[inputs.owners]]  # [T]
        tokens = jnp.where(inputs.token_ids < 0, newest, inputs.token_ids)
        attend = paged_attention(
            inputs,
            places=options.places,
            page_tokens=options.page_tokens,
            is_decode=bucket.is_decode,
            backend=options.attention_backend,
            layout=layout,
        )
        hidden, pool = model(tokens, inputs.positions, pool, attend)  # [T, D]
        last = hidden if bucket.is_decode else hidden[inputs.last]  # [B, D]
        values = gather_logits(_scores(model, last), layout=layout)
        return pool, Forwarded(
            logits=Logits(values=values, are_finite=are_finite(values)),
            hidden=None if bucket.is_decode else whole(hidden, layout=layout),
        )

    return forward


def prompt_chunk(bucket: Bucket) -> int:
    """Returns how many positions of a bucket `prompt_logprobs` takes at once."""
    return min(bucket.tokens, LOGITS_CHUNK)


def make_prompt_logprobs(
    parts: ModelParts, *, layout: AbstractMesh | None
) -> PromptLogprobs:
    """Builds what scores a chunk of a prompt, so that [T, V] never exists.

    Its arguments are weights, hidden [T, D], targets i32[`prompt_chunk`] (the token
    after each position), temperatures f32[`prompt_chunk`] (which divide the logits; 1
    leaves them to the bit) and the first position of the chunk.
    """

    def prompt_logprobs(
        weights: Weights,
        hidden: jax.Array,
        targets: npt.NDArray[np.int32],
        temperatures: npt.NDArray[np.float32],
        start: np.int32,
    ) -> TokenLogprobs:
        some = jax.lax.dynamic_slice_in_dim(hidden, start, targets.shape[0])
        values = gather_logits(_scores(parts.join(weights), some), layout=layout)
        scaled = values / jnp.asarray(temperatures)[:, None]
        return token_logprobs(scaled, jnp.asarray(targets))

    return prompt_logprobs


def _scores(model: ServableModel, hidden: jax.Array) -> jax.Array:
    return model.logits(hidden).astype(jnp.float32)
