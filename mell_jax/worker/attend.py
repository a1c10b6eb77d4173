"""Attends in the compiled step: writes a layer's keys and values, reads the pages.

Under tensor parallelism each device does so for its own heads of its part of the pool,
and no device needs to hear from another.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mell_jax.models.attention import Attend, LayerAttention
from mell_jax.pallas_kernels import ragged_paged_attention, write_kv
from mell_jax.worker.group import KEYS, POOL, QUERIES, WHOLE
from mell_jax.worker.layout import StepInputs


class _Where(NamedTuple):
    """Which tokens and pages belong to which row."""

    page_slots: jax.Array  # [T]
    page_table: jax.Array  # [B, M]
    kv_lens: jax.Array  # [B]
    cu_q_lens: jax.Array  # [B + 1]


def paged_attention(
    inputs: StepInputs[jax.Array],
    *,
    page_tokens: int,
    is_decode: bool,
    backend: str,
    layout: AbstractMesh | None,
) -> Attend[jax.Array]:
    """Returns what a `Decoder` calls, with the pool [P, 2L, KS, H] as its cache."""
    page, offset = jnp.divmod(inputs.positions, page_tokens)  # [T]
    # Padding tokens belong to no row: they go to the scratch page.
    page = inputs.page_table.at[inputs.owners, page].get(mode="fill", fill_value=0)
    where = _Where(
        page * page_tokens + offset,
        inputs.page_table,
        inputs.kv_lens,
        inputs.cu_q_lens,
    )

    def attend(
        pool: jax.Array,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        layer: LayerAttention,
    ) -> tuple[jax.Array, jax.Array]:
        body = functools.partial(
            _attend,
            layer=layer,
            page_tokens=page_tokens,
            is_decode=is_decode,
            backend=backend,
        )
        if layout is None:
            return body(pool, q, k, v, where)
        local = jax.shard_map(
            body,
            mesh=layout,
            in_specs=(POOL, QUERIES, KEYS, KEYS, WHOLE),
            out_specs=(POOL, QUERIES),
            check_vma=False,  # copies of a head's pages are written alike by each
        )
        pool, out = local(pool, q, k, v, where)
        return pool, out

    return attend


def _attend(
    kept: jax.Array,  # [P, 2L, KS, H]
    q: jax.Array,  # [T, N, H]
    k: jax.Array,  # [T, K, H]
    v: jax.Array,  # [T, K, H]
    where: _Where,
    *,
    layer: LayerAttention,
    page_tokens: int,
    is_decode: bool,
    backend: str,
) -> tuple[jax.Array, jax.Array]:
    pages, layers, _, head_dim = kept.shape
    pool = kept.reshape(pages, layers // 2, 2, -1, page_tokens, head_dim)
    pool = write_kv(pool, k, v, layer=layer.index, page_slots=where.page_slots)
    out = ragged_paged_attention(
        q,
        pool,
        layer=layer.index,
        page_table=where.page_table,
        kv_lens=where.kv_lens,
        cu_q_lens=where.cu_q_lens,
        sm_scale=layer.scale,
        window=layer.window,
        soft_cap=layer.soft_cap,
        decode=is_decode,
        backend=backend,
    )
    return pool.reshape(kept.shape), out
