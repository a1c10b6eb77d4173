"""Measures what sleep gives back, and how soon an engine is there again.

Bytes are those of all arrays that live on devices, seen from outside. The wake from
level 2 ends with the first token of a short prompt and is beside what has to come back
at least: as many bytes of weights, copied from the host's pinned memory onto the
devices, and a pool of zeros.
"""

import gc
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.rl.clock import in_ms, ratio, seconds_of
from mell_jax.bench.stats import Summary
from mell_jax.bench.workload import Int32Array
from mell_jax.engine.params import SamplingParams
from mell_jax.llm import LLM
from mell_jax.models.decoder import Decoder
from mell_jax.worker.compilation import CompilationCounter

HOST = "pinned_host"


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepResult:
    """Sleep gave back so much, and waking took so long."""

    pool_bytes: int
    weights_bytes: int
    pool_share: float  # of its bytes, given back at level 1
    weights_share: float  # of theirs, given back at level 2
    copy_ms: Summary  # of the weights
    zeros_ms: Summary  # of the pool
    first_token_ms: Summary  # from the wake on
    ratio: float  # of it to both together, median over pairs
    compilations: int  # while it was measured; must be 0


def measure_sleep(
    llm: LLM,
    decoder: Decoder,
    *,
    prompt: Int32Array,
    pool_bytes: int,
    weights_bytes: int,
    repeats: int,
) -> SleepResult:
    """Puts an idle engine to sleep and wakes it, over and over.

    Args:
      llm: serves `decoder`, whose weights are on the same devices.
      prompt: of the first token.
      pool_bytes: of the engine's KV pages.
      weights_bytes: of the engine's weights.
      repeats: of waking.
    """
    one = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)

    def wake() -> None:
        llm.wake()
        llm.generate([prompt], one)

    weights = jax.tree.leaves(nnx.state(decoder, nnx.Param))
    homes = [array.sharding for array in weights]
    away = [home.with_memory_kind(HOST) for home in homes]
    waiting = jax.block_until_ready(jax.device_put(weights, away))
    make_pool = jax.jit(lambda: jnp.zeros(pool_bytes // 4, jnp.float32))
    make_pool().block_until_ready()
    llm.generate([prompt], one)
    compiled = CompilationCounter()
    awake = live_bytes()
    llm.sleep(level=1)
    without_pool = live_bytes()
    wake()
    copies, zeros, wakes = [], [], []
    for _ in range(repeats):
        copies.append(
            seconds_of(lambda: jax.block_until_ready(jax.device_put(waiting, homes)))
        )
        zeros.append(seconds_of(lambda: make_pool().block_until_ready()))
        llm.sleep(level=2)
        without_both = live_bytes()
        wakes.append(seconds_of(wake))
    return SleepResult(
        pool_bytes=pool_bytes,
        weights_bytes=weights_bytes,
        pool_share=(awake - without_pool) / pool_bytes,
        weights_share=(without_pool - without_both) / weights_bytes,
        copy_ms=in_ms(copies),
        zeros_ms=in_ms(zeros),
        first_token_ms=in_ms(wakes),
        ratio=ratio(wakes, [sum(both) for both in zip(copies, zeros, strict=True)]),
        compilations=compiled.count,
    )


def live_bytes() -> int:
    """Returns the bytes of all arrays in the devices' own memory.

    Memory that several arrays refer to, such as one and its pieces, counts once.
    """
    gc.collect()
    pieces = [
        shard.data
        for array in jax.live_arrays()
        if array.sharding.memory_kind != HOST
        for shard in array.addressable_shards
    ]
    places = {(p.device, p.unsafe_buffer_pointer()): p.nbytes for p in pieces}
    return sum(places.values())
