"""The same cases and tolerances on a GPU: `pytest --platform=gpu -m gpu`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.pallas_kernels import gather_pages, scatter_pages, write_kv
from tests.pallas_kernels import cases, oracle
from tests.pallas_kernels.cases import HEADS, TOLERANCE, Options
from tests.pallas_kernels.oracle import Row, Sizes

pytestmark = pytest.mark.gpu
BOTH = pytest.mark.parametrize("decode", [True, False], ids=["decode", "mixed"])
BACKENDS = pytest.mark.parametrize("backend", ["xla", "triton"])


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest) -> jax.Device:
    if request.config.getoption("--platform") != "gpu":
        pytest.skip("needs --platform=gpu")
    return jax.devices("gpu")[0]


@pytest.fixture(autouse=True)
def poisoned(gpu: jax.Device) -> None:
    """Leaves NaN in memory that is handed out next: what nobody writes shows."""
    for count in (2**24, 2**20, 2**16, 2**12):
        jnp.full((count,), jnp.nan, device=gpu).block_until_ready().delete()


@pytest.fixture
def is_hopper(gpu: jax.Device) -> bool:
    return any(name in gpu.device_kind for name in ("H100", "H200"))


@BACKENDS
@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", HEADS)
def test_it_matches_the_oracle(
    backend: str, decode: bool, dtype: str, head: int
) -> None:
    options = Options(backend=backend, decode=decode, interpret=False)
    batch = cases.make(options, head=head, dtype=dtype)
    assert cases.error(batch, options) <= TOLERANCE[dtype]
    got = cases.run(batch, options)
    assert np.all(got[batch.cu_q_lens[-1] :] == 0.0)


@BACKENDS
@BOTH
@pytest.mark.parametrize(("window", "soft_cap"), [(1, None), (40, 3.0), (None, 0.5)])
def test_window_and_soft_cap_match_the_oracle(
    backend: str, decode: bool, window: int | None, soft_cap: float | None
) -> None:
    options = Options(
        backend=backend,
        decode=decode,
        window=window,
        soft_cap=soft_cap,
        interpret=False,
    )
    assert cases.error(cases.make(options), options) <= 1e-6


@BOTH
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("q_dtype", ["float32", "bfloat16"])
def test_quantised_pools_match_the_oracle(
    decode: bool, dtype: str, q_dtype: str
) -> None:
    options = Options(backend="triton", decode=decode, interpret=False)
    batch, pool = cases.quantize(cases.make(options, dtype=q_dtype), dtype)
    assert cases.error(batch, options, pool=pool) <= TOLERANCE[q_dtype]


@BOTH
@pytest.mark.parametrize("head", [64, 128])
@pytest.mark.parametrize("window", [None, 40])
def test_the_hopper_kernel_matches_the_oracle(
    is_hopper: bool, decode: bool, head: int, window: int | None
) -> None:
    if not is_hopper:
        pytest.skip("needs a Hopper GPU")
    options = Options(
        backend="mosaic_gpu", decode=decode, window=window, interpret=False
    )
    batch = cases.make(options, head=head, dtype="bfloat16")
    assert cases.error(batch, options) <= 2e-3


@BACKENDS
def test_long_rows_match_the_oracle(backend: str) -> None:
    sizes = Sizes(tokens=600, rows=4, head=128, group=4, table=512, pages=900)
    rows = [Row(new=1, context=8000), Row(new=500, context=3111), Row(new=1, context=3)]
    batch = oracle.make_batch(rows, sizes)
    options = Options(backend=backend, interpret=False)
    assert cases.error(batch, options) <= 1e-6


@pytest.mark.parametrize(
    "make", [lambda p: p, lambda p: p.astype(jnp.bfloat16)], ids=["float32", "bfloat16"]
)
def test_pages_move_and_rows_are_written(
    make: Callable[[jax.Array], jax.Array],
) -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 2, 2, 16, 64))
    pool = make(jnp.asarray(values, jnp.float32))
    want = np.array(pool)
    want[[3, 9]] = want[[5, 6]]
    ids, to = jnp.array([5, 6, 0], jnp.int32), jnp.array([3, 9, 0], jnp.int32)
    pool = scatter_pages(pool, to, gather_pages(pool, ids))
    kv = make(jnp.ones((1, 2, 64)))
    pool = write_kv(pool, kv, kv, layer=1, page_slots=jnp.array([67], jnp.int32))
    want[4, 1, :, :, 3] = 1.0
    np.testing.assert_array_equal(np.asarray(pool), want)
