import json

import pytest

from mell_jax.checkpoints import CheckpointError, read_spec
from mell_jax.models.rope import RopeConfig
from mell_jax.models.rope_scaling import Llama3Rope
from mell_jax.models.uniform import uniform_config
from tests.checkpoints.tiny import config_values, parsed, write_config

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


NO_WINDOWS = (None, None, None)


def read(directory, **changes):
    write_config(directory, **changes)
    return read_spec(directory)


def rope_of(config):
    return config.layers[0].attention.rope


def windows_of(config):
    return tuple(attention.window for attention in config.attentions)


def biases_of(attention):
    return (
        attention.query_bias,
        attention.key_bias,
        attention.value_bias,
        attention.output_bias,
    )


def test_a_llama_config_becomes_a_spec(tmp_path):
    spec = read(tmp_path)
    assert spec.config == uniform_config(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=48,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        norm_eps=1e-5,
    )
    assert (spec.architecture, spec.model_type) == ("LlamaForCausalLM", "llama")
    assert (spec.eos_ids, spec.bos_id, spec.dtype_name) == ((2,), 1, "float32")
    assert spec.context_tokens == 128


def test_what_old_llama_files_omit_takes_the_defaults_of_then(tmp_path):
    config = read(tmp_path, num_key_value_heads=None, rms_norm_eps=None).config
    assert (config.num_kv_heads, config.norm.eps) == (2, 1e-6)
    assert rope_of(config) == RopeConfig(theta=1e4)


def test_llama_biases_are_honoured(tmp_path):
    layer = read(tmp_path, attention_bias=True, mlp_bias=True).config.layers[0]
    assert biases_of(layer.attention) == (True, True, True, True)
    assert layer.feed_forward.has_bias


@pytest.mark.parametrize(
    "spelling",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ],
)
def test_a_share_of_a_head_is_refused_where_transformers_turns_it_whole(
    tmp_path, spelling
):
    message = "partial_rotary_factor leaves 16 channels of a head to turn, but all"
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, **spelling)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE},
        {"rope_theta": 500000, "rope_scaling": {**LLAMA3_ROPE, "type": "llama3"}},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3_ROPE}},
    ],
    ids=["older", "oldest", "transformers 5"],
)
def test_the_llama3_rope_is_read_in_every_spelling(tmp_path, spelling):
    config = read(tmp_path, **spelling).config
    scaling = Llama3Rope(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )
    assert rope_of(config) == RopeConfig(theta=500_000.0, scaling=scaling)


def test_a_default_rope_has_no_scaling(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 7.0}
    config = read(tmp_path, rope_parameters=rope).config
    assert rope_of(config) == RopeConfig(theta=7.0)


def test_mistral_slides_its_window_in_every_layer(tmp_path):
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    config = read(tmp_path, **mistral, num_hidden_layers=3, sliding_window=64).config
    assert windows_of(config) == (64, 64, 64)
    assert windows_of(read(tmp_path, **mistral).config) == (4096,)
    values = config_values(**mistral)
    assert windows_of(parsed({**values, "sliding_window": None}).config) == (None,)


def test_a_null_stays_one_inside_a_model_that_sees():
    """Mistral Small 3.1 has no window, and its class has one by default."""
    text = {**config_values(), "model_type": "mistral", "sliding_window": None}
    whole = {"architectures": ["Mistral3ForConditionalGeneration"]}
    del text["architectures"]
    values = {**whole, "model_type": "mistral3", "text_config": text}
    assert windows_of(parsed(values).config) == (None,)


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({}, NO_WINDOWS),
        ({"sliding_window": 64, "use_sliding_window": False}, NO_WINDOWS),
        ({"sliding_window": 64, "use_sliding_window": True}, (None, 64, 64)),
        (
            {
                "sliding_window": 64,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"] * 1
                + ["full_attention"],
            },
            (64, None, None),
        ),
        ({"layer_types": ["full_attention"] * 3}, NO_WINDOWS),
    ],
)
def test_qwen2_windows(tmp_path, options, windows):
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    config = read(
        tmp_path, **qwen2, num_hidden_layers=3, max_window_layers=1, **options
    ).config
    assert windows_of(config) == windows
    attention = config.layers[0].attention
    assert biases_of(attention) == (True, True, True, False)
    assert attention.qk_norm is None


def test_qwen3_has_query_and_key_norms_and_its_own_head_size(tmp_path):
    qwen3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    config = read(tmp_path, **qwen3).config
    attention = config.layers[0].attention
    assert attention.qk_norm == config.norm
    assert (attention.query_bias, attention.head_dim) == (False, 128)
    assert read(tmp_path, **qwen3, head_dim=64).config.head_dim == 64


def test_both_configs_name_end_tokens(tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [3, 4], "bos_token_id": 5}))
    spec = read(tmp_path)
    assert (spec.eos_ids, spec.bos_id) == ((3, 4, 2), 5)
    path.write_text(json.dumps({"eos_token_id": 6}))
    assert read(tmp_path).eos_ids == (6, 2)
    path.write_text("{}")
    assert read(tmp_path).eos_ids == (2,)
    assert read(tmp_path, eos_token_id=None, bos_token_id=None).bos_id is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MixtralForCausalLM"]},
            "must name one of LlamaForCausalLM",
        ),
        ({"architectures": None}, "architectures is missing"),
        ({"architectures": "LlamaForCausalLM"}, "must be a list of strings"),
        ({"quantization_config": {"bits": 4}}, "quant_method is missing"),
        ({"hidden_act": "xielu"}, "hidden_act must be one of silu, swish, gelu"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_scaling: type"),
        ({"model_type": "gemma"}, "whose model_type is llama: correct the one"),
        ({"layer_types": ["sliding_attention"]}, "LlamaForCausalLM does not have"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, which"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0, which"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {**LLAMA3_ROPE, "factor": 0.5}}, "rope factor must be at"),
        ({"rope_scaling": []}, "rope_scaling must be an object, found a list"),
        ({"rope_parameters": {"full_attention": {}}}, "one setting for all layers"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"vocab_size": True}, "vocab_size must be an integer, found a boolean, True"),
        ({"vocab_size": "8"}, "vocab_size must be an integer, found a string, 8"),
        ({"vocab_size": 8.0}, "vocab_size must be an integer, found a number, 8.0"),
        ({"vocab_size": 10**12}, "vocab_size must be from 1 to 4000000"),
        ({"vocab_size": 10**4000}, "config.json: vocab_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be from 1 to 1000"),
        ({"num_attention_heads": 0}, "must be a multiple of num_attention_heads"),
        ({"num_attention_heads": 3}, "must be a multiple of num_attention_heads"),
        ({"head_dim": 31}, "head_dim must be even, from 2 to 1024, got 31"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a finite number"),
        ({"rms_norm_eps": -1}, "norm_eps must be in"),
        ({"rope_theta": 10**400}, "rope_theta must be a finite number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"eos_token_id": "2"}, "eos_token_id must be an integer or a list of them"),
        ({"torch_dtype": 5}, "torch_dtype must be a string"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(CheckpointError) as error:
        read(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "layer_types", [["full_attention"], ["sliding_attention"], ["chunked"] * 3]
)
def test_layer_types_must_fit_the_layers(tmp_path, layer_types):
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    with pytest.raises(CheckpointError, match="layer_types must name each of the 3"):
        read(tmp_path, **qwen2, num_hidden_layers=3, layer_types=layer_types)


def test_a_huge_number_of_layers_makes_no_huge_tuple(tmp_path):
    mistral = {"architectures": ["MistralForCausalLM"], "sliding_window": 8}
    mistral["model_type"] = "mistral"
    with pytest.raises(CheckpointError, match="num_hidden_layers must be from 1"):
        read(tmp_path, **mistral, num_hidden_layers=10**12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "expected a JSON object, found a list"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"a": ' + "[" * 200_000, "not valid JSON"),
        ('{"a": ' + "1" * 100_000 + "}", "not valid JSON"),
        ('{"a": "\xff"}', "not valid JSON"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "larger than the 1048576 bytes allowed"),
    ],
)
def test_a_file_that_is_not_a_small_json_object_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message):
        read_spec(tmp_path)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read_spec(tmp_path)


def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read_spec(tmp_path)


def test_an_infinite_number_in_disguise_is_refused(tmp_path):
    text = json.dumps(config_values()).replace("1e-05", "1e999")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="rms_norm_eps must be a finite number"):
        read_spec(tmp_path)


@pytest.mark.parametrize("spelling", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_is_refused_where_it_is_read_and_only_there(tmp_path, spelling):
    path = tmp_path / "config.json"
    text = json.dumps(config_values(time_step_limit=[0.0, "X"], other="X"))
    path.write_text(text.replace('"X"', spelling))
    assert read_spec(tmp_path).eos_ids == (2,)
    for key, value, wanted in (
        ("rms_norm_eps", "1e-05", "a finite number"),
        ("vocab_size", "8", "an integer"),
    ):
        path.write_text(
            json.dumps(config_values()).replace(
                f'"{key}": {value}', f'"{key}": {spelling}'
            )
        )
        with pytest.raises(CheckpointError, match=f"{key} must be {wanted}, found a n"):
            read_spec(tmp_path)


@pytest.mark.parametrize("name", ["config", "generation_config"])
def test_a_byte_order_mark_does_no_harm(tmp_path, name):
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3}')
    path = tmp_path / f"{name}.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_spec(tmp_path).eos_ids == (3, 2)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 8}, {}, ((), 1, (8,))),
        ({"eos_token_id": [2, -1]}, {}, ((2,), 1, (-1,))),
        ({"bos_token_id": -1}, {}, ((2,), None, (-1,))),
        (
            {},
            {"eos_token_id": [999, 3], "bos_token_id": 999},
            ((3, 2), None, (999,)),
        ),
        ({"pad_token_id": -1}, {"pad_token_id": 999}, ((2,), 1, ())),
        ({"eos_token_id": []}, {}, ((), 1, ())),
    ],
)
def test_special_tokens_outside_the_vocabulary_do_not_count(
    tmp_path, config, generation, expected
):
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    spec = read(tmp_path, **config)
    assert (spec.eos_ids, spec.bos_id, spec.outside_ids) == expected
