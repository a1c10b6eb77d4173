"""Turns a step's logits into tokens, on the device, inside the compiled step."""

from mell_jax.worker.sampling.rows import (
    ANY_BIAS_FLAG,
    BITS_COLUMN,
    POSITION_COLUMN,
    ROW_COLUMNS,
    SUPPRESS_STOP_BIT,
    SampleFlags,
    SamplingRows,
    flag_word,
    greedy_rows,
    pack_rows,
    unpack_flags,
    unpack_rows,
)
from mell_jax.worker.sampling.sampler import Sampled, sample, token_logprobs
from mell_jax.worker.sampling.state import (
    BIAS_CAP,
    STOP_CAP,
    RowState,
    TokenChunk,
    init_row_state,
    observe_tokens,
    set_row,
    token_chunks,
)

__all__ = [
    "ANY_BIAS_FLAG",
    "BIAS_CAP",
    "BITS_COLUMN",
    "POSITION_COLUMN",
    "ROW_COLUMNS",
    "STOP_CAP",
    "SUPPRESS_STOP_BIT",
    "RowState",
    "SampleFlags",
    "Sampled",
    "SamplingRows",
    "TokenChunk",
    "flag_word",
    "greedy_rows",
    "init_row_state",
    "observe_tokens",
    "pack_rows",
    "sample",
    "set_row",
    "token_chunks",
    "token_logprobs",
    "unpack_flags",
    "unpack_rows",
]
