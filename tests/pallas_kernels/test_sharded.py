"""KV heads divided among devices: each computes its own, and nothing is exchanged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mell_jax.pallas_kernels import ragged_paged_attention, write_kv
from tests.pallas_kernels import cases, oracle
from tests.pallas_kernels.cases import Options

POOL, HEADS = P(None, None, None, "tp"), P(None, "tp")


@pytest.mark.parametrize(
    ("backend", "decode"),
    [
        pytest.param("xla", True, marks=pytest.mark.slow),
        ("xla", False),
        ("triton", True),
        pytest.param("triton", False, marks=pytest.mark.slow),
        ("mosaic_tpu", True),
        pytest.param("mosaic_tpu", False, marks=pytest.mark.slow),
    ],
)
def test_a_sharded_write_and_attention_match_the_oracle(
    backend: str, decode: bool
) -> None:
    mesh = Mesh(np.array(jax.devices()[:4]), "tp")
    options = Options(backend=backend, decode=decode)
    batch = cases.make(options, kv_heads=4, group=2)
    page, slot = int(batch.page_table[1, 0]), 3
    kv = batch.pool[page, oracle.LAYER, :, :, slot].copy()  # [2, K, H]
    batch.pool[page, oracle.LAYER, :, :, slot] = np.nan

    quick = None if backend == "xla" else cases.QUICK

    @functools.partial(jax.jit, donate_argnames="pool", compiler_options=quick)
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(POOL, HEADS, HEADS, HEADS, P(), P(), P()),
        out_specs=(POOL, HEADS),
        check_vma=False,  # the interpreter cannot follow what varies over the mesh
    )
    def step(
        pool: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, *batch: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        slots = jnp.array([page * 16 + slot], jnp.int32)
        pool = write_kv(pool, k, v, layer=oracle.LAYER, page_slots=slots)
        page_table, kv_lens, cu_q_lens = batch
        out = ragged_paged_attention(
            q,
            pool,
            layer=oracle.LAYER,
            page_table=page_table,
            kv_lens=kv_lens,
            cu_q_lens=cu_q_lens,
            sm_scale=0.125,
            decode=decode,
            backend=backend,
            interpret=backend != "xla",
        )
        return pool, out

    pool = jax.device_put(batch.pool, NamedSharding(mesh, POOL))
    metadata = (batch.page_table, batch.kv_lens, batch.cu_q_lens)
    arrays = [jnp.asarray(x) for x in (batch.q, kv[0][None], kv[1][None], *metadata)]
    pool, out = step(pool, *arrays)
    batch.pool[page, oracle.LAYER, :, :, slot] = kv
    assert out.sharding.spec == HEADS
    want = oracle.attend(batch, sm_scale=0.125)
    assert oracle.relative_error(np.asarray(out), want) <= 1e-6
    np.testing.assert_array_equal(np.asarray(pool), batch.pool)
