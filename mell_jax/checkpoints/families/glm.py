"""Reads GLM-4 9B and GLM-4-0414: half of each head turns, its neighbours together.

GLM-4-0414 (`Glm4ForCausalLM`) has norms on both sides of each part besides.
"""

from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_head_dim,
    read_uniform,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.checkpoints.rope_values import rope_values
from mell_jax.models.config import ModelConfig, NormPlaces
from mell_jax.models.rope import RopeConfig

GLM_NAMES = Names(gate_up="mlp.gate_up_proj")
GLM4_NAMES = Names(
    gate_up="mlp.gate_up_proj",
    attention_out_norm="post_self_attn_layernorm",
    mlp_out_norm="post_mlp_layernorm",
)
DEFAULT_HEAD_DIM = 128
DEFAULT_KV_HEADS = 2
DEFAULT_SHARE = 0.5  # of a head's channels
DEFAULT_EPS = 1.5625e-07


def _parse(fields: Fields, *, norm_places: NormPlaces) -> ModelConfig:
    fields = fields.with_defaults({"num_key_value_heads": DEFAULT_KV_HEADS})
    rope = read_rope(
        fields,
        head_dim=read_head_dim(fields, default=DEFAULT_HEAD_DIM),
        is_interleaved=True,
        default_share=DEFAULT_SHARE,
    )
    has_bias = fields.flag("attention_bias", default=True)
    return read_uniform(
        fields,
        head_dim=DEFAULT_HEAD_DIM,
        rope=rope,
        norm_eps=DEFAULT_EPS,
        norm_places=norm_places,
        biases=Biases.of(qkv=has_bias, output=False),
    )


def _parse_glm(fields: Fields) -> ModelConfig:
    return _parse(fields, norm_places="before")


def _parse_glm4(fields: Fields) -> ModelConfig:
    return _parse(fields, norm_places="both")


def _glm_sources(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=GLM_NAMES)


def _glm4_sources(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=GLM4_NAMES)


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0].attention
    return {
        "attention_bias": first.query_bias,
        **rope_values(
            first.rope or RopeConfig(),
            head_dim=config.head_dim,
            context_tokens=config.max_position_embeddings,
            default_share=DEFAULT_SHARE,
        ),
    }


GLM = Family(
    architecture="GlmForCausalLM",
    model_type="glm",
    parse=_parse_glm,
    weights=_glm_sources,
    write=_write,
)
GLM4 = Family(
    architecture="Glm4ForCausalLM",
    model_type="glm4",
    parse=_parse_glm4,
    weights=_glm4_sources,
    write=_write,
)
