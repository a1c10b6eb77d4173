"""Describes a decoder as one frozen value: sizes, rotary embedding, options.

A `ModelConfig` says nothing about files, devices or precision. It is made from a
`config.json` by `mell_jax.checkpoints`, or by hand for training.
"""

from dataclasses import dataclass

from mell_jax.models.rope_scaling import Llama3Rope

MAX_LAYERS = 1_000
MAX_VOCAB = 4_000_000
MAX_WIDTH = 1_000_000
MAX_HEADS = 4_096
HEAD_DIMS = range(32, 257, 8)
"""Head sizes the attention bodies are built and tested for, smallest to largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A config holds the sizes and options of one decoder-only transformer.

    Covers the Llama family: Llama 2 and 3.x (`rope_scaling`), Mistral (`windows`),
    Qwen2 (`qkv_bias`), Qwen3 (`qk_norm`), tied or untied output embeddings, grouped,
    multi-query and full multi-head attention.

    Raises:
      ValueError: when a value is out of range, naming the field and the rule.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int  # tokens; the longest context the model was made for
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Rope | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    """Sliding window of each layer in tokens, None for full; () is full everywhere."""

    def __post_init__(self) -> None:
        _check_range("vocab_size", self.vocab_size, 1, MAX_VOCAB)
        _check_range("hidden_size", self.hidden_size, 1, MAX_WIDTH)
        _check_range("intermediate_size", self.intermediate_size, 1, MAX_WIDTH)
        _check_range("num_layers", self.num_layers, 1, MAX_LAYERS)
        _check_range("num_heads", self.num_heads, 1, MAX_HEADS)
        _check_range("num_kv_heads", self.num_kv_heads, 1, self.num_heads)
        _check_range(
            "max_position_embeddings", self.max_position_embeddings, 1, 1 << 30
        )
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(
                f"head_dim must be a multiple of 8 from {HEAD_DIMS.start} to "
                f"{HEAD_DIMS.stop - 1}, got {self.head_dim}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if not (self.rope_theta > 0.0):
            raise ValueError(f"rope_theta must be positive, got {self.rope_theta}")
        if not (0.0 <= self.norm_eps < 1.0):
            raise ValueError(f"norm_eps must be in [0, 1), got {self.norm_eps}")
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows must name each of the {self.num_layers} layers, "
                f"got {len(self.windows)} entries"
            )
        for window in self.windows:
            if window is not None:
                _check_range("window", window, 1, 1 << 30)

    def window(self, layer: int) -> int | None:
        """Returns sliding window of `layer` in tokens, None when it sees everything."""
        return self.windows[layer] if self.windows else None

    @property
    def kv_elements_per_token(self) -> int:
        """Returns keys and values of one token over all layers, in elements."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not (low <= value <= high):
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")
