"""Sources are read on devices as in host memory."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mell_jax.checkpoints.sources import Affine, Source, Take
from mell_jax.checkpoints.traced_sources import trace_source
from tests.checkpoints.test_sources import CASES, A, B, Tensors


def traced(source: Source, *, dtype: Any = np.float32) -> np.ndarray:
    def read(arrays: dict[str, jax.Array]) -> jax.Array:
        return trace_source(source, arrays, dtype=dtype)

    return np.asarray(jax.jit(read)({"a": jnp.asarray(A), "b": jnp.asarray(B)}))


@pytest.mark.parametrize("name", CASES)
def test_both_ways_make_the_same(name: str) -> None:
    source, expected = CASES[name]
    found = traced(source)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, source.read(Tensors({"a": A, "b": B})))


def test_what_is_multiplied_is_rounded_once() -> None:
    source = Affine(Take("a"), factor=1 / 3, plus=1.0)
    found = traced(source, dtype=jnp.bfloat16)
    expected = (A * np.float32(1 / 3) + 1.0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, expected)


@dataclass(frozen=True)
class Other(Source):
    """A kind that devices do not know."""

    def names(self):
        yield "a"

    def shape(self, reader):
        return reader.shape("a")

    def read(self, reader):
        return reader.read("a")

    def pieces(self, values):
        yield from ()


def test_a_kind_that_is_not_known_is_told() -> None:
    with pytest.raises(NotImplementedError, match="Other is not read on devices"):
        traced(Other())
