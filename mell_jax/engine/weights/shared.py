"""Serves arrays of their owner as they are, without a copy, where they lie right."""

from collections.abc import Mapping

from mell_jax.engine.weights.leaves import DeviceLeaf, Leaf, Make
from mell_jax.engine.weights.plan import Place, WeightsPlan
from mell_jax.engine.weights.routes import view_on
from mell_jax.worker.group import DeviceGroup


def shared_maker(
    plan: WeightsPlan, place: Place, leaves: Mapping[int, Leaf], *, group: DeviceGroup
) -> Make | None:
    """Returns what gives the owner's own array on a group.

    None where there is none: it came from the host, was made for this update, or is on
    none of the group's devices, unless this is the first group.

    Raises:
      ValueError: it is of another type, or lies in another way.
    """
    (number,) = place.recipe.inputs  # what is shared is in no other form
    leaf, parameter = leaves[number], plan.parameters[number]
    if not isinstance(leaf, DeviceLeaf) or leaf.is_own:
        return None
    array = leaf.get()
    if array.dtype != parameter.dtype:
        raise ValueError(
            f"share=True serves arrays as they are: {parameter.name} is {array.dtype}, "
            f"and {parameter.dtype} is served; name that type by dtype=, or let it be "
            "copied with share=False"
        )
    to = group.weight_sharding(parameter.path, parameter.shape)
    view = view_on(array, to)
    is_first = group == next(iter(plan.groups.values()))
    if view is None and not is_first:
        return None
    if view is None:
        raise ValueError(
            f"share=True serves arrays as they are: {parameter.name} lies as "
            f"{array.sharding}, and an instance on these devices needs {to}; put it "
            "there (jax.device_put), say where to serve by mesh=, or let it be copied "
            "with share=False"
        )
    return lambda: view
