"""New weights are handed to the engine's workers array by array, in serving form."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mell_jax.scheduler.ids import DeviceGroupId

if TYPE_CHECKING:
    import jax  # commands go through processes that have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The weights of a model are of this generation, by each update of a new one."""

    number: int
    version: str  # its name in answers


FIRST = Generation(number=0, version="0")
"""Of the weights that a model was built with."""


class NewWeights(Protocol):
    """These weights replace those of a model, or some of them, place by place.

    Everything that they need is compiled before a worker asks for the first one.
    """

    @property
    def nbytes(self) -> int:
        """Returns the bytes of one instance's weights."""

    @property
    def is_streamed(self) -> bool:
        """Returns whether an array is made when it is asked for.

        Then those that a few of them replace are given back before the next are made,
        so that a layer at most is there twice; and they can be checked only as they
        come. The others are all there already, and are checked before anything is
        touched.
        """

    @property
    def is_own(self) -> bool:
        """Returns whether nobody else has its arrays, which may be written over."""

    @property
    def kept(self) -> frozenset[int]:
        """Returns the places that keep the arrays which they have."""

    def parts(
        self,
        device: DeviceGroupId,
        *,
        over: "Callable[[int], jax.Array | None]",
    ) -> "Iterator[tuple[int, jax.Array]]":
        """Yields each place in `worker.step.Weights` once, but those that are kept.

        They come in any order, each with its array.
        The array lies on the devices of that group as the one that it replaces does,
        with its shape and type. Groups of the same devices share arrays: one of them is
        asked for all. Called on the engine's thread, between two steps.

        Args:
          device: the group.
          over: returns the array that a place has if it may be written over; whoever
            does that yields another for the place.
        """
