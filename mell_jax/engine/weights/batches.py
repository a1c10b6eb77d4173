"""A batch makes the arrays of a layer by one program; layers that are alike share it.

    layers.0   q, k, v -> qkv    o -> o    gate, up -> gate_up    ...    one program
    layers.1   the same one
    embed      by itself, as all that is in no list; so is what comes from elsewhere

A program may write over arrays that an earlier update made and nobody needs any more:
then there is one of each at any time, and no fresh memory has to be found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mell_jax.engine.weights.leaves import Coming, Leaf, coming_to
from mell_jax.engine.weights.plan import Place, WeightsPlan
from mell_jax.engine.weights.programs import Recent
from mell_jax.engine.weights.recipe import Recipe
from mell_jax.engine.weights.shared import shared_coming
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup

Types = tuple[np.dtype[Any], ...]
Part = tuple[int, jax.Array]
"""The number of a place, and what is to be there."""
Over = Callable[[int], jax.Array | None]
"""Returns the array of a place if it may be written over."""
Leaves = Mapping[int, Leaf]
"""Leaves by the numbers of parameters."""
Batch = Callable[[Leaves, Over], list[Part]]
"""Makes the arrays of some places; they may still be on their way."""
Batches = Mapping[DeviceGroupId, Sequence[Batch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """An array is made of what comes to the devices of a group."""

    place: Place
    comings: Sequence[Coming]  # in the order of the recipe's inputs
    types: Types  # to which these are cast
    is_formed: bool  # by a program; otherwise it comes as it is served

    @property
    def batch(self) -> object:
        """Returns what those have in common that are made together.

        What comes from elsewhere takes memory until it is formed, so it comes alone.
        """
        ends = [n for n, key in enumerate(self.place.path, 1) if isinstance(key, int)]
        if not self.is_formed or not ends or any(c.is_own for c in self.comings):
            return self.place.number
        return self.place.path[: ends[-1]]


def no_array(_: int) -> None:
    """Lets nothing be written over."""


def find_batches(
    plan: WeightsPlan,
    leaves: Leaves,
    *,
    groups: Mapping[DeviceGroupId, DeviceGroup],
    writes_over: bool,
) -> Batches:
    """Returns how all places that have leaves are made on each group.

    All that it takes is compiled then; it is kept for other leaves of these kinds.

    Args:
      plan: of the model.
      leaves: of whole places; their order is that of what is made.
      groups: on whose devices it is made.
      writes_over: compiles also what writes over earlier arrays.

    Raises:
      ValueError: an array of its owner is to be shared and cannot.
    """
    kinds = tuple((number, leaf.kind) for number, leaf in leaves.items())
    ways: Recent[Batches] = plan.ways
    return ways.get(
        (kinds, tuple(groups.items()), writes_over),
        make=lambda: {
            device: _find(plan, leaves, group=group, writes_over=writes_over)
            for device, group in groups.items()
        },
    )


def _find(
    plan: WeightsPlan, leaves: Leaves, *, group: DeviceGroup, writes_over: bool
) -> list[Batch]:
    batches: dict[object, list[_Step]] = {}
    for place in plan.places_of(leaves):
        step = _step(plan, place, leaves, group=group)
        batches.setdefault(step.batch, []).append(step)
    return [
        _formed(plan, steps, group=group, writes_over=writes_over)
        if steps[0].is_formed
        else _taken(*steps)
        for steps in batches.values()
    ]


def _step(
    plan: WeightsPlan, place: Place, leaves: Leaves, *, group: DeviceGroup
) -> _Step:
    inputs = place.recipe.inputs
    types = tuple(np.dtype(plan.parameters[number].dtype) for number in inputs)
    if plan.is_shared:
        shared = shared_coming(plan, place, leaves, group=group)
        if shared is not None:
            return _Step(place=place, comings=[shared], types=types, is_formed=False)
    comings = [coming_to(group, one, leaves[one], plan=plan) for one in inputs]
    is_cast = any(c.array.dtype != t for c, t in zip(comings, types, strict=True))
    is_formed = is_cast or not (place.recipe.is_identity and comings[0].is_own)
    return _Step(place=place, comings=comings, types=types, is_formed=is_formed)


def _taken(step: _Step) -> Batch:
    (coming,) = step.comings
    return lambda leaves, _: [(step.place.number, coming.take(leaves[coming.number]))]


def _formed(
    plan: WeightsPlan, steps: Sequence[_Step], *, group: DeviceGroup, writes_over: bool
) -> Batch:
    numbers = [step.place.number for step in steps]
    comings = [coming for step in steps for coming in step.comings]
    forms = [(step.place.recipe, step.types) for step in steps]
    out = tuple(
        group.weight_sharding(step.place.path, step.place.shape) for step in steps
    )

    def compiled(over: Sequence[jax.ShapeDtypeStruct]) -> Any:
        return plan.programs.get(
            ("form", tuple((recipe.text, types) for recipe, types in forms)),
            _forming(forms),
            [coming.array for coming in comings],
            out=out,
            over=over,
        )

    made_like = [
        jax.ShapeDtypeStruct(step.place.shape, step.place.dtype, sharding=to)
        for step, to in zip(steps, out, strict=True)
    ]
    fresh = compiled(())
    written = compiled(made_like) if writes_over else None

    def make(leaves: Leaves, over: Over) -> list[Part]:
        given = [coming.take(leaves[coming.number]) for coming in comings]
        old = [over(number) for number in numbers]
        if written is None or any(array is None for array in old):
            return list(zip(numbers, fresh(*given), strict=True))
        return list(zip(numbers, written(*old, *given), strict=True))

    return make


def _forming(
    forms: Sequence[tuple[Recipe, Types]],
) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns the function of all recipes' inputs, after what is written over."""
    counts = [len(types) for _, types in forms]

    def form(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        given = iter(arrays[-sum(counts) :])
        made = []
        for recipe, types in forms:
            cast = [next(given).astype(dtype) for dtype in types]
            made.append(jax.numpy.copy(recipe.make(*cast)))
        return tuple(made)

    return form
