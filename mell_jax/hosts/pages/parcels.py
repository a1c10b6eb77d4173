"""Parcels as they cross a connection for pages.

    head | checksum, piece | checksum, piece | ...  ->
                                                    <-  Whole

The head says of what shapes the pages are, and so how long all of it is. Pieces are cut
anew with every array of pages, so that each array is put on its devices when it is
there, beside those that are still to come.
"""

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

import jax
import numpy as np

from mell_jax.engine.fleet.page_transfer import PageTransfer
from mell_jax.engine.hosts import wires
from mell_jax.hosts.pages.buffers import Buffers
from mell_jax.hosts.pages.checksum import checksum
from mell_jax.hosts.wire import MAX_PARCEL_BYTES, Parcel
from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.plan import Places
from mell_jax.serving.processes.wire import WireError
from mell_jax.worker.group import DeviceGroup

PIECE_BYTES = 2**23
_SUM = struct.Struct("<I")


class Gives(Protocol):
    """Bytes go there."""

    def give(self, data: memoryview) -> None: ...


class Takes(Protocol):
    """Bytes come from there, until what is to be filled is full."""

    def take(self, into: memoryview) -> None: ...


def head_of(parcel: wires.Parcel) -> Parcel:
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
    """Sends arrays in pieces, each when it has been fetched from its devices."""
    for chunk, after in zip(chunks, (*chunks[1:], None), strict=True):
        if after is not None:
            after.copy_to_host_async()
        for piece in _pieces(np.ascontiguousarray(chunk)):
            to.give(memoryview(_SUM.pack(checksum(piece))))
            to.give(piece)


@final
class Unpacking:
    """Puts pages together from their pieces, on the devices that they are for.

    Args:
      group_of: returns the devices of an instance; None if it is gone.
      buffers: have memory for what comes; other arrays of it may be in use.
    """

    def __init__(
        self,
        group_of: Callable[[DeviceGroupId], DeviceGroup | None],
        *,
        buffers: Buffers,
    ) -> None:
        self._group_of = group_of
        self._buffers = buffers

    def chunks(self, head: Parcel, *, by: Takes) -> tuple[jax.Array, ...]:
        """Returns the pages of a parcel whose head has come; none if nobody is there.

        Raises:
          OSError: the connection has ended.
          WireError: the pages are not those that were sent, or cannot be.
        """
        dtype = _dtype(head.dtype) if head.shapes else np.dtype(np.uint8)
        due = sum(map(_count, head.shapes)) * dtype.itemsize
        if not (due <= MAX_PARCEL_BYTES):
            raise WireError(
                f"a parcel of {due} bytes; at most {MAX_PARCEL_BYTES} are allowed"
            )
        group = self._group_of(head.device)
        chunks = []
        for shape in head.shapes:
            data = self._buffers.lend(_count(shape) * dtype.itemsize)
            for piece in _pieces(data):
                _take_piece(piece, by=by)
            if group is not None:
                array = data.view(dtype).reshape(shape)
                chunks.append(jax.device_put(array, group.pool_sharding))
        return tuple(chunks)


def _take_piece(piece: memoryview, *, by: Takes) -> None:
    due = bytearray(_SUM.size)
    by.take(memoryview(due))
    by.take(piece)
    if checksum(piece) != _SUM.unpack(due)[0]:
        raise WireError("a piece has other bits than were sent")


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
