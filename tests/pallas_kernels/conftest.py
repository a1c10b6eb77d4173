"""What is compiled for devices that are not here is not kept for other tests."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def nothing_kept() -> Iterator[None]:
    """Programs could be written, but not be read again without their device."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)
