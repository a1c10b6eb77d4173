"""Turns logits into tokens, on the device."""

from mell_jax.worker.sampling.choice import are_finite
from mell_jax.worker.sampling.edits import mask_shape
from mell_jax.worker.sampling.logprobs import TokenLogprobs, token_logprobs
from mell_jax.worker.sampling.rows import (
    BITS_COLUMN,
    EVERYTHING,
    NOTHING,
    POSITION_COLUMN,
    ROW_COLUMNS,
    SLOT_COLUMN,
    SUPPRESS_STOP_BIT,
    SamplingRows,
    Want,
    greedy_rows,
    pack_rows,
    unpack_rows,
    wants_of,
)
from mell_jax.worker.sampling.sampler import (
    ALL_VARIANTS,
    NONE_ALLOWED,
    NOT_FINITE,
    Logits,
    Sampled,
    Sampler,
    SamplerPrograms,
)
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
    "ALL_VARIANTS",
    "BIAS_CAP",
    "BITS_COLUMN",
    "EVERYTHING",
    "NONE_ALLOWED",
    "NOTHING",
    "NOT_FINITE",
    "POSITION_COLUMN",
    "ROW_COLUMNS",
    "SLOT_COLUMN",
    "STOP_CAP",
    "SUPPRESS_STOP_BIT",
    "Logits",
    "RowState",
    "Sampled",
    "Sampler",
    "SamplerPrograms",
    "SamplingRows",
    "TokenChunk",
    "TokenLogprobs",
    "Want",
    "are_finite",
    "greedy_rows",
    "init_row_state",
    "mask_shape",
    "observe_tokens",
    "pack_rows",
    "set_row",
    "token_chunks",
    "token_logprobs",
    "unpack_rows",
    "wants_of",
]
