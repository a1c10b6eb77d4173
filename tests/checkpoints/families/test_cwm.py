"""Meta's Code World Model as it is published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.hf_config_writer import config_values
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import Llama3Rope
from tests.checkpoints.tiny import parsed

CWM = {
    "architectures": ["CwmForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 6144,
    "initializer_range": 0.02,
    "intermediate_size": 21504,
    "layer_types": ["full_attention", *["sliding_attention"] * 3] * 16,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "cwm",
    "num_attention_heads": 48,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000.0,
    "sliding_window": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
ROPE = RopeConfig(
    theta=1e6,
    scaling=Llama3Rope(
        factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    ),
)


def test_cwm_has_windows_in_three_of_four_layers_and_stretches_all():
    spec = parsed(CWM)
    attentions = spec.config.attentions
    windows = [attention.window for attention in attentions]
    assert windows == [None, 8192, 8192, 8192] * 16
    assert {attention.rope for attention in attentions} == {ROPE}
    assert spec.eos_ids == (128001, 128008, 128009)


@pytest.mark.parametrize("absent", [{}, {"rope_scaling": None}])
def test_the_defaults_are_those_of_the_class(absent):
    drop = (
        *("layer_types", "sliding_window", "num_key_value_heads", "head_dim"),
        *("rms_norm_eps", "rope_theta", "rope_scaling"),
    )
    short = {key: value for key, value in CWM.items() if key not in drop}
    assert parsed({**short, **absent}).config == parsed(CWM).config


def test_a_rope_that_is_told_to_be_plain_is_not_stretched():
    plain = {"rope_type": "default", "rope_theta": 500000.0}
    values = {**CWM, "rope_scaling": None, "rope_theta": None, "rope_parameters": plain}
    assert parsed(values).config.layers[0].attention.rope == RopeConfig(theta=5e5)


def test_a_first_token_that_is_not_there_is_left_out_when_it_is_written():
    """Transformers refuses null there."""
    values = config_values(parsed({**CWM, "bos_token_id": None}))
    assert "bos_token_id" not in values
    assert parsed(values).bos_id is None
    assert config_values(parsed(CWM))["bos_token_id"] == 128000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": None}, "sliding_window is missing, but layers have"),
        ({"sliding_window": 0}, "window must be from 1 to"),
        ({"attention_bias": True}, "attention_bias is True, which CwmForCausalLM"),
    ],
)
def test_what_cwm_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**CWM, **changes})
