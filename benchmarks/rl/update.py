"""Measures how long new weights take, and how long streams wait for them.

An update is beside a bare copy: the same bytes on the same devices, by one compiled
program. The two take turns. Downtime is the longest gap of a stream around an update,
in gaps that are usual for it: 1 if nobody noticed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.rl.clock import in_ms, ratio, seconds_of
from benchmarks.rl.following import Followed, followed
from mell_jax.bench.stats import Summary, median
from mell_jax.bench.workload import Int32Array
from mell_jax.engine.params import SamplingParams
from mell_jax.llm import LLM
from mell_jax.models.decoder import Decoder
from mell_jax.worker.compilation import CompilationCounter

STILL_TOKENS = 20
"""Of each stream before an update, by which its usual gap is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """New weights took so long, made all at once or streamed."""

    is_streamed: bool
    nbytes: int
    update_ms: Summary  # nobody else is there
    copy_ms: Summary
    ratio: float  # median over pairs
    busy_ms: Summary  # streams go on
    gap_ms: Summary  # the longest of each update
    still_ms: float  # median gap of streams while nothing is updated
    downtime_steps: float  # median over updates
    compilations: int  # while it was measured; must be 0


def measure_update(
    llm: LLM,
    decoder: Decoder,
    *,
    prompts: Sequence[Int32Array],
    is_streamed: bool,
    repeats: int,
) -> UpdateResult:
    """Updates an idle engine, then one that streams an answer to each prompt.

    Args:
      llm: serves `decoder`, whose weights are on the same devices.
      repeats: of both.

    Raises:
      RuntimeError: an answer is too short for that.
    """

    def update() -> int:
        return llm.update_weights(decoder, streamed=is_streamed).nbytes

    weights = jax.tree.leaves(nnx.state(decoder, nnx.Param))
    copy = jax.jit(lambda arrays: [jnp.copy(array) for array in arrays])
    nbytes = update()  # compiles what it needs
    jax.block_until_ready(copy(weights))
    compiled = CompilationCounter()
    copies, updates = [], []
    for _ in range(repeats):
        copies.append(seconds_of(lambda: jax.block_until_ready(copy(weights))))
        updates.append(seconds_of(update))
    busy, still, gaps = [], [], []
    params = SamplingParams(temperature=1.0, ignore_eos=True, seed=0)
    with followed(llm, prompts, params) as streams:
        streams.wait_for(4)
        for _ in range(repeats):
            still.append(_usual_gap_s(streams))
            start_s = time.perf_counter()
            busy.append(seconds_of(update))
            end_s = time.perf_counter()
            streams.wait_for(2)
            gaps.append(max(streams.gaps_s(start_s=start_s, end_s=end_s)))
    return UpdateResult(
        is_streamed=is_streamed,
        nbytes=nbytes,
        update_ms=in_ms(updates),
        copy_ms=in_ms(copies),
        ratio=ratio(updates, copies),
        busy_ms=in_ms(busy),
        gap_ms=in_ms(gaps),
        still_ms=1e3 * median(still),
        downtime_steps=ratio(gaps, still),
        compilations=compiled.count,
    )


def _usual_gap_s(streams: Followed) -> float:
    start_s = time.perf_counter()
    streams.wait_for(STILL_TOKENS)
    return median(streams.gaps_s(start_s=start_s, end_s=time.perf_counter()))
