"""Empties dear devices into cheaper ones that it opens, if that is worth the moves.

    A100 4.0 [2 1 . . . . . .]                      ->  L4 0.7 [2 1 .]
    L4 0.7 [3 . .]  L4 0.7 [2 1 .]  L4 0.7 [3 . .]  ->  A100 2.0 [3 2 1 3 . . . .]

What leaves first is what costs most for the pages on it. The price that is saved counts
for as long as the room that is left will last, as for a closing; loading the new ones
is paid for as well. Where devices are all alike there is nothing to exchange.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.volume import Volume

LOOKED_AT = 8  # emptiest instances of each kind
TRIPS = 2  # what moves to other devices will move back one day
MOST = 8  # devices that are emptied, or opened


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swap:
    """These instances would be emptied into so many new ones."""

    own: KindBooks  # of the new ones
    count: int
    leaving: tuple[InstanceAccount, ...]
    gain_pages: float  # that could move for the money saved, less those that do


class Exchange:
    """It looks once an epoch."""

    def __init__(self, *, volume: Volume, budget: Budget) -> None:
        self._volume = volume
        self._budget = budget

    def swap(self, draft: Draft, model: ModelId) -> bool:
        """Opens devices and moves to them, if that pays; tells whether it did."""
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
        leaving: list[InstanceAccount] = []
        for instance in self._candidates(ledger, model, own):
            leaving.append(instance)
            count = _count_needed(ledger, model, own, leaving)
            if count is None:
                return
            gain = self._gain(ledger, model, own, count, leaving)
            gain -= TRIPS * sum(instance.pages for instance in leaving)
            if gain > 0:
                kept = tuple(leaving)
                yield _Swap(own=own, count=count, leaving=kept, gain_pages=gain)

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
        settled.sort(key=lambda i: (-i.books.work_price / i.pages, i.serial))
        return settled[:MOST]

    def _gain(
        self,
        ledger: Ledger,
        model: ModelId,
        own: KindBooks,
        count: int,
        leaving: list[InstanceAccount],
    ) -> float:
        """Returns the pages that may move for the money that is saved."""
        less = [instance.books for instance in leaving]
        paid = count * own.worth_pages
        saved = sum(books.worth_pages for books in less) - paid
        margin = self._volume.margin(ledger, model, less=less)
        margin += count * own.spec.capacity_pages
        lasts_s = self._volume.lasts_s(model, margin=margin)
        if saved <= 0 or lasts_s == 0:
            return 0.0
        gained = self._volume.pages_of(seconds=lasts_s, worth_pages=saved)
        return gained - self._volume.pages_of(seconds=own.spec.load_s, worth_pages=paid)

    def _carry_out(self, draft: Draft, model: ModelId, swap: _Swap) -> bool:
        """Moves as many of the instances as links can carry in this epoch.

        The rest is worth closing by itself once there is room for it.
        """
        for number in range(len(swap.leaving), 0, -1):
            mark = draft.savepoint()
            left = swap.leaving[:number]
            requests = [r for instance in left for r in instance.requests.values()]
            requests.sort(key=lambda request: (-request.pages, request.serial))
            fits = _fill(draft, model, swap, requests)
            if fits and self._budget.take(draft):
                return True
            draft.rollback(mark)
            if not fits:
                return False  # by volume it did
        return False


def _count_needed(
    ledger: Ledger, model: ModelId, own: KindBooks, leaving: list[InstanceAccount]
) -> int | None:
    """Returns how many devices of a kind hold what leaves, by volume and growth."""
    pages = sum(instance.pages for instance in leaving)
    rows = sum(instance.rows for instance in leaving)
    for count in range(1, MOST + 1):
        each = -(-rows // count)
        free = own.spec.capacity(each) - ledger.growth_of(model, own, rows=each)
        if pages <= count * free:
            return count
    return None


def _fill(
    draft: Draft, model: ModelId, swap: _Swap, requests: list[RequestAccount]
) -> bool:
    """Opens what is needed and shifts requests there; tells whether all of them fit."""
    opened: list[InstanceAccount] = []
    for request in requests:
        roomy = (i for i in opened if i.projected >= request.pages)
        target = next(roomy, None)
        if target is None and len(opened) < swap.count:
            target = draft.activate(model, peak=request.most_pages, kind=swap.own.kind)
            opened += [target] if target is not None else []
        if target is None:
            return False
        draft.shift(request, target.device)
    return True
