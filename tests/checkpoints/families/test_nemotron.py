"""Minitron as it is published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.config import FeedForwardConfig, NormConfig
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

MINITRON_4B = {
    "architectures": ["NemotronForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "head_dim": 128,
    "hidden_act": "relu2",
    "hidden_size": 3072,
    "initializer_range": 0.0134,
    "intermediate_size": 9216,
    "max_position_embeddings": 4096,
    "mlp_bias": False,
    "model_type": "nemotron",
    "norm_eps": 1e-05,
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}


def test_minitron_has_squared_relu_and_norms_by_one_more_than_their_scale():
    config = parsed(MINITRON_4B).config
    layer = config.layers[31]
    assert layer.feed_forward == FeedForwardConfig(
        size=9216, activation="relu_squared", is_gated=False
    )
    assert layer.norm == config.norm
    assert layer.norm == NormConfig(
        kind="layer", eps=1e-5, is_offset=True, has_bias=True
    )
    assert layer.attention.rope == RopeConfig(theta=1e4, dims=64)
    assert (layer.attention.head_dim, layer.attention.num_kv_heads) == (128, 8)


def test_half_of_a_head_turns_and_the_rest_are_the_class_s_defaults():
    drop = ("partial_rotary_factor", "norm_eps", "hidden_act", "rope_theta")
    short = {key: value for key, value in MINITRON_4B.items() if key not in drop}
    assert parsed(short).config == parsed(MINITRON_4B).config


def test_what_transformers_5_writes_is_read():
    drop = ("partial_rotary_factor", "rope_theta")
    newer = {key: value for key, value in MINITRON_4B.items() if key not in drop}
    newer["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }
    assert parsed(newer).config == parsed(MINITRON_4B).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 64}, "sliding_window is 64, which NemotronForCausalLM"),
        ({"partial_rotary_factor": 0.01}, "partial_rotary_factor must be above 0"),
        ({"hidden_act": "xielu"}, "hidden_act must be one of silu"),
    ],
)
def test_what_nemotron_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**MINITRON_4B, **changes})
