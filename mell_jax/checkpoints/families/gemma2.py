"""Reads Gemma 2: norms before and after each part, capped scores and logits, windows.

ShieldGemma and others are published under its name.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.gemma import TANH, read_biases, read_gemma
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    common_values,
    layer_types_of,
    read_activation,
    read_attention,
    read_head_dim,
    read_windows,
    smallest_window,
    types_by_pattern,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.models.config import AttentionConfig, ModelConfig

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
)
"""Where a file does not have the key; null is a value, and takes a cap away."""
NAMES = Names(mlp_norm="pre_feedforward_layernorm")


def read_scale(fields: Fields, *, head_dim: int) -> float | None:
    """Returns the factor on the scores; None for the one that follows from a head."""
    scalar = fields.number("query_pre_attn_scalar")
    if not (scalar > 0.0):
        fields.fail("query_pre_attn_scalar", f"must be above 0, found {scalar}")
    return None if scalar == head_dim else float(scalar**-0.5)


def read_cap(fields: Fields, key: str) -> float | None:
    """Returns where a cap lies, or None without one."""
    return fields.number(key) if fields.has(key) else None


def sandwich_sources(config: ModelConfig) -> Sources:
    """Returns what the parameters of a Gemma with four norms a layer are made of."""
    return decoder_sources(config, names=NAMES)


def sandwich_values(config: ModelConfig) -> dict[str, Any]:
    """Returns what Gemma 2 and 3 both write."""
    attention = config.layers[0].attention
    scalar = round(attention.score_scale**-2, 6)
    return {
        "hidden_activation": common_values(config)["hidden_act"],
        "attention_bias": attention.query_bias,
        "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
        "sliding_window": smallest_window(config),
        "layer_types": layer_types_of(config),
        "attn_logit_softcapping": attention.soft_cap,
        "final_logit_softcapping": config.logit_soft_cap,
    }


def _attentions(fields: Fields) -> list[AttentionConfig]:
    head_dim = read_head_dim(fields)
    windows = read_windows(fields, default=types_by_pattern(fields, full_every=2))
    return [
        read_attention(
            fields,
            head_dim=head_dim,
            window=window,
            rope=whole_rope(fields, read_rope(fields, head_dim=head_dim)),
            scale=read_scale(fields, head_dim=head_dim),
            soft_cap=read_cap(fields, "attn_logit_softcapping"),
            **read_biases(fields),
        )
        for window in windows
    ]


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    return read_gemma(
        fields,
        attentions=_attentions(fields),
        activation=read_activation(fields, key="hidden_activation", default=TANH),
        norm_places="both",
        logit_soft_cap=read_cap(fields, "final_logit_softcapping"),
    )


GEMMA2 = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    parse=_parse,
    weights=sandwich_sources,
    write=sandwich_values,
)
