"""Reads and writes what many families have in common in a `config.json`.

Each function takes the defaults of transformers' config class of a family, which hold
where a file does not have the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, get_args

from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.rope_fields import context_of, read_rope
from mell_jax.checkpoints.rope_section import SHARE_KEYS
from mell_jax.checkpoints.rope_values import rope_values
from mell_jax.models.config import (
    MAX_HEAD_DIM,
    MAX_LAYERS,
    Activation,
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    NormPlaces,
)
from mell_jax.models.rope import RopeConfig

Windows = tuple[int | None, ...]

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu_squared",
}


def read_num_layers(fields: Fields) -> int:
    """Returns how many layers there are."""
    layers = fields.integer("num_hidden_layers")
    if not (1 <= layers <= MAX_LAYERS):
        fields.fail(
            "num_hidden_layers", f"must be from 1 to {MAX_LAYERS}, got {layers}"
        )
    return layers


def read_head_dim(fields: Fields, *, default: int | None = None) -> int:
    """Returns the size of a head: as told, or `default`, or its part of the width."""
    size = _head_dim(fields, default)
    if size % 2 or not (2 <= size <= MAX_HEAD_DIM):
        fields.fail("head_dim", f"must be even, from 2 to {MAX_HEAD_DIM}, got {size}")
    return size


def read_split_head_dim(fields: Fields) -> int:
    """Returns the size of a head where it can only be its part of the width."""
    size = read_head_dim(fields)
    num_heads, hidden_size = (
        fields.integer(key) for key in ("num_attention_heads", "hidden_size")
    )
    if size * num_heads != hidden_size:
        fields.fail(
            "head_dim",
            f"({size}) times num_attention_heads ({num_heads}) must be hidden_size "
            f"({hidden_size}) in this family: correct the one that is wrong",
        )
    return size


def _head_dim(fields: Fields, default: int | None) -> int:
    if fields.has("head_dim"):
        return fields.integer("head_dim")
    if default is not None:
        return default
    hidden_size = fields.integer("hidden_size")
    num_heads = fields.integer("num_attention_heads")
    if num_heads < 1 or hidden_size % num_heads:
        fields.fail(
            "hidden_size",
            f"({hidden_size}) must be a multiple of num_attention_heads "
            f"({num_heads}) where head_dim is not given",
        )
    return hidden_size // num_heads


def read_activation(
    fields: Fields, *, key: str = "hidden_act", default: str = "silu"
) -> Activation:
    """Returns the activation of the feed-forward parts."""
    found = fields.text(key, default=default)
    if found not in ACTIVATIONS:
        fields.fail(
            key, f"must be one of {', '.join(ACTIVATIONS)}, found {found[:60]!r}"
        )
    return ACTIVATIONS[found]


def read_positive(fields: Fields, key: str, *, default: float = 1.0) -> float:
    """Returns a factor of the arithmetic."""
    found = fields.number(key, default=default)
    if not (found > 0.0):
        fields.fail(key, f"must be positive, found {found}")
    return found


def read_layer_types(
    fields: Fields, *, default: tuple[str, ...], allowed: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Returns the kind of attention of each layer: "full_attention" or so.

    Args:
      default: where the file does not tell.
      allowed: kinds that there may be; None for full and sliding ones.
    """
    if not fields.has("layer_types"):
        return default
    allowed = allowed or ("full_attention", "sliding_attention")
    types, layers = fields.texts("layer_types"), read_num_layers(fields)
    if len(types) != layers or not set(allowed).issuperset(types):
        fields.fail(
            "layer_types",
            f"must name each of the {layers} layers as one of {sorted(allowed)}; found "
            f"{list(types)[:8]}",
        )
    return types


def types_by_pattern(fields: Fields, *, full_every: int) -> tuple[str, ...]:
    """Returns the kind of each layer where the last of so many sees everything."""
    return tuple(
        "sliding_attention" if (layer + 1) % full_every else "full_attention"
        for layer in range(read_num_layers(fields))
    )


def windows_by_type(types: tuple[str, ...], window: int | None) -> Windows:
    """Returns the window of each layer: `window` in sliding ones."""
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_windows(fields: Fields, *, default: tuple[str, ...]) -> Windows:
    """Returns the window of each layer, by `layer_types` and `sliding_window`.

    Args:
      default: the types of layers where the file does not tell.
    """
    types = read_layer_types(fields, default=default)
    has_window = fields.has("sliding_window")
    if "sliding_attention" in types and not has_window:
        fields.fail("sliding_window", "is missing, but layers have sliding_attention")
    return windows_by_type(
        types, fields.integer("sliding_window") if has_window else None
    )


def read_attention(fields: Fields, *, head_dim: int, **options: Any) -> AttentionConfig:
    """Returns the attention of a layer; `options` are further fields of it."""
    num_heads = fields.integer("num_attention_heads")
    return AttentionConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        **options,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Biases:
    """Biases are fields of an `AttentionConfig`: which of its maps have one."""

    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False

    @classmethod
    def of(cls, *, qkv: bool, output: bool) -> Self:
        """Returns the same for queries, keys and values."""
        return cls(query_bias=qkv, key_bias=qkv, value_bias=qkv, output_bias=output)


NO_BIASES = Biases()


def read_model(
    fields: Fields,
    *,
    layers: tuple[LayerConfig, ...],
    norm: NormConfig,
    tie_embeddings: bool = False,
    **options: Any,
) -> ModelConfig:
    """Returns the config of a model of these layers.

    Args:
      tie_embeddings: where the file does not tell.
      options: further fields of the config.
    """
    return ModelConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        max_position_embeddings=context_of(fields),
        layers=layers,
        norm=norm,
        tie_embeddings=fields.flag("tie_word_embeddings", default=tie_embeddings),
        **options,
    )


def read_uniform(
    fields: Fields,
    *,
    windows: Windows = (),
    head_dim: int | None = None,
    rope: RopeConfig | None = None,
    norm_eps: float = 1e-6,
    norm_places: NormPlaces = "before",
    has_qk_norm: bool = False,
    mlp_bias: bool = False,
    biases: Biases = NO_BIASES,
    default_theta: float = 10_000.0,
    tie_embeddings: bool = False,
) -> ModelConfig:
    """Returns the config of a model like Llama's: RMSNorm before each gated part.

    Args:
      windows: of each layer; () for none.
      head_dim: where the file does not tell.
      rope: of all layers; None for that of the file, which turns whole heads.
      norm_eps: where the file does not tell.
      norm_places: before each part, after it, or both.
      has_qk_norm: norms queries and keys, head by head.
      mlp_bias: gives the feed-forward maps a bias.
      biases: of the maps to queries, keys, values and of the heads together.
      default_theta: the base of the rotary embedding where the file does not tell.
      tie_embeddings: where the file does not tell.
    """
    norm = NormConfig(eps=fields.number("rms_norm_eps", default=norm_eps))
    size = read_head_dim(fields, default=head_dim)
    rope = rope or whole_rope(
        fields, read_rope(fields, head_dim=size, default_theta=default_theta)
    )
    feed_forward = FeedForwardConfig(
        size=fields.integer("intermediate_size"),
        activation=read_activation(fields),
        has_bias=mlp_bias,
    )
    layers = [
        LayerConfig(
            attention=read_attention(
                fields,
                head_dim=size,
                window=window,
                rope=rope,
                qk_norm=norm if has_qk_norm else None,
                **asdict(biases),
            ),
            feed_forward=feed_forward,
            norm=norm,
            norm_places=norm_places,
        )
        for window in windows or (None,) * read_num_layers(fields)
    ]
    return read_model(
        fields, layers=tuple(layers), norm=norm, tie_embeddings=tie_embeddings
    )


def whole_rope(fields: Fields, rope: RopeConfig) -> RopeConfig:
    """Returns `rope`, which turns whole heads: for a family that knows no other share.

    Transformers does not look for one in a `config.json` of such a family.

    Raises:
      CheckpointError: the file says that only some channels of a head turn.
    """
    if rope.dims is not None:
        fields.fail(
            SHARE_KEYS[0],
            f"leaves {rope.dims} channels of a head to turn, but all of them do in "
            "this architecture; correct architectures, or take the key out",
        )
    return rope


def rotate_only(config: ModelConfig, is_rotated: Sequence[bool]) -> ModelConfig:
    """Returns the same with a rotary embedding in those layers only."""
    layers = [
        layer
        if has_rope
        else replace(layer, attention=replace(layer.attention, rope=None))
        for layer, has_rope in zip(config.layers, is_rotated, strict=True)
    ]
    return replace(config, layers=tuple(layers))


def common_values(config: ModelConfig) -> dict[str, Any]:
    """Returns what most families write, from the first layer for all of them."""
    first = config.layers[0]
    attention, names = first.attention, {v: k for k, v in ACTIVATIONS.items()}
    assert set(names) == set(get_args(Activation))
    ropes = (each.rope for each in config.attentions if each.rope is not None)
    names["silu"] = "silu"
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": first.feed_forward.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": names[first.feed_forward.activation],
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": first.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_values(
            next(ropes, RopeConfig()),
            head_dim=attention.head_dim,
            context_tokens=config.max_position_embeddings,
        ),
    }


def layer_types_of(config: ModelConfig) -> list[str]:
    """Returns "sliding_attention" for layers with a window, else "full_attention"."""
    return [
        "full_attention" if attention.window is None else "sliding_attention"
        for attention in config.attentions
    ]


def smallest_window(config: ModelConfig) -> int | None:
    """Returns the one window of layers that have one; others do not survive writing."""
    windows = (attention.window for attention in config.attentions)
    return min((size for size in windows if size is not None), default=None)
