"""Says what Tunix' own models are in our words: a `ModelConfig` of each.

Its Llama 3 and Qwen 3 rotate by the base 1,000,000 whatever their config says, up to
0.1.8 at least. So there may be several configs of a model, and what it computes itself
tells which it is (`agreement.py`).

Source: `tunix/models/*/model.py` of google/tunix.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from mell_jax.checkpoints import read_spec
from mell_jax.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import LinearRope
from mell_jax.models.uniform import uniform_config

FIXED_THETA = 1e6
_GEMMA_EPS = 1e-6
_GEMMA_THETA = 10_000.0
_GEMMA3_LOCAL = 5  # layers of a window before each that sees everything


def configs_of(actor: Any, *, context: int) -> tuple[ModelConfig, ...]:
    """Returns what a model of Tunix may be, the likeliest first.

    Args:
      actor: an `nnx.Module` of `tunix.models`.
      context: tokens of the longest prompt and its answer.

    Raises:
      ValueError: it is none of the models that are known here.
    """
    for kind in type(actor).__mro__:
        if kind.__name__ in _KINDS:
            return _KINDS[kind.__name__](actor.config, context)
    raise ValueError(
        f"{type(actor).__name__} is none of the models of Tunix that are known here: "
        f"{', '.join(_KINDS)}. Say what it is: functools.partial(MellRollout, "
        "model=...) with a mell_jax.models.config.ModelConfig, or the directory of a "
        "Hugging Face model, of which config.json is read"
    )


def given_config(
    model: ModelConfig | str | PathLike[str], *, context: int
) -> ModelConfig:
    """Returns what a model is by its config, or by the files of a directory.

    Raises:
      CheckpointError: the directory cannot be used.
    """
    if not isinstance(model, ModelConfig):
        model = read_spec(Path(model)).config
    longest = max(context, model.max_position_embeddings)
    return dataclasses.replace(model, max_position_embeddings=longest)


def _llama3(theirs: Any, context: int) -> tuple[ModelConfig, ...]:
    is_tied = bool(theirs.weight_tying)
    return _uniform(theirs, context, _thetas(theirs), tie_embeddings=is_tied)


def _qwen2(theirs: Any, context: int) -> tuple[ModelConfig, ...]:
    thetas = (float(theirs.rope_theta),)
    is_tied = bool(theirs.use_tied_embedding)
    return _uniform(theirs, context, thetas, tie_embeddings=is_tied, qkv_bias=True)


def _qwen3(theirs: Any, context: int) -> tuple[ModelConfig, ...]:
    if theirs.num_experts is not None:
        raise ValueError(
            f"num_experts is {theirs.num_experts}: a mixture of experts is not served, "
            "use a dense Qwen 3"
        )
    is_tied = bool(theirs.use_tied_embedding)
    thetas = _thetas(theirs)
    return _uniform(theirs, context, thetas, tie_embeddings=is_tied, has_qk_norm=True)


def _thetas(theirs: Any) -> tuple[float, ...]:
    return tuple(dict.fromkeys((FIXED_THETA, float(theirs.rope_theta))))


def _uniform(
    theirs: Any, context: int, thetas: tuple[float, ...], **options: Any
) -> tuple[ModelConfig, ...]:
    return tuple(
        uniform_config(
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.embed_dim,
            intermediate_size=theirs.hidden_dim,
            num_layers=theirs.num_layers,
            num_heads=theirs.num_heads,
            num_kv_heads=theirs.num_kv_heads,
            head_dim=theirs.head_dim,
            max_position_embeddings=context,
            rope=RopeConfig(theta=theta),
            norm_eps=theirs.norm_eps,
            **options,
        )
        for theta in thetas
    )


def _gemma(theirs: Any, context: int) -> tuple[ModelConfig, ...]:
    """Gemma 1 and 2: theirs has a flag for each of the norms after a part."""
    if theirs.use_post_attn_norm != theirs.use_post_ffw_norm:
        raise ValueError(
            "use_post_attn_norm and use_post_ffw_norm must be the same, got "
            f"{theirs.use_post_attn_norm} and {theirs.use_post_ffw_norm}"
        )
    attention = _gemma_attention(
        theirs,
        rope=RopeConfig(theta=_GEMMA_THETA),
        soft_cap=theirs.attn_logits_soft_cap,
    )
    kinds = [kind.name for kind in theirs.attention_types][: theirs.num_layers]
    attentions = [
        dataclasses.replace(attention, window=theirs.sliding_window_size)
        if kind == "LOCAL_SLIDING"
        else attention
        for kind in kinds
    ]
    config = _gemma_config(
        theirs, attentions, context=context, is_between=theirs.use_post_attn_norm
    )
    cap = theirs.final_logit_softcap
    return (dataclasses.replace(config, logit_soft_cap=cap),)


def _gemma3(theirs: Any, context: int) -> tuple[ModelConfig, ...]:
    by_width = theirs.query_pre_attn_norm.name != "BY_ONE_OVER_SQRT_HEAD_DIM"
    width = theirs.embed_dim // theirs.num_heads
    common = {
        "qk_norm": NormConfig(eps=_GEMMA_EPS, is_offset=True),
        "scale": width**-0.5 if by_width else None,
    }
    local = _gemma_attention(
        theirs,
        rope=_scaled(theirs.local_base_frequency, theirs.local_scale_factor),
        window=theirs.sliding_window_size,
        **common,
    )
    everything = _gemma_attention(
        theirs,
        rope=_scaled(theirs.global_base_frequency, theirs.global_scale_factor),
        **common,
    )
    block = (*(local,) * _GEMMA3_LOCAL, everything)
    attentions = [block[n % len(block)] for n in range(theirs.num_layers)]
    return (_gemma_config(theirs, attentions, context=context, is_between=True),)


def _scaled(theta: float, factor: float) -> RopeConfig:
    scaling = None if factor == 1.0 else LinearRope(factor=float(factor))
    return RopeConfig(theta=float(theta), scaling=scaling)


def _gemma_attention(theirs: Any, **options: Any) -> AttentionConfig:
    return AttentionConfig(
        num_heads=theirs.num_heads,
        num_kv_heads=theirs.num_kv_heads,
        head_dim=theirs.head_dim,
        **options,
    )


def _gemma_config(
    theirs: Any, attentions: list[AttentionConfig], *, context: int, is_between: bool
) -> ModelConfig:
    norm = NormConfig(eps=_GEMMA_EPS, is_offset=True)
    feed_forward = FeedForwardConfig(size=theirs.hidden_dim, activation="gelu_tanh")
    return ModelConfig(
        vocab_size=theirs.num_embed,
        hidden_size=theirs.embed_dim,
        max_position_embeddings=context,
        layers=tuple(
            LayerConfig(
                attention=attention,
                feed_forward=feed_forward,
                norm=norm,
                norm_places="both" if is_between else "before",
            )
            for attention in attentions
        ),
        norm=norm,
        tie_embeddings=True,
        embedding_multiplier=math.sqrt(theirs.embed_dim),
    )


_KINDS: Mapping[str, Callable[[Any, int], tuple[ModelConfig, ...]]] = {
    "Llama3": _llama3,
    "Qwen2": _qwen2,
    "Qwen3": _qwen3,
    "Gemma": _gemma,
    "Gemma3": _gemma3,
}
