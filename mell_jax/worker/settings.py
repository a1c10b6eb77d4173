"""JAX's settings as the engine needs them, whatever the program around it has set.

A program may guard its transfers, hunt NaN, compute in 64 bits or on a mesh of its own;
in the engine's thread each of these would end the engine or change what is compiled.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

_NO_MESH = jax.sharding.Mesh(np.empty((), object), ())


@contextlib.contextmanager
def tracing_settings() -> Iterator[None]:
    """Makes this thread trace with JAX's defaults until the block ends."""
    # Flax's norms mix float32 and bfloat16, which a program may have forbidden.
    with own_settings(), jax.numpy_dtype_promotion("standard"):
        yield


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Makes this thread use JAX's defaults until the block ends."""
    with jax.transfer_guard("allow"), number_settings():
        yield


@contextlib.contextmanager
def number_settings() -> Iterator[None]:
    """Does the same but for guards of transfers, which stay as they are."""
    with (
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.enable_x64(False),
        jax.check_tracer_leaks(False),
        _without_mesh(),
    ):
        yield


def _without_mesh() -> contextlib.AbstractContextManager[object]:
    """Takes back the mesh that this thread has set; none at all is another setting."""
    if jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(_NO_MESH)
