"""GLM-4 9B and GLM-4-0414 as they are published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

GLM_4_9B = {
    "architectures": ["GlmForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 13696,
    "max_position_embeddings": 131072,
    "model_type": "glm",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 151552,
}
GLM_4_32B_0414 = {
    **GLM_4_9B,
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": False,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 48,
    "num_hidden_layers": 61,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
}


def test_half_of_a_head_turns_in_neighbouring_pairs():
    config = parsed(GLM_4_9B).config
    attention = config.layers[39].attention
    assert attention.rope == RopeConfig(theta=1e4, dims=64, is_interleaved=True)
    assert (attention.head_dim, attention.num_kv_heads) == (128, 2)
    assert attention.query_bias
    assert attention.key_bias
    assert attention.value_bias
    assert not attention.output_bias
    assert config.layers[0].norm_places == "before"
    assert config.norm.eps == 1.5625e-07


def test_glm_4_0414_has_norms_on_both_sides():
    layer = parsed(GLM_4_32B_0414).config.layers[60]
    assert layer.norm_places == "both"
    assert not layer.attention.query_bias
    assert layer.attention.rope == RopeConfig(theta=1e4, dims=64, is_interleaved=True)


@pytest.mark.parametrize("values", [GLM_4_9B, GLM_4_32B_0414])
def test_what_is_not_told_takes_the_defaults_of_transformers(values):
    silent = ("attention_bias", "head_dim", "partial_rotary_factor", "rms_norm_eps")
    config = parsed({**values, **dict.fromkeys(silent)}).config
    attention = config.layers[0].attention
    assert (attention.query_bias, attention.head_dim) == (True, 128)
    assert (attention.rope.dims, config.norm.eps) == (64, 1.5625e-07)


def test_the_spelling_of_transformers_5_says_the_same():
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    older = {"partial_rotary_factor": None, "rope_theta": None}
    values = {**GLM_4_9B, **older, "rope_parameters": rope}
    assert parsed(values).config == parsed(GLM_4_9B).config


def test_a_whole_head_turns_where_the_file_says_so():
    config = parsed({**GLM_4_9B, "partial_rotary_factor": 1.0}).config
    assert config.layers[0].attention.rope.dims is None


@pytest.mark.parametrize("values", [GLM_4_9B, GLM_4_32B_0414])
def test_biases_that_glm_does_not_have_are_refused(values):
    with pytest.raises(CheckpointError, match="mlp_bias is True, which Glm"):
        parsed({**values, "mlp_bias": True})
