"""Reads the keys that some architectures of GGUF alone have, as a `config.json` does.

What llama.cpp takes for granted where a file is silent is taken for granted here, too:
which layers have a window, the base that those turn with, and how the 27B models scale
their queries.

Source: `conversion/{gemma,phi}.py` and `src/models/{gemma2,gemma3,phi3}.cpp` of
ggml-org/llama.cpp.
"""

import math
from typing import Any

from mell_jax.checkpoints.gguf.metadata import Metadata
from mell_jax.checkpoints.rope_section import ORIGINAL_KEY, SHARE_KEYS
from mell_jax.models.config import MAX_LAYERS

_WINDOW = "attention.sliding_window"
_PATTERN = "attention.sliding_window_pattern"
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_GEMMA2_WINDOW = 4096  # tokens
_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62


def no_keys(own: Metadata) -> dict[str, Any]:
    """Returns nothing, for an architecture that has the common keys alone."""
    del own
    return {}


def gemma2_keys(own: Metadata) -> dict[str, Any]:
    """Returns caps, windows and the scale of Gemma 2."""
    return {
        **{key: own.number(key) for key in _CAPS if own.has(key)},
        "query_pre_attn_scalar": _scalar(own, layers_of_27b=_GEMMA2_27B_LAYERS),
        "sliding_window": own.integer(_WINDOW, default=_GEMMA2_WINDOW),
        "layer_types": _layer_types(own, every=own.integer(_PATTERN, default=2)),
    }


def gemma3_keys(own: Metadata) -> dict[str, Any]:
    """Returns the cap, windows, the second base and the scale of Gemma 3."""
    window = own.integer(_WINDOW, default=0)
    every = own.integer(_PATTERN, default=6)
    return {
        "final_logit_softcapping": own.number(_CAPS[1], default=0.0) or None,
        "query_pre_attn_scalar": _scalar(own, layers_of_27b=_GEMMA3_27B_LAYERS),
        "sliding_window": window or None,
        "layer_types": _layer_types(own, every=every if window else 1),
        "rope_local_base_freq": own.number("rope.freq_base_swa", default=10_000.0),
    }


def phi3_keys(own: Metadata) -> dict[str, Any]:
    """Returns the window, the first context and the turning share of Phi-3's heads."""
    head_dim, context = own.head_dim, own.integer("context_length")
    turning = own.integer("rope.dimension_count", default=head_dim)
    values: dict[str, Any] = {
        "sliding_window": own.integer(_WINDOW, default=0) or None,
        ORIGINAL_KEY: own.integer(
            "rope.scaling.original_context_length", default=context
        ),
    }
    if turning != head_dim:
        if not (0 < turning < head_dim):
            own.fields.fail(
                own.key("rope.dimension_count"),
                f"must be from 2 to the size of a head, {head_dim}; found {turning}",
            )
        # The nearest number may be below the quotient, and is rounded down after.
        values[SHARE_KEYS[0]] = math.nextafter(turning / head_dim, 1.0)
    return values


def _scalar(own: Metadata, *, layers_of_27b: int) -> int:
    """What a query is divided by the root of; the 27B models alone differ."""
    if own.integer("block_count") == layers_of_27b:
        return own.integer("embedding_length") // own.heads
    return own.head_dim


def _layer_types(own: Metadata, *, every: int) -> list[str]:
    """The last of so many layers sees everything; of 0, none does."""
    layers, key = own.integer("block_count"), own.key("block_count")
    if not (1 <= layers <= MAX_LAYERS):
        own.fields.fail(key, f"must be from 1 to {MAX_LAYERS}, found {layers}")
    if every < 0:
        own.fields.fail(own.key(_PATTERN), f"must not be negative: {every}")
    return [
        "full_attention" if every and (layer + 1) % every == 0 else "sliding_attention"
        for layer in range(layers)
    ]
