"""A device worker holds an instance's weights, KV pool, row state and programs.

Everything is dispatched asynchronously and in order on one group of devices.
`dispatch` returns at once with a `Pending`, which waits when it is asked for results;
the caller keeps one step in flight.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mell_jax.worker.compile import (
    HISTORY_CHUNK,
    compile_program,
    compile_programs,
    forward_arguments,
)
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.held_weights import HeldWeights
from mell_jax.worker.layout import Bucket, new_vector
from mell_jax.worker.sampling import (
    ALL_VARIANTS,
    BIAS_CAP,
    NOTHING,
    STOP_CAP,
    RowState,
    TokenLogprobs,
    Want,
    greedy_rows,
    init_row_state,
    mask_shape,
    pack_rows,
    token_chunks,
)
from mell_jax.worker.step import Forwarded, Programs, Weights, prompt_chunk

Int32Array = npt.NDArray[np.int32]


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

    def take(self, which: npt.NDArray[np.bool_]) -> "FetchedLogprobs":
        """Returns the rows that `which` [n] names."""
        return FetchedLogprobs(self.chosen[which], self.top_ids[which], self.top[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTargets:
    """These tokens of a step are scored: what came after each of them is known."""

    targets: Int32Array  # [T]
    temperatures: npt.NDArray[np.float32]  # [T] that divide the logits
    at: Int32Array  # which of the T are wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """A call is one step as `dispatch` takes it; its arrays stay as they are."""

    bucket: Bucket
    vector: Int32Array  # of the forward pass; see `layout`
    rows: Int32Array  # [ROW_COLUMNS, B] for the sampler; see `sampling.rows`
    wants: Want = NOTHING  # of at least one row
    mask: Int32Array | None = None  # [B, ceil(V / 32)], where a row wants it
    prompt: PromptTargets | None = None  # to be scored, in a mixed bucket


class Pending:
    """The results of a dispatched step are still on their way.

    Args:
      tokens: i32[B].
      logprobs: of the tokens, where some row wanted them.
      prompt: of chunks of the prompt, by their first position; see `prompt_chunk`.
    """

    def __init__(
        self,
        tokens: jax.Array,
        *,
        logprobs: TokenLogprobs | None,
        prompt: Mapping[int, TokenLogprobs],
    ) -> None:
        self._tokens, self._logprobs, self._prompt = tokens, logprobs, prompt
        self._all: list[Any] = jax.tree.leaves((tokens, logprobs, prompt))
        for array in self._all:
            array.copy_to_host_async()

    @property
    def is_ready(self) -> bool:
        """Returns whether the step is over; never blocks."""
        return all(array.is_ready() for array in self._all)

    def wait(self) -> None:
        """Waits for the step, from any thread; raises what it did."""
        jax.block_until_ready(self._all)

    def tokens(self) -> Int32Array:
        """Returns [B] tokens, or why there is none (`Sampled`); waits for the step."""
        return np.asarray(self._tokens)

    def logprobs(self) -> FetchedLogprobs | None:
        """Returns [B] rows, when the step computed them."""
        return None if self._logprobs is None else _fetch(self._logprobs)

    def prompt_logprobs(self, at: Int32Array) -> FetchedLogprobs:
        """Returns rows of the tokens `at`, which were asked for at dispatch."""
        starts = np.array(sorted(self._prompt))
        parts = [_fetch(self._prompt[start]) for start in starts.tolist()]
        places = np.searchsorted(starts, at, side="right") - 1
        rows = places * len(parts[0].chosen) + at - starts[places]
        return FetchedLogprobs(
            chosen=np.concatenate([part.chosen for part in parts])[rows],
            top_ids=np.concatenate([part.top_ids for part in parts])[rows],
            top=np.concatenate([part.top for part in parts])[rows],
        )


class DeviceWorker:
    """Runs steps of one model on one group of devices.

    Args:
      programs: of the model, made for the group's layout; see `make_programs`.
      group: where `weights` and `pool` lie.
      weights: see `step.split_model` and `step.put_weights`; or those that it shares
        with others on the same devices.
      pool: see `pool.make_pool`; the worker's alone from now on.
      max_rows: slots for sequences.
      vocab_size: V.
    """

    def __init__(
        self,
        programs: Programs,
        *,
        group: DeviceGroup,
        weights: Weights | HeldWeights,
        pool: jax.Array,
        max_rows: int,
        vocab_size: int,
    ) -> None:
        if not isinstance(weights, HeldWeights):
            weights = HeldWeights(weights)
        self.held = weights
        self.held.enter()
        self.group = group
        # Committed, as the steps' outputs are: jit compiles anew when that changes.
        self._pool: jax.Array = jax.device_put(pool, group.pool_sharding)
        shape, dtype = pool.shape, pool.dtype
        self._new_pool = jax.jit(
            lambda: jnp.zeros(shape, dtype), out_shardings=group.pool_sharding
        )
        self._programs = programs
        self._scratch_slot = max_rows
        self.vocab_size = vocab_size
        new_rows = jax.jit(
            init_row_state,
            static_argnames=("rows", "vocab_size"),
            out_shardings=group.replicated,
        )
        self._rows: RowState = new_rows(rows=max_rows, vocab_size=vocab_size)

    @property
    def buckets(self) -> list[Bucket]:
        """Returns the compiled shapes, smallest first."""
        return list(self._programs.forwards)

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
        """Gives the pool's memory back, and the weights', which wait in the host's.

        They stay while another instance on the same devices makes steps with them.
        """
        self._pool.delete()
        self.held.leave(keeps=keeps_weights)

    def unpark(self) -> None:
        """Undoes `park`, with a pool of zeros; see `is_ready`."""
        self._pool = self._new_pool()
        self.held.enter()

    @property
    def is_ready(self) -> bool:
        """Tells whether the weights and what is in the pool have arrived."""
        pool: Any = self._pool  # typed without `is_ready`
        return bool(pool.is_ready()) and self.held.is_ready

    def wait_ready(self) -> None:
        """Waits until `is_ready`."""
        jax.block_until_ready(self._pool)
        self.held.wait_ready()

    def choose_bucket(self, *, tokens: int, rows: int, is_decode: bool) -> Bucket:
        """Returns the smallest compiled shape that holds a step.

        Raises:
          ValueError: when no bucket is large enough.
        """
        for bucket in self._programs.forwards:
            fits = bucket.tokens >= tokens and bucket.rows >= rows
            if fits and bucket.is_decode == is_decode:
                return bucket
        raise ValueError(
            f"no compiled step for {tokens} tokens in {rows} rows "
            f"(decode: {is_decode}) among {[str(b) for b in self._programs.forwards]}"
        )

    def warm_up(self, *, progress: bool, threads: int = 2) -> None:
        """Compiles every program and runs each once, so that nothing compiles later."""
        self._programs = compile_programs(
            self._programs,
            weights=self.held.arrays,
            pool=self._pool,
            rows=self._rows,
            padding={rows: self._padding(rows) for rows in self._programs.samplers},
            platform=self.group.devices[0].platform,
            progress=progress,
            threads=threads,
        )
        self._set_up_scratch_row()
        by_rows = {bucket.rows: bucket for bucket in self.buckets}  # one is enough
        for bucket in self.buckets:  # one after the other: logits are large
            self._run_once(bucket, samples=by_rows[bucket.rows] is bucket)

    def _run_once(self, bucket: Bucket, *, samples: bool) -> None:
        """Runs what a step of a bucket may dispatch, on the scratch page and slot.

        Args:
          bucket: of the step.
          samples: runs the sampler's programs, too.
        """
        forwarded = self.forward(self._padding_vector(bucket), bucket=bucket)
        mask = np.full(mask_shape(bucket.rows, self.vocab_size), -1, np.int32)
        for wants in ALL_VARIANTS if samples else ():
            _, self._rows = self._programs.samplers[bucket.rows].sample(
                forwarded.logits,
                self._rows,
                self._padding(bucket.rows),
                wants=wants,
                mask=mask,
            )
        scored: Mapping[int, TokenLogprobs] = {}
        if not bucket.is_decode:
            nothing = PromptTargets(
                targets=np.zeros(bucket.tokens, np.int32),
                temperatures=np.ones(bucket.tokens, np.float32),
                at=np.zeros(1, np.int32),
            )
            scored = self._score(forwarded, nothing, bucket=bucket)
        jax.block_until_ready((self._pool, self._rows, scored))

    def compile(self, bucket: Bucket) -> jax.stages.Compiled:
        """Returns the executable of a forward pass, as it is called by `dispatch`."""
        forward: Any = self._programs.forwards[bucket]
        if isinstance(forward, jax.stages.Compiled):
            return forward
        return compile_program(
            forward,
            forward_arguments(
                bucket, weights=self.held.arrays, pool=self._pool, rows=self._rows
            ),
            platform=self.group.devices[0].platform,
        )

    def probe(self) -> Pending:
        """Starts the smallest step with padding alone: does the device still work?

        It changes nothing that a sequence reads; its tokens mean nothing.
        """
        bucket = self.buckets[0]
        return self.dispatch(
            StepCall(
                bucket=bucket,
                vector=self._padding_vector(bucket),
                rows=self._padding(bucket.rows),
            )
        )

    def _padding_vector(self, bucket: Bucket) -> Int32Array:
        vector, inputs = new_vector(bucket)
        inputs.sources[:] = self._scratch_slot
        inputs.owners[:] = bucket.rows
        return vector

    def _padding(self, rows: int) -> Int32Array:
        return pack_rows(greedy_rows(rows, slot=self._scratch_slot))

    def _set_up_scratch_row(self) -> None:
        """Runs what sets up a row."""
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

    def set_up_row(self, setup: RowSetup) -> None:
        """Gives a slot to a sequence; takes effect before the next dispatched step."""
        ids = np.full(BIAS_CAP, self.vocab_size, np.int32)
        values = np.zeros(BIAS_CAP, np.float32)
        ids[: len(setup.bias)] = list(setup.bias)
        values[: len(setup.bias)] = list(setup.bias.values())
        stops = np.full(STOP_CAP, self.vocab_size, np.int32)
        stops[: len(setup.stop_ids)] = setup.stop_ids
        self._rows = self._programs.set_row(
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
            self._rows = self._programs.observe(
                self._rows,
                slot=np.int32(setup.slot),
                tokens=chunk.tokens,
                num_prompt=chunk.num_prompt,
                num_valid=chunk.num_valid,
            )

    def dispatch(self, call: StepCall) -> Pending:
        """Starts one step."""
        forwarded = self.forward(call.vector, bucket=call.bucket)
        sampled, self._rows = self._programs.samplers[call.bucket.rows].sample(
            forwarded.logits,
            self._rows,
            call.rows,
            wants=call.wants,
            mask=call.mask,
        )
        scored: Mapping[int, TokenLogprobs] = {}
        if call.prompt is not None:
            scored = self._score(forwarded, call.prompt, bucket=call.bucket)
        return Pending(sampled.tokens, logprobs=sampled.logprobs, prompt=scored)

    def forward(self, vector: Int32Array, *, bucket: Bucket) -> Forwarded:
        """Starts a forward pass alone: nothing is sampled."""
        self._pool, forwarded = self._programs.forwards[bucket](
            self.held.arrays, self._pool, self._rows.last_token, vector
        )
        return forwarded

    def _score(
        self, forwarded: Forwarded, prompt: PromptTargets, *, bucket: Bucket
    ) -> dict[int, TokenLogprobs]:
        """Scores the chunks of a prompt in which something is wanted."""
        assert forwarded.hidden is not None, "prompts are scored in mixed buckets"
        score, chunk = self._programs.scores[bucket], prompt_chunk(bucket)
        last = bucket.tokens - chunk  # where the last chunk starts: it may overlap
        return {
            int(start): score(
                self.held.arrays,
                forwarded.hidden,
                prompt.targets[start : start + chunk],
                prompt.temperatures[start : start + chunk],
                np.int32(start),
            )
            for start in np.minimum(np.unique(prompt.at // chunk) * chunk, last)
        }


def _fetch(made: TokenLogprobs) -> FetchedLogprobs:
    return FetchedLogprobs(
        np.asarray(made.chosen), np.asarray(made.top_ids), np.asarray(made.top)
    )
