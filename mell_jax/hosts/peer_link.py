"""A link to another host; parcels with pages go by a lane beside it."""

from collections.abc import Callable
from typing import final

from mell_jax.engine.hosts import wires
from mell_jax.hosts.link import Link
from mell_jax.hosts.pages.lane import Lane
from mell_jax.hosts.pages.parcels import head_of
from mell_jax.scheduler.ids import Epoch


@final
class PeerLink:
    """A peer link has both; it belongs to the event loop.

    Args:
      epoch: of the other host.
      open_lane: opens the lane to it.
      lost: hears once that it has ended.
    """

    def __init__(
        self,
        epoch: Epoch,
        *,
        open_lane: Callable[[], Lane],
        lost: Callable[["PeerLink"], None],
    ) -> None:
        self.epoch = epoch
        self.link: Link | None = None
        self._open_lane = open_lane
        self._lost = lost
        self._lane: Lane | None = None
        self._early: list[wires.Parcel] = []  # before there is a connection
        self._is_cut = False

    def begin(self, link: Link) -> None:
        """There is a connection now."""
        self.link = link
        early, self._early = self._early, []
        for parcel in early:
            self.put(parcel)

    def put(self, parcel: wires.Parcel) -> None:
        """Sends a parcel, or leaves it to be sent."""
        if self._is_cut:
            return
        if self.link is None:
            self._early.append(parcel)
        elif parcel.pages is None or not parcel.pages.chunks:
            self.link.send(head_of(parcel))
        elif not self._laned().put(parcel):
            self.cut()

    def beat(self, *, patience: int) -> None:
        """Counts a beat of the link, and of what it brings."""
        if self.link is not None:
            self.link.beat()
        if self._lane is not None:
            self._lane.beat(patience=patience)

    def cut(self) -> None:
        """Ends it; heard once."""
        if self._is_cut:
            return
        self._is_cut = True
        self._early.clear()
        if self._lane is not None:
            self._lane.close()
        if self.link is not None:
            self.link.cut()
        self._lost(self)

    def _laned(self) -> Lane:
        if self._lane is None:
            self._lane = self._open_lane()
        return self._lane
