"""Published `config.json` files of Gemma 1, 2 and 3, and what is refused of them."""

import math

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.config import NormConfig
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import LinearRope
from tests.checkpoints.tiny import parsed

GEMMA_2B = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
}
GEMMA2_27B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 128,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 4608,
    "initializer_range": 0.02,
    "intermediate_size": 36864,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 32,
    "num_hidden_layers": 46,
    "num_key_value_heads": 16,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 144,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
}
GEMMA3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
GEMMA3_27B_TEXT = {
    "head_dim": 128,
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "model_type": "gemma3_text",
    "num_attention_heads": 32,
    "num_hidden_layers": 62,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 168,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
GEMMA3_270M_NEWER = {
    "_sliding_window_pattern": 6,
    "layer_types": [
        *(["sliding_attention"] * 5 + ["full_attention"]) * 3,
    ],
    "num_hidden_layers": 18,
    "sliding_window_pattern": None,
    "use_bidirectional_attention": False,
}
NORM = NormConfig(eps=1e-6, is_offset=True)


def read(values, **changes):
    """The spec of a published file with changes; None is null, ... takes away."""
    values = {k: v for k, v in {**values, **changes}.items() if v is not ...}
    return parsed(values)


def sights(changes):
    """The file of a model that sees, with changes of its decoder."""
    return {"text_config": {**GEMMA3_4B["text_config"], **changes}}


def windows(config):
    return [attention.window for attention in config.attentions]


def test_gemma_2b_is_read_as_it_is_published():
    spec = read(GEMMA_2B)
    config = spec.config
    assert (spec.architecture, spec.eos_ids, spec.bos_id) == (
        *("GemmaForCausalLM", (1,), 2),
    )
    assert (config.vocab_size, config.hidden_size) == (256_000, 2048)
    assert (config.num_layers, config.max_position_embeddings) == (18, 8192)
    assert config.tie_embeddings
    assert config.embedding_multiplier == math.sqrt(2048)
    assert config.logit_soft_cap is None
    assert config.norm == NORM
    layer = config.layers[17]
    assert layer.norm == NORM
    assert (layer.norm_places, layer.feed_forward.size) == ("before", 16_384)
    assert layer.feed_forward.activation == "gelu_tanh"
    attention = layer.attention
    assert (attention.num_heads, attention.num_kv_heads) == (8, 1)
    assert (attention.head_dim, attention.score_scale) == (256, 1 / 16)
    assert (attention.qk_norm, attention.window) == (None, None)
    assert attention.rope == RopeConfig(theta=10_000.0)


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({"hidden_act": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"hidden_act": ..., "hidden_activation": ...}, "gelu_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"hidden_act": None, "hidden_activation": "silu"}, "silu"),
        ({"hidden_act": "silu"}, "silu"),
    ],
)
def test_gelu_in_a_gemma_1_means_its_tanh_form(changes, activation):
    layer = read(GEMMA_2B, **changes).config.layers[0]
    assert layer.feed_forward.activation == activation


def test_gemma2_27b_is_read_as_it_is_published():
    config = read(GEMMA2_27B).config
    assert (config.num_layers, config.vocab_size) == (46, 256_000)
    assert config.tie_embeddings
    assert config.embedding_multiplier == math.sqrt(4608)
    assert config.logit_soft_cap == 30.0
    assert windows(config) == [4096, None] * 23
    layer = config.layers[0]
    assert (layer.norm, layer.norm_places) == (NORM, "both")
    assert layer.feed_forward.activation == "gelu_tanh"
    attention = layer.attention
    assert (attention.num_heads, attention.num_kv_heads) == (32, 16)
    assert (attention.head_dim, attention.score_scale) == (128, 144**-0.5)
    assert attention.soft_cap == 50.0
    assert attention.qk_norm is None


def test_a_cap_that_is_null_is_none_and_one_that_is_absent_is_the_default():
    null = {"final_logit_softcapping": None, "attn_logit_softcapping": None}
    config = read(GEMMA2_27B, **null).config
    assert (config.logit_soft_cap, config.attentions[0].soft_cap) == (None, None)
    config = read(GEMMA2_27B, **dict.fromkeys(null, ...)).config
    assert (config.logit_soft_cap, config.attentions[0].soft_cap) == (30.0, 50.0)


def test_gemma3_1b_is_read_as_it_is_published():
    spec = read(GEMMA3_1B)
    config = spec.config
    assert (spec.model_type, spec.eos_ids) == ("gemma3_text", (1, 106))
    assert (config.num_layers, config.max_position_embeddings) == (26, 32_768)
    assert config.embedding_multiplier == math.sqrt(1152)
    assert (config.tie_embeddings, config.logit_soft_cap) == (True, None)
    assert windows(config) == [*[*[512] * 5, None] * 4, 512, 512]
    assert config.layers[0].norm_places == "both"
    sliding, full = config.attentions[0], config.attentions[5]
    assert sliding.rope == RopeConfig(theta=10_000.0)
    assert full.rope == RopeConfig(theta=1_000_000.0)
    assert (full.qk_norm, full.qk_norm_span) == (NORM, "head")
    assert (full.num_heads, full.num_kv_heads, full.head_dim) == (4, 1, 256)
    assert (full.soft_cap, full.score_scale) == (None, 1 / 16)


def test_layer_types_say_the_same_as_the_older_pattern():
    newer = read(GEMMA3_1B, **GEMMA3_270M_NEWER).config
    older = read(GEMMA3_1B, num_hidden_layers=18).config
    assert newer == older


def test_gemma3_4b_takes_what_its_text_config_leaves_out_from_the_defaults():
    spec = read(GEMMA3_4B)
    config = spec.config
    assert (spec.architecture, spec.eos_ids) == ("Gemma3ForCausalLM", (1, 106))
    assert spec.dtype_name == "bfloat16"
    assert (config.vocab_size, config.num_layers) == (262_208, 34)
    assert config.max_position_embeddings == 131_072
    assert config.tie_embeddings
    assert config.norm == NORM
    assert windows(config)[:7] == [1024] * 5 + [None, 1024]
    sliding, full = config.attentions[0], config.attentions[5]
    assert (full.num_heads, full.num_kv_heads, full.head_dim) == (8, 4, 256)
    assert sliding.rope == RopeConfig(theta=10_000.0)
    assert full.rope == RopeConfig(theta=1e6, scaling=LinearRope(factor=8.0))


def test_gemma3_27b_has_a_scale_that_is_not_that_of_its_heads():
    config = read(GEMMA3_4B, text_config=GEMMA3_27B_TEXT).config
    attention = config.attentions[0]
    assert (attention.head_dim, attention.score_scale) == (128, 168**-0.5)
    assert config.embedding_multiplier == math.sqrt(5376)


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (
            GEMMA_2B,
            {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"},
            "config.json: hidden_activation is gelu_pytorch_tanh and hidden_act is "
            "silu; versions",
        ),
        (GEMMA_2B, {"hidden_act": "xielu"}, "hidden_act must be one of silu"),
        (GEMMA_2B, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        (GEMMA_2B, {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar is 144"),
        (
            GEMMA_2B,
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention",
        ),
        (GEMMA2_27B, {"use_bidirectional_attention": True}, "use_bidirectional_atten"),
        (GEMMA_2B, {"partial_rotary_factor": 0.5}, "leaves 128 channels of a head"),
        (GEMMA3_1B, {"partial_rotary_factor": 0.5}, "leaves 128 channels of a head"),
        (GEMMA2_27B, {"query_pre_attn_scalar": 0}, "must be above 0, found 0.0"),
        (GEMMA2_27B, {"query_pre_attn_scalar": None}, "query_pre_attn_scalar is miss"),
        (GEMMA2_27B, {"sliding_window": None}, "sliding_window is missing, but"),
        (GEMMA2_27B, {"final_logit_softcapping": 0}, "logit_soft_cap must be positive"),
        (GEMMA2_27B, {"rope_local_base_freq": 1e4}, "rope_local_base_freq is 10000.0"),
        (GEMMA2_27B, {"layer_types": ["full_attention"]}, "must name each of the 46"),
        (GEMMA3_1B, {"use_bidirectional_attention": True}, "use_bidirectional_atten"),
        (GEMMA3_1B, {"attn_logit_softcapping": 50.0}, "transformers: set it to null"),
        (GEMMA3_1B, {"sliding_window_pattern": 0}, "must be at least 1, found 0"),
        (
            GEMMA3_1B,
            {**GEMMA3_270M_NEWER, "sliding_window_pattern": 3},
            "sliding_window_pattern is 3 and disagrees with layer_types",
        ),
        (GEMMA3_1B, {"model_type": "gemma3n_text"}, "whose model_type is gemma3_text"),
        (
            GEMMA3_4B,
            sights({"sliding_window": None}),
            "config.json: text_config: sliding_window is missing",
        ),
        (
            GEMMA3_4B,
            sights({"model_type": "gemma3n_text"}),
            "config.json: text_config: model_type is 'gemma3n_text', but",
        ),
        (GEMMA3_4B, sights({"num_kv_shared_layers": 10}), "num_kv_shared_layers is 10"),
        (
            GEMMA3_4B,
            sights({"hidden_size_per_layer_input": 256}),
            "hidden_size_per_layer_input is 256",
        ),
    ],
)
def test_what_a_gemma_does_not_have_is_refused_by_name(values, changes, message):
    with pytest.raises(CheckpointError) as error:
        read(values, **changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "architecture",
    [
        "VaultGemmaForCausalLM",
        "Gemma3nForCausalLM",
        "Gemma3nForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma3TextModel",
        "PaliGemmaForConditionalGeneration",
        "RecurrentGemmaForCausalLM",
    ],
)
def test_other_gemmas_are_refused_by_their_architecture(architecture):
    with pytest.raises(CheckpointError, match=f"architectures .*{architecture}"):
        read(GEMMA3_4B, architectures=[architecture])
