"""Makes the steps that are measured, as an instance sends them to its worker.

    decode    row i has slot i, a token at the end of its context, pages of its own
    prefill   row 0 has the next chunk of a prompt; all others are padding

Pages lie scattered in the pool. A step may be sent again and again: it writes what it
wrote before.
"""

import numpy as np

from mell_jax.worker.device import StepCall
from mell_jax.worker.layout import Bucket, Int32Array, new_vector
from mell_jax.worker.pool import PAGE_TOKENS
from mell_jax.worker.sampling import greedy_rows, pack_rows

NEWEST = -1  # a token that is still on the device


def scattered_pages(count: int, *, pool_pages: int, seed: int) -> Int32Array:
    """Returns ids of different pages, the scratch page never among them.

    Raises:
      ValueError: the pool has too few.
    """
    if not (count < pool_pages):
        raise ValueError(
            f"a pool of {pool_pages} pages has no {count} besides the scratch page"
        )
    order = np.random.default_rng(seed).permutation(pool_pages - 1)[:count] + 1
    return order.astype(np.int32)


def decode_call(
    bucket: Bucket, *, context: int, pool_pages: int, seed: int
) -> StepCall:
    """Returns a step in which every row of the bucket decodes its last token.

    Args:
      bucket: of a decode step.
      context: tokens that each row sees, the new one included.
      pool_pages: of the pool.
      seed: of the places of pages.
    """
    per_row = -(-context // PAGE_TOKENS)
    pages = scattered_pages(bucket.rows * per_row, pool_pages=pool_pages, seed=seed)
    rows = np.arange(bucket.rows, dtype=np.int32)
    vector, inputs = new_vector(bucket)
    inputs.token_ids[:] = NEWEST
    inputs.positions[:] = context - 1
    inputs.owners[:] = inputs.sources[:] = inputs.last[:] = rows
    inputs.kv_lens[:] = context
    inputs.cu_q_lens[:] = range(bucket.rows + 1)
    inputs.page_table[0, :, :per_row] = pages.reshape(bucket.rows, per_row)
    sampled = greedy_rows(bucket.rows, slot=0)
    sampled.slot[:] = rows
    return StepCall(bucket=bucket, vector=vector, rows=pack_rows(sampled))


def prefill_calls(
    bucket: Bucket,
    *,
    prompt: Int32Array,
    pool_pages: int,
    scratch_slot: int,
    seed: int,
) -> list[StepCall]:
    """Returns the steps that read a prompt, a chunk each; the last samples a token.

    Args:
      bucket: of a mixed step; a chunk has as many tokens as it.
      prompt: token ids.
      pool_pages: of the pool.
      scratch_slot: of the worker.
      seed: of the places of pages.
    """
    pages = scattered_pages(
        -(-len(prompt) // PAGE_TOKENS), pool_pages=pool_pages, seed=seed
    )
    calls = []
    for start in range(0, len(prompt), bucket.tokens):
        chunk = prompt[start : start + bucket.tokens]
        end = start + len(chunk)
        vector, inputs = new_vector(bucket)
        inputs.token_ids[: len(chunk)] = chunk
        inputs.positions[: len(chunk)] = range(start, end)
        inputs.owners[len(chunk) :] = bucket.rows
        inputs.sources[:] = scratch_slot
        inputs.sources[0] = 0
        inputs.kv_lens[0] = end
        inputs.cu_q_lens[1:] = len(chunk)
        inputs.last[0] = len(chunk) - 1
        inputs.page_table[0, 0, : len(pages)] = pages
        sampled = greedy_rows(bucket.rows, slot=scratch_slot)
        if end == len(prompt):
            sampled.slot[0] = 0
        calls.append(StepCall(bucket=bucket, vector=vector, rows=pack_rows(sampled)))
    return calls
