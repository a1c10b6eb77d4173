"""Finds the shape of a model; no weight is read.

It comes from the `config.json` of a model directory, of any family that is served, from
a GGUF file, or from the published values of `shapes.json` by name.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.hf_config import parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.model_spec import read_spec
from mell_jax.models.config import LayerConfig, ModelConfig
from mell_jax.planner.shape import ModelShape

TABLE = Path(__file__).with_name("shapes.json")


def find_shape(model: str) -> ModelShape:
    """Returns the shape that is called `model`, or that lies there.

    Args:
      model: a name of `shapes.json`, a directory with a `config.json`, or a GGUF file.

    Raises:
      ValueError: it is neither, or its `config.json` is not served; `CheckpointError`
        says which key.
    """
    named = json.loads(TABLE.read_text())["shapes"]
    if model in named:
        nowhere = Fields({}, str(TABLE))
        spec = parse_spec(Fields(named[model], str(TABLE)), generation=nowhere)
        return shape_of(spec.config, name=model)
    if not Path(model).exists():
        raise ValueError(
            f"--model={model}: there is no such directory or GGUF file, and the shapes "
            f"known by name are {', '.join(named)}"
        )
    name = Path(model).resolve().name
    return shape_of(read_spec(Path(model)).config, name=name)


def shape_of(config: ModelConfig, *, name: str) -> ModelShape:
    """Returns the shape of a decoder."""
    table = config.vocab_size * config.hidden_size
    attentions = config.attentions
    return ModelShape(
        name=name,
        parameters=_count(config),
        embedding=0 if config.tie_embeddings else table,
        head=table,
        hidden_size=config.hidden_size,
        context_tokens=config.max_position_embeddings,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        windows=tuple(attention.window for attention in attentions),
        attention_width=tuple(a.num_heads * a.head_dim for a in attentions),
        num_heads=_distinct([attention.num_heads for attention in attentions]),
        mlp_sizes=_distinct([layer.feed_forward.size for layer in config.layers]),
    )


def _distinct(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _count(config: ModelConfig) -> int:
    """Parameters; each kind of layer is made once, since tracing many takes seconds."""
    kinds = Counter(config.layers)
    bare = _count_with(config, layers=config.layers[:1])
    of_first = 0
    total = 0
    for kind, number in kinds.items():
        both = _count_with(config, layers=(config.layers[0], kind))
        total += number * (both - bare)
        if kind == config.layers[0]:
            of_first = both - bare
    return bare - of_first + total


def _count_with(config: ModelConfig, *, layers: tuple[LayerConfig, ...]) -> int:
    model = abstract_decoder(replace(config, layers=layers), dtype="bfloat16")
    return sum(math.prod(parameter.shape) for _, parameter in model.items())
