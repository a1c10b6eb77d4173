"""Reads the text part of Gemma 3: two rotary embeddings, normed queries and keys.

Files of 4B and more see, have the decoder under `text_config`, and leave most of it to
the defaults. MedGemma and others are published under its name.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.gemma import (
    TANH,
    read_biases,
    read_gemma,
    read_norm,
)
from mell_jax.checkpoints.families.gemma2 import (
    read_cap,
    read_scale,
    sandwich_sources,
    sandwich_values,
)
from mell_jax.checkpoints.families.reading import (
    layer_types_of,
    read_activation,
    read_attention,
    read_head_dim,
    read_layer_types,
    read_windows,
    types_by_pattern,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import GEMMA3_LAYERS, read_layered_ropes
from mell_jax.checkpoints.rope_values import layered_rope_values
from mell_jax.models.config import AttentionConfig, ModelConfig
from mell_jax.models.rope import RopeConfig

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }
)
PATTERN = "sliding_window_pattern"
DEFAULT_PATTERN = 6
"""Every so many layers, the last of them sees everything."""


def _layer_types(fields: Fields) -> tuple[str, ...]:
    pattern = fields.integer(PATTERN, default=DEFAULT_PATTERN)
    if pattern < 1:
        fields.fail(PATTERN, f"must be at least 1, found {pattern}")
    expected = types_by_pattern(fields, full_every=pattern)
    types = read_layer_types(fields, default=expected)
    if types != expected and fields.has(PATTERN):
        fields.fail(
            PATTERN,
            f"is {pattern} and disagrees with layer_types; versions of transformers "
            "differ in which one they take: keep layer_types",
        )
    return types


def _attentions(fields: Fields) -> list[AttentionConfig]:
    if fields.has("attn_logit_softcapping"):
        fields.fail(
            "attn_logit_softcapping",
            "is not honoured by Gemma 3 in transformers: set it to null",
        )
    types, head_dim = _layer_types(fields), read_head_dim(fields)
    ropes = read_layered_ropes(fields, head_dim=head_dim)
    windows = read_windows(fields, default=types)
    return [
        read_attention(
            fields,
            head_dim=head_dim,
            window=window,
            rope=whole_rope(fields, ropes[kind]),
            scale=read_scale(fields, head_dim=head_dim),
            qk_norm=read_norm(fields),
            **read_biases(fields),
        )
        for kind, window in zip(types, windows, strict=True)
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


def _write(config: ModelConfig) -> dict[str, Any]:
    types, attentions = layer_types_of(config), config.attentions
    ropes = {
        name: RopeConfig(theta=layer.default_theta)
        for name, layer in GEMMA3_LAYERS.items()
    }
    for kind, attention in zip(types, attentions, strict=True):
        ropes[kind] = attention.rope or ropes[kind]
    return {
        **sandwich_values(config),
        **layered_rope_values(
            ropes,
            head_dim=config.head_dim,
            context_tokens=config.max_position_embeddings,
        ),
    }


GEMMA3 = Family(
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    parse=_parse,
    weights=sandwich_sources,
    write=_write,
    also=("Gemma3ForConditionalGeneration",),
)
