"""Attends over pages on TPUs (v5e, v6e and later), with Mosaic.

The grid is one tile of query tokens after the other, all heads at once. A block of
pages is fetched, a page by one DMA, while the block before it is computed; the last
block of a tile fetches the first one of the next tile, so that short rows wait no more
than long ones:

    tile        0        0        1        2        2
    fetch  0.0  0.1      1.0      2.0      2.1       ...
    compute     0.0      0.1      1.0      2.0      2.1

Called by `attention.api`, which has checked the arguments.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mell_jax.pallas_kernels.attention import tiles as cutting
from mell_jax.pallas_kernels.attention.tiles import Tiles
from mell_jax.pallas_kernels.attention.tuning import MosaicTpuSizes, mosaic_tpu_sizes
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_MASKED = -1e30
_LANES, _SUBLANES = 128, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Static:
    """Everything a kernel is compiled for."""

    tile_tokens: int  # BQ
    group: int  # G' query heads per KV head, padded
    head: int  # H
    kv_heads: int  # K
    page_tokens: int  # S
    block_pages: int
    table_pages: int  # M
    sm_scale: float
    window: int | None
    soft_cap: float | None
    dot_dtype: Any
    is_quantized: bool

    @property
    def block_tokens(self) -> int:
        return self.block_pages * self.page_tokens

    @property
    def rows(self) -> int:
        return self.tile_tokens * self.group

    @property
    def precision(self) -> lax.Precision | None:
        """The default would multiply float32 as bfloat16."""
        return lax.Precision.HIGHEST if self.dot_dtype == jnp.float32 else None


class _Scalars(NamedTuple):
    """Prefetched into scalar memory."""

    row: Any  # [X]
    start: Any  # [X]
    tokens: Any  # [X]
    end: Any  # [X]
    layer: Any  # [1]
    table: Any  # [B * M]


class _Scratch(NamedTuple):
    """On-chip memory of a kernel, kept from tile to tile."""

    q: Any  # [K, BQ, G', H]
    kv: Any  # [2, pages of a block, 2, K, S, H] two slots
    scales: Any  # [2, 2K, C] two slots; of a quantised pool
    out: Any  # [K, BQ, G', H]
    peak: Any  # [K, M, 128] equal along lanes
    total: Any  # [K, M, 128] equal along lanes
    acc: Any  # [K, M, H]
    slot: Any  # [1] slot of the next block
    q_sem: Any
    kv_sem: Any  # [2]
    out_sem: Any


def ragged_paged_attention(
    q: jax.Array,  # [T, N, H]
    pool: Pool,  # [P, L, 2, K, S, H]
    *,
    layer: jax.Array,  # []
    page_table: jax.Array,  # [B, M]
    kv_lens: jax.Array,  # [B]
    cu_q_lens: jax.Array,  # [B + 1]
    sm_scale: float,
    window: int | None,
    soft_cap: float | None,
    decode: bool,
    device_kind: str,
    interpret: Any,
    sizes: MosaicTpuSizes | None = None,
) -> jax.Array:
    """See `api.ragged_paged_attention`.

    Args:
      interpret: a bool, or `pltpu.InterpretParams`.
      sizes: to measure them; None for the tuned ones.
    """
    kv_heads, page_tokens, head = pool.shape[3:]
    group = q.shape[1] // kv_heads
    sizes = sizes or mosaic_tpu_sizes(
        device_kind=device_kind,
        group=group,
        page_tokens=page_tokens,
        page_bytes=2 * kv_heads * page_tokens * head * pool.dtype.itemsize,
    )
    is_quantized = isinstance(pool, QuantizedPool)
    run = functools.partial(
        _attend,
        pool=pool,
        layer=layer,
        page_table=page_table,
        interpret=interpret,
        static=_Static(
            tile_tokens=1,
            group=-(-group // _SUBLANES) * _SUBLANES,
            head=head,
            kv_heads=kv_heads,
            page_tokens=page_tokens,
            block_pages=sizes.block_pages,
            table_pages=page_table.shape[1],
            sm_scale=sm_scale,
            window=window,
            soft_cap=soft_cap,
            dot_dtype=q.dtype if is_quantized else jnp.promote_types(q, pool),
            is_quantized=is_quantized,
        ),
    )
    tiles = cutting.single_tiles(cu_q_lens[1:] - cu_q_lens[:-1], kv_lens)
    if decode:
        return run(q, tiles=tiles, tile_tokens=1)
    tile_tokens = sizes.tile_tokens
    cut = cutting.cut_tiles(
        cu_q_lens, kv_lens, tokens=q.shape[0], tile_tokens=tile_tokens
    )
    out = run(q, tiles=cut, tile_tokens=tile_tokens)
    first = jnp.minimum(cu_q_lens[:-1], q.shape[0] - 1)
    single = run(q[first], tiles=tiles, tile_tokens=1)
    return cutting.scatter_singles(out, single, cu_q_lens)


def _attend(
    q: jax.Array,  # [T, N, H]
    *,
    pool: Pool,
    layer: jax.Array,
    page_table: jax.Array,
    tiles: Tiles,
    tile_tokens: int,
    interpret: Any,
    static: _Static,
) -> jax.Array:  # [T, N, H]
    tokens, q_heads, head = q.shape
    group = q_heads // static.kv_heads
    padded = group if tile_tokens * group % _SUBLANES == 0 else static.group
    static = replace(static, tile_tokens=tile_tokens, group=padded)
    operands = [_by_kv_head(q, static)]
    if isinstance(pool, QuantizedPool):
        operands += [pool.pages, _scales_per_key(pool, layer, page_table, static)]
    else:
        operands += [pool]
    out: jax.Array = pl.pallas_call(
        functools.partial(_kernel, static=static),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(_Scalars._fields),
            grid=(tiles.row.shape[0],),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * len(operands),
            out_specs=pl.BlockSpec(memory_space=pl.ANY),
            scratch_shapes=_scratch(static, q_dtype=q.dtype, kv_dtype=pool.dtype),
        ),
        out_shape=jax.ShapeDtypeStruct(
            operands[0].shape,
            q.dtype,
            manual_axis_type=jax.typeof(q).manual_axis_type,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=96 * 2**20
        ),
        interpret=interpret,
        name=f"mell_attention_{'decode' if tile_tokens == 1 else 'prefill'}",
    )(*tiles, layer.reshape(1), page_table.reshape(-1), *operands)
    out = out[:, :tokens, :group].transpose(1, 0, 2, 3)
    return out.reshape(tokens, q_heads, head)


def _by_kv_head(q: jax.Array, static: _Static) -> jax.Array:
    """[K, T + BQ, G', H]: a tile's rows of one KV head stand together."""
    tokens, q_heads, head = q.shape
    group = q_heads // static.kv_heads
    q = q.reshape(tokens, static.kv_heads, group, head).transpose(1, 0, 2, 3)
    padding = ((0, 0), (0, static.tile_tokens), (0, static.group - group), (0, 0))
    return jnp.pad(q, padding)


def _scales_per_key(
    pool: QuantizedPool, layer: jax.Array, page_table: jax.Array, static: _Static
) -> jax.Array:
    """[B, 2K, M' * S] one scale per key, M' a multiple of a block's pages.

    A thirtieth of the bytes that attention reads, and no vector has to be spread over
    lanes inside the kernel.
    """
    rows = page_table.shape[0]
    scales = pool.scales[page_table, layer]  # [B, M, 2, K]
    scales = scales.reshape(rows, -1, 2 * static.kv_heads).transpose(0, 2, 1)
    missing = -static.table_pages % static.block_pages
    scales = jnp.pad(scales, ((0, 0), (0, 0), (0, missing)))
    return jnp.repeat(scales, static.page_tokens, axis=2)


def _scratch(static: _Static, *, q_dtype: Any, kv_dtype: Any) -> list[Any]:
    """In the order of `_Scratch`."""
    kv_heads, head = static.kv_heads, static.head
    tile = (kv_heads, static.tile_tokens, static.group, head)
    page = (2, kv_heads, static.page_tokens, head)
    scales = (2, 2 * kv_heads, static.block_tokens) if static.is_quantized else (1, 128)
    return [
        pltpu.VMEM(tile, q_dtype),
        pltpu.VMEM((2, static.block_pages, *page), kv_dtype),
        pltpu.VMEM(scales, jnp.float32),
        pltpu.VMEM(tile, q_dtype),
        pltpu.VMEM((kv_heads, static.rows, _LANES), jnp.float32),
        pltpu.VMEM((kv_heads, static.rows, _LANES), jnp.float32),
        pltpu.VMEM((kv_heads, static.rows, head), jnp.float32),
        pltpu.SMEM((1,), jnp.int32),
        pltpu.SemaphoreType.DMA,
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.SemaphoreType.DMA,
    ]


def _kernel(*refs: Any, static: _Static) -> None:
    """One tile. Refs: scalars, q, pool, perhaps scales, out, scratch."""
    scalars = _Scalars(*refs[:6])
    scratch = _Scratch(*refs[-len(_Scratch._fields) :])
    q_hbm, *kv_hbm, out_hbm = refs[6 : -len(_Scratch._fields)]
    tile = pl.program_id(0)
    begin, count = _blocks(scalars, tile, static)
    fetch = functools.partial(_block_copies, scalars, scratch, kv_hbm, static=static)

    @pl.when(tile == 0)
    def _first() -> None:
        scratch.slot[0] = 0
        _start_first_block(fetch, scalars, tile, jnp.int32(0), static)

    start = scalars.start[tile]
    span = pl.ds(start, static.tile_tokens)
    q_copy = pltpu.make_async_copy(q_hbm.at[:, span], scratch.q, scratch.q_sem)
    q_copy.start()
    scratch.peak[...] = jnp.full_like(scratch.peak, _MASKED)
    scratch.total[...] = jnp.zeros_like(scratch.total)
    scratch.acc[...] = jnp.zeros_like(scratch.acc)
    q_copy.wait()
    slot0 = scratch.slot[0]
    is_last_tile = tile + 1 == pl.num_programs(0)

    def start_next_tile(slot: jax.Array) -> None:
        @pl.when(jnp.logical_not(is_last_tile))
        def _next() -> None:
            _start_first_block(fetch, scalars, tile + 1, slot, static)

    @pl.when(count == 0)
    def _nothing() -> None:
        start_next_tile(slot0)

    @pl.loop(0, count)
    def _block(index: jax.Array) -> None:
        slot = lax.rem(slot0 + index, 2)

        @pl.when(index + 1 < count)
        def _more() -> None:
            fetch(tile, begin + index + 1, slot=1 - slot, act=_start)

        @pl.when(index + 1 == count)
        def _last() -> None:
            start_next_tile(1 - slot)

        fetch(tile, begin + index, slot=slot, act=_wait)
        _compute(scalars, scratch, tile, begin + index, slot, static=static)

    scratch.slot[0] = lax.rem(slot0 + count, 2)

    # A tile shorter than BQ also writes zeros, or what the next tiles overwrite.
    @pl.when(scalars.tokens[tile] > 0)
    def _write() -> None:
        _finish(scratch, static)
        copy = pltpu.make_async_copy(scratch.out, out_hbm.at[:, span], scratch.out_sem)
        copy.start()
        copy.wait()


def _start(copy: Any) -> None:
    copy.start()


def _wait(copy: Any) -> None:
    copy.wait()


def _blocks(
    scalars: _Scalars, tile: jax.Array, static: _Static
) -> tuple[jax.Array, jax.Array]:
    """First key block of a tile, and how many there are."""
    end, tokens = scalars.end[tile], scalars.tokens[tile]
    first = jnp.int32(0)
    if static.window is not None:
        first = jnp.maximum(end - tokens - (static.window - 1), 0)
        first = lax.div(first, jnp.int32(static.block_tokens))
    last = lax.div(end + (static.block_tokens - 1), jnp.int32(static.block_tokens))
    return first, jnp.maximum(last - first, 0)


def _start_first_block(
    fetch: Callable[..., None],
    scalars: _Scalars,
    tile: jax.Array,
    slot: jax.Array,
    static: _Static,
) -> None:
    begin, count = _blocks(scalars, tile, static)

    @pl.when(count > 0)
    def _some() -> None:
        fetch(tile, begin, slot=slot, act=_start)


def _block_copies(
    scalars: _Scalars,
    scratch: _Scratch,
    kv_hbm: list[Any],
    tile: jax.Array,
    block: jax.Array,
    *,
    slot: jax.Array,
    act: Callable[[Any], None],
    static: _Static,
) -> None:
    """Starts, or waits for, the copies of a block: only pages that the tile may see."""
    row, layer = scalars.row[tile], scalars.layer[0]
    pages = lax.div(
        scalars.end[tile] + (static.page_tokens - 1), jnp.int32(static.page_tokens)
    )
    begin = block * static.block_pages

    @pl.loop(0, jnp.minimum(pages - begin, static.block_pages))
    def _one(i: jax.Array) -> None:
        page = scalars.table[row * static.table_pages + begin + i]
        source, target = kv_hbm[0].at[page, layer], scratch.kv.at[slot, i]
        act(pltpu.make_async_copy(source, target, scratch.kv_sem.at[slot]))

    if static.is_quantized:
        span = pl.ds(block * static.block_tokens, static.block_tokens)
        source, target = kv_hbm[1].at[row, :, span], scratch.scales.at[slot]
        act(pltpu.make_async_copy(source, target, scratch.kv_sem.at[slot]))


def _compute(
    scalars: _Scalars,
    scratch: _Scratch,
    tile: jax.Array,
    block: jax.Array,
    slot: jax.Array,
    *,
    static: _Static,
) -> None:
    """Adds one block of keys to the online softmax of every head."""
    end, tokens = scalars.end[tile], scalars.tokens[tile]
    shape = (static.rows, static.block_tokens)
    first = block * static.block_tokens
    key = first + lax.broadcasted_iota(jnp.int32, shape, 1)
    row = lax.broadcasted_iota(jnp.int32, shape, 0)
    position = end - tokens + lax.div(row, jnp.int32(static.group))
    seen = (key <= position) & (key < end)
    number = first + lax.broadcasted_iota(
        jnp.int32, (static.block_tokens, static.head), 0
    )
    used = number < end  # others may be NaN
    if static.window is not None:
        seen &= key > position - static.window
        used &= number > end - tokens - static.window
    for head in range(static.kv_heads):
        k, v = (_keys_or_values(scratch, slot, which, head, static) for which in (0, 1))
        q = scratch.q[head].reshape(static.rows, static.head).astype(static.dot_dtype)
        scores = lax.dot_general(
            q,
            k,
            (((1,), (1,)), ((), ())),
            precision=static.precision,
            preferred_element_type=jnp.float32,
        )
        if static.is_quantized:
            scores = scores * scratch.scales[slot, pl.ds(head, 1), :]
        scores = jnp.where(seen, _cap(scores * static.sm_scale, static), _MASKED)
        old_peak = scratch.peak[head]
        peak = jnp.maximum(old_peak, scores.max(1, keepdims=True))
        fade = jnp.exp(old_peak - peak)
        weights = jnp.where(seen, jnp.exp(scores - peak[:, :1]), 0.0)
        scratch.peak[head] = peak
        scratch.total[head] = scratch.total[head] * fade + weights.sum(1, keepdims=True)
        if static.is_quantized:
            v_scale = scratch.scales[slot, pl.ds(static.kv_heads + head, 1), :]
            weights = jnp.where(seen, weights * v_scale, 0.0)
        added = lax.dot_general(
            weights.astype(v.dtype),
            jnp.where(used, v, jnp.zeros((), v.dtype)),
            (((1,), (0,)), ((), ())),
            precision=static.precision,
            preferred_element_type=jnp.float32,
        )
        scratch.acc[head] = scratch.acc[head] * fade[:, :1] + added


def _keys_or_values(
    scratch: _Scratch, slot: jax.Array, which: int, head: int, static: _Static
) -> jax.Array:  # [C, H]
    numbers: jax.Array = scratch.kv[slot, :, which, head].astype(static.dot_dtype)
    return numbers.reshape(static.block_tokens, static.head)


def _cap(scores: jax.Array, static: _Static) -> jax.Array:
    if static.soft_cap is None:
        return scores
    return static.soft_cap * jnp.tanh(scores / static.soft_cap)


def _finish(scratch: _Scratch, static: _Static) -> None:
    """Divides by the sums of weights; zeros where no key was seen."""
    shape = (static.tile_tokens, static.group, static.head)
    for head in range(static.kv_heads):
        total = scratch.total[head][:, :1]
        out = scratch.acc[head] / jnp.where(total == 0.0, 1.0, total)
        scratch.out[head] = out.astype(scratch.out.dtype).reshape(shape)
