"""Makes the weights of an update: checked, compiled, and there or soon to be.

ready      every array is made before the engine is asked: twice the weights for a
           while, and the swap is pointers alone
streamed   a layer is made when the engine asks for it, in the memory of the one from
           before if an update made that: one layer more at most, and streams wait
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from mell_jax.engine.weights.batches import (
    Batches,
    Leaves,
    Over,
    Part,
    find_batches,
    no_array,
)
from mell_jax.engine.weights.directory import find_in_directory
from mell_jax.engine.weights.leaves import Leaf
from mell_jax.engine.weights.match import Mapped, find_leaves
from mell_jax.engine.weights.plan import WeightsPlan
from mell_jax.engine.weights.tree import read_tree
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.worker.group import DeviceGroup

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyWeights:
    """All arrays are there."""

    nbytes: int  # of one instance's
    kept: frozenset[int]  # places that the source has nothing for
    is_own: bool  # nobody else's
    arrays: Mapping[DeviceGroupId, Sequence[Part]]

    @property
    def is_streamed(self) -> bool:
        return False

    def parts(self, device: DeviceGroupId, *, over: Over = no_array) -> Iterator[Part]:
        yield from self.arrays[device]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedWeights:
    """Each batch is made when it is asked for, by what is compiled already."""

    nbytes: int  # of one instance's
    kept: frozenset[int]  # places that the source has nothing for
    is_own: bool  # nobody else's
    leaves: Leaves
    batches: Batches

    @property
    def is_streamed(self) -> bool:
        return True

    def parts(self, device: DeviceGroupId, *, over: Over = no_array) -> Iterator[Part]:
        for make in self.batches[device]:
            yield from jax.block_until_ready(make(self.leaves, over))


def make_weights(
    plan: WeightsPlan,
    source: Any,
    *,
    mapping: Mapped | None = None,
    streamed: bool = False,
) -> ReadyWeights | StreamedWeights:
    """Returns what `UpdateWeights` takes. One caller at a time.

    Arrays on devices go from device to device, on the thread that calls; those that are
    streamed go later, on the engine's.

    Args:
      plan: of the model.
      source: an `nnx.State` or module, a dictionary of arrays, or a checkpoint's path.
      mapping: what parameters are called in the source; see `Mapped`.
      streamed: makes arrays when the engine asks.

    Raises:
      ValueError: the source does not fit the model; the message says in what.
      CheckpointError: a file of it cannot be used (a ValueError).
      TypeError: it is no source of weights.
    """
    leaves = _leaves(plan, source, mapping=mapping)
    places = plan.places_of(leaves)
    if not places:
        raise ValueError("this source has no weights of the model that is served")
    kept = frozenset(range(len(plan.places))) - {one.number for one in places}
    nbytes = sum(prod(one.shape) * np.dtype(one.dtype).itemsize for one in places)
    is_own = not plan.is_shared
    batches = find_batches(
        plan, leaves, groups=_different(plan.groups), writes_over=streamed
    )
    if streamed:
        return StreamedWeights(
            nbytes=nbytes,
            kept=kept,
            is_own=is_own,
            leaves=leaves,
            batches=_for_each(plan, batches),
        )
    made = {
        device: [part for make in some for part in make(leaves, no_array)]
        for device, some in batches.items()
    }
    jax.block_until_ready(list(made.values()))
    return ReadyWeights(
        nbytes=nbytes, kept=kept, is_own=is_own, arrays=_for_each(plan, made)
    )


def _leaves(
    plan: WeightsPlan, source: Any, *, mapping: Mapped | None
) -> Mapping[int, Leaf]:
    if isinstance(source, str | PathLike):
        if mapping is not None:
            raise ValueError(
                "a checkpoint has names that are known; mapping is for arrays in memory"
            )
        return find_in_directory(plan, Path(source))
    return find_leaves(plan, read_tree(source), mapping=mapping)


def _different(
    groups: Mapping[DeviceGroupId, DeviceGroup],
) -> dict[DeviceGroupId, DeviceGroup]:
    """Returns one group of each set of devices; others have its arrays."""
    return {
        device: group
        for device, group in groups.items()
        if _first_like(group, groups) == device
    }


def _for_each(
    plan: WeightsPlan, found: Mapping[DeviceGroupId, T]
) -> dict[DeviceGroupId, T]:
    """Returns for every group what the first one on the same devices has."""
    return {
        device: found[_first_like(group, plan.groups)]
        for device, group in plan.groups.items()
    }


def _first_like(
    group: DeviceGroup, groups: Mapping[DeviceGroupId, DeviceGroup]
) -> DeviceGroupId:
    return next(device for device, other in groups.items() if other == group)
