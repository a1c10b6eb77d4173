import numpy as np
import pytest
from safetensors.numpy import save_file

from mell_jax.checkpoints import CheckpointError, read_spec
from mell_jax.checkpoints.abstract import abstract_decoder
from mell_jax.checkpoints.families import FAMILIES
from mell_jax.checkpoints.families.names import decoder_sources
from mell_jax.checkpoints.hf_weights import StoredWeights, find_weights
from mell_jax.models.uniform import uniform_config
from tests.checkpoints.tiny import (
    LAYER,
    SHAPES,
    tensors,
    write_config,
    write_index,
    write_model,
    write_shards,
)


def find(directory):
    spec = read_spec(directory)
    return find_weights(
        StoredWeights.find(directory, dtype=np.float32),
        abstract_decoder(spec.config, dtype=np.float32),
        sources=FAMILIES[spec.architecture].weights(spec.config),
    )


def files_of(directory):
    stored = StoredWeights.find(directory, dtype=np.float32)
    return [stored.position(weight.source) for weight in find(directory)]


def refuses(directory, message):
    with pytest.raises(CheckpointError) as error:
        find(directory)
    assert message in str(error.value)
    assert str(directory) in str(error.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("embed", "embedding"), "model.embed_tokens.weight"),
        (("norm", "scale"), "model.norm.weight"),
        (("lm_head", "kernel"), "lm_head.weight"),
        (
            ("layers", 7, "input_norm", "scale"),
            "model.layers.7.input_layernorm.weight",
        ),
        (
            ("layers", 0, "mlp_norm", "scale"),
            "model.layers.0.post_attention_layernorm.weight",
        ),
        (
            ("layers", 1, "attention", "q_proj", "bias"),
            "model.layers.1.self_attn.q_proj.bias",
        ),
        (
            ("layers", 1, "attention", "k_norm", "scale"),
            "model.layers.1.self_attn.k_norm.weight",
        ),
        (
            ("layers", 31, "mlp", "down_proj", "kernel"),
            "model.layers.31.mlp.down_proj.weight",
        ),
    ],
)
def test_names(path, name):
    config = uniform_config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_layers=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        max_position_embeddings=8,
        qkv_bias=True,
        has_qk_norm=True,
    )
    assert list(decoder_sources(config)[path].names()) == [name]


def test_every_parameter_finds_its_tensor_in_the_order_of_the_file(tmp_path):
    weights = find(write_model(tmp_path))
    assert {name for weight in weights for name in weight.source.names()} == set(SHAPES)
    starts = [start for _, start in files_of(tmp_path)]
    assert starts == sorted(starts)


def test_shards_are_found_through_the_index(tmp_path):
    files = [path.name for path, _ in files_of(write_shards(tmp_path))]
    assert files == ["a.safetensors"] * 5 + ["b.safetensors"] * 7


def test_links_as_in_the_cache_of_hugging_face_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write_shards(blobs)
    for path in list(blobs.iterdir()):
        blob = path.rename(blobs / f"{hash(path.name) & 0xFFFFFFFF:x}")
        (snapshot / path.name).symlink_to(f"../blobs/{blob.name}")
    assert len(find(snapshot)) == 12


def test_a_tied_model_needs_no_head_and_ignores_a_copy_of_the_embedding(tmp_path):
    stored = tensors()
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].copy()
    write_model(tmp_path, stored, tie_word_embeddings=True)
    assert len(find(tmp_path)) == 11
    del stored["lm_head.weight"]
    write_model(tmp_path, stored, tie_word_embeddings=True)
    assert len(find(tmp_path)) == 11


@pytest.mark.parametrize(
    "head",
    [
        np.ones((8, 64), np.float32),
        np.ones((8, 64), np.float16),
        np.ones((7,), np.int8),
    ],
    ids=["other values", "another type", "another shape"],
)
def test_a_tied_model_with_a_head_of_its_own_is_refused(tmp_path, head):
    write_model(
        tmp_path, tensors() | {"lm_head.weight": head}, tie_word_embeddings=True
    )
    refuses(tmp_path, "tie_word_embeddings: true; set it to false")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_decoder_of_a_model_that_sees_is_found_and_its_sight_left(tmp_path, prefix):
    head = "language_model.lm_head.weight"
    stored = {
        name.replace("model.", prefix, 1): values for name, values in tensors().items()
    }
    if prefix.startswith("language_model."):
        stored[head] = stored.pop("lm_head.weight")
    sight = {
        "vision_tower.encoder.weight": np.ones(3, np.float32),
        "model.multi_modal_projector.bias": np.ones(3, np.float32),
    }
    assert len(find(write_model(tmp_path, stored | sight))) == 12


def test_constants_of_old_files_are_ignored(tmp_path):
    old = {LAYER + "self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    assert len(find(write_model(tmp_path, tensors() | old))) == 12


def test_a_missing_tensor_is_named_with_its_shape(tmp_path):
    stored = tensors()
    del stored[LAYER + "mlp.down_proj.weight"]
    write_model(tmp_path, stored)
    refuses(tmp_path, f"'{LAYER}mlp.down_proj.weight' of shape [64, 48] is missing")


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
    name = LAYER + "mlp.down_proj.weight"
    write_model(tmp_path, tensors() | {name: np.zeros((48, 64), np.float32)})
    refuses(tmp_path, "has the shape [48, 64], but config.json makes it [64, 48]")


def test_an_unknown_tensor_is_refused(tmp_path):
    extra = {LAYER + "self_attn.q_proj.bias": np.zeros(64, np.float32)}
    write_model(tmp_path, tensors() | extra)
    refuses(tmp_path, f"1 tensors that this model has no place for: {LAYER}self_attn.q")


def test_more_layers_than_the_config_says_are_refused(tmp_path):
    extra = {"model.layers.1.input_layernorm.weight": np.zeros(64, np.float32)}
    write_model(tmp_path, tensors() | extra)
    refuses(tmp_path, "1 tensors that this model has no place for: model.layers.1")


def test_integer_weights_are_refused(tmp_path):
    stored = {"model.norm.weight": np.zeros(64, np.int8)}
    write_model(tmp_path, tensors() | stored)
    refuses(
        tmp_path, "'model.norm.weight' has the dtype I8; weights must be one of F32"
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth", "weights.pkl"])
def test_pickled_weights_are_never_read(tmp_path, name):
    write_config(tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo unpickled'\ntR.")
    refuses(tmp_path, "only pickled weights, which can run code and are never read")


def test_a_directory_without_weights_lists_what_was_expected(tmp_path):
    write_config(tmp_path)
    refuses(tmp_path, "no weights: expected model.safetensors, model.safetensors.index")


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    refuses(tmp_path, "b.safetensors: no such file, but model.safetensors.index.json")


def test_a_broken_link_is_a_missing_shard(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "b.safetensors").symlink_to("nowhere")
    refuses(tmp_path, "b.safetensors: no such file, but model.safetensors.index.json")


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/a.safetensors",
        "sub\\a.safetensors",
        "c:a.safetensors",
        "..",
        ".a.safetensors",
        "a.bin",
        "a\0.safetensors",
        "a\n.safetensors",
        "",
    ],
)
def test_shard_names_cannot_leave_the_directory(tmp_path, shard):
    write_shards(tmp_path)
    write_index(tmp_path, {"model.norm.weight": shard})
    refuses(tmp_path, "is not the plain name of a .safetensors file")


def test_an_index_that_contradicts_its_shards_is_refused(tmp_path):
    write_shards(tmp_path)
    names = dict.fromkeys(SHAPES, "a.safetensors")
    write_index(tmp_path, names)
    refuses(tmp_path, "is not in 'a.safetensors' as it says; download")
    write_index(tmp_path, names | {"lm_head.weight": "b.safetensors"})
    refuses(tmp_path, "is not in 'a.safetensors' as it says; download")


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_shards(tmp_path)
    save_file(tensors(), tmp_path / "b.safetensors")
    refuses(tmp_path, "is also in")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ([], "weight_map must be an object"),
        ({"a": 1}, "a must be a string"),
        ({}, "'model.embed_tokens.weight' of shape [8, 64] is missing"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path, weight_map, message):
    write_shards(tmp_path)
    write_index(tmp_path, weight_map)
    refuses(tmp_path, message)
