"""Serves arrays of their owner as they are, without a copy, where they lie right."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mell_jax.engine.weights.leaves import Coming, DeviceLeaf, Leaf
from mell_jax.engine.weights.plan import Parameter, Place, WeightsPlan
from mell_jax.engine.weights.routes import view_on
from mell_jax.worker.group import DeviceGroup
from mell_jax.worker.step import Weights


def share_weights(plan: WeightsPlan, weights: Weights, *, dtype: Any) -> list[Weights]:
    """Returns weights for every group: the owner's arrays, where they lie there.

    The first group has nothing else; others have copies of what is not on any of their
    devices. Random keys and counts are copied.

    Args:
      plan: of the model, in no other form than the owner's.
      weights: the owner's, in the order of the plan's parameters.
      dtype: in which parameters are served.

    Raises:
      ValueError: an array is of another type, or lies in another way.
    """
    return [
        tuple(
            _share(plan, parameter, array, dtype=dtype, group=group)
            for parameter, array in zip(plan.parameters, weights, strict=True)
        )
        for group in plan.groups.values()
    ]


def shared_coming(
    plan: WeightsPlan, place: Place, leaves: Mapping[int, Leaf], *, group: DeviceGroup
) -> Coming | None:
    """Returns how the owner's own array lies on a group.

    None where there is none: it came from the host, was made for this update, or is on
    none of the group's devices, unless this is the first group.

    Raises:
      ValueError: an array is of another type, or lies in another way.
    """
    (number,) = place.recipe.inputs  # what is shared is in no other form
    leaf, parameter = leaves[number], plan.parameters[number]
    if not isinstance(leaf, DeviceLeaf) or leaf.is_own:
        return None

    def view(given: DeviceLeaf) -> jax.Array | None:
        array, dtype = given.get(), parameter.dtype
        return _view(plan, parameter, array, dtype=dtype, group=group)

    if view(leaf) is None:
        return None
    take: Callable[[Any], Any] = view
    return Coming(number=number, array=leaf.array, is_own=False, take=take)


def _share(
    plan: WeightsPlan,
    parameter: Parameter,
    array: jax.Array,
    *,
    dtype: Any,
    group: DeviceGroup,
) -> jax.Array:
    to = group.weight_sharding(parameter.path, array.shape)
    copy: jax.Array
    if parameter.is_state:
        copy = jax.device_put(array, to, may_alias=False)
        return copy
    is_cast = parameter.is_required and jnp.issubdtype(array.dtype, jnp.floating)
    wanted = dtype if is_cast else array.dtype
    view = _view(plan, parameter, array, dtype=wanted, group=group)
    copy = jax.device_put(array, to) if view is None else view
    return copy


def _view(
    plan: WeightsPlan,
    parameter: Parameter,
    array: jax.Array,
    *,
    dtype: Any,
    group: DeviceGroup,
) -> jax.Array | None:
    if array.dtype != dtype:
        raise ValueError(
            f"share=True serves arrays as they are: {parameter.name} is {array.dtype}, "
            f"and {np.dtype(dtype)} is served; say dtype={array.dtype.name!r}, or let "
            "it be copied with share=False"
        )
    to = group.weight_sharding(parameter.path, parameter.shape)
    view = view_on(array, to)
    if view is None and group == next(iter(plan.groups.values())):
        raise ValueError(
            f"share=True serves arrays as they are: {parameter.name} lies as "
            f"{array.sharding}, and an instance on these devices needs {to}; put it "
            "there (jax.device_put), say where to serve by mesh=, or let it be copied "
            "with share=False"
        )
    return view
