"""Phi-3 and Phi-4 as they are published, and what Phi-3 does not have."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

PHI3_MINI_4K = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32064,
}
SHORT, LONG = [1.0 + 0.1 * i for i in range(48)], [1.0 + i for i in range(48)]
PHI3_MINI_128K = {
    **PHI3_MINI_4K,
    "max_position_embeddings": 131072,
    "rope_scaling": {"type": "su", "short_factor": SHORT, "long_factor": LONG},
    "sliding_window": 262144,
}
PHI4 = {
    **PHI3_MINI_4K,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 16384,
    "rope_theta": 250000,
    "sliding_window": None,
    "vocab_size": 100352,
    "eos_token_id": 100265,
    "bos_token_id": 100257,
}
PHI4_MINI = {
    **PHI3_MINI_128K,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    "tie_word_embeddings": True,
    "vocab_size": 200064,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
}


def scaling_of(config):
    return config.layers[-1].attention.rope.scaling


def test_phi3_has_a_window_in_all_layers():
    config = parsed(PHI3_MINI_4K).config
    attention = config.layers[31].attention
    assert (attention.num_heads, attention.num_kv_heads) == (32, 32)
    assert (attention.head_dim, attention.window) == (96, 2047)
    assert attention.rope == RopeConfig(theta=1e4)
    assert (config.norm.eps, config.tie_embeddings) == (1e-5, False)


def test_phi4_sees_everything():
    config = parsed(PHI4).config
    attention = config.layers[39].attention
    assert (attention.num_heads, attention.num_kv_heads) == (40, 10)
    assert (attention.head_dim, attention.window) == (128, None)
    assert attention.rope == RopeConfig(theta=250e3)


def test_a_long_model_has_two_lists_of_factors():
    scaling = scaling_of(parsed(PHI3_MINI_128K).config)
    assert scaling.short_factor == tuple(SHORT)
    assert scaling.long_factor == tuple(LONG)
    assert (scaling.original_context, scaling.factor) == (4096, 32.0)
    assert scaling.gain == pytest.approx(1.190238)  # sqrt(1 + ln 32 / ln 4096)


def test_the_served_context_chooses_the_list():
    config = parsed(PHI3_MINI_128K).config
    assert scaling_of(config).is_long
    assert scaling_of(config.for_context(4097)).is_long
    assert not scaling_of(config.for_context(4096)).is_long


def test_three_quarters_of_a_head_turn_in_phi4_mini():
    config = parsed(PHI4_MINI).config
    attention = config.layers[0].attention
    assert (attention.head_dim, attention.rope.dims) == (128, 96)
    assert (config.tie_embeddings, config.max_position_embeddings) == (True, 131072)


def test_the_spelling_of_transformers_5_says_the_same():
    values = {
        **PHI4_MINI,
        "partial_rotary_factor": None,
        "rope_scaling": None,
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "longrope",
            "type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            "short_factor": SHORT,
            "long_factor": LONG,
        },
    }
    assert parsed(values).config == parsed(PHI4_MINI).config


def test_an_original_context_that_is_not_told_is_4096():
    values = {**PHI3_MINI_128K, "original_max_position_embeddings": None}
    assert scaling_of(parsed(values).config).original_context == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "of the type longrope"),
        ({"attention_bias": True}, "attention_bias is True, which Phi3ForCausalLM"),
        ({"partial_rotary_factor": 0.75}, "must have 36 numbers each"),
        ({"sliding_window": "all"}, "sliding_window must be an integer"),
        ({"rope_scaling": {"type": "yarn", "short_factor": SHORT}}, "short_factor"),
    ],
)
def test_what_phi3_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**PHI3_MINI_128K, **changes})
