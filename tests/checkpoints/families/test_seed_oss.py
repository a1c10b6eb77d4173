"""Seed-OSS as it is published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

SEED_OSS_36B = {
    "architectures": ["SeedOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.1,
    "attention_out_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 27648,
    "max_position_embeddings": 524288,
    "mlp_bias": False,
    "model_type": "seed_oss",
    "num_attention_heads": 80,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "pad_token_id": 1,
    "residual_dropout": 0.1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"rope_type": "default"},
    "rope_theta": 10000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 155136,
}


def test_seed_oss_has_biases_on_queries_keys_and_values_alone():
    config = parsed(SEED_OSS_36B).config
    layer = config.layers[63]
    attention = layer.attention
    assert attention.query_bias and attention.key_bias and attention.value_bias
    assert (attention.output_bias, layer.feed_forward.has_bias) == (False, False)
    assert attention.rope == RopeConfig(theta=1e7)
    assert (attention.num_heads, attention.head_dim) == (80, 128)
    assert config.max_position_embeddings == 524288


def test_each_kind_of_bias_has_a_word():
    changes = {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}
    layer = parsed({**SEED_OSS_36B, **changes}).config.layers[0]
    assert (layer.attention.query_bias, layer.attention.output_bias) == (False, True)
    assert layer.feed_forward.has_bias


def test_the_defaults_are_those_of_the_class():
    drop = ("attention_bias", "head_dim", "num_key_value_heads", "rms_norm_eps")
    short = {key: value for key, value in SEED_OSS_36B.items() if key not in drop}
    assert parsed(short).config == parsed(SEED_OSS_36B).config
    narrow = {**SEED_OSS_36B, "head_dim": None}
    assert parsed(narrow).config.head_dim == 64


def test_a_window_is_refused():
    with pytest.raises(CheckpointError, match="sliding_window is 64, which SeedOss"):
        parsed({**SEED_OSS_36B, "sliding_window": 64})
