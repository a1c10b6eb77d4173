"""The compiled step takes tokens in and gives next tokens out; all else stays there.

    step(weights, pool, rows, vector) -> (pool, rows, outputs)

`pool` and `rows` are donated and updated in place. A bucket has one executable that
serves every mix of sampling parameters; see `worker.sampling`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import AbstractMesh

from mell_jax.models.decoder import Decoder
from mell_jax.worker.attend import paged_attention
from mell_jax.worker.group import DeviceGroup, gather_logits
from mell_jax.worker.layout import Bucket, StepInputs, cut_vector
from mell_jax.worker.sampling import (
    RowState,
    Sampled,
    sample,
    token_logprobs,
    unpack_flags,
    unpack_rows,
)
from mell_jax.worker.sampling.sampler import TOP_LOGPROBS

Weights = tuple[jax.Array, ...]
"""The arrays of a model in a fixed order: jit takes a tuple apart in C++, where a
state of many Python objects costs more than the rest of a dispatch."""
LOGITS_CHUNK = 128
"""Prompt positions whose logits are alive at once when their logprobs are wanted."""


class PromptLogprobs(NamedTuple):
    """The log probabilities are of each token's successor; zeros when nobody asked."""

    chosen: jax.Array  # f32[T]
    top_ids: jax.Array  # i32[T, 20]
    top: jax.Array  # f32[T, 20]


class StepOutputs(NamedTuple):
    """The outputs are of one step; the host fetches what it needs of them."""

    tokens: jax.Array  # i32[B], -1 for a row whose logits are not finite
    sampled: Sampled
    prompt: PromptLogprobs | None  # None in decode buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The parts are everything of a decoder but its arrays."""

    graphdef: nnx.GraphDef[Decoder]
    treedef: jax.tree_util.PyTreeDef
    paths: tuple[tuple[str | int, ...], ...]  # of the weights, in their order

    def join(self, weights: Weights) -> Decoder:
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, weights))


def split_model(
    graphdef: nnx.GraphDef[Decoder], state: nnx.State[Any, Any]
) -> tuple[ModelParts, Weights]:
    """Returns a split decoder as what a compiled step knows and what it is given."""
    weights, treedef = jax.tree.flatten(state)
    paths = tuple(
        tuple(key if isinstance(key, int) else str(key) for key in path)
        for path, _ in nnx.to_flat_state(state)  # in the order of the leaves
    )
    assert len(paths) == len(weights), "a parameter is one array"
    parts = ModelParts(graphdef=graphdef, treedef=treedef, paths=paths)
    return parts, tuple(weights)


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
    layout: AbstractMesh | None = None  # of the group's devices; None for one device


Step = Callable[
    [Weights, jax.Array, RowState, jax.Array | npt.NDArray[np.int32]],
    tuple[jax.Array, RowState, StepOutputs],
]


def make_step(parts: ModelParts, *, bucket: Bucket, options: StepOptions) -> Step:
    """Builds the step of one bucket, to be jitted with arguments 1 and 2 donated."""
    layout = options.layout

    def step(
        weights: Weights,
        pool: jax.Array,
        rows: RowState,
        vector: jax.Array | npt.NDArray[np.int32],
    ) -> tuple[jax.Array, RowState, StepOutputs]:
        inputs = cut_vector(jnp.asarray(vector), bucket=bucket)
        model = parts.join(weights)
        newest = rows.last_token[inputs.sources[inputs.owners]]  # [T]
        tokens = jnp.where(inputs.token_ids < 0, newest, inputs.token_ids)
        attend = paged_attention(
            inputs,
            page_tokens=options.page_tokens,
            is_decode=bucket.is_decode,
            backend=options.attention_backend,
            layout=layout,
        )
        hidden, pool = model(tokens, inputs.positions, pool, attend)  # [T, D]
        last = hidden if bucket.is_decode else hidden[inputs.last]  # [B, D]
        sampled, rows = sample(
            gather_logits(model.logits(last), layout=layout),
            state=rows,
            slots=inputs.slots,
            rows=unpack_rows(inputs.sampling),
            flags=unpack_flags(inputs.sample_flags),
        )
        prompt = None
        if not bucket.is_decode:
            prompt = _prompt_logprobs(model, hidden, inputs, layout=layout)
        tokens = jnp.where(sampled.finite, sampled.token, jnp.int32(-1))
        return pool, rows, StepOutputs(tokens, sampled, prompt)

    return step


def _prompt_logprobs(
    model: Decoder,
    hidden: jax.Array,
    inputs: StepInputs[jax.Array],
    *,
    layout: AbstractMesh | None,
) -> PromptLogprobs:
    """A chunk of positions at a time, so that [T, V] never exists."""
    count = hidden.shape[0]
    chunk = math.gcd(count, LOGITS_CHUNK)

    def some(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        logits = gather_logits(model.logits(part[0]), layout=layout)
        return token_logprobs(logits, targets=part[1])

    def compute() -> tuple[jax.Array, ...]:
        parts = (
            hidden.reshape(count // chunk, chunk, -1),
            inputs.targets.reshape(count // chunk, chunk),
        )
        chosen, ids, top = jax.lax.map(some, parts)
        return chosen.reshape(-1), _join(ids), _join(top)

    def skip() -> tuple[jax.Array, ...]:
        return (
            jnp.zeros((count,), jnp.float32),
            jnp.zeros((count, TOP_LOGPROBS), jnp.int32),
            jnp.zeros((count, TOP_LOGPROBS), jnp.float32),
        )

    return PromptLogprobs(*jax.lax.cond(inputs.prompt_flag != 0, compute, skip))


def _join(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
