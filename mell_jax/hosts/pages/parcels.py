"""Parcels as they cross a connection for pages.

    head | array of pages | array of pages | ... | Sums  ->
                                                         <-  Arrived

The head says of what shapes the pages are, and so how long all of it is. Arrays are put
on their devices as they come, beside those that are still to come; but nobody gets any
of them before all checksums agree, of which each piece of an array has one.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

import jax
import numpy as np

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.checksum import Checksum
from mell_jax.hosts.pages.connection import See
from mell_jax.hosts.pages.transfers import PullError, Transfers
from mell_jax.hosts.wire import MAX_PARCEL_BYTES, Offer, Parcel, Sums
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.plan import Places
from mell_jax.serving.processes.wire import WireError
from mell_jax.worker.group import DeviceGroup

PIECE_BYTES = 2**23


class Gives(Protocol):
    """Messages and bytes go there."""

    def send(self, message: object) -> None: ...

    def give(self, data: memoryview, *, see: See) -> None: ...


class Takes(Protocol):
    """Messages and bytes come from there."""

    def receive(self, kind: type[Sums]) -> Sums: ...

    def take(self, into: memoryview, *, see: See) -> None: ...


def head_of(parcel: wires.Parcel, *, offer: Offer | None = None) -> Parcel:
    """Returns a parcel without its pages."""
    none = np.zeros(0, np.int32)
    pages = parcel.pages
    chunks = pages.chunks if pages is not None else ()
    return Parcel(
        device=parcel.device,
        message=parcel.message,
        tokens=parcel.tokens,
        has_pages=pages is not None,
        groups=pages.places.groups if pages is not None else none,
        along=pages.places.along if pages is not None else none,
        shapes=tuple(chunk.shape for chunk in chunks),
        dtype=str(chunks[0].dtype) if chunks else "",
        offer=offer,
    )


def parcel_of(head: Parcel, *, chunks: tuple[jax.Array, ...]) -> wires.Parcel:
    """Returns a parcel as the engine has it; the reverse of `head_of`."""
    places = Places(groups=head.groups, along=head.along)
    return wires.Parcel(
        device=head.device,
        message=head.message,
        pages=PageTransfer(chunks=chunks, places=places) if head.has_pages else None,
        tokens=head.tokens,
    )


def send_chunks(chunks: tuple[jax.Array, ...], *, to: Gives) -> None:
    """Sends arrays, each when it has been fetched from its devices, and their sums."""
    sums = []
    for chunk, after in zip(chunks, (*chunks[1:], None), strict=True):
        if after is not None:
            after.copy_to_host_async()
        for piece in _pieces(np.ascontiguousarray(chunk)):
            checksum = Checksum()
            to.give(piece, see=checksum.add)
            sums.append(checksum.value)
    to.send(Sums(values=tuple(sums)))


@final
class Unpacking:
    """Puts pages together from their pieces, on the devices that they are for.

    Args:
      group_of: returns the devices of an instance; None if it is gone.
      buffers: have memory for what comes; other arrays of it may be in use.
      transfers: pull what was offered; None where they cannot.
    """

    def __init__(
        self,
        group_of: Callable[[DeviceGroupId], DeviceGroup | None],
        *,
        buffers: Buffers,
        transfers: Transfers | None = None,
    ) -> None:
        self._group_of = group_of
        self._buffers = buffers
        self._transfers = transfers

    @property
    def can_pull(self) -> bool:
        """Returns whether pages may be offered to it."""
        return self._transfers is not None

    def chunks(self, head: Parcel, *, by: Takes) -> tuple[jax.Array, ...]:
        """Returns the pages of a parcel whose head has come; none if nobody is there.

        Raises:
          PullError: they were offered, and cannot be pulled.
          OSError: the connection has ended.
          WireError: the pages are not those that were sent, or cannot be.
        """
        dtype = _dtype(head.dtype) if head.shapes else np.dtype(np.uint8)
        due = sum(map(_count, head.shapes)) * dtype.itemsize
        if not (due <= MAX_PARCEL_BYTES):
            raise WireError(
                f"a parcel of {due} bytes; at most {MAX_PARCEL_BYTES} are allowed"
            )
        group, sums = self._group_of(head.device), []
        if head.offer is not None:
            return self._pull(head, head.offer, dtype=dtype, to=group)
        chunks: list[jax.Array] = []
        arrays: list[np.ndarray[Any, Any]] = []  # that are not on their devices yet
        for shape in head.shapes:
            data = self._buffers.lend(_count(shape) * dtype.itemsize)
            sums += [_taken(piece, by=by) for piece in _pieces(data)]
            arrays.append(data.view(dtype).reshape(shape))
            if sum(array.nbytes for array in arrays) >= PIECE_BYTES:
                chunks += _put(arrays, on=group)
                arrays = []
        chunks += _put(arrays, on=group)
        if by.receive(Sums).values != tuple(sums):
            raise WireError("a piece has other bits than were sent")
        return tuple(chunks)

    def _pull(
        self,
        head: Parcel,
        offer: Offer,
        *,
        dtype: "np.dtype[Any]",
        to: DeviceGroup | None,
    ) -> tuple[jax.Array, ...]:
        if self._transfers is None or to is None:
            raise PullError("nobody is there who pulls")
        return self._transfers.pull(
            offer, head.shapes, dtype=dtype, sharding=to.pool_sharding
        )


def _taken(piece: memoryview, *, by: Takes) -> int:
    """Fills a piece; returns its checksum."""
    checksum = Checksum()
    by.take(piece, see=checksum.add)
    return checksum.value


def _put(
    arrays: "list[np.ndarray[Any, Any]]", *, on: DeviceGroup | None
) -> list[jax.Array]:
    """Puts arrays on devices in one go, which takes less time; nowhere, if on none."""
    if on is None:
        return []
    put: list[jax.Array] = jax.device_put(arrays, on.pool_sharding)
    return put


def _pieces(array: "np.ndarray[Any, Any]") -> Iterator[memoryview]:
    """Yields the bytes of an array, in pieces."""
    data = array.reshape(-1).view(np.uint8).data
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]


def _count(shape: tuple[int, ...]) -> int:
    """Returns how many numbers an array has.

    Raises:
      WireError: no array is of that shape.
    """
    if not all(size >= 0 for size in shape):
        raise WireError(f"no array has the shape {shape!r:.100}")
    return math.prod(shape)


def _dtype(name: str) -> "np.dtype[Any]":
    """Returns a type of numbers by its name, also one that numpy has not.

    Raises:
      WireError: there is none.
    """
    try:
        dtype: np.dtype[Any] = jax.numpy.dtype(name)
    except TypeError as error:
        raise WireError(f"there is no type of numbers {name!r:.100}") from error
    if dtype.hasobject or not dtype.itemsize:
        raise WireError(f"pages have no numbers of type {name!r:.100}")
    return dtype
