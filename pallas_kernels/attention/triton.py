"""Attends over pages on NVIDIA GPUs from compute capability 8.0 on, in Triton.

One program computes one tile of query tokens, for one KV head, over one share of the
keys; the `G = N / K` query heads of a KV head are rows of the same tile, so that decode
reads every key once and still multiplies on tensor cores:

    grid (tiles X, KV heads K, splits Z)      rows of a tile: token 0 heads 0..G-1, ...
    for each block of C keys:  S = Q K^T, online softmax in base 2, O = O a + P V

Keys and values are fetched tile by tile of the pool through the page table (see
`README.md`). Called by `attention.api`, which has checked the arguments.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from mell_jax.pallas_kernels.attention import tiles as cutting
from mell_jax.pallas_kernels.attention.tiles import Tiles
from mell_jax.pallas_kernels.attention.tuning import (
    AttentionProblem,
    TritonSizes,
    decode_sizes,
    next_power_of_two,
    prefill_sizes,
)
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool

_MASKED = -1e30
_Carry = tuple[jax.Array, jax.Array, jax.Array]  # out [M, H'], peak [M], total [M]


class _Singles(NamedTuple):
    """One tile per row, of one token: a program knows the rest from its number."""

    end: jax.Array  # [B] as in `Tiles`
    cu_q_lens: jax.Array | None  # [B + 1]; None: token b belongs to row b


@dataclass(frozen=True, slots=True, kw_only=True)
class _Static:
    """Everything a kernel is compiled for."""

    sizes: TritonSizes
    group: int  # G
    head: int  # H
    page_tokens: int  # S
    kv_heads: int  # K
    layers: int  # L
    sm_scale: float
    window: int | None
    soft_cap: float | None
    dot_dtype: Any
    is_quantized: bool
    num_tile_refs: int  # 4 for `Tiles`, 1 or 2 for `_Singles`
    is_in_place: bool  # writes into the first operand

    @property
    def padded_head(self) -> int:
        """H', since Triton's blocks are powers of two, and its products 16 deep."""
        return max(16, next_power_of_two(self.head))

    @property
    def precision(self) -> lax.Precision | None:
        """TF32 has too few bits for float32."""
        return lax.Precision.HIGHEST if self.dot_dtype == jnp.float32 else None


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
    interpret: bool,
    sizes: TritonSizes | None = None,
) -> jax.Array:
    """See `api.ragged_paged_attention`.

    Args:
      sizes: of the decode kernel, or of the other one in a mixed batch; to measure
        them. None for the tuned ones.
    """
    options = (sm_scale, window, soft_cap)
    common: dict[str, Any] = {
        "pool": pool,
        "layer": layer,
        "page_table": page_table,
        "options": options,
        "interpret": interpret,
    }
    problem = _problem(q, pool, page_table)
    end = cutting.single_tiles(cu_q_lens[1:] - cu_q_lens[:-1], kv_lens).end
    decoding = decode_sizes(problem, device_kind=device_kind)
    if decode:
        tiles = _Singles(end, None)
        return _attend(q, tiles=tiles, sizes=sizes or decoding, **common)
    out = attend_long_rows(
        q,
        pool,
        layer=layer,
        page_table=page_table,
        kv_lens=kv_lens,
        cu_q_lens=cu_q_lens,
        options=options,
        device_kind=device_kind,
        interpret=interpret,
        sizes=sizes,
    )
    tiles = _Singles(end, cu_q_lens)
    if decoding.num_splits == 1:
        return _attend(q, tiles=tiles, sizes=decoding, into=out, **common)
    single = _attend(q, tiles=tiles, sizes=decoding, **common)
    return cutting.scatter_singles(out, single, cu_q_lens)


def attend_long_rows(
    q: jax.Array,  # [T, N, H]
    pool: Pool,  # [P, L, 2, K, S, H]
    *,
    layer: jax.Array,
    page_table: jax.Array,  # [B, M]
    kv_lens: jax.Array,  # [B]
    cu_q_lens: jax.Array,  # [B + 1]
    options: tuple[float, int | None, float | None],  # scale, window, soft cap
    device_kind: str,
    interpret: bool,
    sizes: TritonSizes | None = None,
) -> jax.Array:
    """Returns [T, N, H] with the tokens of rows that have several, and zeros past all
    rows.

    Tokens of rows that have one are left as they are in fresh memory.
    """
    problem = _problem(q, pool, page_table)
    sizes = sizes or prefill_sizes(problem, device_kind=device_kind)
    tiles = cutting.cut_tiles(
        cu_q_lens, kv_lens, tokens=q.shape[0], tile_tokens=sizes.tile_tokens
    )
    return _attend(
        q,
        pool=pool,
        layer=layer,
        page_table=page_table,
        tiles=tiles,
        sizes=sizes,
        options=options,
        interpret=interpret,
    )


def _problem(q: jax.Array, pool: Pool, page_table: jax.Array) -> AttentionProblem:
    kv_heads, page_tokens, head = pool.shape[3:]
    return AttentionProblem(
        tiles=page_table.shape[0],
        kv_heads=kv_heads,
        group=q.shape[1] // kv_heads,
        head=head,
        kv_bytes=pool.dtype.itemsize,
        q_bytes=_dot_dtype(q, pool).itemsize,
        table_tokens=page_table.shape[1] * page_tokens,
    )


def _dot_dtype(q: jax.Array, pool: Pool) -> Any:
    """What the tensor cores multiply: a quantised pool is widened to q's dtype."""
    if isinstance(pool, QuantizedPool):
        return q.dtype
    return jnp.promote_types(q.dtype, pool.dtype)


def _attend(
    q: jax.Array,  # [T, N, H]
    *,
    pool: Pool,
    layer: jax.Array,
    page_table: jax.Array,
    tiles: Tiles | _Singles,
    sizes: TritonSizes,
    options: tuple[float, int | None, float | None],
    interpret: bool,
    into: jax.Array | None = None,  # [T, N, H] gets the tokens of the tiles
) -> jax.Array:  # [T, N, H]; [B, N, H] of single tiles unless `into` is given
    pages, layers, _, kv_heads, page_tokens, head = pool.shape
    num_tiles = pages * layers * 2 * kv_heads
    sm_scale, window, soft_cap = options
    static = _Static(
        sizes=sizes,
        group=q.shape[1] // kv_heads,
        head=head,
        page_tokens=page_tokens,
        kv_heads=kv_heads,
        layers=layers,
        sm_scale=sm_scale,
        window=window,
        soft_cap=soft_cap,
        dot_dtype=_dot_dtype(q, pool),
        is_quantized=isinstance(pool, QuantizedPool),
        num_tile_refs=sum(part is not None for part in tiles),
        is_in_place=into is not None,
    )
    if isinstance(pool, QuantizedPool):
        scales, numbers = [pool.scales.reshape(num_tiles)], pool.pages
    else:
        scales, numbers = [], pool
    numbers = numbers.reshape(num_tiles, page_tokens, head)
    given = [part for part in tiles if part is not None]
    arguments = [*given, layer.reshape(1), page_table, q, numbers, *scales]
    if into is not None:
        arguments = [into, *arguments]
    is_by_row = isinstance(tiles, _Singles) and into is None
    shapes = _out_shapes(
        q,
        tokens=tiles.end.shape[0] if is_by_row else q.shape[0],
        num_splits=sizes.num_splits,
    )
    out = pl.pallas_call(
        functools.partial(_kernel, static=static),
        grid=(tiles.end.shape[0], kv_heads, sizes.num_splits),
        out_shape=shapes,
        in_specs=[pl.BlockSpec()] * len(arguments),
        out_specs=[pl.BlockSpec()] * len(shapes),
        compiler_params=plt.CompilerParams(
            num_warps=sizes.num_warps, num_stages=sizes.num_stages
        ),
        input_output_aliases={} if into is None else {0: 0},
        interpret=interpret,
        name=f"mell_attention_{'decode' if sizes.tile_tokens == 1 else 'prefill'}",
    )(*arguments)
    if sizes.num_splits == 1:
        return jnp.asarray(out[0])
    return cutting.join_splits(out[0], peak=out[1], total=out[2]).astype(q.dtype)


def _out_shapes(
    q: jax.Array, *, tokens: int, num_splits: int
) -> list[jax.ShapeDtypeStruct]:
    varying = jax.typeof(q).manual_axis_type  # over a mesh, inside `shard_map`
    shape = (tokens, *q.shape[1:])
    if num_splits == 1:
        return [jax.ShapeDtypeStruct(shape, q.dtype, manual_axis_type=varying)]
    partial = [(num_splits, *shape), *[(num_splits, *shape[:2])] * 2]
    return [
        jax.ShapeDtypeStruct(s, jnp.float32, manual_axis_type=varying) for s in partial
    ]


def _kernel(*refs: Any, static: _Static) -> None:
    """One tile, KV head and split. Refs: the operands of `_attend`, then outputs."""
    refs = refs[static.is_in_place :]
    tile_refs, refs = refs[: static.num_tile_refs], refs[static.num_tile_refs :]
    layer_ref, table_ref, q_ref = refs[:3]
    num_kv = 2 if static.is_quantized else 1
    kv_refs, out_refs = refs[3 : 3 + num_kv], refs[3 + num_kv :]
    sizes = static.sizes
    x, kv_head, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    row, start, tokens, end = _tile(tile_refs, x)
    r = jnp.arange(sizes.rows, dtype=jnp.int32)
    token = start + r // static.group  # [M]
    head = kv_head * static.group + r % static.group  # [M]
    is_live = r < tokens * static.group
    place, mask = _rows_at(token, head, is_live, static)
    q = plt.load(q_ref.at[place], mask=mask, other=0.0).astype(static.dot_dtype)
    position = end - tokens + r // static.group  # [M]

    def one_block(is_masked: bool, block: jax.Array, carry: _Carry) -> _Carry:
        key = block * sizes.block_tokens + jnp.arange(
            sizes.block_tokens, dtype=jnp.int32
        )
        used = _used(key, end, tokens, static) if is_masked else None
        page_at = (jnp.full_like(key, row), key // static.page_tokens)
        page = _load(table_ref.at[page_at], used)
        tile = (page * static.layers + layer_ref[0]) * (2 * static.kv_heads) + kv_head
        k, k_scale = _fetch(kv_refs, tile, key, used, static)
        v, v_scale = _fetch(kv_refs, tile + static.kv_heads, key, used, static)
        scores = plt.dot(q, k, trans_b=True, precision=static.precision)
        scores = _scale(scores, k_scale, static)
        seen = _seen(key, position, static) if is_masked else None
        return _add_block(carry, scores, v, seen=seen, v_scale=v_scale, static=static)

    carry = (
        jnp.zeros((sizes.rows, static.padded_head), jnp.float32),
        jnp.full((sizes.rows,), _MASKED, jnp.float32),
        jnp.zeros((sizes.rows,), jnp.float32),
    )
    for is_masked, begin, stop in _segments(end, tokens, split, static):
        body = functools.partial(one_block, is_masked)
        carry = lax.fori_loop(begin, stop, body, carry)
    if static.num_tile_refs == 2 and not static.is_in_place:
        token = token - start + row  # partial softmaxes are by row
    rows = _rows_at(token, head, is_live, static)
    if sizes.num_splits == 1:
        _store_final(out_refs[0], carry, *rows)
    else:
        splits = jnp.full_like(token, split)
        _store_share(out_refs, carry, (splits, token, head), is_live, static)


def _tile(refs: tuple[Any, ...], x: jax.Array) -> tuple[jax.Array, ...]:
    """Reads row, first token, number of tokens and end of tile `x`."""
    if len(refs) == 4:
        row, start, tokens, end = (ref[x] for ref in refs)
        return row, start, tokens, end
    end = refs[0][x]
    if len(refs) == 1:  # rows without keys are written, too: zeros
        return x, x, jnp.int32(1), end
    return x, refs[1][x], jnp.minimum(end, 1), end  # other rows are left alone


def _segments(
    end: jax.Array, tokens: jax.Array, split: jax.Array, static: _Static
) -> list[tuple[bool, jax.Array, jax.Array]]:
    """Ranges of key blocks of this split: (whether some keys are hidden, from, to).

    A long causal tile has mostly blocks that all its queries see whole; those are
    computed without a mask. Decode has one block to mask, not worth a second loop.
    """
    sizes = static.sizes
    block = sizes.block_tokens
    first = jnp.int32(0)
    if static.window is not None:
        first = jnp.maximum(end - tokens - (static.window - 1), 0) // block
    count = (end + block - 1) // block - first
    share = (count + sizes.num_splits - 1) // sizes.num_splits
    begin = first + split * share
    stop = jnp.minimum(begin + share, first + count)
    if sizes.tile_tokens == 1 or static.window is not None:
        return [(True, begin, stop)]
    whole = jnp.clip((end - tokens + 1) // block, begin, jnp.maximum(begin, stop))
    return [(False, begin, whole), (True, whole, stop)]


def _used(
    key: jax.Array, end: jax.Array, tokens: jax.Array, static: _Static
) -> jax.Array:
    """[C] keys that any query of the tile may see; others may be NaN, or no page."""
    used = key < end
    if static.window is not None:
        used &= key > end - tokens - static.window
    return used


def _seen(key: jax.Array, position: jax.Array, static: _Static) -> jax.Array:
    """[M, C] keys that each query sees."""
    seen = key[None, :] <= position[:, None]
    if static.window is not None:
        seen &= key[None, :] > position[:, None] - static.window
    return seen


def _fetch(
    kv_refs: tuple[Any, ...],
    tile: jax.Array,  # [C] tile of the pool that each key lies in
    key: jax.Array,  # [C]
    used: jax.Array | None,  # [C]
    static: _Static,
) -> tuple[jax.Array, jax.Array | None]:
    """Keys or values of a block [C, H'], zeros where unused, and their scales [C]."""
    place, mask = _rows_at(tile, key % static.page_tokens, used, static)
    numbers = _load(kv_refs[0].at[place], mask).astype(static.dot_dtype)
    if not static.is_quantized:
        return numbers, None
    return numbers, _load(kv_refs[1].at[(tile,)], used)


def _rows_at(
    i: jax.Array, j: jax.Array, mask: jax.Array | None, static: _Static
) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
    """Index and mask [X, H'] of the rows `i[x], j[x]` of an array `[.., .., H]`."""
    number = jnp.arange(static.padded_head, dtype=jnp.int32)[None, :]
    shape = (i.shape[0], static.padded_head)
    place = (i[:, None], j[:, None], number)
    if static.padded_head != static.head:
        inside = jnp.broadcast_to(number < static.head, shape)
        return place, inside if mask is None else inside & mask[:, None]
    return place, None if mask is None else jnp.broadcast_to(mask[:, None], shape)


def _load(ref: Any, mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return plt.load(ref)
    return plt.load(ref, mask=mask, other=jnp.zeros((), ref.dtype))


def _scale(
    scores: jax.Array, k_scale: jax.Array | None, static: _Static
) -> jax.Array:  # [M, C]
    """Scores in base 2, so that the softmax is `2 ** (score - peak)`."""
    if k_scale is not None:
        scores = scores * k_scale[None, :]
    if static.soft_cap is None:
        return scores * (static.sm_scale * math.log2(math.e))
    capped = jnp.tanh(scores * (static.sm_scale / static.soft_cap))
    return capped * (static.soft_cap * math.log2(math.e))


def _add_block(
    carry: _Carry,
    scores: jax.Array,  # [M, C]
    v: jax.Array,  # [C, H']
    *,
    seen: jax.Array | None,  # [M, C]
    v_scale: jax.Array | None,  # [C]
    static: _Static,
) -> _Carry:
    """The online softmax (Milakov and Gimelshein, 2018) with one more block."""
    out, peak, total = carry
    if seen is not None:
        scores = jnp.where(seen, scores, _MASKED)
    new_peak = jnp.maximum(peak, jnp.max(scores, axis=1))
    weights = jnp.exp2(scores - new_peak[:, None])
    if seen is not None:  # a row that sees nothing here has the peak of a hidden key
        weights = jnp.where(seen, weights, 0.0)
    fade = jnp.exp2(peak - new_peak)
    total = total * fade + jnp.sum(weights, axis=1)
    if v_scale is not None:
        weights = weights * v_scale[None, :]
    added = plt.dot(weights.astype(v.dtype), v, precision=static.precision)
    return out * fade[:, None] + added, new_peak, total


def _store_final(
    out_ref: Any, carry: _Carry, place: tuple[jax.Array, ...], mask: jax.Array | None
) -> None:
    out, _, total = carry
    out = out / jnp.where(total == 0.0, 1.0, total)[:, None]
    plt.store(out_ref.at[place], out.astype(out_ref.dtype), mask=mask)


def _store_share(
    out_refs: tuple[Any, ...],
    carry: _Carry,
    at: tuple[jax.Array, ...],  # [M] each: split, token, head
    is_live: jax.Array,
    static: _Static,
) -> None:
    """For `tiles.join_splits`."""
    place, mask = _rows_at(at[1], at[2], is_live, static)
    plt.store(out_refs[0].at[(at[0][:, None], *place)], carry[0], mask=mask)
    for ref, values in zip(out_refs[1:], carry[1:], strict=True):
        plt.store(ref.at[at], values, mask=is_live)
