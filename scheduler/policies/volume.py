"""A fleet's volume says how long room lasts, and so what a device's time is worth.

    margin    pages that stay free if one instance is closed, after a little growth
    variance  of the volume that a fleet holds, pages^2 per second, learned
    lasts     margin^2 / variance: the time in which a random walk uses the margin up

A closing that moves p pages pays when p <= C * lasts / price: an instance of C pages
that stays shut for `lasts` seconds is worth moving C pages for every `price` of them.
For a random walk that rule is the best one: waste per cycle grows with margin^2, the
number of cycles falls with 1/margin, so their sum is least where p = C * lasts / price.
Where devices differ, C is the cheapest room that the price of the device buys, so that
moving a page costs as much money wherever it lies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.reserve import NO_RESERVE, Reserve

MEMORY_S = 60.0  # that the variance is learned over
GROWTH_S = 2.0  # growth that a margin has room for in a small fleet
SMALL = 4  # instances; beyond, what grows and what leaves even out: as the root


@dataclass(slots=True)
class _Walk:
    """The volume of one model as a random walk."""

    squares: float = 0.0  # of steps, decayed
    at_s: float = 0.0


class Volume:
    """It learns how the volume of every model varies.

    Args:
      price_s: seconds of a device that are worth moving all the pages it can hold.
      reserve: room that a margin leaves for lost devices.
    """

    def __init__(self, *, price_s: float, reserve: Reserve = NO_RESERVE) -> None:
        self._price_s = price_s
        self._reserve = reserve
        self._walks: dict[ModelId, _Walk] = {}

    def note(self, ledger: Ledger, model: ModelId, *, pages: int) -> None:
        """So many pages came or left."""
        walk = self._walks.setdefault(model, _Walk())
        past_s = max(0.0, ledger.now_s - walk.at_s)
        walk.squares = walk.squares * math.exp(-past_s / MEMORY_S) + pages * pages
        walk.at_s = ledger.now_s

    def margin(
        self, ledger: Ledger, model: ModelId, *, less: Sequence[KindBooks] = ()
    ) -> float:
        """Returns the pages that stay free without an instance of each kind in `less`.

        What is to stay free for lost devices is taken off.
        """
        count = len(ledger.of_model(model)) - len(less)
        held = ledger.total_pages(model) - ledger.leaving_pages(model)
        free = ledger.capacity_pages(model) - held
        for own in less:
            free -= own.spec.capacity_pages
        if self._reserve.count:
            free -= self._reserve.pages(ledger, model, less=less)
        seconds = GROWTH_S * math.sqrt(SMALL / max(SMALL, count))
        return free - ledger.expected_growth(model, seconds=seconds)

    def swing(self, model: ModelId, *, seconds: float) -> float:
        """Returns the pages by which the volume is likely to differ by then."""
        walk = self._walks.get(model)
        return math.sqrt(walk.squares * seconds / MEMORY_S) if walk is not None else 0.0

    def lasts_s(self, model: ModelId, *, margin: float) -> float:
        """Returns how long a margin will last, in seconds; 0 if there is none."""
        walk = self._walks.get(model)
        if margin <= 0 or walk is None:
            return math.inf if margin > 0 else 0.0
        return margin * margin * MEMORY_S / max(walk.squares, 1.0)

    def worth(self, own: KindBooks, model: ModelId, *, margin: float) -> float:
        """Returns the pages that may move so that a device of a kind is spared.

        Loading it again takes device time, too, and is taken off.
        """
        spared_s = self.lasts_s(model, margin=margin) - own.spec.load_s
        return max(0.0, spared_s) * own.worth_pages / self._price_s

    def pages_of(self, *, seconds: float, worth_pages: float) -> float:
        """Returns the pages that may move for so many seconds of a device's price.

        Args:
          worth_pages: the price, as in `KindBooks`.
        """
        return seconds * worth_pages / self._price_s
