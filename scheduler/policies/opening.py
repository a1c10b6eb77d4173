"""Chooses the kind of device to open for a request that has no room.

    cost of a kind = price / speed * max(1, what is needed / what it holds)

What is needed is the request and what the volume is likely to rise by while the device
is open. For little the cheapest device that can hold the request is best, for much the
one whose room is cheapest, though the device is dear. A request is longer on a slow
device, so a price counts by the work that it buys.
"""

from mell_jax.scheduler.ids import KindId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.volume import Volume

OPEN_S = 15.0  # for which a device is expected to stay open


class Opening:
    """It chooses by price, by what a request needs, and by how the volume varies."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def choose(self, ledger: Ledger, request: RequestAccount) -> KindId | None:
        """Returns the kind to open; None if there is no choice."""
        kinds = ledger.kinds(request.model)
        if len(kinds) == 1:
            return None
        fitting = [
            own
            for own in kinds
            if own.limit >= request.most_pages
            and ledger.next_idle(own.kind) is not None
        ]
        rise = self._volume.swing(request.model, seconds=OPEN_S)
        need = ledger.wanted_pages(request) + rise
        best = min(fitting, key=lambda own: cost(own, pages=need), default=None)
        return best.kind if best is not None else None


def cost(own: KindBooks, *, pages: float) -> float:
    """Returns the price of room for so many pages on devices of a kind.

    Parts of a device beyond the first can be had.
    """
    return own.work_price * max(1.0, pages / own.spec.capacity_pages)
