"""Says what an engine is told where nobody says otherwise: types, sizes, devices."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from mell_jax.library.mesh import serving_options

SHARED_MEMORY = 0.2
"""KV pages take this part of what is free on devices where the trainer is as well."""


def defaults(state: Any, *, mesh: jax.sharding.Mesh, config: Any) -> dict[str, Any]:
    """Returns options of an engine for an actor's state and a `RolloutConfig`."""
    dtype = config.data_type if config.data_type is not None else dtype_of(state)
    # One more: a sequence that is scored is a prompt, and one token is made of it.
    length = config.max_prompt_length + config.max_tokens_to_generate + 1
    options: dict[str, Any] = {
        "dtype": np.dtype(dtype).name,
        "max_model_len": max(length, config.kv_cache_size or 0),
    }
    here = {d for leaf in jax.tree.leaves(state) for d in leaf.sharding.device_set}
    if not here.isdisjoint(mesh.devices.flat):
        options["kv_memory_fraction"] = SHARED_MEMORY
    return options


def places(
    mesh: jax.sharding.Mesh, config: Any, options: dict[str, Any]
) -> dict[str, Any]:
    """Says where instances are, unless options do.

    Raises:
      ValueError: the devices cannot be divided by `tensor_parallel_size`.
    """
    if {"instances", "tensor_parallel", "device_ids"} & options.keys():
        return {}
    size = config.tensor_parallel_size
    if size is None or size < 1:
        return serving_options(mesh)
    if mesh.devices.size % size:
        raise ValueError(
            f"tensor_parallel_size must divide the {mesh.devices.size} devices of the "
            f"rollout's mesh, got {size}"
        )
    rows = mesh.devices.reshape(-1, size)
    return serving_options(jax.sharding.Mesh(rows, ("instance", "tp")))


def dtype_of(state: Any) -> Any:
    """Returns the type of a state's first parameter."""
    return jax.tree.leaves(nnx.filter_state(state, nnx.Param))[0].dtype
