"""Chooses by which way pages go to another host: sockets, or jax's transfers.

auto:  t t t s s t t t t ... s ... t    both are tried, then the faster one, and
                                        now and then the other again
"""

from typing import Literal, final

PagesBy = Literal["sockets", "transfer", "auto"]
TRIES = 3
"""Each way is measured so often first; the first time connects, and does not count."""
AGAIN = 64
"""Of so many parcels one goes by the other way."""
LEAST_BYTES = 2**20
"""Fewer say nothing about a way's speed, and go by sockets."""
_SHARE = 0.3  # of the latest measurement


@final
class Choice:
    """The choice of one lane.

    Args:
      pages_by: what the operator wants.
      both_can: both ends offer transfers.
    """

    def __init__(self, pages_by: PagesBy, *, both_can: bool) -> None:
        self._pages_by = pages_by
        self._can_transfer = both_can
        self._counts = {True: 0, False: 0}  # measured, by whether it is transfers
        self._speeds = {True: 0.0, False: 0.0}  # bytes per second
        self._parcels = 0

    def is_transfer(self, nbytes: int) -> bool:
        """Returns whether the next parcel goes by transfer."""
        if not self._can_transfer or self._pages_by == "sockets":
            return False
        if self._pages_by == "transfer":
            return True
        if nbytes < LEAST_BYTES:
            return False
        for is_transfer, count in self._counts.items():
            if count < TRIES:
                return is_transfer
        self._parcels += 1
        is_faster = self._speeds[True] > self._speeds[False]
        return is_faster is not (self._parcels % AGAIN == 0)

    def note(self, nbytes: int, *, seconds: float, is_transfer: bool) -> None:
        """Learns how long a parcel took."""
        if nbytes < LEAST_BYTES or not (seconds > 0.0):
            return
        speed, known = nbytes / seconds, self._speeds[is_transfer]
        self._counts[is_transfer] += 1
        is_known = self._counts[is_transfer] > 2
        self._speeds[is_transfer] = (
            known + _SHARE * (speed - known) if is_known else speed
        )

    def give_up(self) -> None:
        """Transfers have failed: all else goes by sockets."""
        self._can_transfer = False
