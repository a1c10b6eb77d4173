"""A device worker holds an instance's weights, KV pool, row state and compiled steps.

Everything is dispatched asynchronously and in order on one group of devices.
`dispatch` returns at once with a `Pending`, which waits when it is asked for results;
the caller keeps one step in flight.
"""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.progress import Progress
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.layout import Bucket, new_vector, vector_size
from mell_jax.worker.sampling import (
    BIAS_CAP,
    STOP_CAP,
    RowState,
    init_row_state,
    observe_tokens,
    set_row,
    token_chunks,
)
from mell_jax.worker.step import (
    ModelParts,
    PromptLogprobs,
    Step,
    StepOptions,
    StepOutputs,
    Weights,
    make_step,
)

Int32Array = npt.NDArray[np.int32]
HISTORY_CHUNK = 512
"""Tokens per call when a row's history is counted for its penalties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSetup:
    """A setup tells a slot about its sequence before the sequence's first step."""

    slot: int
    bias: dict[int, float]  # token id -> added to its logit
    allow_only: bool  # nothing but the tokens in `bias` may be sampled
    stop_ids: tuple[int, ...]  # barred until min_tokens is reached
    history: Int32Array | None  # tokens so far, if penalties need their counts
    num_prompt: int  # how many of `history` are prompt


@dataclass(frozen=True, slots=True)
class FetchedLogprobs:
    """The copies are NumPy's: `chosen` [n], `top_ids` [n, 20], `top` [n, 20]."""

    chosen: npt.NDArray[np.float32]
    top_ids: Int32Array
    top: npt.NDArray[np.float32]


class Pending:
    """The results of a dispatched step are still on their way."""

    def __init__(
        self, outputs: StepOutputs, *, wants_logprobs: bool, wants_prompt: bool
    ) -> None:
        self._outputs = outputs
        self._wants_logprobs = wants_logprobs
        self._wants_prompt = wants_prompt
        outputs.tokens.copy_to_host_async()

    @property
    def is_ready(self) -> bool:
        """Returns whether the step is over; never blocks."""
        tokens: Any = self._outputs.tokens  # typed without `is_ready`
        return bool(tokens.is_ready())

    def wait(self) -> None:
        """Waits for the step, from any thread; raises what it did."""
        self._outputs.tokens.block_until_ready()

    def tokens(self) -> Int32Array:
        """Returns [B] sampled tokens, -1 where logits were not finite; waits for the
        step.
        """
        return np.asarray(self._outputs.tokens)

    def logprobs(self) -> FetchedLogprobs | None:
        """Returns [B] rows, when the step computed them."""
        if not self._wants_logprobs:
            return None
        sampled = self._outputs.sampled
        return _fetch(sampled.logprob, sampled.top_ids, sampled.top_logprobs)

    def prompt_logprobs(self) -> FetchedLogprobs | None:
        """Returns [T] rows, when the step computed them."""
        prompt: PromptLogprobs | None = self._outputs.prompt
        if not self._wants_prompt or prompt is None:
            return None
        return _fetch(prompt.chosen, prompt.top_ids, prompt.top)


def jit_steps(
    parts: ModelParts, *, buckets: Sequence[Bucket], options: StepOptions
) -> dict[Bucket, Step]:
    """Returns the steps of a model, smallest bucket first, compiled at their first
    call.

    Instances of the same model share them, when `options.layout` is their groups'.
    """
    return {
        bucket: jax.jit(
            make_step(parts, bucket=bucket, options=options), donate_argnums=(1, 2)
        )
        for bucket in sorted(buckets, key=lambda b: (b.tokens, b.rows))
    }


class DeviceWorker:
    """Runs steps of one model on one group of devices.

    Args:
      steps: of the model, compiled for the group's layout; see `jit_steps`.
      group: where `weights` and `pool` lie.
      weights: see `step.split_model` and `step.put_weights`.
      pool: see `pool.make_pool`; the worker's alone from now on.
      max_rows: slots for sequences.
      vocab_size: V.
    """

    def __init__(
        self,
        steps: Mapping[Bucket, Step],
        *,
        group: DeviceGroup,
        weights: Weights,
        pool: jax.Array,
        max_rows: int,
        vocab_size: int,
    ) -> None:
        self._weights = weights
        self.group = group
        # Committed, as the steps' outputs are: jit compiles anew when that changes.
        self._pool: jax.Array = jax.device_put(pool, group.pool_sharding)
        shape, dtype = pool.shape, pool.dtype
        self._new_pool = jax.jit(
            lambda: jnp.zeros(shape, dtype), out_shardings=group.pool_sharding
        )
        self._steps = steps
        self._set_row = jax.jit(set_row, donate_argnums=0)
        self._observe = jax.jit(observe_tokens, donate_argnums=0)
        self._scratch_slot = max_rows
        self._vocab_size = vocab_size
        new_rows = jax.jit(
            init_row_state,
            static_argnames=("rows", "vocab_size"),
            out_shardings=group.replicated,
        )
        self._rows: RowState = new_rows(rows=max_rows, vocab_size=vocab_size)

    @property
    def buckets(self) -> list[Bucket]:
        """Returns the compiled shapes, smallest first."""
        return list(self._steps)

    @property
    def scratch_slot(self) -> int:
        """Returns a slot of no sequence, for padding."""
        return self._scratch_slot

    @property
    def pool(self) -> jax.Array:
        """Returns the KV pool [P, 2L, KS, H]; replaced by every step."""
        return self._pool

    def replace_pool(self, change: Callable[[jax.Array], jax.Array]) -> None:
        """Puts `change(pool)` in the pool's place; for transfers and for tests."""
        self._pool = jax.device_put(change(self._pool), self.group.pool_sharding)

    def park(self, *, keeps_weights: bool) -> None:
        """Gives the pool's memory back, and the weights', which wait in the host's."""
        self._pool.delete()
        if not keeps_weights:
            self._weights = _move_weights(self._weights, to="pinned_host")

    def unpark(self) -> None:
        """Undoes `park`, with a pool of zeros; see `is_ready`."""
        self._pool = self._new_pool()
        self._weights = _move_weights(self._weights, to="device")

    @property
    def is_ready(self) -> bool:
        """Tells whether the weights and what is in the pool have arrived."""
        arrays: list[Any] = [self._pool, *self._weights]  # typed without `is_ready`
        return all(array.is_ready() for array in arrays)

    def wait_ready(self) -> None:
        """Waits until `is_ready`."""
        jax.block_until_ready((self._pool, self._weights))

    def choose_bucket(self, *, tokens: int, rows: int, is_decode: bool) -> Bucket:
        """Returns the smallest compiled shape that holds a step.

        Raises:
          ValueError: when no bucket is large enough.
        """
        for bucket in self._steps:
            fits = bucket.tokens >= tokens and bucket.rows >= rows
            if fits and bucket.is_decode == is_decode:
                return bucket
        raise ValueError(
            f"no compiled step for {tokens} tokens in {rows} rows "
            f"(decode: {is_decode}) among {[str(b) for b in self._steps]}"
        )

    def warm_up(self, *, progress: bool, threads: int = 2) -> None:
        """Compiles every step and runs each once, so that nothing compiles later."""

        def compile_step(bucket: Bucket) -> Bucket:
            self.compile(bucket)
            return bucket

        bar = Progress(
            "compiling", total=len(self._steps), unit="steps", has_bar=progress
        )
        with bar, concurrent.futures.ThreadPoolExecutor(threads) as executor:
            jobs = [executor.submit(compile_step, b) for b in self._steps]
            for job in concurrent.futures.as_completed(jobs):
                bar.advance(note=str(job.result()))
        self._run_each_once()

    def compile(self, bucket: Bucket) -> jax.stages.Compiled:
        """Returns the executable of one step, as it is called by `dispatch`."""
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            (self._weights, self._pool, self._rows),
        )
        vector = jax.ShapeDtypeStruct((vector_size(bucket),), np.int32)
        jitted: jax.stages.Wrapped = self._steps[bucket]  # type: ignore[assignment]
        return jitted.lower(*shapes, vector).compile()

    def _run_each_once(self) -> None:
        self.set_up_row(
            RowSetup(
                slot=self._scratch_slot,
                bias={},
                allow_only=False,
                stop_ids=(),
                history=np.zeros(1, np.int32),
                num_prompt=1,
            )
        )
        for bucket in self._steps:
            self._dispatch_padding(bucket).tokens()

    def probe(self) -> Pending:
        """Starts the smallest step with padding alone: does the device still work?

        It changes nothing that a sequence reads; its tokens mean nothing.
        """
        return self._dispatch_padding(self.buckets[0])

    def _dispatch_padding(self, bucket: Bucket) -> Pending:
        """Starts a step without a row, on the scratch page and slot."""
        vector, inputs = new_vector(bucket)
        inputs.slots[:] = self._scratch_slot
        inputs.sources[:] = self._scratch_slot
        inputs.owners[:] = bucket.rows
        return self.dispatch(vector, bucket=bucket)

    def set_up_row(self, setup: RowSetup) -> None:
        """Gives a slot to a sequence; takes effect before the next dispatched step."""
        ids = np.full(BIAS_CAP, self._vocab_size, np.int32)
        values = np.zeros(BIAS_CAP, np.float32)
        ids[: len(setup.bias)] = list(setup.bias)
        values[: len(setup.bias)] = list(setup.bias.values())
        stops = np.full(STOP_CAP, self._vocab_size, np.int32)
        stops[: len(setup.stop_ids)] = setup.stop_ids
        self._rows = self._set_row(
            self._rows,
            slot=np.int32(setup.slot),
            last_token=np.int32(0),
            bias_ids=ids,
            bias_values=values,
            allow_only=np.bool_(setup.allow_only),
            stop_ids=stops,
        )
        if setup.history is None:
            return
        prompt, generated = np.split(setup.history, [setup.num_prompt])
        for chunk in token_chunks(
            prompt, generated=generated, chunk_tokens=HISTORY_CHUNK
        ):
            self._rows = self._observe(
                self._rows,
                slot=np.int32(setup.slot),
                tokens=chunk.tokens,
                num_prompt=chunk.num_prompt,
                num_valid=chunk.num_valid,
            )

    def dispatch(
        self,
        vector: Int32Array,
        *,
        bucket: Bucket,
        wants_logprobs: bool = False,
        wants_prompt: bool = False,
    ) -> Pending:
        """Starts one step; `vector` (see `layout`) must not be written to again."""
        self._pool, self._rows, outputs = self._steps[bucket](
            self._weights, self._pool, self._rows, vector
        )
        return Pending(
            outputs, wants_logprobs=wants_logprobs, wants_prompt=wants_prompt
        )


def _move_weights(weights: Weights, *, to: str) -> Weights:
    """The weights in another kind of memory of the same devices.

    Nothing is deleted: instances on one device share their weights.
    """
    shardings = [array.sharding.with_memory_kind(to) for array in weights]
    return tuple(jax.device_put(list(weights), shardings))


def _fetch(chosen: jax.Array, top_ids: jax.Array, top: jax.Array) -> FetchedLogprobs:
    return FetchedLogprobs(np.asarray(chosen), np.asarray(top_ids), np.asarray(top))
