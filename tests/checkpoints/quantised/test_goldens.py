"""Dequantised weights against what the reference implementations make of them."""

import numpy as np
import pytest

from mell_jax.checkpoints.json_file import Fields
from mell_jax.checkpoints.quantised import read_scheme
from mell_jax.checkpoints.safetensors_file import read_header, read_raw
from tests.checkpoints.quantised.golden_cases import (
    CASES,
    DENSE,
    EXPERTS,
    GOLDENS,
    WEIGHT,
)


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_reference_bit_by_bit(case, tmp_path):
    fields = Fields({"quantization_config": CASES[case]}, "config.json")
    scheme = read_scheme(fields, directory=tmp_path)
    stored = read_header(GOLDENS / f"{case}.safetensors")
    dense = read_raw(stored.pop(DENSE))
    name = EXPERTS if case == "mxfp4" else WEIGHT
    parts = scheme.parts(name, stored)
    shapes = {part: stored[part].shape for part in parts}
    found = scheme.dequantise(
        name,
        names=parts,
        read=lambda part: read_raw(stored[part]),
        dtype=dense.dtype,
    )
    assert set(parts) == set(stored)
    assert scheme.dense_shape(name, shapes) == found.shape == dense.shape
    np.testing.assert_array_equal(found, dense)
    assert np.isfinite(dense.astype(np.float32)).all()
    assert len(np.unique(dense.astype(np.float32))) > 50
