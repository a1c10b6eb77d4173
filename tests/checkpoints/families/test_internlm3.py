"""InternLM3 as it is published, and as transformers 5 writes it."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.checkpoints.families.internlm3 import INTERNLM3
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import DynamicRope
from tests.checkpoints.tiny import parsed

INTERNLM3_8B = {
    "architectures": ["InternLM3ForCausalLM"],
    "attention_dropout": 0.0,
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 10240,
    "max_position_embeddings": 32768,
    "model_type": "internlm3",
    "num_attention_heads": 32,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "qkv_bias": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
    "rope_theta": 50000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128512,
}


def biases(**changes):
    layer = parsed({**INTERNLM3_8B, **changes}).config.layers[0]
    attention = layer.attention
    return (
        (attention.query_bias, attention.key_bias, attention.value_bias),
        (attention.output_bias, layer.feed_forward.has_bias),
    )


def test_internlm3_has_a_dynamic_rope_and_no_biases():
    config = parsed(INTERNLM3_8B).config
    rope = RopeConfig(theta=5e7, scaling=DynamicRope(factor=6.0))
    assert {attention.rope for attention in config.attentions} == {rope}
    assert config.max_position_embeddings == 32768
    assert biases() == ((False, False, False), (False, False))


def test_one_word_is_for_queries_keys_and_values_and_one_for_all_other_maps():
    assert biases(qkv_bias=True) == ((True, True, True), (False, False))
    assert biases(bias=True) == ((False, False, False), (True, True))


def test_transformers_5_writes_it_as_llama():
    drop = ("architectures", "bias", "qkv_bias", "rope_scaling", "rope_theta")
    newer = {key: value for key, value in INTERNLM3_8B.items() if key not in drop}
    newer |= {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "factor": 6.0,
            "rope_theta": 50000000,
            "rope_type": "dynamic",
        },
    }
    older = {**INTERNLM3_8B, "qkv_bias": True, "bias": True}
    assert parsed(newer).config == parsed(older).config


def test_the_defaults_are_those_of_the_class():
    drop = ("head_dim", "num_key_value_heads", "rms_norm_eps", "bias", "qkv_bias")
    short = {key: value for key, value in INTERNLM3_8B.items() if key not in drop}
    assert parsed(short).config == parsed(INTERNLM3_8B).config


@pytest.mark.parametrize("changes", [{"qkv_bias": True}, {"bias": True}])
def test_what_is_written_is_read_again(changes):
    config = parsed({**INTERNLM3_8B, **changes}).config
    assert parsed({**INTERNLM3_8B, **INTERNLM3.write(config)}).config == config


def test_the_words_of_llama_are_refused():
    with pytest.raises(CheckpointError, match="attention_bias is True, which Intern"):
        parsed({**INTERNLM3_8B, "attention_bias": True})
