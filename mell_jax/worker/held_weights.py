"""The weights of a model on one group of devices, which all instances there share.

on the devices --put_away--> in the host's memory --fetch--> on the devices
      '---drop--> nowhere, until each of them is put in its place anew

Compiled programs take them as arguments, so others of the same shapes, types and places
do as well. An array is given back when nobody refers to it any more: nothing here
deletes one, which may be its owner's elsewhere. Those that updates made are our own,
and the next update may write over them. One that its owner deletes is dropped.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any, final

import jax
import jax.numpy as jnp

from mell_jax.worker.step import Weights

HOST_MEMORY = "pinned_host"


class NoHostMemoryError(RuntimeError):
    """The devices have no pinned host memory."""


@final
class HeldWeights:
    """The weights of a model on one group of devices.

    Args:
      arrays: on the devices; what takes their place has to be as they are.
    """

    def __init__(self, arrays: Weights) -> None:
        self._arrays: tuple[Any, ...] = arrays  # None where `_missing` says so
        self._missing: frozenset[int] = frozenset()
        self._own: frozenset[int] = frozenset()  # places whose array nobody else has
        self.like = tuple(
            jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
            for array in arrays
        )
        self.nbytes = sum(array.nbytes for array in arrays)
        self._users = 0
        self._is_put_away = False

    @property
    def arrays(self) -> Weights:
        """Returns all of them, wherever they are."""
        assert not self._missing, "dropped weights were not given anew"
        return self._arrays

    @property
    def is_dropped(self) -> bool:
        """Returns whether at least one is nowhere, for whatever reason."""
        return bool(self._gone())

    @property
    def is_deleted(self) -> bool:
        """Returns whether one was deleted by who shares it, or was written over."""
        return len(self._gone()) > len(self._missing)

    def _gone(self) -> frozenset[int]:
        """Returns the places whose arrays were dropped, or deleted by their owner."""
        arrays = enumerate(self._arrays)
        return frozenset(n for n, one in arrays if one is None or one.is_deleted())

    @property
    def device_nbytes(self) -> int:
        """Returns the bytes that they take on the devices, copies there included."""
        return 0 if self._is_put_away else bytes_of(self._arrays)

    @property
    def is_ready(self) -> bool:
        """Returns whether they are where they are to be; deleted ones keep nobody."""
        arrays: list[Any] = list(self.arrays)  # typed without `is_ready`
        return all(array.is_deleted() or array.is_ready() for array in arrays)

    def wait_ready(self) -> None:
        """Waits until `is_ready`."""
        jax.block_until_ready(self.arrays)

    # -- who uses them -------------------------------------------------------------

    def enter(self) -> None:
        """Counts an instance that makes steps; begins to fetch them for the first."""
        self._users += 1
        self.fetch()

    def leave(self, *, keeps: bool) -> None:
        """Counts an instance less; after the last one they may wait in host memory.

        Args:
          keeps: leaves them on the devices.
        """
        self._users -= 1
        if not keeps and not self._users:
            self.put_away()

    # -- where they are ------------------------------------------------------------

    def fetch(self) -> None:
        """Begins to bring them onto the devices; those that were dropped stay away."""
        if self._is_put_away:
            self._is_put_away = False
            self._move("device")

    def put_away(self) -> None:
        """Begins to bring them into the host's memory; nobody may make steps.

        Raises:
          NoHostMemoryError: there is none that is pinned.
        """
        if self._is_put_away or self.is_dropped:
            return
        self.check_host_memory()
        self._is_put_away = True
        self._move(HOST_MEMORY)

    def check_host_memory(self) -> None:
        """Checks that `put_away` is possible.

        Raises:
          NoHostMemoryError: it is not.
        """
        for device in self.like[0].sharding.device_set:
            kinds = [memory.kind for memory in device.addressable_memories()]
            if HOST_MEMORY not in kinds:
                raise NoHostMemoryError(
                    f"{device} has no {HOST_MEMORY} memory, only {', '.join(kinds)}"
                )

    def drop(self) -> None:
        """Gives them back for good; nobody may make steps until others are there.

        Random keys and counts of layers stay: no new weights bring any.
        """
        self._is_put_away = False
        self._missing = self._gone() | {
            place
            for place, like in enumerate(self.like)
            if jnp.issubdtype(like.dtype, jnp.floating)
        }
        self._own -= self._missing
        self._arrays = tuple(
            None if place in self._missing else jax.device_put(array, like.sharding)
            for place, (array, like) in enumerate(
                zip(self._arrays, self.like, strict=True)
            )
        )

    def _move(self, kind: str) -> None:
        arrays = self.arrays
        shardings = [like.sharding.with_memory_kind(kind) for like in self.like]
        self._arrays = tuple(jax.device_put(list(arrays), shardings))

    # -- others in their place -----------------------------------------------------

    def check(self, place: int, array: jax.Array) -> None:
        """Checks that an array may take a place.

        Raises:
          ValueError: there is no such place, or its array is another kind of thing.
        """
        if not (0 <= place < len(self.like)):
            raise ValueError(
                f"place must be from 0 to {len(self.like) - 1}, got {place}"
            )
        like = self.like[place]
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(
                f"the weights at place {place} are {like.dtype}{list(like.shape)}, and "
                f"the new ones {array.dtype}{list(array.shape)}: give those of the "
                "same model, in the engine's precision and serving form"
            )
        if array.weak_type or not array.committed:
            raise ValueError(
                f"the new weights at place {place} are not settled on a device: put "
                "them there by `device_put` with a sharding, or by `out_shardings`"
            )
        if array.is_deleted():
            raise ValueError(f"the new weights at place {place} have been deleted")
        if not array.sharding.is_equivalent_to(like.sharding, array.ndim):
            raise ValueError(
                f"the weights at place {place} lie as {like.sharding}, and the new "
                f"ones as {array.sharding}: put them on the same devices in the same "
                "way"
            )

    def check_all(
        self, arrays: Iterable[tuple[int, jax.Array]], *, kept: Collection[int] = ()
    ) -> None:
        """Checks that arrays may take all places but those that are kept.

        Raises:
          ValueError: one may not, or a place gets none or several.
        """
        places = []
        for place, array in arrays:
            self.check(place, array)
            places.append(place)
        self.check_places(places, kept=kept)

    def check_places(
        self, places: Iterable[int], *, kept: Collection[int] = ()
    ) -> None:
        """Checks that each place is named once, as new or as kept.

        Raises:
          ValueError: it is not, or what is to be kept is not there.
        """
        ordered = sorted([*places, *kept])
        if ordered != list(range(len(self.like))):
            raise ValueError(
                f"new weights must have one array for each of {len(self.like)} places, "
                f"got {len(ordered)} for {len(set(ordered))} of them"
            )
        gone = self._gone().intersection(kept)
        if gone:
            raise ValueError(
                "weights were dropped or deleted, and the new ones have no array for "
                f"{len(gone)} of these places, such as {min(gone)}: give all of them"
            )

    def own(self, place: int) -> jax.Array | None:
        """Returns the array of a place if it may be written over.

        It is on the devices, and nobody has it but steps that were dispatched. Whoever
        writes over it puts another in its place before the next step.
        """
        is_there = place in self._own and not self._is_put_away
        return self._arrays[place] if is_there else None

    def replace(self, place: int, array: jax.Array, *, is_own: bool = False) -> None:
        """Puts an array in a place, into the memory where the others are.

        Args:
          place: whose array it becomes.
          array: like the one before.
          is_own: nobody else has it, so that it may be written over one day.

        Raises:
          ValueError: see `check`; nothing has changed then.
        """
        self.check(place, array)
        if self._is_put_away:
            kind = array.sharding.with_memory_kind(HOST_MEMORY)
            array = jax.device_put(array, kind)
        self._arrays = (*self._arrays[:place], array, *self._arrays[place + 1 :])
        self._missing -= {place}
        self._own = self._own | {place} if is_own else self._own - {place}

    def wait_for(self, place: int) -> None:
        """Waits until the array in a place has arrived there."""
        jax.block_until_ready(self._arrays[place])


def bytes_of(arrays: Iterable[jax.Array | None]) -> int:
    """Returns the bytes of arrays that are there, on all of their devices together."""
    return sum(
        math.prod(array.sharding.shard_shape(array.shape))
        * array.dtype.itemsize
        * len(array.sharding.device_set)
        for array in arrays
        if array is not None and not array.is_deleted()
    )
