"""Reads Cohere's Command R, R+ (a norm on queries, keys), R7B and A (windows).

Attention and feed-forward read the same norm and are added together. In R7B and A only
layers with a window are rotated.
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
    read_split_head_dim,
    read_windows,
    smallest_window,
    types_by_pattern,
    whole_rope,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig

COHERE_THETA = 500_000.0
COHERE2_THETA = 10_000.0
DEFAULT_EPS = 1e-5
DEFAULT_LOGIT_SCALE = 0.0625
DEFAULT_WINDOW = 4096
DEFAULT_PATTERN = 4


def _parse_cohere(fields: Fields) -> ModelConfig:
    norm, size = _norm(fields), read_head_dim(fields)
    attention = read_attention(
        fields,
        head_dim=size,
        rope=_rope(fields, head_dim=size, default_theta=COHERE_THETA),
        qk_norm=norm if fields.flag("use_qk_norm", default=False) else None,
        qk_norm_span="each_head",
        **_biases(fields),
    )
    return _model(fields, attentions=(attention,) * read_num_layers(fields))


def _parse_cohere2(fields: Fields) -> ModelConfig:
    size = read_split_head_dim(fields)
    rope = _rope(fields, head_dim=size, default_theta=COHERE2_THETA)
    attentions = tuple(
        read_attention(
            fields,
            head_dim=size,
            window=window,
            rope=None if window is None else rope,
            **_biases(fields),
        )
        for window in _windows(fields)
    )
    return _model(fields, attentions=attentions)


def _rope(fields: Fields, *, head_dim: int, default_theta: float) -> RopeConfig:
    rope = read_rope(
        fields, head_dim=head_dim, default_theta=default_theta, is_interleaved=True
    )
    return whole_rope(fields, rope)


def _windows(fields: Fields) -> Windows:
    fields = fields.with_defaults({"sliding_window": DEFAULT_WINDOW})
    pattern = fields.integer("sliding_window_pattern", default=DEFAULT_PATTERN)
    if pattern < 1:
        fields.fail("sliding_window_pattern", f"must be positive, got {pattern}")
    types = types_by_pattern(fields, full_every=pattern)
    return read_windows(fields, default=types)


def _norm(fields: Fields) -> NormConfig:
    return NormConfig(
        kind="layer", eps=fields.number("layer_norm_eps", default=DEFAULT_EPS)
    )


def _biases(fields: Fields) -> dict[str, bool]:
    has_bias = fields.flag("attention_bias", default=False)
    return asdict(Biases.of(qkv=has_bias, output=has_bias))


def _model(fields: Fields, *, attentions: tuple[AttentionConfig, ...]) -> ModelConfig:
    norm = _norm(fields)
    feed_forward = FeedForwardConfig(
        size=fields.integer("intermediate_size"), activation=read_activation(fields)
    )
    layers = [
        LayerConfig(
            attention=attention, feed_forward=feed_forward, norm=norm, is_parallel=True
        )
        for attention in attentions
    ]
    return read_model(
        fields,
        layers=tuple(layers),
        norm=norm,
        tie_embeddings=True,
        logit_multiplier=fields.number("logit_scale", default=DEFAULT_LOGIT_SCALE),
    )


def _write_cohere(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].attention
    return {
        "layer_norm_eps": config.norm.eps,
        "logit_scale": config.logit_multiplier,
        "attention_bias": attention.query_bias,
        "use_qk_norm": attention.qk_norm is not None,
    }


def _write_cohere2(config: ModelConfig) -> dict[str, Any]:
    return {
        **_write_cohere(config),
        "sliding_window": smallest_window(config) or DEFAULT_WINDOW,
        "layer_types": layer_types_of(config),
    }


COHERE = Family(
    architecture="CohereForCausalLM",
    model_type="cohere",
    parse=_parse_cohere,
    weights=decoder_sources,
    write=_write_cohere,
)
COHERE2 = Family(
    architecture="Cohere2ForCausalLM",
    model_type="cohere2",
    parse=_parse_cohere2,
    weights=decoder_sources,
    write=_write_cohere2,
)
