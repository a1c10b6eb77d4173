"""StarCoder2 as it is published."""

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.config import FeedForwardConfig, NormConfig
from mell_jax.models.rope import RopeConfig
from tests.checkpoints.tiny import parsed

STARCODER2_7B = {
    "activation_function": "gelu",
    "architectures": ["Starcoder2ForCausalLM"],
    "attention_dropout": 0.1,
    "attention_softmax_in_fp32": True,
    "bos_token_id": 0,
    "embedding_dropout": 0.1,
    "eos_token_id": 0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 4608,
    "initializer_range": 0.018042,
    "intermediate_size": 18432,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_attention_heads": 36,
    "num_hidden_layers": 32,
    "num_key_value_heads": 4,
    "residual_dropout": 0.1,
    "rope_theta": 1000000,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 49152,
}


def test_starcoder2_has_biases_everywhere_and_no_gate():
    config = parsed(STARCODER2_7B).config
    layer = config.layers[31]
    assert layer.feed_forward == FeedForwardConfig(
        size=18432, activation="gelu_tanh", is_gated=False, has_bias=True
    )
    attention = layer.attention
    assert attention.query_bias and attention.key_bias and attention.value_bias
    assert attention.output_bias
    assert layer.norm == config.norm
    assert layer.norm == NormConfig(kind="layer", eps=1e-5, has_bias=True)
    assert attention.rope == RopeConfig(theta=1e6)
    assert (attention.head_dim, attention.window) == (128, 4096)
    assert config.tie_embeddings


def test_without_a_window_everything_is_seen():
    values = {**STARCODER2_7B, "sliding_window": None}
    assert parsed(values).config.layers[0].attention.window is None


def test_its_norms_keep_their_bias_where_maps_have_none():
    layer = parsed({**STARCODER2_7B, "use_bias": False}).config.layers[0]
    assert (layer.norm.has_bias, layer.feed_forward.has_bias) == (True, False)
    assert not layer.attention.output_bias


def test_the_defaults_are_those_of_the_class():
    drop = ("hidden_act", "norm_epsilon", "use_bias", "num_key_value_heads")
    short = {key: value for key, value in STARCODER2_7B.items() if key not in drop}
    config = parsed(short).config
    assert config.num_kv_heads == 2
    assert config.layers[0].feed_forward.activation == "gelu_tanh"
    assert config.layers[0].norm.eps == 1e-5
    assert config.layers[0].attention.query_bias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True, which Starcoder2For"),
        ({"sliding_window": 0}, "window must be from 1 to"),
        ({"layer_types": ["sliding_attention"] * 32}, "layer_types is"),
    ],
)
def test_what_starcoder2_does_not_have_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parsed({**STARCODER2_7B, **changes})
