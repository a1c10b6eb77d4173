"""The compiled step: tokens in, next tokens out, everything else stays on the device.

    step(weights, pool, rows, vector) -> (pool, rows, outputs)

`pool` and `rows` are donated and updated in place. A bucket has one executable that
serves every mix of sampling parameters; see `worker.sampling`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from mell_jax.models.decoder import Attend, Decoder
from mell_jax.pallas_kernels import ragged_paged_attention, write_kv
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
    """Of each token's successor in its prompt; zeros when nobody asked."""

    chosen: jax.Array  # f32[T]
    top_ids: jax.Array  # i32[T, 20]
    top: jax.Array  # f32[T, 20]


class StepOutputs(NamedTuple):
    """Results of one step; the host fetches what it needs of them."""

    tokens: jax.Array  # i32[B], -1 for a row whose logits are not finite
    sampled: Sampled
    prompt: PromptLogprobs | None  # None in decode buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """Everything of a decoder but its arrays."""

    graphdef: nnx.GraphDef[Decoder]
    treedef: jax.tree_util.PyTreeDef

    def join(self, weights: Weights) -> Decoder:
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, weights))


def split_model(
    graphdef: nnx.GraphDef[Decoder], state: nnx.State[Any, Any]
) -> tuple[ModelParts, Weights]:
    """A split decoder as what a compiled step knows and what it is given."""
    weights, treedef = jax.tree.flatten(state)
    return ModelParts(graphdef=graphdef, treedef=treedef), tuple(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """What the compiled step depends on besides its bucket."""

    attention_backend: str
    page_tokens: int  # S


Step = Callable[
    [Weights, jax.Array, RowState, jax.Array | npt.NDArray[np.int32]],
    tuple[jax.Array, RowState, StepOutputs],
]


def make_step(parts: ModelParts, *, bucket: Bucket, options: StepOptions) -> Step:
    """Builds the step of one bucket, to be jitted with arguments 1 and 2 donated."""

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
        attend = _paged_attention(inputs, bucket=bucket, options=options)
        hidden, pool = model(tokens, inputs.positions, pool, attend)  # [T, D]
        last = hidden if bucket.is_decode else hidden[inputs.last]  # [B, D]
        sampled, rows = sample(
            model.logits(last),
            state=rows,
            slots=inputs.slots,
            rows=unpack_rows(inputs.sampling),
            flags=unpack_flags(inputs.sample_flags),
        )
        prompt = None
        if not bucket.is_decode:
            prompt = _prompt_logprobs(model, hidden, inputs)
        tokens = jnp.where(sampled.finite, sampled.token, jnp.int32(-1))
        return pool, rows, StepOutputs(tokens, sampled, prompt)

    return step


def _paged_attention(
    inputs: StepInputs[jax.Array], *, bucket: Bucket, options: StepOptions
) -> Attend[jax.Array]:
    page, offset = jnp.divmod(inputs.positions, options.page_tokens)  # [T]
    # Padding tokens belong to no row: they go to the scratch page.
    page = inputs.page_table.at[inputs.owners, page].get(mode="fill", fill_value=0)
    page_slots = page * options.page_tokens + offset

    def attend(
        pool: jax.Array,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        layer: int,
        window: int | None,
    ) -> tuple[jax.Array, jax.Array]:
        pool = write_kv(pool, k, v, layer=layer, page_slots=page_slots)
        out = ragged_paged_attention(
            q,
            pool,
            layer=layer,
            page_table=inputs.page_table,
            kv_lens=inputs.kv_lens,
            cu_q_lens=inputs.cu_q_lens,
            sm_scale=1.0 / math.sqrt(q.shape[-1]),
            window=window,
            decode=bucket.is_decode,
            backend=options.attention_backend,
        )
        return pool, out

    return attend


def _prompt_logprobs(
    model: Decoder, hidden: jax.Array, inputs: StepInputs[jax.Array]
) -> PromptLogprobs:
    """A chunk of positions at a time, so that [T, V] never exists."""
    count = hidden.shape[0]
    chunk = math.gcd(count, LOGITS_CHUNK)

    def some(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return token_logprobs(model.logits(part[0]), targets=part[1])

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
