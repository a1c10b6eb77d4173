"""A front end keeps in mind which copies it has opened, until they are gone.

While there is no controller nobody else would have those released that nobody wants: of
streams that have ended or moved on just before.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mell_jax.scheduler.hosts.messages import Drop, Opened
from mell_jax.scheduler.hosts.stream import Stream
from mell_jax.scheduler.ids import CopyId, Epoch, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwanted:
    """A copy is at a host, and its stream takes nothing of it any more."""

    epoch: Epoch
    drop: Drop


class Passed:
    """The copies whose openings were passed on, by their hosts."""

    def __init__(self) -> None:
        self._copies: dict[Epoch, dict[CopyId, RequestId]] = {}

    def open(self, epoch: Epoch, message: Opened) -> None:
        """An opening goes to a host."""
        self._copies.setdefault(epoch, {})[message.copy_id] = message.request

    def close(self, epoch: Epoch, copy_id: CopyId) -> None:
        """A host says that a copy is gone."""
        self._copies.get(epoch, {}).pop(copy_id, None)

    def lose(self, epoch: Epoch) -> None:
        """There is no link to a host: it drops all of them itself."""
        self._copies.pop(epoch, None)

    def unwanted(self, streams: Mapping[RequestId, Stream]) -> Iterator[Unwanted]:
        """Yields the copies that no stream takes tokens of, or will."""
        for epoch, copies in self._copies.items():
            for copy_id, request in copies.items():
                stream = streams.get(request)
                if stream is None or not stream.takes(copy_id, epoch=epoch):
                    drop = Drop(request=request, copy_id=copy_id)
                    yield Unwanted(epoch=epoch, drop=drop)
