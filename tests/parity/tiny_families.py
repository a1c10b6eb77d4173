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

YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2079441541679836,
}
LAST_OF_FOUR_FULL = [*["sliding_attention"] * 3, "full_attention"]

TINY_FAMILIES: tuple[TinyFamily, ...] = (
    TinyFamily(
        name="olmo2",
        config={
            "architectures": ["Olmo2ForCausalLM"],
            "model_type": "olmo2",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 500_000,
            "attention_bias": False,
            "tie_word_embeddings": False,
        },
    ),
    TinyFamily(
        name="olmo3",
        config={
            "architectures": ["Olmo3ForCausalLM"],
            "model_type": "olmo3",
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "sliding_window": 24,
            "layer_types": LAST_OF_FOUR_FULL,
            "rope_theta": 500_000,
            "rope_scaling": YARN,
        },
    ),
    TinyFamily(
        name="cohere",
        config={
            "architectures": ["CohereForCausalLM"],
            "model_type": "cohere",
            "hidden_act": "silu",
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.8333,
            "rope_theta": 75_000_000.0,
            "use_qk_norm": True,
        },
        seed=3,
        is_slow=False,
    ),
    TinyFamily(
        name="cohere_untied",
        config={
            "architectures": ["CohereForCausalLM"],
            "model_type": "cohere",
            "num_key_value_heads": 4,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "logit_scale": 1.25,
        },
    ),
    TinyFamily(
        name="cohere2",
        config={
            "architectures": ["Cohere2ForCausalLM"],
            "model_type": "cohere2",
            "num_hidden_layers": 4,
            "head_dim": 32,
            "layer_norm_eps": 1e-5,
            "logit_scale": 1.5,
            "rope_theta": 50_000,
            "rope_scaling": None,
            "rotary_pct": 1.0,
            "sliding_window": 24,
            "sliding_window_pattern": 4,
            "use_qk_norm": False,
        },
    ),
    TinyFamily(
        name="cohere2_types",
        config={
            "architectures": ["Cohere2ForCausalLM"],
            "model_type": "cohere2",
            "logit_scale": 0.9,
            "sliding_window": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 30_000.0},
        },
        seed=2,
    ),
    TinyFamily(
        name="nemotron",
        config={
            "architectures": ["NemotronForCausalLM"],
            "model_type": "nemotron",
            "head_dim": 64,
            "hidden_act": "relu2",
            "norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10_000.0,
        },
        seed=2,
    ),
    TinyFamily(
        name="nemotron_bias",
        config={
            "architectures": ["NemotronForCausalLM"],
            "model_type": "nemotron",
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    TinyFamily(
        name="stablelm",
        config={
            "architectures": ["StableLmForCausalLM"],
            "model_type": "stablelm",
            "num_key_value_heads": 4,
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25,
            "rope_theta": 10_000,
            "use_qkv_bias": True,
        },
        seed=5,
    ),
    TinyFamily(
        name="stablelm_parallel",
        config={
            "architectures": ["StableLmForCausalLM"],
            "model_type": "stablelm",
            "qk_layernorm": True,
            "use_parallel_residual": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    TinyFamily(
        name="starcoder2",
        config={
            "architectures": ["Starcoder2ForCausalLM"],
            "model_type": "starcoder2",
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": 1e-5,
            "rope_theta": 1_000_000,
            "sliding_window": 24,
            "use_bias": True,
        },
        seed=3,
    ),
    TinyFamily(
        name="starcoder2_untied",
        config={
            "architectures": ["Starcoder2ForCausalLM"],
            "model_type": "starcoder2",
            "use_bias": False,
            "tie_word_embeddings": False,
        },
        seed=2,
    ),
    TinyFamily(
        name="seed_oss",
        config={
            "architectures": ["SeedOssForCausalLM"],
            "model_type": "seed_oss",
            "head_dim": 64,
            "attention_bias": True,
            "attention_out_bias": False,
            "mlp_bias": True,
            "rope_theta": 10_000_000.0,
            "rope_scaling": {"rope_type": "default"},
        },
    ),
    TinyFamily(
        name="ministral",
        config={
            "architectures": ["MinistralForCausalLM"],
            "model_type": "ministral",
            "num_hidden_layers": 4,
            "head_dim": 64,
            "sliding_window": 24,
            "layer_types": ["full_attention", *["sliding_attention"] * 3],
            "rope_theta": 100_000_000.0,
        },
    ),
    TinyFamily(
        name="cwm",
        config={
            "architectures": ["CwmForCausalLM"],
            "model_type": "cwm",
            "num_hidden_layers": 5,
            "head_dim": 32,
            "mlp_bias": True,
            "sliding_window": 24,
        },
        seed=6,
    ),
    TinyFamily(
        name="internlm3",
        config={
            "architectures": ["InternLM3ForCausalLM"],
            "model_type": "internlm3",
            "head_dim": 64,
            "qkv_bias": True,
            "bias": True,
            "rope_theta": 50_000_000,
            "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
        },
    ),
)


def made_of_sources(config: Mapping[str, Any], *, seed: int) -> dict[str, FloatArray]:
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
