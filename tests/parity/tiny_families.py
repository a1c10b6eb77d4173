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

LONG_ROPE: Mapping[str, Any] = {
    "short_factor": [1.0, 1.1, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 2.7, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.5, 5.0, 6.5, 8.0, 9.0, 11.0, 14.0, 16.0],
}
"""Of heads of 32 channels, of which three in four turn."""

GEMMAS: tuple[TinyFamily, ...] = (
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
YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2079441541679836,
}
LAST_OF_FOUR_FULL = [*["sliding_attention"] * 3, "full_attention"]

OTHERS: tuple[TinyFamily, ...] = (
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

TINY_FAMILIES: tuple[TinyFamily, ...] = (
    *GEMMAS,
    *OTHERS,
    TinyFamily(
        name="phi3",
        config={
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "attention_bias": False,
            "num_key_value_heads": 4,
            "original_max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 10_000.0,
            "sliding_window": 24,
            "tie_word_embeddings": False,
        },
    ),
    TinyFamily(
        name="phi3_short",
        config={
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 512,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope", **LONG_ROPE},
            "rope_theta": 10_000.0,
            "sliding_window": 2048,
            "tie_word_embeddings": True,
        },
        seed=2,
    ),
    TinyFamily(
        name="phi3_long",
        config={
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 64,
                **LONG_ROPE,
            },
        },
    ),
    TinyFamily(
        name="granite",
        config={
            "architectures": ["GraniteForCausalLM"],
            "model_type": "granite",
            "attention_bias": True,
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "logits_scaling": 1.6,
            "mlp_bias": False,
            "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
        },
        seed=4,
    ),
    TinyFamily(
        name="granite_hybrid",
        config={
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "model_type": "granitemoehybrid",
            "attention_bias": False,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 2,
            "layer_types": ["attention"] * 3,
            "logits_scaling": 2,
            "mamba_d_state": 256,
            "num_experts_per_tok": 0,
            "num_local_experts": 0,
            "position_embedding_type": "rope",
            "residual_multiplier": 0.8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000,
            "shared_intermediate_size": 160,
            "tie_word_embeddings": True,
        },
        seed=3,
    ),
    TinyFamily(
        name="granite_hybrid_nope",
        config={
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "model_type": "granitemoehybrid",
            "attention_multiplier": 0.125,
            "embedding_multiplier": 12,
            "layer_types": ["full_attention"] * 3,
            "logits_scaling": 2.0,
            "num_local_experts": 0,
            "position_embedding_type": None,
            "residual_multiplier": 0.25,
            "shared_intermediate_size": 192,
        },
    ),
    TinyFamily(
        name="glm",
        config={
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            "attention_bias": True,
            "head_dim": 64,
            "hidden_act": "silu",
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1.5625e-07,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
        },
    ),
    TinyFamily(
        name="glm4",
        config={
            "architectures": ["Glm4ForCausalLM"],
            "model_type": "glm4",
            "attention_bias": False,
            "head_dim": 32,
            "rms_norm_eps": 1e-05,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.5,
            },
            "tie_word_embeddings": False,
        },
        is_slow=False,
    ),
    TinyFamily(
        name="smollm3",
        config={
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            "attention_bias": False,
            "layer_types": ["full_attention"] * 4,
            "max_window_layers": 28,
            "mlp_bias": False,
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "num_hidden_layers": 4,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 5_000_000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        seed=2,
    ),
    TinyFamily(
        name="smollm3_window",
        config={
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            "attention_bias": True,
            "mlp_bias": True,
            "no_rope_layer_interval": 2,
            "sliding_window": 24,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
        },
        seed=5,
    ),
    TinyFamily(
        name="exaone4",
        config={
            "architectures": ["Exaone4ForCausalLM"],
            "model_type": "exaone4",
            "head_dim": 32,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "num_hidden_layers": 4,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "rope_theta": 1_000_000,
            "sliding_window": 24,
            "sliding_window_pattern": "LLLG",
            "tie_word_embeddings": False,
        },
    ),
    TinyFamily(
        name="exaone4_full",
        config={
            "architectures": ["Exaone4ForCausalLM"],
            "model_type": "exaone4",
            "head_dim": 64,
            "layer_types": ["full_attention"] * 3,
            "rope_theta": 1_000_000,
            "sliding_window": None,
            "sliding_window_pattern": 0,
            "tie_word_embeddings": False,
        },
    ),
    TinyFamily(
        name="helium",
        config={
            "architectures": ["HeliumForCausalLM"],
            "model_type": "helium",
            "attention_bias": True,
            "head_dim": 32,
            "hidden_act": "silu",
            "mlp_bias": True,
            "rms_norm_eps": 1e-08,
            "rope_theta": 100_000.0,
            "tie_word_embeddings": False,
        },
        seed=3,
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
