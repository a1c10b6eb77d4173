"""Attends over pages on Hopper GPUs when decoding: Mosaic, TMA, wgmma, two warpgroups.

One block of threads computes one row and KV head over one share of its keys. A memory
warpgroup does nothing but fetch pages, by one TMA copy each, into a ring of slots; a
compute warpgroup multiplies what has arrived and hands the slot back:

    memory    fetch 0  fetch 1  fetch 2  ...  wait until 0 is consumed, fetch 3
    compute            S, softmax, O of 0     of 1     of 2

The `G = N / K` query heads are the first rows of a tile of 64, which is what wgmma
takes. Longer rows of a mixed batch go to the Triton kernel. Called by `attention.api`,
which has checked the arguments.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from mell_jax.pallas_kernels.attention import tiles as cutting
from mell_jax.pallas_kernels.attention import triton
from mell_jax.pallas_kernels.attention.tuning import MosaicGpuSizes, mosaic_gpu_sizes
from mell_jax.pallas_kernels.compat import interpreting, load_shared, transposed
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_MASKED = -1e30
_ROWS = 64  # of a wgmma tile
_COMPUTE, _MEMORY = 0, 1  # warpgroups
_Carry = tuple[jax.Array, jax.Array, jax.Array]  # out [64, H], peak [64], total [64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Static:
    """Everything a kernel is compiled for."""

    sizes: MosaicGpuSizes
    rows: int  # query heads per KV head, a multiple of 8
    head: int  # H
    kv_heads: int  # K
    layers: int  # L
    page_tokens: int  # S
    table_pages: int  # M
    sm_scale: float
    window: int | None
    soft_cap: float | None

    @property
    def block_pages(self) -> int:
        return self.sizes.block_tokens // self.page_tokens


class _Shared(NamedTuple):
    """Shared memory and barriers of a block of threads."""

    q: Any  # [64, H]
    k: Any  # [slots, C, H]
    v: Any  # [slots, C, H]
    weights: Any  # [64, C]
    out: Any  # [64, H] float32
    peak: Any  # [64]
    total: Any  # [64]
    q_ready: Any
    k_ready: Any  # [slots]
    v_ready: Any  # [slots]
    consumed: Any  # [slots]


class _Inputs(NamedTuple):
    """Global memory."""

    q: Any  # [B, K, rows, H]
    tiles: Any  # [P * L * 2 * K, S, H]
    layer: Any  # [1]
    table: Any  # [B, M]
    lens: Any  # [B]


class _Share(NamedTuple):
    """The keys of one block of threads, as int32 scalars."""

    row: Any
    kv_head: Any
    first: Any  # first block of keys
    blocks: Any
    length: Any  # keys of the row


def ragged_paged_attention(
    q: jax.Array,  # [B, N, H]
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
    sizes: MosaicGpuSizes | None = None,
) -> jax.Array:
    """See `api.ragged_paged_attention`.

    Args:
      interpret: a bool, or `plgpu.InterpretGPUParams` of jax 0.11 and later.
      sizes: to measure them; None for the tuned ones.
    """
    assert not isinstance(pool, QuantizedPool), "refused by `backends`"
    common: dict[str, Any] = {
        "layer": layer,
        "page_table": page_table,
        "device_kind": device_kind,
        "interpret": interpret,
    }
    options = (sm_scale, window, soft_cap)
    lens = jnp.where(cu_q_lens[1:] - cu_q_lens[:-1] == 1, kv_lens, 0)
    if decode:
        return _decode(q, pool, lens=lens, options=options, sizes=sizes, **common)
    out = triton.attend_long_rows(
        q,
        pool,
        kv_lens=kv_lens,
        cu_q_lens=cu_q_lens,
        options=options,
        **{**common, "interpret": bool(interpret)},
    )
    first = q[jnp.minimum(cu_q_lens[:-1], q.shape[0] - 1)]
    single = _decode(first, pool, lens=lens, options=options, sizes=sizes, **common)
    return cutting.scatter_singles(out, single, cu_q_lens)


def _decode(
    q: jax.Array,  # [B, N, H]
    pool: jax.Array,  # [P, L, 2, K, S, H]
    *,
    layer: jax.Array,
    page_table: jax.Array,  # [B, M]
    lens: jax.Array,  # [B], 0 where nothing is to be done
    options: tuple[float, int | None, float | None],
    device_kind: str,
    interpret: Any,
    sizes: MosaicGpuSizes | None,
) -> jax.Array:  # [B, N, H]
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    rows, q_heads, _ = q.shape
    group = q_heads // kv_heads
    padded = -(-group // 8) * 8
    static = _Static(
        sizes=sizes
        or mosaic_gpu_sizes(
            device_kind=device_kind,
            programs=rows * kv_heads,
            table_tokens=page_table.shape[1] * page_tokens,
        ),
        rows=padded,
        head=head,
        kv_heads=kv_heads,
        layers=layers,
        page_tokens=page_tokens,
        table_pages=page_table.shape[1],
        sm_scale=options[0],
        window=options[1],
        soft_cap=options[2],
    )
    grouped = q.reshape(rows, kv_heads, group, head)
    inputs = _Inputs(
        q=jnp.pad(grouped, ((0, 0), (0, 0), (0, padded - group), (0, 0))),
        tiles=pool.reshape(pages * layers * 2 * kv_heads, page_tokens, head),
        layer=layer.reshape(1),
        table=page_table,
        lens=lens,
    )
    out, peak, total = _call(inputs, static, interpret)
    shape = (static.sizes.num_splits, rows, q_heads)
    joined = cutting.join_splits(
        out[:, :, :, :group].reshape(*shape, head),
        peak=peak[:, :, :, :group].reshape(shape),
        total=total[:, :, :, :group].reshape(shape),
    )
    return joined.astype(q.dtype)


def _call(inputs: _Inputs, static: _Static, interpret: Any) -> list[jax.Array]:
    """Shares of the softmax: [Z, B, K, rows, H], [Z, B, K, 64] and [Z, B, K, 64]."""
    sizes, dtype = static.sizes, inputs.q.dtype
    grid = (inputs.q.shape[0], static.kv_heads, sizes.num_splits)
    lead = (grid[2], *grid[:2])
    tiled = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    tiled32 = (plgpu.TilingTransform((8, 32)), plgpu.SwizzleTransform(128))
    slot = (sizes.num_slots, sizes.block_tokens, static.head)
    scratch = _Shared(
        q=plgpu.SMEM((_ROWS, static.head), dtype, transforms=tiled),
        k=plgpu.SMEM(slot, dtype, transforms=tiled),
        v=plgpu.SMEM(slot, dtype, transforms=tiled),
        weights=plgpu.SMEM((_ROWS, sizes.block_tokens), dtype, transforms=tiled),
        out=plgpu.SMEM((_ROWS, static.head), jnp.float32, transforms=tiled32),
        peak=plgpu.SMEM((_ROWS,), jnp.float32),
        total=plgpu.SMEM((_ROWS,), jnp.float32),
        q_ready=plgpu.Barrier(),
        k_ready=plgpu.Barrier(
            num_arrivals=static.block_pages, num_barriers=sizes.num_slots
        ),
        v_ready=plgpu.Barrier(
            num_arrivals=static.block_pages, num_barriers=sizes.num_slots
        ),
        consumed=plgpu.Barrier(num_barriers=sizes.num_slots),
    )
    kernel = plgpu.kernel(
        functools.partial(_kernel, static=static),
        out_type=[
            jax.ShapeDtypeStruct((*lead, static.rows, static.head), jnp.float32),
            jax.ShapeDtypeStruct((*lead, _ROWS), jnp.float32),
            jax.ShapeDtypeStruct((*lead, _ROWS), jnp.float32),
        ],
        grid=grid,
        grid_names=("row", "kv_head", "split"),
        num_threads=2,
        thread_name="warpgroup",
        scratch_types=list(scratch),
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
        **interpreting(interpret),
    )
    out: list[jax.Array] = kernel(*inputs)
    return out


def _kernel(*refs: Any, static: _Static) -> None:
    """Refs: inputs, out, peak, total, shared memory."""
    inputs = _Inputs(*refs[:5])
    out_refs, shared = refs[5:8], _Shared(*refs[8:])
    row, kv_head = lax.axis_index("row"), lax.axis_index("kv_head")
    split = lax.axis_index("split")
    share = _share(inputs.lens[row], row, kv_head, split, static=static)
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup == _COMPUTE)
    def _compute() -> None:
        plgpu.set_max_registers(232, action="increase")
        q = shared.q.at[pl.ds(0, static.rows)]
        plgpu.copy_gmem_to_smem(inputs.q.at[row, kv_head], q, shared.q_ready)
        plgpu.barrier_wait(shared.q_ready)
        carry = _attend(shared, share, static)
        _store(shared, carry, [ref.at[split, row, kv_head] for ref in out_refs], static)

    @pl.when(warpgroup == _MEMORY)
    def _memory() -> None:
        plgpu.set_max_registers(40, action="decrease")
        _fetch_all(inputs, shared, share, static)


def _share(
    length: Any, row: Any, kv_head: Any, split: Any, *, static: _Static
) -> _Share:
    block = jnp.int32(static.sizes.block_tokens)
    first = jnp.int32(0)
    if static.window is not None:
        first = lax.div(jnp.maximum(length - static.window, 0), block)
    count = pl.cdiv(length, block) - first
    each = pl.cdiv(count, jnp.int32(static.sizes.num_splits))
    begin = split * each
    return _Share(
        row=row,
        kv_head=kv_head,
        first=first + begin,
        blocks=jnp.maximum(jnp.minimum(each, count - begin), 0),
        length=length,
    )


def _fetch_all(
    inputs: _Inputs, shared: _Shared, share: _Share, static: _Static
) -> None:
    """The memory warpgroup: one block after the other into the ring of slots."""
    slots = jnp.int32(static.sizes.num_slots)
    layer = inputs.layer[0]
    last = jnp.maximum(pl.cdiv(share.length, jnp.int32(static.page_tokens)) - 1, 0)

    @pl.loop(0, share.blocks)
    def _block(index: jax.Array) -> None:
        slot = lax.rem(index, slots)

        @pl.when(index >= slots)
        def _reuse() -> None:
            plgpu.barrier_wait(shared.consumed.at[slot])

        for i in range(static.block_pages):
            at = (share.first + index) * static.block_pages + i
            page = inputs.table[share.row, jnp.minimum(at, last)]
            tile = (page * static.layers + layer) * (2 * static.kv_heads)
            tile += share.kv_head
            span = pl.ds(i * static.page_tokens, static.page_tokens)
            plgpu.copy_gmem_to_smem(
                inputs.tiles.at[tile], shared.k.at[slot, span], shared.k_ready.at[slot]
            )
            plgpu.copy_gmem_to_smem(
                inputs.tiles.at[tile + static.kv_heads],
                shared.v.at[slot, span],
                shared.v_ready.at[slot],
            )


def _attend(shared: _Shared, share: _Share, static: _Static) -> _Carry:
    """The compute warpgroup: the online softmax over all blocks of the share."""
    rows_layout = plgpu.Layout.WGMMA.reduce(1)
    shape = (_ROWS, static.head)
    start = (
        plgpu.layout_cast(jnp.full(shape, 0, jnp.float32), plgpu.Layout.WGMMA),
        plgpu.layout_cast(jnp.full((_ROWS,), _MASKED, jnp.float32), rows_layout),
        plgpu.layout_cast(jnp.full((_ROWS,), 0, jnp.float32), rows_layout),
    )

    def one_block(index: jax.Array, carry: _Carry) -> _Carry:
        slot = lax.rem(index, jnp.int32(static.sizes.num_slots))
        first = (share.first + index) * static.sizes.block_tokens
        plgpu.barrier_wait(shared.k_ready.at[slot])
        scores = _scores(shared, slot, first, share, static)
        out, peak, total = carry
        new_peak = jnp.maximum(peak, scores.max(axis=1))
        fade = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores - lax.broadcast_in_dim(new_peak, scores.shape, [0]))
        total = total * fade + weights.sum(axis=1)
        shared.weights[...] = weights.astype(shared.weights.dtype)
        plgpu.barrier_wait(shared.v_ready.at[slot])
        _zero_unused(shared, slot, first, share, static)
        plgpu.commit_smem()
        out = out * lax.broadcast_in_dim(fade, out.shape, [0])
        out = out + _weighted_values(shared, slot, static)

        @pl.when(index + static.sizes.num_slots < share.blocks)
        def _consumed() -> None:  # somebody waits for the slot
            plgpu.barrier_arrive(shared.consumed.at[slot])

        return out, new_peak, total

    carry: _Carry = lax.fori_loop(0, share.blocks, one_block, start)
    return carry


def _scores(
    shared: _Shared, slot: Any, first: Any, share: _Share, static: _Static
) -> jax.Array:  # [64, C] in base 2
    shape = (_ROWS, static.sizes.block_tokens)

    def multiply(out: Any) -> jax.Array:
        plgpu.wgmma(out, shared.q, transposed(shared.k.at[slot]))
        product: jax.Array = out[...]
        return product

    scores = pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))
    if static.soft_cap is None:
        scores = scores * (static.sm_scale * math.log2(math.e))
    else:
        scores = jnp.tanh(scores * (static.sm_scale / static.soft_cap))
        scores = scores * (static.soft_cap * math.log2(math.e))
    key = first + plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
    seen = key < share.length
    if static.window is not None:
        seen = seen & (key >= share.length - static.window)
    return jnp.where(seen, scores, _MASKED)


def _zero_unused(
    shared: _Shared, slot: Any, first: Any, share: _Share, static: _Static
) -> None:
    """Zeros for values past the row's end or before its window: they may be NaN."""
    block = static.sizes.block_tokens
    is_partial = first + block > share.length
    if static.window is not None:
        is_partial = is_partial | (first < share.length - static.window)

    @pl.when(is_partial)
    def _mask() -> None:
        shape = (block, static.head)
        key = first + plgpu.broadcasted_iota(
            jnp.int32, shape, 0, layout=plgpu.Layout.WGMMA
        )
        used = key < share.length
        if static.window is not None:
            used = used & (key >= share.length - static.window)
        v = load_shared(shared.v.at[slot], layout=plgpu.Layout.WGMMA)
        shared.v[slot] = jnp.where(used, v, jnp.zeros_like(v))


def _weighted_values(shared: _Shared, slot: Any, static: _Static) -> jax.Array:
    def multiply(out: Any) -> jax.Array:
        plgpu.wgmma(out, shared.weights, shared.v.at[slot])
        product: jax.Array = out[...]
        return product

    shape = (_ROWS, static.head)
    product: jax.Array = pl.run_scoped(
        multiply, plgpu.WGMMAAccumulatorRef(shape, jnp.float32)
    )
    return product


def _store(shared: _Shared, carry: _Carry, targets: list[Any], static: _Static) -> None:
    shared.out[...], shared.peak[...], shared.total[...] = carry
    plgpu.commit_smem()
    sources = (shared.out.at[pl.ds(0, static.rows)], shared.peak, shared.total)
    for source, target in zip(sources, targets, strict=True):
        plgpu.copy_smem_to_gmem(source, target)
    plgpu.wait_smem_to_gmem(0)
