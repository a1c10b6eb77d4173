"""Reads Gemma 1, and holds what all Gemmas share.

That is norms that multiply by 1 + scale, and an embedding times the root of its width.
CodeGemma and others are published under its name.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    read_activation,
    read_attention,
    read_head_dim,
    read_model,
    read_num_layers,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.models.config import (
    Activation,
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    NormPlaces,
)

TANH = "gelu_pytorch_tanh"
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 256_000,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
)


def read_gemma(
    fields: Fields,
    *,
    attentions: Iterable[AttentionConfig],
    activation: Activation,
    norm_places: NormPlaces = "before",
    logit_soft_cap: float | None = None,
) -> ModelConfig:
    """Returns the config of a Gemma with these attentions, one for each layer."""
    norm = read_norm(fields)
    feed_forward = FeedForwardConfig(
        size=fields.integer("intermediate_size"), activation=activation
    )
    layers = [
        LayerConfig(
            attention=attention,
            feed_forward=feed_forward,
            norm=norm,
            norm_places=norm_places,
        )
        for attention in attentions
    ]
    return read_model(
        fields,
        layers=tuple(layers),
        norm=norm,
        embedding_multiplier=math.sqrt(fields.integer("hidden_size")),
        logit_soft_cap=logit_soft_cap,
    )


def read_norm(fields: Fields) -> NormConfig:
    """Returns what every norm of a Gemma is like."""
    return NormConfig(eps=fields.number("rms_norm_eps"), is_offset=True)


def read_biases(fields: Fields) -> dict[str, bool]:
    """Returns the fields of an `AttentionConfig` that `attention_bias` decides."""
    has_bias = fields.flag("attention_bias", default=False)
    maps = ("query_bias", "key_bias", "value_bias", "output_bias")
    return dict.fromkeys(maps, has_bias)


def _activation(fields: Fields) -> Activation:
    """By "gelu" files of then mean its tanh form, as transformers takes it."""
    keys = ("hidden_act", "hidden_activation")
    found = {key: read_activation(fields, key=key, default=TANH) for key in keys}
    given = {
        key: "gelu_tanh" if value == "gelu" else value
        for key, value in found.items()
        if fields.has(key)
    }
    if len(set(given.values())) > 1:
        fields.fail(
            "hidden_activation",
            f"is {fields.text('hidden_activation')} and hidden_act is "
            f"{fields.text('hidden_act')}; versions of transformers differ in which "
            "one they take: keep one",
        )
    return next(iter(given.values()), "gelu_tanh")


def _parse(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(DEFAULTS)
    head_dim = read_head_dim(fields)
    attention = read_attention(
        fields,
        head_dim=head_dim,
        rope=whole_rope(fields, read_rope(fields, head_dim=head_dim)),
        **read_biases(fields),
    )
    return read_gemma(
        fields,
        attentions=(attention,) * read_num_layers(fields),
        activation=_activation(fields),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.layers[0].attention.query_bias}


GEMMA = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)
