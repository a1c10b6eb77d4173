"""Describes decoders of equal layers in few words, those of Llama's family."""

from mell_jax.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig


def uniform_config(
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    max_position_embeddings: int,
    rope: RopeConfig | None = None,
    norm_eps: float = 1e-5,
    tie_embeddings: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    has_qk_norm: bool = False,
    windows: tuple[int | None, ...] = (),
) -> ModelConfig:
    """Returns the config of a model of equal layers, with RMSNorm and a SiLU gate.

    That is Llama 2 and 3, Mistral (`windows`), Qwen2 (`qkv_bias`), Qwen3
    (`has_qk_norm`).

    Args:
      rope: how queries and keys are rotated; None for the base 10,000.
      windows: the sliding window of each layer in tokens, None for full; () is full
        everywhere.

    Raises:
      ValueError: when a value is out of range, naming the field and the rule.
    """
    if windows and len(windows) != num_layers:
        raise ValueError(
            f"windows must name each of the {num_layers} layers, got {len(windows)} "
            "entries"
        )
    norm = NormConfig(eps=norm_eps)
    layers = [
        LayerConfig(
            attention=AttentionConfig(
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                window=window,
                rope=rope or RopeConfig(),
                qk_norm=norm if has_qk_norm else None,
                query_bias=qkv_bias,
                key_bias=qkv_bias,
                value_bias=qkv_bias,
                output_bias=output_bias,
            ),
            feed_forward=FeedForwardConfig(size=intermediate_size, has_bias=mlp_bias),
            norm=norm,
        )
        for window in windows or (None,) * num_layers
    ]
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_position_embeddings=max_position_embeddings,
        layers=tuple(layers),
        norm=norm,
        tie_embeddings=tie_embeddings,
    )
