"""Command R, R+ and R7B as they are published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.config import NormConfig
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

COMMAND_R = {
    "architectures": ["CohereForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "initializer_range": 0.02,
    "intermediate_size": 22528,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.0625,
    "max_position_embeddings": 8192,
    "model_max_length": 131072,
    "model_type": "cohere",
    "num_attention_heads": 64,
    "num_hidden_layers": 40,
    "num_key_value_heads": 64,
    "pad_token_id": 0,
    "rope_theta": 8000000.0,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 256000,
}
COMMAND_R_PLUS = {
    **COMMAND_R,
    "hidden_size": 12288,
    "intermediate_size": 33792,
    "logit_scale": 0.8333333333333334,
    "num_attention_heads": 96,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rope_theta": 75000000.0,
    "use_qk_norm": True,
}
COMMAND_R7B = {
    "architectures": ["Cohere2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "cache_implementation": "hybrid",
    "eos_token_id": 255001,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "max_position_embeddings": 132096,
    "model_type": "cohere2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "order_of_interleaved_layers": "local_attn_first",
    "pad_token_id": 0,
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": False,
    "vocab_size": 256000,
}


def test_command_r_has_parallel_parts_and_a_scale_of_its_logits():
    config = parsed(COMMAND_R).config
    layer = config.layers[39]
    assert layer.is_parallel
    assert layer.norm == config.norm == NormConfig(kind="layer", eps=1e-5)
    assert layer.attention.rope == RopeConfig(theta=8e6, is_interleaved=True)
    assert layer.attention.qk_norm is None
    assert (config.logit_multiplier, config.tie_embeddings) == (0.0625, True)


def test_command_r_plus_norms_each_head_by_a_scale_of_its_own():
    attention = parsed(COMMAND_R_PLUS).config.layers[63].attention
    assert attention.qk_norm == NormConfig(kind="layer", eps=1e-5)
    assert attention.qk_norm_span == "each_head"
    assert (attention.num_kv_heads, attention.head_dim) == (8, 128)


def test_command_r7b_rotates_only_the_layers_that_have_a_window():
    config = parsed(COMMAND_R7B).config
    windowed = RopeConfig(theta=50_000.0, is_interleaved=True)
    seen = [(attention.window, attention.rope) for attention in config.attentions]
    assert seen == [*[(4096, windowed)] * 3, (None, None)] * 8
    assert (config.logit_multiplier, config.tie_embeddings) == (0.25, True)
    assert config.layers[0].attention.qk_norm is None


def test_layer_types_say_more_than_a_pattern():
    types = [*["sliding_attention"] * 31, "full_attention"]
    config = parsed({**COMMAND_R7B, "layer_types": types}).config
    windows = [attention.window for attention in config.attentions]
    assert windows == [*[4096] * 31, None]


def test_the_defaults_are_those_of_each_class():
    drop = ("logit_scale", "rope_theta", "layer_norm_eps", "sliding_window")
    for values, theta in ((COMMAND_R, 500_000.0), (COMMAND_R7B, 10_000.0)):
        short = {key: value for key, value in values.items() if key not in drop}
        config = parsed(short).config
        rope = config.layers[0].attention.rope
        assert rope is not None
        assert (rope.theta, config.logit_multiplier) == (theta, 0.0625)
        assert config.norm.eps == 1e-5
    assert config.layers[0].attention.window == 4096


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**COMMAND_R, "sliding_window": 8}, "sliding_window is 8, which CohereFor"),
        ({**COMMAND_R, "logit_scale": 0.0}, "logit_multiplier must be positive"),
        ({**COMMAND_R7B, "use_qk_norm": True}, "use_qk_norm is True, which Cohere2"),
        ({**COMMAND_R7B, "use_parallel_block": False}, "use_parallel_block is False"),
        ({**COMMAND_R7B, "use_gated_activation": False}, "use_gated_activation is"),
        (
            {**COMMAND_R7B, "order_of_interleaved_layers": "global_attn_first"},
            "order_of_interleaved_layers is global_attn_first",
        ),
        ({**COMMAND_R7B, "sliding_window_pattern": 0}, "must be positive, got 0"),
        ({**COMMAND_R7B, "sliding_window": None}, "sliding_window is missing, but"),
        ({**COMMAND_R7B, "head_dim": 64}, r"head_dim \(64\) times num_attention_heads"),
    ],
)
def test_what_cohere_does_not_have_is_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        parsed(values)
