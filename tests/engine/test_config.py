"""What an operator may choose, and what is chosen for them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from mell_jax.engine.build import build_engine
from mell_jax.engine.config import EngineConfig, parse_mesh
from mell_jax.engine.settled import settle
from mell_jax.models.uniform import uniform_config

MODEL = uniform_config(
    vocab_size=100,
    hidden_size=64,
    intermediate_size=64,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=64,
    max_position_embeddings=4096,
)


def settled(config: EngineConfig, *, platform: str = "cpu", capacity: int = 10**6):
    return settle(config, model=MODEL, platform=platform, capacity_pages=capacity // 16)


def test_a_cpu_gets_float32_and_few_shapes() -> None:
    choice = settled(EngineConfig())
    assert choice.dtype == jnp.float32
    assert (choice.max_rows, choice.token_budget) == (64, 512)
    assert choice.decode_rows == (1, 4, 16, 64)
    assert choice.mixed_tokens == (64, 512)
    assert (choice.max_model_len, choice.max_pages) == (4096, 256)
    assert choice.attention_backend == "xla"


def test_each_platform_gets_its_attention_or_the_one_that_was_asked_for() -> None:
    assert settled(EngineConfig(), platform="gpu").attention_backend == "triton"
    assert settled(EngineConfig(), platform="tpu").attention_backend == "mosaic_tpu"
    config = EngineConfig(attention_backend="xla")
    assert settled(config, platform="gpu").attention_backend == "xla"
    with pytest.raises(ValueError, match=r"runs on gpu only; .* these work: xla"):
        settled(EngineConfig(attention_backend="triton"))


def test_a_gpu_gets_bfloat16_and_finer_shapes() -> None:
    choice = settled(EngineConfig(), platform="gpu")
    assert choice.dtype == jnp.bfloat16
    assert choice.decode_rows == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert choice.mixed_tokens == (64, 512, 2048)


def test_the_largest_batch_always_has_a_shape() -> None:
    choice = settled(EngineConfig(max_rows=10, decode_rows=(2, 50), token_budget=48))
    assert choice.decode_rows == (2, 10)
    assert choice.mixed_tokens == (48,)
    shapes = [(b.tokens, b.rows, b.is_decode) for b in choice.buckets()]
    assert shapes == [(2, 2, True), (10, 10, True), (48, 10, False)]


def test_the_context_is_what_the_pool_holds_unless_chosen() -> None:
    assert settled(EngineConfig(), capacity=1008).max_model_len == 1008
    assert settled(EngineConfig(max_model_len=50), capacity=1000).max_model_len == 50
    with pytest.raises(ValueError, match="hold 0 tokens: give more kv_pages"):
        settled(EngineConfig(), capacity=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ({"kv_pages": -1}, "kv_pages must be at least 1, got -1"),
        ({"kv_memory_fraction": 0.0}, r"kv_memory_fraction must be in \(0, 1\]"),
        ({"kv_memory_fraction": float("nan")}, "kv_memory_fraction"),
        ({"dtype": "int8"}, "dtype must be auto, float32 or bfloat16"),
        ({"decode_rows": (4, 0)}, "decode_rows must be positive"),
        ({"checkpoint_step": -1}, "checkpoint_step must be at least 0"),
        ({"instances": 0}, "instances must be at least 1, got 0"),
        ({"tensor_parallel": 0}, "tensor_parallel must be at least 1, got 0"),
        ({"device_ids": (0, 1)}, "device_ids must name 1 devices by their numbers"),
        ({"device_ids": (-1,)}, "device_ids must name 1 devices by their numbers"),
        ({"device_ids": ()}, r"for each of 1 instances, got \(\)"),
    ],
)
def test_a_value_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_rows": 100, "token_budget": 99},
            r"token_budget \(99\) must be at least",
        ),
        ({"max_model_len": 5000}, "model's context of 4096 tokens, got 5000"),
        ({"max_model_len": 1}, "max_model_len must be from 2"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settled(EngineConfig(**options))


def test_too_few_pages_for_one_sequence_are_refused() -> None:
    config = EngineConfig(kv_pages=10, max_model_len=1024)
    with pytest.raises(ValueError, match=r"kv_pages \(10\) must be at least 65"):
        build_engine(config)


def test_a_model_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    config = dataclasses.replace(EngineConfig(), model=str(tmp_path / "nothing"))
    with pytest.raises(
        ValueError, match="nothing: no such directory or file; a model is"
    ):
        build_engine(config)


def test_a_file_in_the_place_of_a_directory_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ValueError, match="a file; a model is the directory that has"):
        build_engine(EngineConfig(model=str(path)))


def test_a_name_of_a_hub_is_told() -> None:
    with pytest.raises(ValueError, match="get the model first: hf download a/b-1B --l"):
        build_engine(EngineConfig(model="a/b-1B"))


def test_a_mesh_is_instances_by_devices() -> None:
    assert parse_mesh("4x2") == (4, 2)
    assert parse_mesh("1x1") == (1, 1)


@pytest.mark.parametrize("text", ["", "8", "4*2", "x2", "4x2x1", "-1x2", "4x2\n"])
def test_another_form_of_mesh_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="mesh must be INSTANCESxDEVICES, such as 4x2"):
        parse_mesh(text)


def test_a_model_is_called_as_it_is_told_or_like_its_directory() -> None:
    assert EngineConfig().name == "demo"
    assert EngineConfig(model="/models/llama/").name == "llama"
    assert EngineConfig(model="/models/llama", served_model_name="a").name == "a"
    assert EngineConfig(served_model_name="a").name == "a"


def test_bfloat16_on_a_cpu_keeps_float32_keys_and_two_rows_at_least() -> None:
    choice = settled(EngineConfig(dtype="bfloat16"))
    assert (choice.dtype, choice.kv_dtype) == (jnp.bfloat16, jnp.float32)
    assert choice.decode_rows == (2, 8, 32, 64)
    few = settled(EngineConfig(dtype="bfloat16", decode_rows=(1, 8)))
    assert few.decode_rows == (8, 64)
    assert settled(EngineConfig(dtype="bfloat16", max_rows=1)).decode_rows == (1,)
    assert settled(EngineConfig(), platform="gpu").kv_dtype == jnp.bfloat16
