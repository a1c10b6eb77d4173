"""Measures how long the compiled steps of an instance take.

    decode   B rows of one token each
    mixed    B - 1 rows of one token each, and a chunk of a prompt in the rest

Everything is written to the scratch page: the steps do the work of real ones and leave
nothing behind. Full steps read it, too; those of a given context read pages all over
the pool, since one page that all rows share would stay in a cache.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mell_jax.scheduler.pages import SCRATCH_PAGE
from mell_jax.worker.device import DeviceWorker, StepCall
from mell_jax.worker.layout import Bucket, Int32Array, new_vector
from mell_jax.worker.pool import PAGE_TOKENS
from mell_jax.worker.sampling import greedy_rows, pack_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A timing holds the seconds of one full step."""

    decode_rows: int
    prefill_tokens: int
    took_s: float


def time_steps(worker: DeviceWorker, *, repeats: int) -> list[Timing]:
    """Returns the largest decode step and every mixed one, the best of a few; after
    `warm_up`.

    Waits for each; the worker must have nothing else to do.
    """
    mixed = [bucket for bucket in worker.buckets if not bucket.is_decode]
    return [
        time_decode(worker, repeats=repeats),
        *(_time_mixed(worker, bucket, repeats=repeats) for bucket in mixed),
    ]


def time_decode(worker: DeviceWorker, *, repeats: int) -> Timing:
    """Returns the largest decode step, the best of a few; after `warm_up`.

    It is the smallest mixed one where there is none for decodes alone.
    """
    decode = [bucket for bucket in worker.buckets if bucket.is_decode]
    largest = decode[-1] if decode else worker.buckets[0]
    lengths = np.ones(largest.rows, np.int32)
    took_s = _time(worker, largest, lengths=lengths, repeats=repeats)
    return Timing(decode_rows=largest.rows, prefill_tokens=0, took_s=took_s)


def time_decodes(workers: Sequence[DeviceWorker], *, rows: int, pages: int) -> float:
    """Returns seconds until each worker has made a decode step; all begin at once.

    So long a step takes while every instance is as busy: they may share a host, cores
    or even a device. The workers must have nothing else to do.

    Args:
      workers: of one model, with their pools, after `warm_up`.
      rows: that decode, on each worker.
      pages: that each row sees, all full.
    """
    calls = [decode_call(worker, rows=rows, pages=pages) for worker in workers]
    start_s = time.perf_counter()
    pending = [
        worker.dispatch(call) for worker, call in zip(workers, calls, strict=True)
    ]
    for each in pending:
        each.wait()
    return time.perf_counter() - start_s


def decode_call(worker: DeviceWorker, *, rows: int, pages: int) -> StepCall:
    """Returns a step of `rows` that see `pages` each, and write to the scratch page.

    Pages are read in the order of the pool, and again from its beginning where it has
    fewer.
    """
    bucket = worker.choose_bucket(tokens=rows, rows=rows, is_decode=True)
    vector, inputs = new_vector(bucket)
    inputs.owners[:] = bucket.rows
    inputs.owners[:rows] = np.arange(rows)
    inputs.positions[:rows] = pages * PAGE_TOKENS - 1
    inputs.sources[:] = worker.scratch_slot
    inputs.kv_lens[:rows] = pages * PAGE_TOKENS
    inputs.cu_q_lens[: rows + 1] = np.arange(rows + 1)
    inputs.cu_q_lens[rows + 1 :] = rows
    inputs.last[:rows] = np.arange(rows)
    first = SCRATCH_PAGE + 1
    read = np.arange(bucket.groups * rows * (pages - 1)) % (len(worker.pool) - first)
    inputs.page_table[:, :rows, : pages - 1] = first + read.reshape(
        bucket.groups, rows, pages - 1
    )
    sampling = pack_rows(greedy_rows(bucket.rows, slot=worker.scratch_slot))
    return StepCall(bucket=bucket, vector=vector, rows=sampling)


def query_lengths(bucket: Bucket) -> Int32Array:
    """Returns the tokens of each row [b] of a full step; the last may prefill."""
    if bucket.is_decode:
        return np.ones(bucket.rows, np.int32)
    decodes = min(bucket.rows - 1, bucket.tokens - 1)
    chunk = min(bucket.tokens - decodes, bucket.pages * PAGE_TOKENS)
    return np.array([1] * decodes + [chunk], np.int32)


def _time_mixed(worker: DeviceWorker, bucket: Bucket, *, repeats: int) -> Timing:
    lengths = query_lengths(bucket)
    return Timing(
        decode_rows=len(lengths) - 1,
        prefill_tokens=int(lengths[-1]),
        took_s=_time(worker, bucket, lengths=lengths, repeats=repeats),
    )


def _time(
    worker: DeviceWorker, bucket: Bucket, *, lengths: Int32Array, repeats: int
) -> float:
    """Returns seconds of a step with rows of these lengths, the best of a few."""
    best_s = math.inf
    for _ in range(repeats):
        vector = _full_step(bucket, lengths=lengths, slot=worker.scratch_slot)
        rows = pack_rows(greedy_rows(bucket.rows, slot=worker.scratch_slot))
        call = StepCall(bucket=bucket, vector=vector, rows=rows)
        start_s = time.perf_counter()
        worker.dispatch(call).tokens()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s


def _full_step(bucket: Bucket, *, lengths: Int32Array, slot: int) -> Int32Array:
    """Rows in the middle of the longest context, all on the scratch page."""
    rows, tokens = len(lengths), int(lengths.sum())
    ends = np.maximum(lengths, bucket.pages * PAGE_TOKENS // 2)
    starts = np.cumsum(lengths) - lengths
    owners = np.repeat(np.arange(rows, dtype=np.int32), lengths)
    vector, inputs = new_vector(bucket)
    inputs.owners[:] = bucket.rows
    inputs.owners[:tokens] = owners
    inputs.positions[:tokens] = (
        (ends - lengths)[owners] + np.arange(tokens) - starts[owners]
    )
    inputs.sources[:] = slot
    inputs.kv_lens[:rows] = ends
    inputs.cu_q_lens[1 : rows + 1] = np.cumsum(lengths)
    inputs.cu_q_lens[rows + 1 :] = tokens
    inputs.last[:rows] = np.cumsum(lengths) - 1
    return vector
