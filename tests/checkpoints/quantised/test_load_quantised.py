"""A tiny Llama in every published precision, loaded as any other directory."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from mell_jax.checkpoints import CheckpointError, load_model
from tests.checkpoints import tiny
from tests.checkpoints.quantised.tiny_quantised import FORMATS, quantised


def write(directory: Path, name: str, **more: np.ndarray) -> Path:
    config, stored = quantised(name)
    tiny.write_config(directory, quantization_config=config)
    save_file({**stored, **more}, directory / "model.safetensors")
    return directory


def load(directory: Path, dtype: Any = np.float32) -> dict[Any, np.ndarray]:
    model = load_model(directory, dtype=dtype, sharding_for=tiny.on_one_device)
    decoder = nnx.merge(model.graphdef, model.state)
    return tiny.arrays(nnx.state(decoder, nnx.Param))


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_model_loads_as_nearly_what_it_was(
    tmp_path: Path, name: str
) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    packed.mkdir()
    expected = load(tiny.write_model(plain))
    found = load(write(packed, name))
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        error = np.abs(found[path] - values).max()
        is_quantised = path[-1] == "kernel" and path[0] == "layers"
        assert error <= (FORMATS[name].error if is_quantised else 0.0), path


def test_the_serving_precision_is_that_of_all_parameters(tmp_path: Path) -> None:
    found = load(write(tmp_path, next(iter(FORMATS))), jnp.bfloat16)
    assert {values.dtype for values in found.values()} == {np.dtype(jnp.bfloat16)}


def test_scales_of_activations_and_of_the_cache_are_left_out(tmp_path: Path) -> None:
    more = {
        f"{tiny.LAYER}self_attn.k_scale": np.ones((), np.float32),
        f"{tiny.LAYER}mlp.up_proj.input_scale": np.ones((), np.float32),
    }
    load(write(tmp_path, next(iter(FORMATS)), **more))


def test_quantised_tensors_that_no_file_speaks_of_are_refused(tmp_path: Path) -> None:
    _, stored = quantised(next(iter(FORMATS)))
    tiny.write_config(tmp_path)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no file says how"):
        load(tmp_path)
