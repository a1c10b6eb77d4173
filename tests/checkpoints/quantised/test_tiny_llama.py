"""A whole tiny model in each published layout comes back, but for rounding."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.quantised import is_unused, read_scheme, unused_line
from mell_jax.checkpoints.safetensors_file import read_header, read_raw
from tests.checkpoints import tiny
from tests.checkpoints.quantised.tiny_quantised import (
    FORMATS,
    PROJECTIONS,
    quantised,
)


@pytest.fixture(params=FORMATS)
def model(request, tmp_path):
    """Name and scheme of a format, and the tensors of its file by name."""
    config, arrays = quantised(request.param)
    save_file(arrays, tmp_path / "model.safetensors")
    fields = Fields({"quantization_config": config}, "config.json")
    scheme = read_scheme(fields, directory=tmp_path)
    return request.param, scheme, read_header(tmp_path / "model.safetensors")


def test_every_weight_has_its_shape_and_nothing_is_left_over(model):
    _, scheme, stored = model
    used = set()
    for name, shape in tiny.SHAPES.items():
        parts = scheme.parts(name, stored)
        assert bool(parts) == (name in PROJECTIONS)
        if parts:
            shapes = {part: stored[part].shape for part in parts}
            assert scheme.dense_shape(name, shapes) == shape
        used |= set(parts or (name,))
    left = {name for name in stored if name not in used}
    assert all(map(is_unused, left)), left
    assert bool(left) == bool(unused_line(left))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_every_value_is_what_was_quantised_but_for_rounding(model, dtype):
    format_name, scheme, stored = model
    dense = tiny.tensors()
    for name in PROJECTIONS:
        found = scheme.dequantise(
            name,
            names=stored,
            read=lambda part: read_raw(stored[part]),
            dtype=dtype,
        )
        assert found.dtype == dtype
        assert found.shape == dense[name].shape
        error = np.abs(found.astype(np.float32) - dense[name])
        assert error.max() < FORMATS[format_name].error
        correlation = np.corrcoef(found.astype(np.float32).ravel(), dense[name].ravel())
        assert correlation[0, 1] > 0.99


def test_some_rows_are_read_alone(model):
    _, scheme, stored = model
    for name in PROJECTIONS:
        whole, part = (
            scheme.dequantise(
                name,
                names=stored,
                read=lambda part: read_raw(stored[part]),
                dtype=np.float32,
                rows=rows,
            )
            for rows in (None, slice(5, 27))
        )
        np.testing.assert_array_equal(part, whole[5:27])
