"""A model's shape is what costs memory and time: weights, KV per token, arithmetic.

It comes from the `config.json` of a model directory, of any family that is served, from
a GGUF file, or from the published values of `shapes.json` by name. No weight is read.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.hf_config import parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.model_spec import read_spec
from mell_jax.models.config import LayerConfig, ModelConfig

TABLE = Path(__file__).with_name("shapes.json")
NUMBER_BYTES = 2  # weights and KV are bfloat16 on an accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One model, as far as a planner has to know it; counts are of the whole model.

    Attributes:
      embedding: parameters that a step looks up and does not multiply by; 0 where the
        head uses the same.
      head: parameters of which only rows that want a token need the product.
      windows: of each layer, in tokens; None sees everything.
      attention_width: query channels of each layer, all heads together.
      mlp_sizes: widths of the feed-forward parts, without repetition.
    """

    name: str
    parameters: int
    embedding: int
    head: int
    hidden_size: int
    context_tokens: int
    num_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    attention_width: tuple[int, ...]
    num_heads: tuple[int, ...]  # without repetition
    mlp_sizes: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def weight_bytes(self) -> int:
        """Returns the memory of all weights."""
        return self.parameters * NUMBER_BYTES

    @property
    def read_bytes(self) -> int:
        """Returns what a step reads of the weights."""
        return (self.parameters - self.embedding) * NUMBER_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """Returns the KV cache of a token in all layers."""
        width = self.num_kv_heads * self.head_dim
        return self.num_layers * 2 * width * NUMBER_BYTES

    def can_be_cut(self, devices: int) -> bool:
        """Tells whether the engine can lay an instance on so many devices."""
        cuts = (*self.num_heads, *self.mlp_sizes)
        is_even = all(size % devices == 0 for size in cuts)
        heads = self.num_kv_heads
        return is_even and (heads % devices == 0 or devices % heads == 0)

    def kv_copies(self, devices: int) -> int:
        """Returns how often an instance on so many devices holds each KV head."""
        return max(1, devices // self.num_kv_heads)


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
