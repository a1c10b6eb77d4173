"""EXAONE 4 as it is published: the hybrid of 32B, and the small one without windows."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import Llama3Rope
from tests.checkpoints.tiny import parsed

ROPE_SCALING = {
    "factor": 16.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
EXAONE_4_32B = {
    "architectures": ["Exaone4ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 361,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 27392,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16,
    "max_position_embeddings": 131072,
    "model_type": "exaone4",
    "num_attention_heads": 40,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": ROPE_SCALING,
    "rope_theta": 1000000,
    "sliding_window": 4096,
    "sliding_window_pattern": "LLLG",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 102400,
}
EXAONE_4_1B = {
    **EXAONE_4_32B,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "layer_types": ["full_attention"] * 30,
    "max_position_embeddings": 65536,
    "num_attention_heads": 32,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "sliding_window_pattern": None,
    "tie_word_embeddings": True,
}
ROPE = RopeConfig(
    theta=1e6,
    scaling=Llama3Rope(
        factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    ),
)


def seen(config):
    """The window of each layer, and whether it is rotated."""
    return [(one.window, one.rope is not None) for one in config.attentions]


def test_only_layers_with_a_window_are_rotated_in_the_hybrid():
    config = parsed(EXAONE_4_32B).config
    assert seen(config) == [*[(4096, True)] * 3, (None, False)] * 16
    assert config.layers[0].attention.rope == ROPE


def test_norms_stand_after_each_part_and_on_queries_and_keys():
    layer = parsed(EXAONE_4_32B).config.layers[0]
    assert layer.norm_places == "after"
    assert layer.attention.qk_norm == layer.norm
    assert layer.attention.qk_norm_span == "head"


def test_all_layers_of_the_small_one_are_rotated():
    config = parsed(EXAONE_4_1B).config
    assert seen(config) == [(None, True)] * 30
    assert config.layers[0].attention.rope == ROPE


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, [(4096, True)] * 3 + [(None, False)] + [(4096, True)]),
        (2, [(4096, True), (None, False)] * 2 + [(4096, True)]),
    ],
)
def test_a_number_says_which_layers_see_everything(pattern, expected):
    changes = {"layer_types": None, "num_hidden_layers": 5}
    values = {**EXAONE_4_32B, **changes, "sliding_window_pattern": pattern}
    assert seen(parsed(values).config) == expected


def test_a_window_that_is_not_told_is_4096_and_null_is_none():
    silent = {k: v for k, v in EXAONE_4_32B.items() if k != "sliding_window"}
    assert parsed(silent).config == parsed(EXAONE_4_32B).config
    full = {"layer_types": None, "sliding_window": None}
    assert seen(parsed({**EXAONE_4_32B, **full}).config) == [(None, True)] * 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": None}, "sliding_window_pattern must be an integer"),
        ({"sliding_window": None}, "layer_types must name each"),
        (
            {"layer_types": None, "sliding_window_pattern": 0},
            "sliding_window_pattern must be at least 1, found 0",
        ),
        ({"attention_bias": True}, "attention_bias is True, which Exaone4ForCausalLM"),
    ],
)
def test_what_exaone_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**EXAONE_4_32B, **changes})
