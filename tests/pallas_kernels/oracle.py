"""Ragged paged attention the slow way: float64 NumPy, one token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a batch: `new` query tokens, the last of `context` tokens."""

    new: int
    context: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Static sizes of a batch; letters as in the glossary."""

    tokens: int  # T
    rows: int  # B
    kv_heads: int = 2  # K
    group: int = 2  # N / K
    head: int = 32  # H
    table: int = 24  # M
    pages: int = 160  # P
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The array arguments of one call of `ragged_paged_attention`."""

    q: Array
    pool: Array
    page_table: Array
    kv_lens: Array
    cu_q_lens: Array


LAYER, LAYERS, PAGE_TOKENS = 1, 3, 16


def make_batch(
    rows: Sequence[Row],
    sizes: Sizes,
    *,
    seed: int = 0,
    window: int | None = None,
    shared_pages: int = 0,
) -> Batch:
    """A batch whose pool is NaN wherever no query token may look.

    Rows get shuffled pages, the first `shared_pages` of them common to all rows.
    """
    rng = np.random.default_rng(seed)
    rows = [*rows, *[Row(new=0, context=0)] * (sizes.rows - len(rows))]
    shape = (sizes.pages, LAYERS, 2, sizes.kv_heads, PAGE_TOKENS, sizes.head)
    pool = np.full(shape, np.nan, np.float32)
    free = list(rng.permutation(np.arange(1, sizes.pages)))
    shared = [free.pop() for _ in range(shared_pages)]
    table = np.zeros((sizes.rows, sizes.table), np.int32)
    for b, row in enumerate(rows):
        used = -(-row.context // PAGE_TOKENS)
        own = [free.pop() for _ in range(max(0, used - len(shared)))]
        table[b, :used] = (shared + own)[:used]
        first = 0 if window is None else max(0, row.context - row.new - window + 1)
        at = np.arange(first, row.context) if row.new else np.arange(0)
        pages, slots = table[b, at // PAGE_TOKENS], at % PAGE_TOKENS
        new = rng.normal(size=(len(at), 2, sizes.kv_heads, sizes.head))
        pool[pages, LAYER, :, :, slots] = new
    dtype = DTYPES[sizes.dtype]
    q = rng.normal(size=(sizes.tokens, sizes.kv_heads * sizes.group, sizes.head))
    return Batch(
        q=q.astype(dtype),
        pool=pool.astype(dtype),
        page_table=table,
        kv_lens=np.array([row.context for row in rows], np.int32),
        cu_q_lens=np.cumsum([0, *[row.new for row in rows]]).astype(np.int32),
    )


def attend(
    batch: Batch,
    *,
    sm_scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Array:
    """[T, N, H] float64; tokens of no row are zeros."""
    q = batch.q.astype(np.float64)
    kv = batch.pool[:, LAYER].astype(np.float64)  # [P, 2, K, S, H]
    group = q.shape[1] // kv.shape[2]
    out = np.zeros(q.shape)
    for row, pages in enumerate(batch.page_table):
        begin, end = batch.cu_q_lens[row : row + 2]
        for token in range(begin, end):
            last = int(batch.kv_lens[row]) - int(end - token)
            first = 0 if window is None else max(0, last - window + 1)
            at = np.arange(first, last + 1)
            seen = kv[pages[at // PAGE_TOKENS], :, :, at % PAGE_TOKENS]  # [C, 2, K, H]
            k, v = np.repeat(seen, group, axis=2).transpose(1, 2, 0, 3)  # [N, C, H]
            scores = np.einsum("nh,nch->nc", q[token], k) * sm_scale
            if soft_cap is not None:
                scores = soft_cap * np.tanh(scores / soft_cap)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[token] = np.einsum("nc,nch->nh", weights, v)
    return out


def relative_error(got: Array, want: Array) -> float:
    """Norm of the difference over the norm of `want`; NaN if `got` has one."""
    difference = np.linalg.norm(got.astype(np.float64) - want)
    return float(difference / max(float(np.linalg.norm(want)), 1e-30))
