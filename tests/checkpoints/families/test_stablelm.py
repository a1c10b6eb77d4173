"""StableLM 2 as it is published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.families.stablelm import STABLELM
from mell_jax.checkpoints.sources import Stack, Take
from mell_jax.models.config import NormConfig
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

STABLELM2_1_6B = {
    "architectures": ["StableLmForCausalLM"],
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "model_type": "stablelm",
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_qkv_bias": True,
    "vocab_size": 100352,
}
STABLELM2_12B = {
    **STABLELM2_1_6B,
    "hidden_dropout": 0.0,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "qk_layernorm": True,
    "use_parallel_residual": True,
    "use_qkv_bias": False,
}


def test_the_small_one_has_biases_and_turns_a_quarter_of_each_head():
    config = parsed(STABLELM2_1_6B).config
    layer = config.layers[23]
    attention = layer.attention
    assert (attention.query_bias, attention.key_bias, attention.value_bias) == (
        True,
        True,
        True,
    )
    assert not attention.output_bias
    assert attention.rope == RopeConfig(theta=1e4, dims=16)
    assert layer.norm == config.norm
    assert layer.norm == NormConfig(kind="layer", eps=1e-5, has_bias=True)
    assert (layer.is_parallel, attention.qk_norm) == (False, None)


def test_the_large_one_has_parallel_parts_and_a_norm_for_each_head():
    config = parsed(STABLELM2_12B).config
    layer = config.layers[39]
    assert layer.is_parallel
    assert layer.attention.qk_norm == NormConfig(kind="layer", eps=1e-5)
    assert layer.attention.qk_norm_span == "each_head"
    assert layer.attention.rope == RopeConfig(theta=1e4, dims=40)
    scale = STABLELM.weights(config)["layers", 39, "attention", "k_norm", "scale"]
    at = "model.layers.39.self_attn.k_layernorm.norms"
    assert scale == Stack(tuple(Take(f"{at}.{head}.weight") for head in range(8)))


def test_the_defaults_are_those_of_the_class():
    drop = ("partial_rotary_factor", "layer_norm_eps", "num_key_value_heads")
    short = {key: value for key, value in STABLELM2_1_6B.items() if key not in drop}
    assert parsed(short).config == parsed(STABLELM2_1_6B).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 128}, r"head_dim \(128\) times num_attention_heads \(32\)"),
        ({"attention_bias": True}, "attention_bias is True, which StableLmFor"),
        ({"sliding_window": 64}, "sliding_window is 64, which StableLmForCausalLM"),
    ],
)
def test_what_stablelm_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**STABLELM2_1_6B, **changes})
