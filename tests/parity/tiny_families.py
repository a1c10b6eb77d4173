"""Tiny models of families whose tensors our own description of them names.

Each has the spelling of a published `config.json` with sizes of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.families import ARCHITECTURES
from mell_jax.checkpoints.hf_config import parse_spec
from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.sources import Piece, assemble
from mell_jax.models.config import ModelConfig

FloatArray = npt.NDArray[np.float32]

GAIN = 2.0
"""Larger than usual, so that attention is sharp and every layer matters."""
LOGIT_GAIN = 4.0
"""So that the best token leads clearly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFamily:
    """One tiny model: what its `config.json` has besides sizes, and a seed."""

    name: str
    config: Mapping[str, Any]
    seed: int = 1
    out_norm_gain: float = 1.0
    """Of norms after a part: without it, a large embedding outweighs all of them."""
    is_slow: bool = True  # in the tests of the whole engine


VOCAB_SIZE = 256
MAX_POSITIONS = 512
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": None,
    "dtype": "float32",
}
"""What a tiny model has unless it says otherwise."""

TINY_FAMILIES: tuple[TinyFamily, ...] = (
    TinyFamily(
        name="gemma",
        config={
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "head_dim": 48,  # not what the width would make it
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
            "hidden_activation": None,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 10_000.0,
        },
    ),
    TinyFamily(
        name="gemma2",
        out_norm_gain=10.0,
        config={
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "head_dim": 48,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 36,
            "sliding_window": 24,
            "attn_logit_softcapping": 6.0,  # low, so that scores reach it
            "final_logit_softcapping": 30.0,
            "cache_implementation": "hybrid",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
        },
        is_slow=False,
    ),
    TinyFamily(
        name="gemma2_plain",
        out_norm_gain=4.0,
        config={
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "head_dim": 32,
            "hidden_activation": "gelu",
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
        },
    ),
    TinyFamily(
        name="gemma3",
        out_norm_gain=20.0,
        config={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "head_dim": 32,
            "num_key_value_heads": 1,
            "num_hidden_layers": 4,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 24,
            "rope_local_base_freq": 500,
            "rope_theta": 20_000,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 24,
            "sliding_window_pattern": 3,
        },
    ),
    TinyFamily(
        name="gemma3_newer",
        out_norm_gain=4.0,
        config={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "head_dim": 64,
            "_sliding_window_pattern": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "final_logit_softcapping": 25.0,
            "query_pre_attn_scalar": 64,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 20_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
            "sliding_window": 16,
            "use_bidirectional_attention": False,
            "tie_word_embeddings": False,
        },
    ),
)


def made_of_sources(
    config: Mapping[str, Any], *, seed: int, out_norm_gain: float = 1.0
) -> dict[str, FloatArray]:
    """Returns all tensors of a model by Hugging Face's names, at random."""
    fields = Fields(dict(config), "config.json")
    model = parse_spec(fields, generation=Fields({}, "generation_config.json")).config
    sources = ARCHITECTURES[config["architectures"][0]].weights(model)
    random = np.random.default_rng(seed)
    pieces: list[Piece] = []
    for path, param in abstract_decoder(model, dtype=np.float32).items():
        values = _random(random, path, param.shape)
        if path == ("norm", "scale"):
            values *= LOGIT_GAIN
        if path[-2] in ("attention_out_norm", "mlp_out_norm"):
            values *= out_norm_gain
        if path[-1] == "scale":
            values -= _offset(model, path)
        pieces += sources[path].pieces(values.astype(np.float32))
    return {name: np.ascontiguousarray(v) for name, v in assemble(pieces).items()}


def _offset(model: ModelConfig, path: Sequence[str | int]) -> int:
    """What a norm adds to its scale before it multiplies."""
    if path == ("norm", "scale"):
        return int(model.norm.is_offset)
    layer = model.layers[int(path[1])]
    norm = layer.attention.qk_norm if path[2] == "attention" else layer.norm
    assert norm is not None
    return int(norm.is_offset)


def _random(
    random: np.random.Generator, path: Sequence[str | int], shape: Sequence[int]
) -> npt.NDArray[np.float64]:
    values = random.standard_normal(shape)
    if path[-1] == "scale":
        return 1.0 + 0.2 * values
    if path[-1] == "bias":
        return 0.3 * values
    fan_in = shape[1] if path[-1] == "embedding" else shape[0]
    return values * GAIN / np.sqrt(fan_in)
