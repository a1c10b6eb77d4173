"""Reads OLMo 2 and 3: norms stand after the parts, and over all heads together.

In OLMo 3 most layers have a window, and only the others are stretched to long contexts.
"""

from dataclasses import asdict
from typing import Any

from mell_jax.checkpoints.families.family import Family
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    Windows,
    layer_types_of,
    read_activation,
    read_attention,
    read_head_dim,
    read_model,
    read_num_layers,
    read_windows,
    smallest_window,
    types_by_pattern,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import (
    OLMO3_LAYERS,
    read_layered_ropes,
    read_rope,
)
from mell_jax.checkpoints.rope_values import layered_rope_values
from mell_jax.models.config import (
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig

DEFAULT_EPS = 1e-5
DEFAULT_WINDOW = 4096
FULL_EVERY = 4
"""The last of so many layers sees everything, where OLMo 3 does not tell."""


def _parse_olmo2(fields: Fields) -> ModelConfig:
    rope = whole_rope(fields, read_rope(fields, head_dim=read_head_dim(fields)))
    layers = read_num_layers(fields)
    return _model(fields, windows=(None,) * layers, full_rope=rope, sliding_rope=rope)


def _parse_olmo3(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults({"sliding_window": DEFAULT_WINDOW})
    types = types_by_pattern(fields, full_every=FULL_EVERY)
    ropes = read_layered_ropes(
        fields, head_dim=read_head_dim(fields), layers=OLMO3_LAYERS
    )
    return _model(
        fields,
        windows=read_windows(fields, default=types),
        full_rope=whole_rope(fields, ropes["full_attention"]),
        sliding_rope=whole_rope(fields, ropes["sliding_attention"]),
    )


def _model(
    fields: Fields, *, windows: Windows, full_rope: RopeConfig, sliding_rope: RopeConfig
) -> ModelConfig:
    norm = NormConfig(eps=fields.number("rms_norm_eps", default=DEFAULT_EPS))
    has_bias = fields.flag("attention_bias", default=False)
    feed_forward = FeedForwardConfig(
        size=fields.integer("intermediate_size"), activation=read_activation(fields)
    )
    layers = [
        LayerConfig(
            attention=read_attention(
                fields,
                head_dim=read_head_dim(fields),
                window=window,
                rope=full_rope if window is None else sliding_rope,
                qk_norm=norm,
                qk_norm_span="width",
                **asdict(Biases.of(qkv=has_bias, output=has_bias)),
            ),
            feed_forward=feed_forward,
            norm=norm,
            norm_places="after",
        )
        for window in windows
    ]
    return read_model(fields, layers=tuple(layers), norm=norm)


def _write_olmo2(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.layers[0].attention.query_bias}


def _write_olmo3(config: ModelConfig) -> dict[str, Any]:
    types = layer_types_of(config)
    first = config.layers[0].attention.rope
    ropes = dict.fromkeys(OLMO3_LAYERS, first or RopeConfig())
    for name, attention in zip(types, config.attentions, strict=True):
        ropes[name] = attention.rope or RopeConfig()
    return {
        **_write_olmo2(config),
        **layered_rope_values(
            ropes,
            head_dim=config.head_dim,
            context_tokens=config.max_position_embeddings,
            layers=OLMO3_LAYERS,
        ),
        "sliding_window": smallest_window(config) or DEFAULT_WINDOW,
        "layer_types": types,
    }


OLMO2 = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    parse=_parse_olmo2,
    weights=decoder_sources,
    write=_write_olmo2,
)
OLMO3 = Family(
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    parse=_parse_olmo3,
    weights=decoder_sources,
    write=_write_olmo3,
)
