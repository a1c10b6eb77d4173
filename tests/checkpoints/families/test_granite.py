"""Granite 3 and 4 as they are published, and the parts of 4 that are not supported."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

GRANITE_3_8B = {
    "architectures": ["GraniteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_multiplier": 0.0078125,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "granite",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 49155,
}
GRANITE_4_MICRO = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_multiplier": 0.015625,
    "bos_token_id": 100257,
    "dtype": "bfloat16",
    "embedding_multiplier": 12,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "init_method": "mup",
    "initializer_range": 0.1,
    "intermediate_size": 8192,
    "layer_types": ["attention"] * 40,
    "logits_scaling": 10,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 80,
    "mamba_proj_bias": False,
    "max_position_embeddings": 131072,
    "model_type": "granitemoehybrid",
    "normalization_function": "rmsnorm",
    "num_attention_heads": 40,
    "num_experts_per_tok": 0,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "num_local_experts": 0,
    "output_router_logits": False,
    "pad_token_id": 100256,
    "position_embedding_type": "rope",
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.01,
    "shared_intermediate_size": 8192,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 100352,
}
ONE_LAYER_OF_MAMBA = ["mamba", *["attention"] * 39]


def test_granite_3_has_four_multipliers():
    config = parsed(GRANITE_3_8B).config
    attention = config.layers[39].attention
    assert (attention.head_dim, attention.score_scale) == (128, 1 / 128)
    assert attention.rope == RopeConfig(theta=1e7)
    assert (config.embedding_multiplier, config.residual_multiplier) == (12.0, 0.22)
    assert (config.logit_multiplier, config.tie_embeddings) == (1 / 16, True)


def test_multipliers_that_are_not_told_are_one():
    names = ("attention", "embedding", "residual")
    nothing = {f"{name}_multiplier": None for name in names} | {"logits_scaling": None}
    config = parsed({**GRANITE_3_8B, **nothing}).config
    assert config.layers[0].attention.score_scale == 1.0
    assert (config.embedding_multiplier, config.residual_multiplier) == (1.0, 1.0)
    assert config.logit_multiplier == 1.0


def test_granite_has_biases_where_it_says_so():
    changes = {"attention_bias": True, "mlp_bias": True}
    layer = parsed({**GRANITE_3_8B, **changes}).config.layers[0]
    assert layer.attention.query_bias
    assert layer.attention.output_bias
    assert layer.feed_forward.has_bias


def test_a_dense_granite_4_is_a_hybrid_of_attention_alone():
    config = parsed(GRANITE_4_MICRO).config
    attention = config.layers[39].attention
    assert (attention.num_heads, attention.head_dim) == (40, 64)
    assert attention.rope == RopeConfig(theta=1e7)
    assert attention.score_scale == 1 / 64
    assert config.layers[0].feed_forward.size == 8192
    assert config.logit_multiplier == 0.1


def test_the_shared_part_of_granite_4_gives_the_width():
    values = {**GRANITE_4_MICRO, "shared_intermediate_size": 4096}
    assert parsed(values).config.layers[0].feed_forward.size == 4096


@pytest.mark.parametrize("word", ["nope", None])
def test_granite_4_may_have_no_positions(word):
    values = {**GRANITE_4_MICRO, "position_embedding_type": word}
    assert parsed(values).config.layers[0].attention.rope is None


def test_transformers_5_has_another_word_for_attention():
    values = {**GRANITE_4_MICRO, "layer_types": ["full_attention"] * 40}
    assert parsed(values).config == parsed(GRANITE_4_MICRO).config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ONE_LAYER_OF_MAMBA}, "Mamba are not supported; take a dense"),
        ({"layer_types": None}, "each of the 40 layers is of attention"),
        ({"layer_types": ["attention"]}, "each of the 40 layers is of attention"),
        ({"num_local_experts": 64}, "is 64, and experts are not supported"),
        ({"num_local_experts": None}, "is 8, and experts are not supported"),
        ({"position_embedding_type": "alibi"}, "must be rope or nope, found 'alibi'"),
        ({"mlp_bias": True}, "mlp_bias is True, which GraniteMoeHybridForCausalLM"),
        ({"partial_rotary_factor": 0.5}, "leaves 32 channels of a head to turn"),
    ],
)
def test_what_is_no_dense_granite_4_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**GRANITE_4_MICRO, **changes})


@pytest.mark.parametrize(
    "key",
    [
        *("attention_multiplier", "embedding_multiplier"),
        *("residual_multiplier", "logits_scaling"),
    ],
)
def test_a_multiplier_that_is_not_positive_is_refused(key):
    with pytest.raises(CheckpointError, match=f"{key} must be positive, found 0.0"):
        parsed({**GRANITE_3_8B, key: 0})
