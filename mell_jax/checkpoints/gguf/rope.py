"""Reads how a GGUF file stretches rotary positions, as `rope_scaling` says it."""

from typing import Any

import numpy as np

from mell_jax.checkpoints.errors import CheckpointError
from mell_jax.checkpoints.gguf.model import GgufModel
from mell_jax.checkpoints.gguf.read import read_packed
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import MAX_HEAD_DIM

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (FACTORS, LONG, SHORT)
_GAIN = "attn_factor"
_NEUTRAL = {
    _GAIN: 1.0,
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
    it is honoured as it is. Phi-3 has two, for short and for long contexts.

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
    if LONG in model.tensors or SHORT in model.tensors:
        return _long_section(
            model, metadata, prefix=prefix, kind=kind, context_tokens=context_tokens
        )
    _ask_neutral(metadata, prefix)
    scaling = _scaling(metadata, prefix, kind=kind, context_tokens=context_tokens)
    if FACTORS not in model.tensors:
        return scaling
    if scaling is not None:
        metadata.fail(key, f"is {kind!r}, but there are factors, too, in {FACTORS}")
    factors = _factors(model, FACTORS)
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": context_tokens,
        "attention_factor": 1.0,
    }


def _long_section(
    model: GgufModel,
    metadata: Fields,
    *,
    prefix: str,
    kind: str,
    context_tokens: int,
) -> dict[str, Any]:
    at = f"{prefix}rope.scaling."
    if kind not in ("none", "longrope") or FACTORS in model.tensors:
        metadata.fail(
            f"{at}type",
            f"is {kind[:60]!r} beside {LONG} and {SHORT}; those are of longrope, which "
            f"has no {FACTORS} either",
        )
    _ask_neutral(metadata, prefix, but=_GAIN)
    if metadata.number(f"{at}factor", default=1.0) not in (0.0, 1.0):
        metadata.fail(f"{at}factor", f"must be 1 or absent beside {LONG}")
    for name in (LONG, SHORT):
        if name not in model.tensors:
            raise CheckpointError(
                f"{model.path}: tensor {name!r} is missing, but there is the other one "
                "of long and short factors; convert the model again"
            )
    return {
        "rope_type": "longrope",
        "short_factor": _factors(model, SHORT),
        "long_factor": _factors(model, LONG),
        "original_max_position_embeddings": metadata.integer(
            f"{at}original_context_length", default=context_tokens
        ),
        "attention_factor": metadata.number(f"{at}{_GAIN}", default=1.0),
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


def _ask_neutral(metadata: Fields, prefix: str, *, but: str = "") -> None:
    for name, neutral in _NEUTRAL.items():
        if name == but:
            continue
        key = f"{prefix}rope.scaling.{name}"
        if metadata.number(key, default=neutral) != neutral:
            metadata.fail(key, f"must be {neutral}, which changes nothing")


def _factors(model: GgufModel, name: str) -> list[float]:
    packed = model.tensors[name]
    if len(packed.shape) != 1 or packed.shape[0] > MAX_HEAD_DIM:
        raise CheckpointError(
            f"{packed} has the shape {list(packed.shape)}; it must have one factor for "
            "each pair of channels of a head"
        )
    factors = read_packed(packed, dtype=np.float32)
    if not np.isfinite(factors).all():
        raise CheckpointError(f"{packed} has values that are not finite")
    return [float(factor) for factor in factors]
