"""Measures for the kernels suite, one function per figure, in seconds per call.

Calls are chained inside one compiled program, each with the output of the one before
among its inputs, so that neither dispatch nor overlap counts. Inputs are random, larger
than any L2 cache, and the layer changes from call to call.
"""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.kernels.loads import GROUP, HEAD, KV_HEADS, LAYERS, Load
from mell_jax.bench.stats import median
from mell_jax.models.config import ModelConfig
from mell_jax.models.decoder import Decoder
from mell_jax.pallas_kernels import (
    QuantizedPool,
    gather_pages,
    ragged_paged_attention,
    scatter_pages,
)
from mell_jax.worker.cache_layout import lay_out
from mell_jax.worker.layout import Bucket, new_vector
from mell_jax.worker.pool import PAGE_TOKENS, pool_shape
from mell_jax.worker.sampling import (
    NOTHING,
    SLOT_COLUMN,
    greedy_rows,
    init_row_state,
    pack_rows,
)
from mell_jax.worker.step import StepOptions, make_programs, split_model

ENOUGH_S = 0.02  # a lap takes this long at least, or MOST_PROGRAMS
MOST_PROGRAMS = 16  # in flight at once
Attend = Callable[..., jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer takes medians of synchronised laps after a warm-up.

    A lap dispatches short programs one behind the other and waits once, or the host's
    part of a program that takes a millisecond would count.
    """

    repeats: int
    chain: int = 8  # calls in one program

    def seconds(self, function: Callable[..., Any], *arguments: Any) -> float:
        jax.block_until_ready(function(*arguments))
        once_s = self._lap(function, arguments, programs=1)
        programs = max(1, min(MOST_PROGRAMS, math.ceil(ENOUGH_S / once_s)))
        return median(
            [
                self._lap(function, arguments, programs=programs)
                for _ in range(self.repeats)
            ]
        )

    @staticmethod
    def _lap(
        function: Callable[..., Any], arguments: tuple[Any, ...], *, programs: int
    ) -> float:
        start_s = time.perf_counter()
        for _ in range(programs):
            out = function(*arguments)
        jax.block_until_ready(out)
        return (time.perf_counter() - start_s) / programs


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def _some(key: jax.Array, *, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32).astype(dtype)


def normal(seed: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Returns random numbers, made on the device a slice at a time."""
    rows = max(1, shape[0] // max(1, math.prod(shape) // 2**28))
    counts = [min(rows, shape[0] - start) for start in range(0, shape[0], rows)]
    keys = jax.random.split(jax.random.key(seed), len(counts))
    parts = [
        _some(key, shape=(count, *shape[1:]), dtype=jnp.dtype(dtype).name)
        for key, count in zip(keys, counts, strict=True)
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def copy_bandwidth(timer: Timer, *, rows: int) -> float:
    """Returns bytes read and written per second by a copy of so many rows of 2**20
    bytes.
    """
    x = normal(0, (rows, 2**19), jnp.bfloat16)
    seconds = timer.seconds(jax.jit(lambda x: -x), x)
    return 2 * x.nbytes / seconds


def matmul_flops(timer: Timer, *, size: int) -> float:
    """Returns bfloat16 multiplications and additions per second of square matrices."""
    x = normal(0, (size, size), jnp.bfloat16)

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        y = x
        for _ in range(timer.chain):
            y = (x @ y) * 0.01
        return y

    return timer.chain * 2 * size**3 / timer.seconds(chain, x)


def attention_inputs(load: Load, *, kv_dtype: Any, seed: int) -> dict[str, Any]:
    """Returns arguments of the op, pages shuffled."""
    pages_per_row = load.context // PAGE_TOKENS
    num_pages = load.rows * pages_per_row + 1
    shape = (num_pages, LAYERS, 2, KV_HEADS, PAGE_TOKENS, HEAD)
    numbers = normal(seed, shape, jnp.bfloat16)
    pool: Any = numbers
    if jnp.dtype(kv_dtype).itemsize == 1:
        pages = jax.jit(lambda x: jnp.clip(x * 32, -127, 127).astype(kv_dtype))(numbers)
        pool = QuantizedPool(pages=pages, scales=jnp.full(shape[:4], 1 / 32))
    order = jax.random.permutation(jax.random.key(seed), num_pages - 1) + 1
    tokens = load.rows * load.new
    return {
        "q": normal(seed + 1, (tokens, KV_HEADS * GROUP, HEAD), jnp.bfloat16),
        "pool": pool,
        "page_table": order.reshape(load.rows, pages_per_row).astype(jnp.int32),
        "kv_lens": jnp.full((load.rows,), load.context, jnp.int32),
        "cu_q_lens": jnp.arange(load.rows + 1, dtype=jnp.int32) * load.new,
    }


def attention_seconds(timer: Timer, inputs: dict[str, Any], attend: Attend) -> float:
    """Times a call of `attend(q, pool, layer=, page_table=, kv_lens=, cu_q_lens=)`."""

    @jax.jit
    def chain(q: jax.Array, pool: Any, **metadata: jax.Array) -> jax.Array:
        out = q
        for call in range(timer.chain):
            layer = jnp.int32(call % LAYERS)
            out = q + attend(out, pool, layer=layer, **metadata) * 0.01
        return out

    def call() -> jax.Array:
        out: jax.Array = chain(**inputs)
        return out

    return timer.seconds(call) / timer.chain


def paged(load: Load, *, backend: str | None) -> Attend:
    """Returns our op as `attend`."""
    return functools.partial(
        ragged_paged_attention,
        sm_scale=HEAD**-0.5,
        decode=load.is_decode,
        backend=backend,
    )


def cudnn_seconds(timer: Timer, load: Load, *, seed: int) -> float:
    """Times jax's cuDNN attention over contiguous keys and values, per call."""
    rows, heads = load.rows, KV_HEADS * GROUP
    shape = (rows, load.context, KV_HEADS, HEAD)
    pairs = [  # arrays of their own: a slice would be copied for cuDNN
        tuple(normal(seed + 2 * i + j, shape, jnp.bfloat16) for j in (0, 1))
        for i in range(LAYERS)
    ]
    q = normal(seed + 9, (rows, load.new, heads, HEAD), jnp.bfloat16)

    @jax.jit
    def chain(q: jax.Array, pairs: list[tuple[jax.Array, ...]]) -> jax.Array:
        out = q
        for call in range(timer.chain):
            k, v = pairs[call % LAYERS]
            out = q + 0.01 * jax.nn.dot_product_attention(
                out,
                k,
                v,
                is_causal=not load.is_decode,
                implementation="cudnn",
            )
        return out

    return timer.seconds(chain, q, pairs) / timer.chain


def jax_paged_seconds(timer: Timer, load: Load, *, seed: int) -> float:
    """Returns jax's own paged decode attention, one layer, heads before pages, per
    call.
    """
    from jax.experimental.pallas.ops.gpu import (  # noqa: PLC0415 deprecated: it warns
        paged_attention,
    )

    pages_per_row = load.context // PAGE_TOKENS
    shape = (KV_HEADS, load.rows * pages_per_row, PAGE_TOKENS, HEAD)
    k, v = (normal(seed + i, shape, jnp.bfloat16) for i in (0, 1))
    q = normal(seed + 2, (load.rows, KV_HEADS * GROUP, HEAD), jnp.bfloat16)
    order = jax.random.permutation(jax.random.key(seed), shape[1]).astype(jnp.int32)
    table = order.reshape(load.rows, pages_per_row)
    lens = jnp.full((load.rows,), load.context, jnp.int32)

    @jax.jit
    def chain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out = q
        for _ in range(timer.chain):
            out = q + 0.01 * paged_attention.paged_attention(out, k, v, table, lens)
        return out

    return timer.seconds(chain, q, k, v) / timer.chain


def move_seconds(
    timer: Timer,
    *,
    seed: int,
    count: int,
    pages: int,
    dtype: Any = jnp.bfloat16,
) -> tuple[float, float]:
    """Times a gather and a scatter of `count` pages (2 MiB in bfloat16), per call."""
    shape = (pages, 32, 2, KV_HEADS, PAGE_TOKENS, HEAD)
    pool = normal(seed, shape, dtype)
    order = jax.random.permutation(jax.random.key(seed), shape[0] - 1) + 1
    ids = jnp.resize(order, (timer.chain, count)).astype(jnp.int32)

    @jax.jit
    def gather(pool: jax.Array, ids: jax.Array) -> list[jax.Array]:
        return [gather_pages(pool, ids[i]) for i in range(timer.chain)]

    taken = timer.seconds(gather, pool, ids) / timer.chain
    moved = gather(pool, ids)  # as many chunks as calls, or a cache would hold it

    @functools.partial(jax.jit, donate_argnums=0)
    def scatter(pool: jax.Array, ids: jax.Array, moved: list[jax.Array]) -> jax.Array:
        for i, chunk in enumerate(moved):
            pool = scatter_pages(pool, ids[i], chunk)
        return pool

    holder = [pool]

    def put() -> jax.Array:
        holder[0] = scatter(holder[0], ids, moved)
        return holder[0]

    return taken, timer.seconds(put) / timer.chain


def step_seconds(
    timer: Timer,
    *,
    config: ModelConfig,
    load: Load,
    backend: str,
    seed: int,
    dtype: Any = jnp.bfloat16,
) -> tuple[float, int]:
    """Times a whole decode step, weights random; also the bytes that it must read."""
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    parts, shapes = split_model(*nnx.split(decoder))
    weights = tuple(
        normal(seed + i, leaf.shape, leaf.dtype) * jnp.asarray(0.02, leaf.dtype)
        for i, leaf in enumerate(shapes)
    )
    pages = load.context // PAGE_TOKENS
    bucket = Bucket(tokens=load.rows, rows=load.rows, pages=pages, is_decode=True)
    options = StepOptions(
        attention_backend=backend,
        page_tokens=PAGE_TOKENS,
        places=lay_out(config).places,
    )
    programs = make_programs(
        parts, buckets=[bucket], options=options, platform=jax.default_backend()
    )
    forward = programs.forwards[bucket]
    shape = pool_shape(config, num_pages=load.rows * pages + 1)
    pool = normal(seed, shape, dtype)
    rows = init_row_state(rows=load.rows, vocab_size=config.vocab_size)
    packed = jnp.asarray(pack_rows(greedy_rows(load.rows, slot=0)))
    packed = packed.at[SLOT_COLUMN].set(jnp.arange(load.rows))
    state = (pool, rows)
    vector, inputs = new_vector(bucket)
    inputs.kv_lens[:] = load.context
    inputs.positions[:] = load.context - 1
    inputs.owners[:] = inputs.sources[:] = range(load.rows)
    inputs.cu_q_lens[:] = range(load.rows + 1)
    inputs.page_table[:] = 1 + jax.random.permutation(
        jax.random.key(seed), load.rows * pages
    ).reshape(load.rows, pages)
    on_device = jnp.asarray(vector)

    def call() -> jax.Array:
        nonlocal state
        pool, rows = state
        pool, forwarded = forward(weights, pool, rows.last_token, on_device)
        sampled, rows = programs.samplers[bucket.rows].sample(
            forwarded.logits, rows, packed, wants=NOTHING
        )
        state = (pool, rows)
        return sampled.tokens

    embedding = config.vocab_size * config.hidden_size  # rows of it are read, not all
    read = sum(leaf.nbytes for leaf in weights) - 2 * embedding + pool.nbytes
    return timer.seconds(call), read
