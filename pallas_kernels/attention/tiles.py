"""Cuts packed query tokens into tiles, and joins partial softmaxes.

A tile is up to `BQ` consecutive tokens of one row. Rows of one token are cut out of a
mixed batch and computed as decode, whose keys can be split among many programs:

    q      a0 a1 a2 a3 a4 | b0 | c0 c1 | - -          BQ 2
    tiles  a0 a1, a2 a3, a4, c0 c1, - -               decode b0

Padding tokens form tiles that see no keys, so that every token is written. This runs in
XLA, once per step: the same tiles serve all layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tiles(NamedTuple):
    """Tiles are described in int32: token `i` of `x` is at `end[x] - tokens[x] + i`."""

    row: jax.Array  # [X] row of the page table
    start: jax.Array  # [X] first query token
    tokens: jax.Array  # [X] query tokens, 0 to BQ
    end: jax.Array  # [X] one past the position of the last one; 0: sees no keys


def single_tiles(q_lens: jax.Array, kv_lens: jax.Array) -> Tiles:
    """Returns one tile per row; rows that do not have exactly one token see no keys.

    Args:
      q_lens: `[B]` query tokens of each row.
      kv_lens: `[B]` tokens of each row.
    """
    rows = jnp.arange(q_lens.shape[0], dtype=jnp.int32)
    end = jnp.where(q_lens == 1, kv_lens, 0)
    return Tiles(row=rows, start=rows, tokens=jnp.ones_like(rows), end=end)


def count_tiles(tokens: int, *, rows: int, tile_tokens: int) -> int:
    """Returns most tiles that `tokens` in `rows` rows, and the padding, can be cut
    into.
    """
    return (tokens + (rows + 1) * (tile_tokens - 1)) // tile_tokens


def cut_tiles(
    cu_q_lens: jax.Array, kv_lens: jax.Array, *, tokens: int, tile_tokens: int
) -> Tiles:
    """Returns tiles over all tokens of rows that have several, and over the padding.

    Args:
      cu_q_lens: `[B + 1]` as the op takes it.
      kv_lens: `[B]` tokens of each row.
      tokens: `T`; tokens past `cu_q_lens[B]` are a last row without keys.
      tile_tokens: `BQ`.
    """
    rows = kv_lens.shape[0]
    begins = cu_q_lens  # [B + 1] with the padding's
    ends = jnp.concatenate([cu_q_lens[1:], jnp.full((1,), tokens, jnp.int32)])
    lens = ends - begins
    is_padding = jnp.arange(rows + 1, dtype=jnp.int32) == rows
    row_tiles = -(-lens // tile_tokens)
    row_tiles = jnp.where((lens == 1) & ~is_padding, 0, row_tiles)
    tile_ends = jnp.cumsum(row_tiles)  # [B + 1]
    count = count_tiles(tokens, rows=rows, tile_tokens=tile_tokens)
    tile = jnp.arange(count, dtype=jnp.int32)
    row = jnp.sum(tile[:, None] >= tile_ends[None], axis=1, dtype=jnp.int32)
    is_live = row <= rows
    row = jnp.minimum(row, rows)
    offset = (tile - tile_ends[row] + row_tiles[row]) * tile_tokens
    size = jnp.where(is_live, jnp.clip(lens[row] - offset, 0, tile_tokens), 0)
    owner = jnp.minimum(row, rows - 1)
    end = kv_lens[owner] - lens[row] + offset + size
    sees_keys = is_live & (row < rows)
    return Tiles(
        row=owner,
        start=begins[row] + jnp.where(is_live, offset, 0),
        tokens=size,
        end=jnp.where(sees_keys, end, 0),
    )


def join_splits(out: jax.Array, *, peak: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the softmax over all keys from softmaxes over shares of them.

    Shares are merged as blocks are in FlashAttention (arXiv 2205.14135).

    Args:
      out: `[Z, X, N, H]` float32, sums of `2 ** (score - peak) * value`.
      peak: `[Z, X, N]` largest score of the share, finite where it has no keys.
      total: `[Z, X, N]` sums of `2 ** (score - peak)`.

    Returns:
      `[X, N, H]` float32, zeros where no share has keys.
    """
    factor = jnp.exp2(peak - peak.max(0)[None])
    weight = (total * factor).sum(0)
    joined = (out * factor[..., None]).sum(0)
    return joined / jnp.where(weight == 0.0, 1.0, weight)[..., None]


def scatter_singles(
    out: jax.Array, single: jax.Array, cu_q_lens: jax.Array
) -> jax.Array:
    """Returns `out` [T, N, H] with the row of `single` [B, N, H] for each row of one
    token.
    """
    first = cu_q_lens[:-1]
    is_single = cu_q_lens[1:] - first == 1
    past_end = out.shape[0] + jnp.arange(first.shape[0], dtype=jnp.int32)
    target = jnp.where(is_single, first, past_end)
    return out.at[target].set(single, mode="drop", unique_indices=True)
