"""Checks that attention is right on this device, before anything is timed on it.

Small batches against float64 NumPy, with NaN in every slot that no query may see. The
whole grid of cases is `pytest --platform=gpu -m gpu tests/pallas_kernels`.
"""

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.figures import Figure, attempt, failure, figure
from benchmarks.kernels.loads import KernelSize
from mell_jax.pallas_kernels import QuantizedPool, ragged_paged_attention

PAGE, KV_HEADS, GROUP, LAYERS, LAYER = 16, 2, 4, 2, 1
PAGES, TABLE, TOKENS = 160, 64, 96
ROWS = ((1, 1000), (33, 100), (1, 17), (40, 40), (1, 1))  # new, context; last: padding
DECODE_ROWS = ((1, 1000), (1, 1), (1, 16), (1, 17), (1, 250))
TOLERANCE = {"float32": 1e-6, "bfloat16": 2e-3}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCase:
    """A case is one call."""

    backend: str | None
    head: int = 128
    kv: str = "bfloat16"
    decode: bool = True
    window: int | None = None
    soft_cap: float | None = None

    @property
    def name(self) -> str:
        kind = "decode" if self.decode else "mixed"
        extra = ", window and cap" if self.window else ""
        return (
            f"{kind}, {self.backend or 'auto'}, {self.kv}, heads of {self.head}{extra}"
        )

    @property
    def q_dtype(self) -> str:
        return "float32" if self.kv == "float32" else "bfloat16"


def check_cases(backend: str | None, *, size: KernelSize) -> Iterator[KernelCase]:
    """Yields every type and head size once, decode and mixed; on a GPU Hopper's kernel
    too.

    Of a brief run: every type, and one head size; of a tiny one, one case.
    """
    heads = (64, 80, 96, 256) if size == "full" else ()
    for decode in (True, False):
        yield KernelCase(backend=backend, decode=decode)
        if size == "tiny":
            continue
        for kv in ("float32", "int8", "float8_e4m3fn"):
            yield KernelCase(backend=backend, decode=decode, kv=kv)
        for head in heads:
            yield KernelCase(backend=backend, decode=decode, head=head)
        yield KernelCase(backend=backend, decode=decode, window=100, soft_cap=3.0)
        if backend is None and jax.devices()[0].platform == "gpu":
            for head in (64, 128) if heads else (128,):
                yield KernelCase(backend="mosaic_gpu", decode=decode, head=head)


def run_case(case: KernelCase) -> Figure:
    """Returns the relative error; a failure where it is above the tolerance, or NaN."""
    q, pool, held, metadata = _inputs(case)
    scale = case.head**-0.5
    attend = functools.partial(
        ragged_paged_attention,
        sm_scale=scale,
        window=case.window,
        soft_cap=case.soft_cap,
        decode=case.decode,
        backend=case.backend,
    )
    got = jax.jit(attend)(
        q,
        pool,
        layer=jnp.int32(LAYER),
        page_table=jnp.asarray(metadata["page_table"]),
        kv_lens=jnp.asarray(metadata["kv_lens"]),
        cu_q_lens=jnp.asarray(metadata["cu_q_lens"]),
    )
    want = _attend(np.asarray(q, np.float64), held, metadata, case, scale=scale)
    error = np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)
    limit = TOLERANCE[case.q_dtype]
    if not (error <= limit):
        return failure(
            f"check {case.name}", f"WRONG: relative error {error:.1e}, not {limit}"
        )
    return figure(f"check {case.name}", float(error), "relative error", note="right")


def _inputs(case: KernelCase) -> tuple[jax.Array, Any, Array, dict[str, Array]]:
    """q, the pool, its numbers [P, 2, K, S, H] in float64, and the batch."""
    rng = np.random.default_rng(0)
    rows = DECODE_ROWS if case.decode else ROWS
    tokens = len(rows) + 1 if case.decode else TOKENS
    lens = np.array([*(context for _, context in rows), 0], np.int32)
    starts = np.cumsum([0, *(new for new, _ in rows), 0]).astype(np.int32)
    table = np.zeros((len(lens), TABLE), np.int32)
    free = iter(rng.permutation(np.arange(1, PAGES)))
    numbers = np.full((PAGES, 2, KV_HEADS, PAGE, case.head), np.nan)
    for row, length in enumerate(lens):
        used = -(-int(length) // PAGE)
        table[row, :used] = [next(free) for _ in range(used)]
        at = np.arange(length)
        new = rng.normal(size=(length, 2, KV_HEADS, case.head))
        numbers[table[row, at // PAGE], :, :, at % PAGE] = new
    pool, held = _pool(numbers, case.kv)
    q = rng.normal(size=(tokens, KV_HEADS * GROUP, case.head))
    metadata = {"page_table": table, "kv_lens": lens, "cu_q_lens": starts}
    return jnp.asarray(q, case.q_dtype), pool, held, metadata


def _pool(numbers: Array, kv: str) -> tuple[Any, Array]:
    """A pool whose other layers are NaN, or have NaN scales, and what it holds."""
    dtype = jnp.dtype(kv)
    if dtype.itemsize > 1:
        layer = numbers.astype(dtype)
        others = np.full_like(layer, np.nan)
        return jnp.asarray(np.stack([others, layer], axis=1)), layer.astype(np.float64)
    scale = 1 / 16  # normal numbers times 16 fit both types
    layer = np.nan_to_num(np.clip(numbers / scale, -127, 127), nan=99.0)
    layer = (np.round(layer) if kv == "int8" else layer).astype(dtype)
    scales = np.full((PAGES, LAYERS, 2, KV_HEADS), np.nan, np.float32)
    scales[:, LAYER] = scale
    pages = jnp.asarray(np.stack([layer, layer], axis=1))
    pool = QuantizedPool(pages=pages, scales=jnp.asarray(scales))
    return pool, layer.astype(np.float64) * scale


def _attend(
    q: Array,  # [T, N, H]
    held: Array,  # [P, 2, K, S, H]
    metadata: dict[str, Array],
    case: KernelCase,
    *,
    scale: float,
) -> Array:  # [T, N, H]
    out = np.zeros(q.shape)
    starts = metadata["cu_q_lens"]
    for row, length in enumerate(metadata["kv_lens"]):
        begin, end = int(starts[row]), int(starts[row + 1])
        at = np.arange(length)
        seen = held[metadata["page_table"][row, at // PAGE], :, :, at % PAGE]
        k, v = np.repeat(seen, GROUP, axis=2).transpose(1, 2, 0, 3)  # [N, C, H]
        scores = np.einsum("tnh,nch->tnc", q[begin:end], k) * scale
        if case.soft_cap is not None:
            scores = case.soft_cap * np.tanh(scores / case.soft_cap)
        position = np.arange(length - (end - begin), length)[:, None, None]
        hidden = at > position
        if case.window is not None:
            hidden = hidden | (at <= position - case.window)
        scores = np.where(hidden, -np.inf, scores)
        if end > begin:
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[begin:end] = np.einsum("tnc,nch->tnh", weights, v)
    return out


def main() -> int:
    """Checks every case in this process, for a memory checker to watch."""
    wrong = 0
    for case in check_cases(None, size="full"):
        one = attempt(f"check {case.name}", functools.partial(run_case, case))
        wrong += one["value"] is None
        print(one["name"], one["note"], flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
