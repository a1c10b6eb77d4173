"""OLMo 2 and 3 as they are published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import YarnRope
from tests.checkpoints.tiny import parsed

OLMO2_7B = {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 100352,
}
OLMO3_7B = {
    **OLMO2_7B,
    "architectures": ["Olmo3ForCausalLM"],
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8,
    "max_position_embeddings": 65536,
    "model_type": "olmo3",
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "sliding_window": 4096,
    "vocab_size": 100278,
}
YARN = YarnRope(
    factor=8.0,
    original_context=8192,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=1.2079441541679836,
)


def without(values, *keys):
    return {key: value for key, value in values.items() if key not in keys}


def test_olmo2_has_norms_after_its_parts_and_one_over_all_heads():
    config = parsed(OLMO2_7B).config
    layer = config.layers[31]
    assert (len(config.layers), config.tie_embeddings) == (32, False)
    assert (layer.norm_places, layer.norm.eps) == ("after", 1e-6)
    attention = layer.attention
    assert (attention.qk_norm, attention.qk_norm_span) == (layer.norm, "width")
    assert (attention.head_dim, attention.num_kv_heads) == (128, 32)
    assert (attention.window, attention.rope) == (None, RopeConfig(theta=500_000.0))


def test_olmo2_takes_the_defaults_of_its_own():
    layer = parsed(without(OLMO2_7B, "rms_norm_eps", "rope_theta")).config.layers[0]
    assert (layer.norm.eps, layer.attention.rope) == (1e-5, RopeConfig(theta=1e4))


def test_olmo3_stretches_only_the_layers_that_see_everything():
    config = parsed(OLMO3_7B).config
    windows = [attention.window for attention in config.attentions]
    assert windows == [4096, 4096, 4096, None] * 8
    assert config.attentions[2].rope == RopeConfig(theta=500_000.0)
    assert config.attentions[3].rope == RopeConfig(theta=500_000.0, scaling=YARN)
    assert config.max_position_embeddings == 65536


def test_olmo3_reads_what_transformers_5_writes():
    base = {"rope_theta": 500000}
    newer = {
        **without(OLMO3_7B, "rope_scaling", "rope_theta"),
        "rope_parameters": {
            "full_attention": {**base, **OLMO3_7B["rope_scaling"]},
            "sliding_attention": {**base, "rope_type": "default"},
        },
    }
    assert parsed(newer).config == parsed(OLMO3_7B).config


def test_olmo3_takes_the_defaults_of_its_own():
    short = without(OLMO3_7B, "layer_types", "sliding_window", "rope_theta")
    assert parsed(short).config == parsed(OLMO3_7B).config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**OLMO2_7B, "sliding_window": 4096}, "sliding_window is 4096, which Olmo2"),
        ({**OLMO3_7B, "sliding_window": None}, "sliding_window is missing, but"),
        ({**OLMO3_7B, "layer_types": ["full_attention"]}, "must name each of the 32"),
        ({**OLMO3_7B, "clip_qkv": 8.0}, "clip_qkv is 8.0, which Olmo3ForCausalLM"),
        ({**OLMO2_7B, "model_type": "olmo"}, "is 'olmo', but architectures names"),
    ],
)
def test_what_olmo_does_not_have_is_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        parsed(values)
