"""Empties dear devices into a cheaper one that it opens, if that is worth the moves.

    A100 4.0 [2 1 . . . . . .]                   ->  L4 0.7 [2 1 .]
    L4 0.7 [3 . .]  L4 0.7 [2 1 .]  L4 0.7 [3]   ->  A100 2.0 [3 2 1 3 . . . .]

What leaves first is what costs most for the pages on it. The price that is saved counts
for as long as the room that is left will last, as for a closing; loading the new device
is paid for as well. Where devices are all alike there is nothing to exchange.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.volume import Volume

LOOKED_AT = 8  # emptiest instances of each kind
MOST = 8  # instances that one takes the place of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swap:
    """These instances would be emptied into a new one."""

    own: KindBooks  # of the new one
    leaving: tuple[InstanceAccount, ...]
    gain_pages: float  # that could move for the money saved, less those that do


class Exchange:
    """It looks once an epoch, and opens one device at most."""

    def __init__(self, *, volume: Volume, budget: Budget) -> None:
        self._volume = volume
        self._budget = budget

    def swap(self, draft: Draft, model: ModelId) -> bool:
        """Opens a device and moves to it, if that pays; tells whether it did."""
        ledger = draft.ledger
        swaps = [
            swap
            for own in ledger.kinds(model)
            if ledger.next_idle(own.kind) is not None
            for swap in self._swaps(ledger, model, own)
        ]
        best = max(swaps, key=lambda swap: swap.gain_pages, default=None)
        return best is not None and self._carry_out(draft, model, best)

    def _swaps(self, ledger: Ledger, model: ModelId, own: KindBooks) -> Iterator[_Swap]:
        """Yields what pays, of one kind: first one instance leaves, then two, ..."""
        free = own.spec.capacity_pages - ledger.growth_of(model, own, rows=1)
        leaving: list[InstanceAccount] = []
        pages = rows = 0
        for instance in self._candidates(ledger, model, own):
            pages, rows = pages + instance.pages, rows + instance.rows
            free = own.spec.capacity(rows) - ledger.growth_of(model, own, rows=rows)
            if pages > free:
                return
            leaving.append(instance)
            gain = self._gain(ledger, model, own, leaving) - pages
            if gain > 0:
                yield _Swap(own=own, leaving=tuple(leaving), gain_pages=gain)

    def _candidates(
        self, ledger: Ledger, model: ModelId, own: KindBooks
    ) -> list[InstanceAccount]:
        """Returns instances that may leave, those first that cost most for a page."""
        found = [
            ledger.instances[device]
            for other in ledger.kinds(model)
            if other is not own
            for device in islice(other.index.descending(), LOOKED_AT)
        ]
        settled = [
            instance
            for instance in found
            if instance.requests
            and not (instance.arriving or instance.leaving_pages or instance.stalled)
            and all(r.most_pages <= own.limit for r in instance.requests.values())
        ]
        settled.sort(key=lambda i: (-i.books.price_per_hour / i.pages, i.serial))
        return settled[:MOST]

    def _gain(
        self,
        ledger: Ledger,
        model: ModelId,
        own: KindBooks,
        leaving: list[InstanceAccount],
    ) -> float:
        """Returns the pages that may move for the money that is saved."""
        less = [instance.books for instance in leaving]
        saved = sum(books.worth_pages for books in less) - own.worth_pages
        margin = self._volume.margin(ledger, model, less=less)
        margin += own.spec.capacity_pages
        lasts_s = self._volume.lasts_s(model, margin=margin)
        if saved <= 0 or lasts_s == 0:
            return 0.0
        gained = self._volume.pages_of(seconds=lasts_s, worth_pages=saved)
        return gained - self._volume.pages_of(
            seconds=own.spec.load_s, worth_pages=own.worth_pages
        )

    def _carry_out(self, draft: Draft, model: ModelId, swap: _Swap) -> bool:
        """Moves as many of the instances as links can carry in this epoch.

        The rest is worth closing by itself once there is room for it.
        """
        for count in range(len(swap.leaving), 0, -1):
            mark = draft.savepoint()
            opened = draft.activate(model, kind=swap.own.kind)
            assert opened is not None, f"no idle device of kind {swap.own.kind}"
            for instance in swap.leaving[:count]:
                for request in list(instance.requests.values()):
                    draft.shift(request, opened.device)
            if self._budget.take(draft):
                return True
            draft.rollback(mark)
        return False
