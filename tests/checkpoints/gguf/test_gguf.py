"""A GGUF file gives the model that the same values in safetensors give."""

import json
import logging
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from mell_jax.checkpoints import CheckpointError, load_model, read_eos_ids, read_spec
from mell_jax.checkpoints.gguf import open_gguf, read, spec
from mell_jax.checkpoints.gguf.architectures import halves_of_pairs
from mell_jax.events import PROGRESS_LOGGER_NAME
from mell_jax.models.attention import causal_attention
from mell_jax.models.rope import inverse_frequencies
from tests.checkpoints.gguf.tiny_gguf import (
    HEAD_DIM,
    HIDDEN,
    VOCAB,
    config_values,
    interleaved,
    write_gguf,
)
from tests.checkpoints.gguf.tiny_gguf import gguf as package
from tests.checkpoints.tiny import arrays, on_one_device

KINDS = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q4_K", "Q5_K", "Q6_K"),
)


def load(path, dtype=jnp.float32):
    return load_model(path, dtype=dtype, sharding_for=on_one_device)


def logits_of(model):
    decoder = nnx.merge(model.graphdef, model.state)
    tokens = jnp.arange(24, dtype=jnp.int32)[None] * 7 % VOCAB
    positions = jnp.arange(24, dtype=jnp.int32)[None]
    hidden, _ = decoder(tokens, positions, None, causal_attention)
    return np.asarray(decoder.logits(hidden))


def as_safetensors(directory, stored, architecture, *, is_tied=False, **changes):
    directory.mkdir()
    values = config_values(architecture, is_tied=is_tied, **changes)
    (directory / "config.json").write_text(json.dumps(values))
    save_file(
        {name: np.ascontiguousarray(v) for name, v in stored.items()},
        directory / "model.safetensors",
    )
    return load(directory)


def assert_same(found, expected):
    assert found.spec.config == expected.spec.config
    assert found.spec.architecture == expected.spec.architecture
    loaded, wanted = arrays(found.state), arrays(expected.state)
    assert loaded.keys() == wanted.keys()
    for path, values in wanted.items():
        np.testing.assert_array_equal(loaded[path], values, err_msg=str(path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_file_gives_the_parameters_of_the_same_safetensors(
    tmp_path, architecture, kind
):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, architecture=architecture, kind=kind)
    expected = as_safetensors(tmp_path / "hf", stored, architecture)
    assert_same(load(path), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_file_gives_the_logits_of_the_same_safetensors(tmp_path, architecture):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, architecture=architecture, kind="Q4_1", is_tied=True)
    expected = as_safetensors(tmp_path / "hf", stored, architecture, is_tied=True)
    found = logits_of(load(path))
    np.testing.assert_array_equal(found, logits_of(expected))
    assert np.ptp(found) > 1.0  # the numbers say something


def test_queries_of_llama_are_put_back_and_would_be_missed_otherwise(tmp_path):
    rows = np.arange(12)
    moved = interleaved(rows, 2)
    assert list(moved[:6]) == [0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(moved[list(halves_of_pairs(2, 6))], rows)
    path = tmp_path / "model.gguf"
    stored = write_gguf(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    stored[name] = interleaved(stored[name], 4)
    expected = as_safetensors(tmp_path / "hf", stored, "llama")
    assert np.abs(logits_of(load(path)) - logits_of(expected)).max() > 1e-2


def test_biases_of_llama_are_seen_and_put_back(tmp_path):
    random = np.random.default_rng(1)
    more, stored_more = {}, {}
    for layer in range(2):
        for part, hf, size, heads in (
            ("attn_q", "q_proj", 256, 4),
            ("attn_k", "k_proj", 128, 2),
            ("attn_v", "v_proj", 128, 0),
            ("attn_output", "o_proj", 256, 0),
        ):
            values = random.standard_normal(size).astype(np.float32)
            stored_more[f"model.layers.{layer}.self_attn.{hf}.bias"] = values
            lying = interleaved(values, heads) if heads else values
            more[f"blk.{layer}.{part}.bias"] = lying
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, more=more) | stored_more
    expected = as_safetensors(tmp_path / "hf", stored, "llama", attention_bias=True)
    assert_same(load(path), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_values_are_rounded_once_to_the_serving_type(tmp_path, dtype):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, kind="Q8_0")
    embedding = arrays(load(path, dtype).state)["embed", "embedding"]
    expected = stored["model.embed_tokens.weight"].astype(dtype)
    np.testing.assert_array_equal(embedding, expected)


def test_values_too_large_for_the_serving_type_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    large = np.full(HIDDEN, 1e6, np.float32)
    write_gguf(
        path, without=("output_norm.weight",), more={"output_norm.weight": large}
    )
    with pytest.raises(CheckpointError, match=r"'output_norm.weight' has values too"):
        load(path, jnp.float16)
    assert load(path).spec.config.num_layers == 2


def test_slabs_of_any_size_give_the_same_values(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path, kind="Q4_0")
    expected = arrays(load(path).state)
    monkeypatch.setattr(read, "SLAB_VALUES", 96)
    for name, values in arrays(load(path).state).items():
        np.testing.assert_array_equal(values, expected[name])


def test_some_rows_are_read_alone(tmp_path):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, kind="Q6_K")
    embedding = open_gguf(path).tensors["token_embd.weight"]
    part = read.read_packed(embedding.rows(slice(5, 9)), dtype=np.float32)
    np.testing.assert_array_equal(part, stored["model.embed_tokens.weight"][5:9])


def test_what_unpacking_costs_is_told(tmp_path, caplog):
    path = tmp_path / "model.gguf"
    write_gguf(path, kind="Q4_0")
    with caplog.at_level(logging.INFO, logger=PROGRESS_LOGGER_NAME):
        load(path)
    (line,) = [r.getMessage() for r in caplog.records if "dequantised" in r.message]
    assert line == (f"{path}: 0 MB of Q4_0, F32 are dequantised to 3 MB of float32")


def test_a_directory_with_one_file_is_that_file(tmp_path):
    write_gguf(tmp_path / "model.gguf")
    (tmp_path / "mmproj-model.gguf").write_bytes(b"the part that sees")
    assert_same(load(tmp_path), load(tmp_path / "model.gguf"))


def test_a_directory_with_two_files_asks_which(tmp_path):
    for name in "ab":
        write_gguf(tmp_path / f"{name}.gguf")
    with pytest.raises(CheckpointError, match=r"several GGUF files, a.gguf, b.gguf; "):
        read_spec(tmp_path)
    with pytest.raises(CheckpointError, match=r"several GGUF files"):
        load(tmp_path)


def test_safetensors_win_over_a_file_beside_them(tmp_path):
    stored = write_gguf(tmp_path / "model.gguf", architecture="llama")
    directory = tmp_path / "hf"
    expected = as_safetensors(directory, stored, "llama")
    write_gguf(directory / "other.gguf", architecture="qwen3")
    assert_same(load(directory), expected)


def split(path, tensors, *, count, number):
    """One part of a split model, with the tensors that it has."""
    reader = package.GGUFReader(path)
    name = f"part-{number:05d}-of-{count:05d}.gguf"
    writer = package.GGUFWriter(path.parent / name, "llama")
    writer.add_uint16("split.count", count)
    for field in reader.fields.values():
        is_own = field.name.startswith(("GGUF.", "general.architecture"))
        if number == 1 and not is_own:
            value = field.contents()
            kind = field.types[0]
            writer.add_key_value(field.name, value, kind)
    for tensor in reader.tensors:
        if tensor.name in tensors:
            kind = tensor.tensor_type
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def parts(tmp_path):
    write_gguf(tmp_path / "whole.gguf", kind="Q8_0")
    names = list(open_gguf(tmp_path / "whole.gguf").tensors)
    folder = tmp_path / "split"
    folder.mkdir()
    for number, some in enumerate((names[:5], names[5:9], names[9:]), 1):
        split(tmp_path / "whole.gguf", some, count=3, number=number)
    for path in tmp_path.glob("part-*"):
        path.rename(folder / path.name)
    return folder


def test_a_split_model_is_one(tmp_path, parts):
    expected = load(tmp_path / "whole.gguf")
    assert_same(load(parts / "part-00001-of-00003.gguf"), expected)
    assert_same(load(parts), expected)


def test_a_split_model_is_named_by_its_first_part_and_needs_all(parts):
    with pytest.raises(
        CheckpointError, match=r"later part .* give part-00001-of-00003"
    ):
        load(parts / "part-00002-of-00003.gguf")
    (parts / "part-00003-of-00003.gguf").unlink()
    with pytest.raises(
        CheckpointError, match=r"part-00003-of-00003.gguf: no such file"
    ):
        load(parts)


def test_parts_that_were_renamed_are_refused(parts):
    for number in (1, 2, 3):
        old = parts / f"part-{number:05d}-of-00003.gguf"
        old.rename(parts / f"part-{number:05d}-of-00004.gguf")
    (parts / "part-00004-of-00004.gguf").write_bytes(
        (parts / "part-00003-of-00004.gguf").read_bytes()
    )
    with pytest.raises(
        CheckpointError, match=r"split.count is 3, but its name counts 4"
    ):
        load(parts)


def test_a_tensor_in_two_parts_is_refused(tmp_path, parts):
    names = list(open_gguf(tmp_path / "whole.gguf").tensors)
    split(tmp_path / "whole.gguf", names[3:9], count=3, number=2)
    name = "part-00002-of-00003.gguf"
    (tmp_path / name).replace(parts / name)
    with pytest.raises(CheckpointError, match=r"is also in .*part-00001-of-00003"):
        load(parts)


def test_factors_of_the_rotary_positions_are_honoured(tmp_path):
    factors = np.linspace(1.0, 8.0, HEAD_DIM // 2, dtype=np.float32)
    path = tmp_path / "model.gguf"
    write_gguf(path, more={"rope_freqs.weight": factors})
    rope = read_spec(path).config.layers[0].attention.rope
    plain = 50_000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    found = inverse_frequencies(rope, head_dim=HEAD_DIM)
    np.testing.assert_allclose(found, plain / factors, rtol=1e-6)
    assert rope.scaling.gain == 1.0
    assert load(path).spec.config == read_spec(path).config


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 128,
                "rope.scaling.finetuned": True,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        ),
        ({"rope.scaling.type": "none"}, None),
    ],
)
def test_stretched_positions_are_those_of_a_config_json(tmp_path, changes, section):
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, architecture="qwen2", **changes)
    expected = as_safetensors(tmp_path / "hf", stored, "qwen2", rope_scaling=section)
    assert load(path).spec.config == expected.spec.config


def test_a_head_that_is_not_told_is_a_part_of_the_width(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(
        path,
        **{"attention.key_length": None, "attention.value_length": None},
        **{"attention.head_count": [4, 4]},
    )
    assert read_spec(path).config.attentions[0].head_dim == HEAD_DIM


def test_special_tokens_are_those_of_the_file(tmp_path):
    path = tmp_path / "model.gguf"
    ids = {
        f"tokenizer.ggml.{kind}_token_id": number
        for kind, number in (("bos", 1), ("eos", 2), ("eot", 5), ("eom", 2))
    }
    write_gguf(path, **ids)
    found = read_spec(path)
    assert (found.bos_id, found.eos_ids) == (1, (2, 5))
    assert read_eos_ids(path) == read_eos_ids(tmp_path) == (2, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_count": None}, r"metadata: llama.block_count is missing"),
        ({"block_count": "two"}, r"llama.block_count must be an integer"),
        ({"block_count": 10**6}, r"num_hidden_layers must be from 1"),
        ({"attention.head_count": 2**31}, r"head_count .* makes 137438953472 rows"),
        ({"attention.head_count": 0}, r"llama.attention.head_count must be positive"),
        ({"attention.head_count": [4, 2]}, r"head_count differs from layer to layer"),
        ({"rope.dimension_count": 32}, r"rope.dimension_count must be the size of a"),
        ({"attention.value_length": 32}, r"value_length must be the size of a head"),
        ({"vocab_size": 47}, r"llama.vocab_size must be 48, the rows of token_embd"),
        ({"expert_count": 8}, r"llama.expert_count is 8, which is not known here"),
        ({"attention.sliding_window": 8}, r"llama.attention.sliding_window is 8"),
        ({"pooling_type": 1}, r"llama.pooling_type is 1"),
        ({"general.type": "adapter"}, r"general.type is 'adapter', no model"),
        ({"rope.scaling.type": "longrope"}, r"must be none, linear or yarn"),
        ({"rope.scaling.factor": 4.0}, r"rope.scaling.factor is 4.0, but .* missing"),
        ({"rope.scaling.attn_factor": 2.0}, r"rope.scaling.attn_factor must be 1.0"),
        (
            {"attention.layer_norm_rms_epsilon": float("nan")},
            r"must be a finite number",
        ),
        ({"tokenizer.ggml.eos_token_id": "x"}, r"eos_token_id must be an integer"),
        ({"feed_forward_length": 128}, r"'blk.0.ffn_down.weight' has the shape"),
        ({"block_count": 1}, r"9 tensors that this model has no place for: blk.1."),
        ({"block_count": 3}, r"tensor 'blk.2.attn_k.weight' is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, changes, words):
    path = tmp_path / "model.gguf"
    write_gguf(path, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_keys_that_change_nothing_are_taken(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, **{"expert_count": 0, "attention.causal": True})
    assert read_spec(path).architecture == "LlamaForCausalLM"


def test_scaling_beside_factors_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    factors = np.ones(HEAD_DIM // 2, np.float32)
    write_gguf(
        path,
        more={"rope_freqs.weight": factors},
        **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    )
    with pytest.raises(CheckpointError, match=r"is 'linear', but there are factors"):
        read_spec(path)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones((2, 16), np.float32), "one factor for each pair"),
        (np.ones(7, np.float32), "rope"),
        (np.full(32, np.nan, np.float32), "not finite"),
        (np.zeros(32, np.float32), "must be positive"),
    ],
)
def test_factors_that_fit_no_head_are_refused(tmp_path, factors, words):
    path = tmp_path / "model.gguf"
    write_gguf(path, more={"rope_freqs.weight": factors})
    with pytest.raises(CheckpointError, match=words):
        read_spec(path)


def test_other_architectures_are_refused_by_name(tmp_path):
    path = tmp_path / "model.gguf"
    writer = package.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"gemma3, phi3; found 'mamba'"):
        read_spec(path)


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'mell_jax\[gguf\]'"):
        load(path)


def test_a_format_without_a_way_back_is_refused_by_name(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, more={"rope_freqs.weight": np.ones(32, np.int32)})
    with pytest.raises(CheckpointError, match=r"has the type I32, which cannot be deq"):
        open_gguf(path)


def test_every_architecture_names_all_tensors_of_its_family(tmp_path):
    for name, architecture in spec.GGUF_ARCHITECTURES.items():
        path = tmp_path / f"{name}.gguf"
        write_gguf(path, architecture=name)
        config = read_spec(path).config
        used = {
            stored
            for source in architecture.sources(config).values()
            for stored in source.names()
        }
        assert used == set(open_gguf(path).tensors)
