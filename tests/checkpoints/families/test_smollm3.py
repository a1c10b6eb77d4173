"""SmolLM3 as it is published, with and without rotary positions layer by layer."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
SIX_LAYERS = {**SMOLLM3_3B, "num_hidden_layers": 6, "layer_types": None}
WINDOWED = {**SIX_LAYERS, "use_sliding_window": True, "sliding_window": 512}


def rotated(config):
    return [int(attention.rope is not None) for attention in config.attentions]


def windows(config):
    return [attention.window for attention in config.attentions]


def test_every_fourth_layer_is_not_rotated():
    config = parsed(SMOLLM3_3B).config
    assert rotated(config) == [1, 1, 1, 0] * 9
    assert config.layers[0].attention.rope == RopeConfig(theta=5e6)
    assert windows(config) == [None] * 36
    assert config.tie_embeddings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1, 1, 1, 0, 1, 1]),
        ({"no_rope_layer_interval": 2}, [1, 0, 1, 0, 1, 0]),
        ({"no_rope_layer_interval": None}, [1, 1, 1, 0, 1, 1]),
        ({"no_rope_layers": [0, 1, 1, 1, 1, 0, 1, 1]}, [0, 1, 1, 1, 1, 0]),
    ],
)
def test_layers_are_rotated_as_the_file_says(changes, expected):
    values = {**SIX_LAYERS, "no_rope_layers": None, **changes}
    assert rotated(parsed(values).config) == expected


def test_a_base_that_is_not_told_is_two_million():
    config = parsed({**SMOLLM3_3B, "rope_theta": None}).config
    assert config.layers[0].attention.rope == RopeConfig(theta=2e6)


def test_layers_without_rotation_have_the_window():
    assert windows(parsed(WINDOWED).config) == [None, None, None, 512, None, None]


def test_types_of_layers_decide_where_the_window_is():
    types = ["sliding_attention", *["full_attention"] * 5]
    config = parsed({**WINDOWED, "layer_types": types}).config
    assert windows(config) == [512, *[None] * 5]
    assert rotated(config) == [1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1, 1, 0]}, "for each of the 6 layers, found \\[1, 1, 0"),
        ({"no_rope_layers": [1, 1, 2, 1, 1, 0]}, "1 \\(rotated\\) or 0"),
        (
            {"no_rope_layers": None, "no_rope_layer_interval": 0},
            "no_rope_layer_interval must be at least 1, found 0",
        ),
        ({"layer_types": ["sliding_attention"] * 6}, "layer_types must name each"),
    ],
)
def test_layers_that_are_not_described_rightly_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**SIX_LAYERS, **changes})
