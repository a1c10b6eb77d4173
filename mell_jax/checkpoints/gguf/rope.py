"""Reads how a GGUF file stretches rotary positions, as `rope_scaling` says it."""

from typing import Any

import numpy as np

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.model import GgufModel
from mell_jax.checkpoints.gguf.read import read_packed
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import MAX_HEAD_DIM

FACTORS = "rope_freqs.weight"
_NEUTRAL = {
    "attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_log_multiplier": 0.0,
}
"""Numbers that we have no word for, with the value that changes nothing."""


def rope_section(
    model: GgufModel, metadata: Fields, *, prefix: str, context_tokens: int
) -> dict[str, Any] | None:
    """Returns the object that a `config.json` has under `rope_scaling`.

    A tensor of factors, one for each pair of channels, comes from Llama 3.1's scaling;
    it is honoured as it is.

    Args:
      model: the file.
      metadata: its keys and values.
      prefix: of the keys of its architecture, "llama.".
      context_tokens: the longest context by the file.

    Raises:
      CheckpointError: the type is not known, or comes with factors.
    """
    key = f"{prefix}rope.scaling.type"
    kind = metadata.text(key, default="none")
    _ask_neutral(metadata, prefix)
    scaling = _scaling(metadata, prefix, kind=kind, context_tokens=context_tokens)
    if FACTORS not in model.tensors:
        return scaling
    if scaling is not None:
        metadata.fail(key, f"is {kind!r}, but there are factors, too, in {FACTORS}")
    factors = _factors(model)
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": context_tokens,
        "attention_factor": 1.0,
    }


def _scaling(
    metadata: Fields, prefix: str, *, kind: str, context_tokens: int
) -> dict[str, Any] | None:
    at = f"{prefix}rope.scaling."
    metadata.has(f"{at}finetuned")  # says nothing of the arithmetic
    original = metadata.integer(f"{at}original_context_length", default=context_tokens)
    older = f"{prefix}rope.scale_linear"
    if kind == "none" and metadata.has(older):
        return {"rope_type": "linear", "factor": metadata.number(older)}
    factor = metadata.number(f"{at}factor", default=1.0)
    if kind == "none":
        if factor not in (0.0, 1.0):
            metadata.fail(f"{at}factor", f"is {factor}, but {at}type is missing")
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": metadata.number(f"{at}yarn_beta_fast", default=32.0),
            "beta_slow": metadata.number(f"{at}yarn_beta_slow", default=1.0),
        }
    metadata.fail(f"{at}type", f"must be none, linear or yarn; found {kind[:60]!r}")


def _ask_neutral(metadata: Fields, prefix: str) -> None:
    for name, neutral in _NEUTRAL.items():
        key = f"{prefix}rope.scaling.{name}"
        if metadata.number(key, default=neutral) != neutral:
            metadata.fail(key, f"must be {neutral}, which changes nothing")


def _factors(model: GgufModel) -> list[float]:
    packed = model.tensors[FACTORS]
    if len(packed.shape) != 1 or packed.shape[0] > MAX_HEAD_DIM:
        raise CheckpointError(
            f"{packed} has the shape {list(packed.shape)}; it must have one factor for "
            "each pair of channels of a head"
        )
    factors = read_packed(packed, dtype=np.float32)
    if not np.isfinite(factors).all():
        raise CheckpointError(f"{packed} has values that are not finite")
    return [float(factor) for factor in factors]
