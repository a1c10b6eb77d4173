"""The one attention op of the engine checks its arguments, then picks a body.

A batch is `B` rows whose new query tokens are packed one row after the other; a
row's keys and values, the new tokens' included, lie in pages of a shared pool:

    q           a0 a1 a2 | b0 | c0 c1 | - -      cu_q_lens  0 3 4 6
    page_table  row b -> pages; its position i is slot i % S of its page i // S

Models call it once per layer, after `write_kv`. Keys in pages that a table names are
PagedAttention's idea (arXiv 2309.06180); every body takes the softmax online, block by
block (arXiv 1805.02867), as FlashAttention does (arXiv 2205.14135).
"""

import math

import jax
import jax.numpy as jnp

from mell_jax.pallas_kernels.attention.backends import (
    body,
    choose_backend,
    current_target,
    describe,
)
from mell_jax.pallas_kernels.pool import Pool, QuantizedPool


def ragged_paged_attention(
    q: jax.Array,
    pool: Pool,
    *,
    layer: int | jax.Array,
    page_table: jax.Array,
    kv_lens: jax.Array,
    cu_q_lens: jax.Array,
    sm_scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    decode: bool = False,
    backend: str | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attends causally: packed query tokens over their rows' pages.

    Args:
      q: `[T, N, H]` query tokens; row `b` owns `cu_q_lens[b]:cu_q_lens[b + 1]`, and
        its last one sits at position `kv_lens[b] - 1`.
      pool: `[P, L, 2, K, S, H]`, already holding the new tokens' keys and values; or a
        quantised pool. Its heads may be wider than `q`'s, the rest being zeros, as
        `write_kv` leaves it: TPUs want multiples of 128.
      layer: which of the `L` layers to read; may be traced.
      page_table: `[B, M]` int32 page ids. Entries past a row's last page are never
        used, but must be valid ids: their pages may hold NaN.
      kv_lens: `[B]` int32 tokens of each row, new ones included, at most `M * S`.
      cu_q_lens: `[B + 1]` int32, starts at 0. A padding row has no query tokens.
      sm_scale: factor on the scores, usually `H ** -0.5`.
      window: attend only to the last `window` positions, the token's own included.
      soft_cap: replace a scaled score `x` by `soft_cap * tanh(x / soft_cap)`.
      decode: promises that `T == B` and that token `b` belongs to row `b` (one query
        token per row, padding rows last), which saves the work for longer rows.
      backend: which body to run: xla, triton, mosaic_gpu or mosaic_tpu, or on a CPU
        invariant, where a token's bits do not depend on its batch; None for the best
        one of the platform and device kind that is traced for.
      interpret: run a Pallas body by its interpreter, on any platform, to test it.

    Returns:
      `[T, N, H]` in `q`'s dtype, accumulated in float32; tokens past `cu_q_lens[B]`
      come out as zeros.

    Raises:
      ValueError: shapes or sizes do not fit, or the back end cannot run the call; then
        the message names those that can.
      TypeError: dtypes do not fit.
    """
    _check_shapes(q, pool, page_table, kv_lens, cu_q_lens, decode=decode)
    _check_dtypes(q, pool, page_table, kv_lens, cu_q_lens)
    _check_options(pool, layer, sm_scale, window, soft_cap)
    target = current_target()
    call = describe(q, pool, page_table, decode=decode)
    name = choose_backend(backend, target=target, call=call, interpret=interpret)
    is_plain = name in ("xla", "invariant")
    for_kernels = {} if is_plain else _for_kernels(target.device_kind, interpret)
    missing = pool.shape[5] - q.shape[2]
    out = body(name)(
        jnp.pad(q, ((0, 0), (0, 0), (0, missing))) if missing else q,
        pool,
        layer=jnp.asarray(layer, jnp.int32),
        page_table=page_table,
        kv_lens=kv_lens,
        cu_q_lens=cu_q_lens,
        sm_scale=sm_scale,
        window=window,
        soft_cap=soft_cap,
        decode=decode,
        **for_kernels,
    )
    return out[:, :, : q.shape[2]] if missing else out


def _for_kernels(device_kind: str, interpret: bool) -> dict[str, str | bool]:
    return {"device_kind": device_kind, "interpret": interpret}


def _check_shapes(
    q: jax.Array,
    pool: Pool,
    page_table: jax.Array,
    kv_lens: jax.Array,
    cu_q_lens: jax.Array,
    *,
    decode: bool,
) -> None:
    if q.ndim != 3:
        raise ValueError(f"q must be [T, N, H], got shape {q.shape}")
    if pool.ndim != 6 or pool.shape[2] != 2:
        raise ValueError(f"pool must be [P, L, 2, K, S, H], got shape {pool.shape}")
    if isinstance(pool, QuantizedPool) and pool.scales.shape != pool.shape[:4]:
        raise ValueError(
            f"pool.scales must be [P, L, 2, K] = {pool.shape[:4]}, got "
            f"{pool.scales.shape}"
        )
    if not (q.shape[2] <= pool.shape[5]):
        raise ValueError(
            f"q must not have larger heads than the pool, got q {q.shape} and pool "
            f"{pool.shape}"
        )
    if q.shape[1] % pool.shape[3]:
        raise ValueError(
            f"query heads must be a multiple of KV heads, got {q.shape[1]} query heads "
            f"for {pool.shape[3]} KV heads"
        )
    if page_table.ndim != 2:
        raise ValueError(f"page_table must be [B, M], got shape {page_table.shape}")
    rows = page_table.shape[0]
    if kv_lens.shape != (rows,):
        raise ValueError(f"kv_lens must be [B] = ({rows},), got shape {kv_lens.shape}")
    if cu_q_lens.shape != (rows + 1,):
        raise ValueError(
            f"cu_q_lens must be [B + 1] = ({rows + 1},), got shape {cu_q_lens.shape}"
        )
    if decode and q.shape[0] != rows:
        raise ValueError(
            f"decode means one query token per row, got {q.shape[0]} tokens for {rows} "
            "rows; pass decode=False"
        )


def _check_dtypes(
    q: jax.Array,
    pool: Pool,
    page_table: jax.Array,
    kv_lens: jax.Array,
    cu_q_lens: jax.Array,
) -> None:
    if not jnp.issubdtype(q.dtype, jnp.floating):
        raise TypeError(f"q must be floating point, got {q.dtype}")
    if isinstance(pool, QuantizedPool):
        if pool.scales.dtype != jnp.float32:
            raise TypeError(f"pool.scales must be float32, got {pool.scales.dtype}")
    elif not (jnp.issubdtype(pool.dtype, jnp.floating) and pool.dtype.itemsize > 1):
        raise TypeError(
            f"pool must be float32, bfloat16 or float16, or a QuantizedPool, got "
            f"{pool.dtype}"
        )
    for name, array in (
        ("page_table", page_table),
        ("kv_lens", kv_lens),
        ("cu_q_lens", cu_q_lens),
    ):
        if array.dtype != jnp.int32:
            raise TypeError(f"{name} must be int32, got {array.dtype}")


def _check_options(
    pool: Pool,
    layer: int | jax.Array,
    sm_scale: float,
    window: int | None,
    soft_cap: float | None,
) -> None:
    layers = pool.shape[1]
    if isinstance(layer, int) and not (0 <= layer < layers):
        raise ValueError(f"layer must be in 0..{layers - 1}, got {layer}")
    if not math.isfinite(sm_scale):
        raise ValueError(f"sm_scale must be finite, got {sm_scale}")
    if window is not None and not (window >= 1):
        raise ValueError(f"window must be at least 1 position, got {window}")
    if soft_cap is not None and not (soft_cap > 0.0):
        raise ValueError(f"soft_cap must be positive, got {soft_cap}")
