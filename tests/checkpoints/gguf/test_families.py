"""Gemma and Phi-3 lie in GGUF files in ways of their own, and come out as elsewhere."""

import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mell_jax.checkpoints import CheckpointError, read_spec
from mell_jax.models.rope import RopeConfig, inverse_frequencies
from mell_jax.models.rope_scaling import LinearRope
from tests.checkpoints.gguf.test_gguf import (
    as_safetensors,
    assert_same,
    load,
    logits_of,
)
from tests.checkpoints.gguf.tiny_gguf import (
    FEED,
    HEAD_DIM,
    HIDDEN,
    QKV_ROWS,
    write_gguf,
)
from tests.checkpoints.tiny import arrays

ARCHITECTURES = ("gemma", "gemma2", "gemma3", "phi3")
PAIRS = HEAD_DIM // 2
LONG = np.linspace(1.0, 9.0, PAIRS, dtype=np.float32)
SHORT = np.linspace(1.0, 2.0, PAIRS, dtype=np.float32)
FACTORS = {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT}


def attentions(path):
    return read_spec(path).config.attentions


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_gives_the_model_of_the_same_safetensors(tmp_path, architecture, kind):
    path, how = tmp_path / "model.gguf", {"architecture": architecture}
    stored = write_gguf(path, kind=kind, is_tied=True, **how)
    expected = as_safetensors(tmp_path / "hf", stored, **how, is_tied=True)
    found = load(path)
    assert_same(found, expected)
    logits = logits_of(found)
    np.testing.assert_array_equal(logits, logits_of(expected))
    assert np.ptp(logits) > 1.0  # the numbers say something


@pytest.mark.parametrize("architecture", ["gemma3", "phi3"])
def test_a_head_of_its_own_is_read(tmp_path, architecture):
    path, how = tmp_path / "model.gguf", {"architecture": architecture}
    stored = write_gguf(path, **how)
    assert_same(load(path), as_safetensors(tmp_path / "hf", stored, **how))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_small_scales_of_norms_are_not_lost_to_the_one(tmp_path, dtype):
    scale = np.linspace(1e-5, 1e-3, HIDDEN, dtype=np.float32)
    name = "output_norm.weight"
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="gemma", without=(name,), more={name: scale + 1})
    found = arrays(load(path, dtype).state)["norm", "scale"]
    exact = (scale + np.float32(1)) - np.float32(1)
    np.testing.assert_array_equal(found, exact.astype(dtype))
    rounded = (scale + np.float32(1)).astype(ml_dtypes.bfloat16) - 1
    assert not rounded.any()  # so it would be, were the file's values rounded before


def test_a_norm_too_large_for_the_serving_type_is_refused(tmp_path):
    name, path = "output_norm.weight", tmp_path / "model.gguf"
    large = np.full(HIDDEN, 1e6, np.float32)
    write_gguf(path, architecture="gemma", without=(name,), more={name: large})
    with pytest.raises(CheckpointError, match=r"output_norm.weight has values too lar"):
        load(path, jnp.float16)


# -- what only Gemma's files say ------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("gemma2", {}, [5, None] * 3 + [5]),
        ("gemma2", {"attention.sliding_window": None}, [4096, None] * 3 + [4096]),
        ("gemma2", {"attention.sliding_window_pattern": 3}, [5, 5, None] * 2 + [5]),
        ("gemma3", {"attention.sliding_window_pattern": None}, [5] * 5 + [None, 5]),
        ("gemma3", {"attention.sliding_window_pattern": 1}, [None] * 7),
        ("gemma3", {"attention.sliding_window_pattern": 0}, [5] * 7),
        ("gemma3", {"attention.sliding_window": None}, [None] * 7),
        ("gemma3", {"attention.sliding_window": 0}, [None] * 7),
        ("phi3", {}, [None] * 7),
        ("phi3", {"attention.sliding_window": 9}, [9] * 7),
        ("phi3", {"attention.sliding_window": None}, [None] * 7),
    ],
)
def test_windows_are_where_llama_cpp_has_them(tmp_path, architecture, changes, windows):
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture=architecture, block_count=7, **changes)
    assert [one.window for one in attentions(path)] == windows


def test_layers_of_gemma_3_turn_with_two_bases_and_full_ones_are_stretched(tmp_path):
    path = tmp_path / "model.gguf"
    changes = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    write_gguf(path, architecture="gemma3", **changes)
    local, whole = (one.rope for one in attentions(path))
    assert local == RopeConfig(theta=10_000.0)
    assert whole == RopeConfig(theta=50_000.0, scaling=LinearRope(factor=8.0))
    write_gguf(path, architecture="gemma3", **{"rope.freq_base_swa": 20_000.0})
    assert attentions(path)[0].rope == RopeConfig(theta=20_000.0)


@pytest.mark.parametrize(
    ("architecture", "layers", "divisor"),
    [
        ("gemma2", 46, HIDDEN // 2),
        ("gemma2", 42, HEAD_DIM),
        ("gemma2", 62, HEAD_DIM),
        ("gemma3", 62, HIDDEN // 2),
        ("gemma3", 46, HEAD_DIM),
    ],
)
def test_27b_models_scale_their_queries_by_the_width(
    tmp_path, architecture, layers, divisor
):
    path, changes = tmp_path / "model.gguf", {"attention.head_count": 2}
    write_gguf(
        path,
        architecture=architecture,
        block_count=layers,
        without=("blk.0.attn_q.weight",),
        **changes,
    )
    (scale,) = {one.score_scale for one in attentions(path)}
    assert scale == pytest.approx(1 / math.sqrt(divisor))


def test_caps_of_gemma_are_those_of_the_file_or_of_llama_cpp(tmp_path):
    path, soft = tmp_path / "model.gguf", "final_logit_softcapping"
    write_gguf(path, architecture="gemma2", **{soft: 20.0})
    config = read_spec(path).config
    assert (config.logit_soft_cap, config.attentions[0].soft_cap) == (20.0, 50.0)
    write_gguf(
        path, architecture="gemma2", **{soft: None, "attn_logit_softcapping": None}
    )
    config = read_spec(path).config
    assert (config.logit_soft_cap, config.attentions[0].soft_cap) == (30.0, 50.0)
    for given, cap in ((None, None), (0.0, None), (25.0, 25.0)):
        write_gguf(path, architecture="gemma3", **{soft: given})
        assert read_spec(path).config.logit_soft_cap == cap


# -- what only Phi-3's files say ------------------------------------------------------


def long_file(path, **changes):
    given = {"rope.scaling.original_context_length": 64, **changes}
    return write_gguf(path, architecture="phi3", more=FACTORS, **given)


@pytest.mark.parametrize("gain", [None, 1.25])
def test_long_and_short_factors_are_those_of_a_config_json(tmp_path, gain):
    path = tmp_path / "model.gguf"
    stored = long_file(path, **{"rope.scaling.attn_factor": gain})
    section = {
        "type": "longrope",
        "short_factor": SHORT.tolist(),
        "long_factor": LONG.tolist(),
        "attention_factor": gain or 1.0,
    }
    expected = as_safetensors(
        tmp_path / "hf",
        stored,
        "phi3",
        rope_scaling=section,
        original_max_position_embeddings=64,
    )
    found = load(path)
    assert_same(found, expected)
    np.testing.assert_array_equal(logits_of(found), logits_of(expected))
    plain = 50_000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    for tokens, factors in ((64, SHORT), (65, LONG)):
        rope = found.spec.config.for_context(tokens).attentions[0].rope
        frequencies = inverse_frequencies(rope, head_dim=HEAD_DIM)
        np.testing.assert_allclose(frequencies, plain / factors, rtol=1e-6)


@pytest.mark.parametrize(
    ("head_dim", "turning"),
    # The quotients of 98 are no floats: the nearest one times 98 is below the number.
    [(64, 48), (96, 72), (128, 96), (44, 30), (98, 2), (98, 4), (98, 96)],
)
def test_some_channels_of_a_head_may_turn(tmp_path, head_dim, turning):
    path = tmp_path / "model.gguf"
    sizes = {"attention.key_length": head_dim, "attention.value_length": head_dim}
    turned = {"rope.dimension_count": turning}
    write_gguf(path, architecture="phi3", **sizes, **turned)
    assert attentions(path)[0].rope.dims == turning


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope.scaling.type": "yarn"}, r"scaling.type is 'yarn' beside rope_factors"),
        ({"rope.scaling.factor": 4.0}, r"rope.scaling.factor must be 1 or absent"),
        ({"rope.scaling.yarn_attn_factor": 2.0}, r"yarn_attn_factor must be 1.0"),
        ({"rope.scaling.attn_factor": -1.0}, r"attention_factor must be positive"),
        ({"rope.dimension_count": 0}, r"rope.dimension_count must be from 2 to the"),
        ({"rope.dimension_count": 66}, r"rope.dimension_count must be from 2 to the"),
        ({"rope.dimension_count": 32}, r"rope"),  # factors for twice as many
        ({"attention.head_count_kv": 1}, r"blk.0.attn_qkv.* use for 98304 of its 131"),
        ({"attention.head_count_kv": 4}, r"'blk.0.attn_qkv.weight' has the shape"),
        ({"feed_forward_length": FEED // 2}, r"'blk.0.ffn_down.weight' has the shape"),
    ],
)
def test_a_file_of_phi_3_that_lies_is_refused(tmp_path, changes, words):
    path = tmp_path / "model.gguf"
    long_file(path, **changes)
    with pytest.raises(CheckpointError, match=words):
        load(path)


def test_the_same_lie_of_a_config_json_is_refused(tmp_path):
    stored = write_gguf(tmp_path / "model.gguf", architecture="phi3")
    with pytest.raises(CheckpointError, match=r"qkv_proj.* has use for 98304 of its v"):
        as_safetensors(tmp_path / "hf", stored, "phi3", num_key_value_heads=1)


@pytest.mark.parametrize("name", FACTORS)
def test_one_list_of_factors_without_the_other_is_refused(tmp_path, name):
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="phi3", more={name: LONG})
    with pytest.raises(CheckpointError, match=r"is missing, but there is the other"):
        read_spec(path)


def test_factors_of_two_kinds_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="phi3", more=FACTORS | {"rope_freqs.weight": LONG})
    with pytest.raises(CheckpointError, match=r"has no rope_freqs.weight either"):
        read_spec(path)


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("gemma2", {"block_count": 2**31}, r"block_count must be from 1 to"),
        ("gemma3", {"block_count": 0}, r"block_count must be from 1 to"),
        ("gemma2", {"rope.freq_base_swa": 5.0}, r"gemma2.rope.freq_base_swa is 5.0"),
        ("gemma", {"attention.sliding_window": 4}, r"gemma.attention.sliding_window"),
        ("gemma3", {"attn_logit_softcapping": 9.0}, r"attn_logit_softcapping is 9.0"),
        ("gemma3", {"vision.block_count": 27}, r"gemma3.vision.block_count is 27"),
    ],
)
def test_what_gemma_has_no_word_for_is_refused(tmp_path, architecture, changes, words):
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture=architecture, **changes)
    with pytest.raises(CheckpointError, match=words):
        read_spec(path)


def test_rows_of_queries_keys_and_values_follow_one_another(tmp_path):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, architecture="phi3")
    whole = stored["model.layers.1.self_attn.qkv_proj.weight"]
    assert whole.shape == (QKV_ROWS, HIDDEN)
    loaded = arrays(load(path).state)
    parts = [loaded["layers", 1, "attention", f"{k}_proj", "kernel"].T for k in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
