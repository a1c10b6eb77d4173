"""Reads Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama with fused maps and long ropes."""

from dataclasses import replace
from typing import Any

from mell_jax.checkpoints.families.family import Family, Sources
from mell_jax.checkpoints.families.names import Names, decoder_sources
from mell_jax.checkpoints.families.reading import (
    Windows,
    read_head_dim,
    read_num_layers,
    read_uniform,
    smallest_window,
)
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import read_rope
from mell_jax.checkpoints.rope_section import ORIGINAL_KEY
from mell_jax.models.config import ModelConfig
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import LongRope

NAMES = Names(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")
DEFAULT_ORIGINAL_CONTEXT = 4096  # tokens


def _parse(fields: Fields) -> ModelConfig:
    windows: Windows = ()
    if fields.has("sliding_window"):
        windows = (fields.integer("sliding_window"),) * read_num_layers(fields)
    return read_uniform(fields, windows=windows, rope=_rope(fields), norm_eps=1e-5)


def _rope(fields: Fields) -> RopeConfig:
    if not fields.has(ORIGINAL_KEY):
        original = {ORIGINAL_KEY: DEFAULT_ORIGINAL_CONTEXT}
        fields = replace(fields, values=fields.values | original)
    rope = read_rope(fields, head_dim=read_head_dim(fields))
    if not isinstance(rope.scaling, LongRope | None):
        fields.fail(
            "rope_scaling", "must be of the type longrope, the one that Phi-3 has"
        )
    return rope


def _sources(config: ModelConfig) -> Sources:
    return decoder_sources(config, names=NAMES)


def _write(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": smallest_window(config)}


PHI3 = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    parse=_parse,
    weights=_sources,
    write=_write,
)
