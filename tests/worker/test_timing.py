"""Full steps are what they say they are, and leave nothing behind."""

import math

import numpy as np

from mell_jax.worker.layout import Bucket, StepInputs, part_shapes
from mell_jax.worker.pool import PAGE_TOKENS
from mell_jax.worker.timing import decode_call, query_lengths, time_decodes, time_steps
from tests.toy import toy_worker


def bucket(tokens: int, rows: int, *, is_decode: bool = False, pages: int = 8):
    return Bucket(tokens=tokens, rows=rows, pages=pages, is_decode=is_decode)


def test_a_mixed_step_decodes_all_rows_but_the_one_that_prefills() -> None:
    assert query_lengths(bucket(4, 4, is_decode=True)).tolist() == [1, 1, 1, 1]
    assert query_lengths(bucket(20, 4)).tolist() == [1, 1, 1, 17]
    assert query_lengths(bucket(4, 4)).tolist() == [1, 1, 1, 1]
    assert query_lengths(bucket(500, 2)).tolist() == [1, 128]  # the longest context


def test_steps_are_timed_on_the_scratch_page() -> None:
    worker = toy_worker(num_pages=65, max_rows=8, token_budget=64, max_tokens=128)
    decode, mixed = time_steps(worker, repeats=2)
    assert (decode.decode_rows, decode.prefill_tokens) == (8, 0)
    assert (mixed.decode_rows, mixed.prefill_tokens) == (7, 57)
    assert decode.took_s > 0 and mixed.took_s > 0
    assert not np.asarray(worker.pool)[1:].any()


def test_a_decode_step_reads_pages_all_over_the_pool_and_writes_to_none() -> None:
    worker = toy_worker(num_pages=9, max_rows=8, token_budget=64, max_tokens=128)
    call = decode_call(worker, rows=2, pages=6)
    assert (call.bucket.rows, call.bucket.is_decode) == (8, True)
    sizes = [math.prod(shape) for shape in part_shapes(call.bucket)]
    parts = np.split(call.vector, np.cumsum(sizes)[:-1])
    inputs = StepInputs(*parts)
    table = inputs.page_table.reshape(part_shapes(call.bucket).page_table)
    assert table[0, :3, :7].tolist() == [
        [1, 2, 3, 4, 5, 0, 0],  # the sixth is written to: it is the scratch page
        [6, 7, 8, 1, 2, 0, 0],  # eight pages, then from the beginning
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert inputs.kv_lens[:3].tolist() == [6 * PAGE_TOKENS, 6 * PAGE_TOKENS, 0]
    assert inputs.positions[:2].tolist() == [6 * PAGE_TOKENS - 1] * 2
    assert time_decodes([worker], rows=2, pages=6) > 0
    assert not np.asarray(worker.pool)[1:].any()
