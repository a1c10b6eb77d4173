"""Full steps are what they say they are, and leave nothing behind."""

import numpy as np

from mell_jax.worker.layout import Bucket
from mell_jax.worker.timing import query_lengths, time_steps
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
