"""A model of Tunix is told in our words, or refused in so many."""

import enum
import math
from types import SimpleNamespace

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.integrations.tunix.models import configs_of, given_config
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import LinearRope
from tests.integrations.standin import Config, Llama3

SIZES = {
    "num_layers": 8,
    "embed_dim": 16,
    "hidden_dim": 24,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
}
DENSE = SIZES | {"vocab_size": 22, "norm_eps": 1e-6, "rope_theta": 5000.0}


class Kind(enum.Enum):
    GLOBAL = 1
    LOCAL_SLIDING = 2


class Scaling(enum.Enum):
    BY_ONE_OVER_SQRT_HEAD_DIM = 1
    BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS = 2


def actor(kind, **config):
    made = type(kind, (), {})()
    made.config = SimpleNamespace(**config)
    return made


def gemma(**config):
    return actor(
        "Gemma",
        num_embed=22,
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        attention_types=(Kind.LOCAL_SLIDING, Kind.GLOBAL) * 5,
        sliding_window_size=6,
        **(SIZES | {"use_post_attn_norm": True, "use_post_ffw_norm": True} | config),
    )


def gemma3(**config):
    return actor(
        "Gemma3",
        num_embed=22,
        sliding_window_size=6,
        local_base_frequency=10_000,
        global_base_frequency=1_000_000,
        local_scale_factor=1.0,
        **(
            SIZES
            | {
                "global_scale_factor": 8.0,
                "query_pre_attn_norm": Scaling.BY_ONE_OVER_SQRT_HEAD_DIM,
            }
            | config
        ),
    )


def test_a_llama_may_rotate_by_the_base_that_is_fixed_or_by_its_own() -> None:
    fixed, own = configs_of(actor("Llama3", weight_tying=True, **DENSE), context=64)
    assert fixed.layers[0].attention.rope == RopeConfig(theta=1e6)
    assert own.layers[7].attention.rope == RopeConfig(theta=5000.0)
    assert fixed.tie_embeddings and fixed.max_position_embeddings == 64
    assert (fixed.num_layers, fixed.num_kv_heads, fixed.norm.eps) == (8, 2, 1e-6)
    same = DENSE | {"rope_theta": 1_000_000}
    assert len(configs_of(actor("Llama3", weight_tying=True, **same), context=64)) == 1


def test_a_subclass_is_what_it_was_made_of() -> None:
    class Mine(Llama3):
        pass

    made = object.__new__(Mine)
    object.__setattr__(made, "config", Config())
    assert configs_of(made, context=64)[0].vocab_size == 22


def test_a_qwen2_has_biases_and_a_qwen3_norms_of_heads() -> None:
    (two,) = configs_of(actor("Qwen2", use_tied_embedding=False, **DENSE), context=64)
    attention = two.layers[0].attention
    assert attention.rope == RopeConfig(theta=5000.0) and not two.tie_embeddings
    assert attention.query_bias and attention.key_bias and attention.value_bias
    options = {"use_tied_embedding": True, "num_experts": None}
    three = configs_of(actor("Qwen3", **options, **DENSE), context=64)[0]
    assert three.layers[0].attention.qk_norm is not None and three.tie_embeddings
    assert not three.layers[0].attention.query_bias
    experts = actor("Qwen3", **(options | {"num_experts": 8}), **DENSE)
    with pytest.raises(ValueError, match="num_experts is 8: a mixture"):
        configs_of(experts, context=64)


def test_a_gemma_has_windows_caps_and_norms_between() -> None:
    (config,) = configs_of(gemma(), context=64)
    assert [one.window for one in config.attentions] == [6, None] * 4
    assert {one.soft_cap for one in config.attentions} == {50.0}
    assert config.logit_soft_cap == 30.0 and config.tie_embeddings
    assert config.embedding_multiplier == math.sqrt(16)
    assert {layer.norm_places for layer in config.layers} == {"both"}
    assert config.norm.is_offset
    assert config.layers[0].feed_forward.activation == "gelu_tanh"
    one = gemma(use_post_attn_norm=False, use_post_ffw_norm=False)
    assert configs_of(one, context=64)[0].layers[0].norm_places == "before"
    with pytest.raises(ValueError, match="must be the same, got True and False"):
        configs_of(gemma(use_post_ffw_norm=False), context=64)


def test_a_gemma3_sees_everything_in_every_sixth_layer() -> None:
    (config,) = configs_of(gemma3(), context=64)
    assert [one.window for one in config.attentions] == [6] * 5 + [None] + [6] * 2
    near, far = (config.attentions[n].rope for n in (0, 5))
    assert near == RopeConfig(theta=10_000.0)
    assert far == RopeConfig(theta=1_000_000.0, scaling=LinearRope(factor=8.0))
    assert {one.scale for one in config.attentions} == {None}
    by_width = Scaling.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS
    (other,) = configs_of(gemma3(query_pre_attn_norm=by_width), context=64)
    assert {one.scale for one in other.attentions} == {0.5}


def test_another_model_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"ToyTransformer is none of .*model="):
        configs_of(actor("ToyTransformer"), context=64)


def test_a_model_may_be_said_by_a_config_or_a_directory(tiny_directory) -> None:
    config = configs_of(actor("Llama3", weight_tying=True, **DENSE), context=64)[0]
    assert given_config(config, context=16) == config
    assert given_config(config, context=99).max_position_embeddings == 99
    assert given_config(tiny_directory, context=16).vocab_size == 256
    with pytest.raises(CheckpointError):
        given_config(tiny_directory / "nothing", context=16)
