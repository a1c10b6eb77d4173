"""Batches that every Pallas body runs, interpreted or on a device."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from mell_jax.pallas_kernels import QuantizedPool, ragged_paged_attention
from mell_jax.pallas_kernels.attention.backends import body
from mell_jax.pallas_kernels.attention.tuning import MosaicTpuSizes, TritonSizes
from tests.pallas_kernels import oracle
from tests.pallas_kernels.oracle import Batch, Row, Sizes

TOLERANCE = {"float32": 1e-6, "bfloat16": 2e-3}
HEADS = (64, 80, 96, 128, 256)
KV_DTYPES = {"int8": np.int8, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}
LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
QUICK = {  # compiles in half the time what runs once; for CPUs
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
DECODE_ROWS = [Row(new=1, context=c) for c in (1, 15, 16, 17, 250)]
MIXED_ROWS = [
    Row(new=1, context=200),
    Row(new=40, context=100),
    Row(new=0, context=0),
    Row(new=17, context=17),
    Row(new=1, context=1),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The static arguments of one call."""

    backend: str
    decode: bool = False
    window: int | None = None
    soft_cap: float | None = None
    interpret: bool = True
    layer: int = oracle.LAYER
    sizes: MosaicTpuSizes | TritonSizes | None = None


def interpreted(backend: str, **options: Any) -> Options:
    """Options to interpret a body, with blocks so small that short rows have many."""
    sizes = MosaicTpuSizes(tile_tokens=8, block_pages=2)
    return Options(
        backend=backend, sizes=sizes if backend == "mosaic_tpu" else None, **options
    )


def make(options: Options, *, seed: int = 0, **sizes: Any) -> Batch:
    """A batch of decode or mixed rows, with padding rows and tokens."""
    rows = DECODE_ROWS if options.decode else MIXED_ROWS
    tokens = 6 if options.decode else 72
    return oracle.make_batch(
        rows,
        replace(Sizes(tokens=tokens, rows=6, table=16, pages=48, head=64), **sizes),
        seed=seed,
        window=options.window,
        shared_pages=1,
    )


def _call(q: jax.Array, pool: Any, *metadata: jax.Array, options: Options) -> jax.Array:
    common = {
        "layer": jnp.int32(options.layer),
        "page_table": metadata[0],
        "kv_lens": metadata[1],
        "cu_q_lens": metadata[2],
        "sm_scale": q.shape[2] ** -0.5,
        "window": options.window,
        "soft_cap": options.soft_cap,
        "decode": options.decode,
        "interpret": options.interpret,
    }
    if options.sizes is None:
        return ragged_paged_attention(q, pool, backend=options.backend, **common)
    attend = body(options.backend)
    return attend(q, pool, device_kind="any", sizes=options.sizes, **common)


_ON_GPU = jax.jit(_call, static_argnames="options")
_ON_CPU = jax.jit(_call, static_argnames="options", compiler_options=QUICK)


def run(batch: Batch, options: Options, *, pool: Any = None) -> oracle.Array:
    """The op's output for a batch, perhaps over a quantised pool in its stead."""
    pool = jnp.asarray(batch.pool) if pool is None else pool
    metadata = (batch.page_table, batch.kv_lens, batch.cu_q_lens)
    call = _ON_CPU if jax.default_backend() == "cpu" else _ON_GPU
    got = call(jnp.asarray(batch.q), pool, *map(jnp.asarray, metadata), options=options)
    return np.asarray(got)


def error(batch: Batch, options: Options, *, pool: Any = None) -> float:
    """Relative norm of the difference to the oracle."""
    want = oracle.attend(
        batch,
        sm_scale=batch.q.shape[2] ** -0.5,
        window=options.window,
        soft_cap=options.soft_cap,
    )
    return oracle.relative_error(run(batch, options, pool=pool), want)


def quantize(batch: Batch, dtype: str) -> tuple[Batch, QuantizedPool]:
    """A quantised pool and the batch with what it holds; NaN, or NaN scales, stay."""
    pool = batch.pool.astype(np.float32)
    peak = np.nanmax(np.abs(np.nan_to_num(pool)), axis=(4, 5))
    is_used = np.isfinite(pool).any(axis=(4, 5))
    exponent = np.ceil(np.log2(np.where(peak == 0, 1, peak) / LARGEST[dtype]))
    scales = np.where(is_used, np.exp2(exponent), np.nan).astype(np.float32)
    filled = np.where(np.isnan(pool), 99.0 if dtype == "int8" else np.nan, pool)
    scaled = np.where(np.isnan(pool), filled, pool / scales[..., None, None])
    pages = (np.round(scaled) if dtype == "int8" else scaled).astype(KV_DTYPES[dtype])
    held = pages.astype(np.float32) * scales[..., None, None]
    quantized = QuantizedPool(pages=jnp.asarray(pages), scales=jnp.asarray(scales))
    return replace(batch, pool=held), quantized
