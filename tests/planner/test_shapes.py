"""Shapes of models, from published values and from files."""

import json
from pathlib import Path

import pytest

from mell_jax.checkpoints import CheckpointError
from mell_jax.models.config import ModelConfig
from mell_jax.models.uniform import uniform_config
from mell_jax.planner.shapes import TABLE, find_shape, shape_of


def tiny(**others: object) -> ModelConfig:
    sizes = {
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 64,
    }
    return uniform_config(**(sizes | others))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parameters", "kib_per_token"),
    [  # as their model cards count them
        ("llama-8b", 8_030_261_248, 128),
        ("llama-70b", 70_553_706_496, 320),
        ("qwen-7b", 7_615_616_512, 56),
        ("qwen-14b", 14_770_033_664, 192),
        ("qwen-32b", 32_763_876_352, 256),
    ],
)
def test_a_name_stands_for_published_values(
    name: str, parameters: int, kib_per_token: int
) -> None:
    shape = find_shape(name)
    assert shape.parameters == parameters
    assert shape.weight_bytes == 2 * parameters
    assert shape.kv_bytes_per_token == kib_per_token * 1024
    assert shape.context_tokens == 131_072


def test_a_shape_is_counted_in_the_head() -> None:
    shape = shape_of(tiny(), name="tiny")
    # Queries 8x16, keys and values 8x8 each, output 16x8, three of 8x16, norms.
    layer = 128 + 64 + 64 + 128 + 3 * 128 + 2 * 8
    assert shape.parameters == 800 + 3 * layer + 8 + 800
    assert (shape.embedding, shape.head) == (800, 800)
    assert shape.read_bytes == 2 * (3 * layer + 8 + 800)
    assert shape.kv_bytes_per_token == 3 * 2 * 2 * 4 * 2
    assert shape.attention_width == (16, 16, 16)


def test_a_tied_embedding_is_read_as_the_head() -> None:
    shape = shape_of(tiny(tie_embeddings=True), name="tiny")
    assert shape.embedding == 0
    assert shape.read_bytes == shape.weight_bytes


def test_layers_of_several_kinds_are_counted_each() -> None:
    shape = shape_of(tiny(windows=(16, None, 16)), name="tiny")
    assert shape.parameters == shape_of(tiny(), name="tiny").parameters
    assert shape.windows == (16, None, 16)


def test_a_directory_is_read_without_its_weights(tmp_path: Path) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    config = json.loads(TABLE.read_text())["shapes"]["qwen-7b"]
    config |= {"num_hidden_layers": 2, "max_position_embeddings": 4096}
    (model / "config.json").write_text(json.dumps(config))
    shape = find_shape(str(model))
    assert (shape.name, shape.num_layers, shape.context_tokens) == ("mine", 2, 4096)
    assert shape.kv_bytes_per_token == 2 * 2 * 4 * 128 * 2


def test_an_instance_is_cut_as_the_engine_cuts_it() -> None:
    shape = find_shape("qwen-7b")  # 28 heads, 4 of them for keys and values
    assert [n for n in (1, 2, 4, 8, 16) if shape.can_be_cut(n)] == [1, 2, 4]
    assert [find_shape("llama-8b").kv_copies(n) for n in (1, 8, 16)] == [1, 1, 2]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such directory .* llama-8b, llama-70b"):
        find_shape("llama-9b")
    (tmp_path / "config.json").write_text('{"architectures": ["Unknown"]}')
    with pytest.raises(CheckpointError, match="architectures"):
        find_shape(str(tmp_path))
