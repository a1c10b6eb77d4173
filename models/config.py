"""Describes a decoder as one frozen value, layer by layer.

    ModelConfig    vocabulary, width, multipliers, the last norm
      layers       one LayerConfig each, most of them equal:
        attention      AttentionConfig: heads, window, rotation, scale, biases
        feed_forward   FeedForwardConfig: width, gate, activation
        norm           NormConfig, and where it stands

A `ModelConfig` says nothing about files, devices or precision. It is made from a
`config.json` by `mell_jax.checkpoints`, or by hand for training; `uniform_config` makes
one of equal layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from mell_jax.models.rope import RopeConfig

MAX_LAYERS = 1_000
MAX_VOCAB = 4_000_000
MAX_WIDTH = 1_000_000
MAX_HEADS = 4_096
MAX_HEAD_DIM = 1_024

Activation = Literal["silu", "gelu", "gelu_tanh", "relu_squared"]
NormKind = Literal["rms", "layer"]
NormPlaces = Literal["before", "after", "both"]
QkNormSpan = Literal["head", "each_head", "width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConfig:
    """Describes a norm over channels: RMSNorm (arXiv 1910.07467) or LayerNorm.

    Raises:
      ValueError: the kind is unknown, `eps` is out of range, or an RMSNorm has a bias.
    """

    kind: NormKind = "rms"
    eps: float = 1e-5
    is_offset: bool = False  # multiplies by 1 + scale
    has_bias: bool = False

    def __post_init__(self) -> None:
        _check_word("norm", self.kind, get_args(NormKind))
        if not (0.0 <= self.eps < 1.0):
            raise ValueError(f"norm_eps must be in [0, 1), got {self.eps}")
        if self.kind == "rms" and self.has_bias:
            raise ValueError("an RMSNorm has no bias: choose the kind layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """Describes the attention of one layer: heads, what it sees, how it is scored.

    Raises:
      ValueError: when a value is out of range, naming the field and the rule.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None  # tokens, the own one included; None sees everything
    rope: RopeConfig | None = None  # None: not rotated
    scale: float | None = None  # of the scores; None: 1 / sqrt(head_dim)
    soft_cap: float | None = None  # scores x become soft_cap * tanh(x / soft_cap)
    qk_norm: NormConfig | None = None  # of queries and keys, before they are rotated
    qk_norm_span: QkNormSpan = "head"
    """A norm goes over each head, with one scale for all or one each, or over all."""
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        _check_range("num_heads", self.num_heads, 1, MAX_HEADS)
        _check_range("num_kv_heads", self.num_kv_heads, 1, self.num_heads)
        _check_range("head_dim", self.head_dim, 2, MAX_HEAD_DIM)
        _check_word("qk_norm_span", self.qk_norm_span, get_args(QkNormSpan))
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.window is not None:
            _check_range("window", self.window, 1, 1 << 30)
        if self.rope is not None:
            self.rope.rotated_dims(self.head_dim)
        _check_positive("attention scale", self.scale)
        _check_positive("soft_cap", self.soft_cap)

    @property
    def score_scale(self) -> float:
        """Returns the factor on the scores."""
        return 1.0 / math.sqrt(self.head_dim) if self.scale is None else self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardConfig:
    """Describes the feed-forward part of one layer.

    Gated, it computes down(act(gate(x)) * up(x)) (arXiv 2002.05202); else
    down(act(up(x))).

    Raises:
      ValueError: the width is out of range or the activation unknown.
    """

    size: int  # of what the activation sees
    activation: Activation = "silu"
    is_gated: bool = True
    has_bias: bool = False

    def __post_init__(self) -> None:
        _check_range("intermediate_size", self.size, 1, MAX_WIDTH)
        _check_word("activation", self.activation, get_args(Activation))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """Describes one layer: two parts, their norms, how they add to the residual.

        before   x + part(norm(x))
        after    x + norm(part(x))
        both     x + norm(part(norm(x)))

    Parallel parts share the norm before them: x + attention(n) + feed_forward(n).

    Raises:
      ValueError: parallel parts whose norms stand elsewhere.
    """

    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    norm: NormConfig
    norm_places: NormPlaces = "before"
    is_parallel: bool = False

    def __post_init__(self) -> None:
        _check_word("norm_places", self.norm_places, get_args(NormPlaces))
        if self.is_parallel and self.norm_places != "before":
            raise ValueError("parallel parts have one norm, before them")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A config describes one decoder-only transformer.

    Raises:
      ValueError: when a value is out of range, naming the field and the rule.
    """

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int  # tokens; the longest context the model was made for
    layers: tuple[LayerConfig, ...]
    norm: NormConfig  # of the last hidden states
    tie_embeddings: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0  # of what each part adds
    logit_multiplier: float = 1.0
    logit_soft_cap: float | None = None

    def __post_init__(self) -> None:
        _check_range("vocab_size", self.vocab_size, 1, MAX_VOCAB)
        _check_range("hidden_size", self.hidden_size, 1, MAX_WIDTH)
        _check_range("num_layers", len(self.layers), 1, MAX_LAYERS)
        _check_range(
            "max_position_embeddings", self.max_position_embeddings, 1, 1 << 30
        )
        _check_positive("embedding_multiplier", self.embedding_multiplier)
        _check_positive("residual_multiplier", self.residual_multiplier)
        _check_positive("logit_multiplier", self.logit_multiplier)
        _check_positive("logit_soft_cap", self.logit_soft_cap)
        shapes = {(a.num_kv_heads, a.head_dim) for a in self.attentions}
        if len(shapes) > 1:
            raise ValueError(
                "all layers must have as many KV heads of one size, got (num_kv_heads, "
                f"head_dim) of {sorted(shapes)}"
            )

    def for_context(self, tokens: int) -> "ModelConfig":
        """Returns the same for a server whose longest context has so many tokens.

        Only models with a `LongRope` depend on it.
        """
        layers = []
        for layer in self.layers:
            attention, rope = layer.attention, layer.attention.rope
            if rope is not None:
                attention = replace(attention, rope=rope.for_context(tokens))
            layers.append(replace(layer, attention=attention))
        return replace(self, layers=tuple(layers))

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def attentions(self) -> tuple[AttentionConfig, ...]:
        """Returns the attention of each layer."""
        return tuple(layer.attention for layer in self.layers)

    @property
    def num_kv_heads(self) -> int:
        """Returns the KV heads that each layer has."""
        return self.layers[0].attention.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Returns the head size that each layer has."""
        return self.layers[0].attention.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Returns keys and values of one token over all layers, in elements."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not (low <= value <= high):
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not (0.0 < value < math.inf):
        raise ValueError(f"{name} must be positive, got {value}")


def _check_word(name: str, value: str, words: Sequence[str]) -> None:
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}")
