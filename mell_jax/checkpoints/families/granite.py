"""Reads Granite 3 and the dense models of Granite 4: Llama with four multipliers.

Granite 4 is published as a hybrid (`GraniteMoeHybridForCausalLM`) though its dense
models are none: all of their layers attend, and no layer has experts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    Biases,
    read_num_layers,
    read_positive,
    read_uniform,
    rotate_only,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.models.config import ModelConfig

HYBRID_NAMES = Names(gate_up="shared_mlp.input_linear", down="shared_mlp.output_linear")
ATTENDING = ("attention", "full_attention")
"""What old and new versions of transformers call a layer that is not Mamba."""
DEFAULT_EXPERTS = 8
DEFAULT_SHARED_SIZE = 1024
NO_ROPE = "nope"


def _parse(fields: Fields) -> ModelConfig:
    return _multiplied(fields, mlp_bias=fields.flag("mlp_bias", default=False))


def _multiplied(fields: Fields, *, mlp_bias: bool = False) -> ModelConfig:
    has_bias = fields.flag("attention_bias", default=False)
    config = read_uniform(
        fields, mlp_bias=mlp_bias, biases=Biases.of(qkv=has_bias, output=has_bias)
    )
    scale = read_positive(fields, "attention_multiplier")
    layers = [
        replace(layer, attention=replace(layer.attention, scale=scale))
        for layer in config.layers
    ]
    return replace(
        config,
        layers=tuple(layers),
        embedding_multiplier=read_positive(fields, "embedding_multiplier"),
        residual_multiplier=read_positive(fields, "residual_multiplier"),
        logit_multiplier=1.0 / read_positive(fields, "logits_scaling"),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    return {
        "attention_bias": first.attention.query_bias,
        "mlp_bias": first.feed_forward.has_bias,
        "attention_multiplier": first.attention.score_scale,
        "embedding_multiplier": config.embedding_multiplier,
        "residual_multiplier": config.residual_multiplier,
        "logits_scaling": 1.0 / config.logit_multiplier,
    }


def _parse_hybrid(fields: Fields) -> ModelConfig:
    _refuse_mamba(fields)
    _refuse_experts(fields)
    position = fields.text("position_embedding_type", default=NO_ROPE)
    if position not in ("rope", NO_ROPE):
        fields.fail(
            "position_embedding_type", f"must be rope or {NO_ROPE}, found {position!r}"
        )
    size = fields.integer("shared_intermediate_size", default=DEFAULT_SHARED_SIZE)
    config = _multiplied(
        replace(fields, values=fields.values | {"intermediate_size": size})
    )
    return rotate_only(config, (position == "rope",) * config.num_layers)


def _refuse_mamba(fields: Fields) -> None:
    layers = read_num_layers(fields)
    types = fields.texts("layer_types") if fields.has("layer_types") else ()
    if len(types) != layers or not set(ATTENDING).issuperset(types):
        fields.fail(
            "layer_types",
            f"must say that each of the {layers} layers is of attention: layers of "
            "Mamba are not supported; take a dense model, such as granite-4.0-micro",
        )
    fields.has("mamba_d_state")  # a number of layers that are not there


def _refuse_experts(fields: Fields) -> None:
    experts = fields.integer("num_local_experts", default=DEFAULT_EXPERTS)
    if experts:
        fields.fail(
            "num_local_experts",
            f"is {experts}, and experts are not supported; take a dense model, such as "
            "granite-4.0-micro",
        )
    fields.has("num_experts_per_tok")


def _hybrid_sources(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=HYBRID_NAMES)


def _write_hybrid(config: ModelConfig) -> dict[str, Any]:
    first = config.layers[0]
    values: Mapping[str, Any] = {
        "shared_intermediate_size": first.feed_forward.size,
        "layer_types": [ATTENDING[0]] * config.num_layers,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": NO_ROPE if first.attention.rope is None else "rope",
    }
    return {**_write(config), **values}


GRANITE = Family(
    architecture="GraniteForCausalLM",
    model_type="granite",
    parse=_parse,
    weights=decoder_sources,
    write=_write,
)
GRANITE_HYBRID = Family(
    architecture="GraniteMoeHybridForCausalLM",
    model_type="granitemoehybrid",
    parse=_parse_hybrid,
    weights=_hybrid_sources,
    write=_write_hybrid,
)
