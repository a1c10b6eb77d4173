"""Ministral as transformers writes it."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

MINISTRAL_8B = {
    "architectures": ["MinistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "layer_types": ["full_attention", *["sliding_attention"] * 3] * 9,
    "max_position_embeddings": 131072,
    "model_type": "ministral",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 100000000.0, "rope_type": "default"},
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "vocab_size": 131072,
}


def windows(**changes):
    attentions = parsed({**MINISTRAL_8B, **changes}).config.attentions
    return [attention.window for attention in attentions]


def test_ministral_has_windows_in_three_of_four_layers():
    config = parsed(MINISTRAL_8B).config
    assert windows() == [None, 32768, 32768, 32768] * 9
    assert {attention.rope for attention in config.attentions} == {
        RopeConfig(theta=1e8)
    }
    assert (config.norm.eps, config.head_dim) == (1e-5, 128)


def test_without_layer_types_the_window_decides():
    assert windows(layer_types=None) == [32768] * 36
    assert windows(layer_types=None, sliding_window=None) == [None] * 36


def test_the_defaults_are_those_of_the_class():
    drop = ("sliding_window", "layer_types", "num_key_value_heads", "rms_norm_eps")
    short = {key: value for key, value in MINISTRAL_8B.items() if key not in drop}
    config = parsed(short).config
    assert {attention.window for attention in config.attentions} == {4096}
    assert (config.num_kv_heads, config.norm.eps) == (8, 1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": None}, "sliding_window is missing, but layers have"),
        ({"attention_bias": True}, "attention_bias is True, which MinistralFor"),
        ({"layer_types": ["chunked_attention"] * 36}, "must name each of the 36"),
    ],
)
def test_what_ministral_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**MINISTRAL_8B, **changes})
