"""Empties one of the emptiest instances when that is worth what it moves.

    something leaves  ->  is there a margin?  ->  is the emptiest cheap enough?
                              O(1)                    O(1)
                      ->  does everything on it fit elsewhere?     a search

Its pages fit elsewhere directly, or by moving others out of the way, or by an exact
packing of the emptiest few. To the price of a closing belong the pages that move and
those of cached prefixes that are lost. An instance that takes long to load is closed
only once there was one too many for as long. Where devices are of several kinds the
emptiest of each are looked at, and those come first that save most.
"""

import math
from collections.abc import Mapping
from itertools import islice

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.exact import PackItem, close_one
from mell_jax.scheduler.policies.parking import loads_at_once
from mell_jax.scheduler.policies.relocate import Relocation
from mell_jax.scheduler.policies.reserve import NO_RESERVE, Reserve
from mell_jax.scheduler.policies.volume import Volume

DEPTH = 1  # requests moved out of the way of each that leaves
CANDIDATES = 2  # emptiest instances that are searched
LOOKED_AT = 8  # emptiest instances among which they are found
GAP_S = 0.02  # between two searches: what they cost does not grow with the fleet
RETRY_PAGES = 0.01  # of an instance, that must leave before a search in vain is retried
EXACT_BINS = (4, 6, 8)  # emptiest instances packed exactly, at epochs
EXACT_MAX_ROWS = 5  # per instance: beyond, best fit is as good
CACHE_MEMORY_S = 60.0  # for which a hit makes an instance's prefixes worth keeping


class Closing:
    """The closings of all models."""

    def __init__(
        self,
        *,
        volume: Volume,
        budget: Budget,
        epoch_s: float,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._volume = volume
        self._reserve = reserve
        self._budget = budget
        self._epoch_s = epoch_s
        self._spare_s: dict[ModelId, float] = {}  # since when one is one too many
        self._draining: dict[ModelId, set[DeviceGroupId]] = {}
        self._searched_s: dict[ModelId, float] = {}
        self._failed_pages: dict[ModelId, int] = {}  # total at a search in vain
        self._hits: dict[DeviceGroupId, tuple[float, float]] = {}  # pages, at

    def note_hit(self, ledger: Ledger, device: DeviceGroupId, *, pages: int) -> None:
        """A request has found so many pages of its prefix on an instance."""
        if pages:
            lost = self._cached_pages(ledger, device) + pages
            self._hits[device] = (lost, ledger.now_s)

    def is_long_spare(self, ledger: Ledger, model: ModelId) -> bool:
        """Tells whether one was too many for as long as loading one takes."""
        load_s = ledger.spec(model).load_s
        if loads_at_once(load_s, epoch_s=self._epoch_s):
            return True
        return ledger.now_s - self._spare_s.get(model, ledger.now_s) >= load_s

    def note(self, ledger: Ledger, model: ModelId) -> float:
        """Notes since when there is a margin without one instance; returns it."""
        margin = max(self._margin(ledger, model, own) for own in ledger.kinds(model))
        if margin > 0:
            self._spare_s.setdefault(model, ledger.now_s)
        else:
            self._spare_s.pop(model, None)
        return margin

    def _margin(self, ledger: Ledger, model: ModelId, own: KindBooks) -> float:
        """Returns the margin without one more instance of a kind."""
        if ledger.total_pages(model) == 0:
            return math.inf  # nobody needs any
        draining = self._find_draining(ledger, model)
        return self._volume.margin(ledger, model, less=[own, *draining])

    def renew(self, ledger: Ledger) -> None:
        """An epoch ends: what failed before may be tried again."""
        self._failed_pages.clear()
        self._hits = {d: hit for d, hit in self._hits.items() if d in ledger.instances}

    def close(self, draft: Draft, model: ModelId, *, is_epoch: bool = False) -> bool:
        """Parks the empty instances or empties one; tells whether that pays."""
        ledger = draft.ledger
        margin = self.note(ledger, model)
        if margin <= 0 or not self.is_long_spare(ledger, model):
            return False
        may_search = is_epoch or self._may_search(ledger, model)
        if not (may_search or self._has_empty(ledger, model)):
            return False
        instances = self._emptiest(ledger, model)
        empty = [instance for instance in instances if instance.rows == 0]
        if empty:
            return self._park(draft, empty)
        instances = [i for i in instances if not i.arriving and not i.leaving_pages]
        kinds = ledger.kinds(model)
        worths = {own.kind: self._worth(ledger, model, own) for own in kinds}
        if len(worths) > 1:
            instances.sort(key=lambda i: self._price(ledger, i) - worths[i.kind])
        cheap = [i for i in instances if self._price(ledger, i) <= worths[i.kind]]
        if cheap and may_search:
            return self._search(draft, instances, cheap, worths, is_epoch=is_epoch)
        return False

    def _has_empty(self, ledger: Ledger, model: ModelId) -> bool:
        """Tells whether an instance holds nothing: then no other has more room."""
        devices = (own.index.worst() for own in ledger.kinds(model))
        return any(d is not None and not ledger.instances[d].rows for d in devices)

    def _emptiest(self, ledger: Ledger, model: ModelId) -> list[InstanceAccount]:
        """Returns a few instances of each kind, the emptiest first."""
        return [
            ledger.instances[device]
            for own in ledger.kinds(model)
            for device in islice(own.index.descending(), LOOKED_AT)
        ]

    def _park(self, draft: Draft, empty: list[InstanceAccount]) -> bool:
        """Parks what is empty, the dearest first, as long as there is a margin."""
        ledger = draft.ledger
        is_parked = False
        for instance in sorted(empty, key=lambda i: -i.books.price_per_hour):
            self.note(ledger, instance.model)
            has_margin = self._margin(ledger, instance.model, instance.books) > 0
            if has_margin and self._can_do_without(ledger, instance):
                is_parked |= draft.park(instance)
        return is_parked

    def _can_do_without(self, ledger: Ledger, instance: InstanceAccount) -> bool:
        """Tells whether what is lost would still fit elsewhere."""
        return self._reserve.is_safe(ledger, instance.model, without=instance)

    def _worth(self, ledger: Ledger, model: ModelId, own: KindBooks) -> float:
        """Returns the pages that may move so that an instance of a kind is closed."""
        margin = self._margin(ledger, model, own)
        return self._volume.worth(own, model, margin=margin)

    def _may_search(self, ledger: Ledger, model: ModelId) -> bool:
        if ledger.now_s - self._searched_s.get(model, -math.inf) < GAP_S:
            return False
        failed = self._failed_pages.get(model, math.inf)
        step = RETRY_PAGES * ledger.kinds(model)[0].spec.capacity_pages
        return ledger.total_pages(model) <= failed - step

    def _search(
        self,
        draft: Draft,
        instances: list[InstanceAccount],
        cheap: list[InstanceAccount],
        worths: Mapping[KindId, float],
        *,
        is_epoch: bool,
    ) -> bool:
        ledger, model = draft.ledger, cheap[0].model
        self._searched_s[model] = ledger.now_s
        for instance in cheap[:CANDIDATES]:
            if self._drain(draft, instance, worths[instance.kind]):
                return True
        for count in EXACT_BINS if is_epoch else ():
            if count <= len(instances) and self._pack(draft, instances[:count], worths):
                return True
        self._failed_pages[model] = ledger.total_pages(model)
        return False

    def _drain(self, draft: Draft, instance: InstanceAccount, worth: float) -> bool:
        """Shifts everything off an instance, or nothing."""
        mark = draft.savepoint()
        skip = frozenset([instance.device])
        requests = sorted(instance.requests.values(), key=lambda r: -r.pages)
        search = Relocation(draft)
        for request in requests:
            found = search.find(
                request, skip=skip, depth=DEPTH, budget_pages=request.pages
            )
            if not found:
                draft.rollback(mark)
                return False
        return self._keep(draft, mark, instance, worth)

    def _pack(
        self,
        draft: Draft,
        instances: list[InstanceAccount],
        worths: Mapping[KindId, float],
    ) -> bool:
        """Packs some instances into one less, exactly, or does nothing."""
        requests = [r for i in instances for r in i.requests.values()]
        if len(requests) > EXACT_MAX_ROWS * len(instances):
            return False
        limit = min(instance.books.limit for instance in instances)
        if any(request.most_pages > limit for request in requests):
            return False  # not every bin may hold every request
        rooms = [max(0, i.projected) + i.pages for i in instances]
        at = {instance.device: n for n, instance in enumerate(instances)}
        items = [
            PackItem(size=r.pages, home=at[r.device])
            for r in requests
            if r.device is not None
        ]
        closing = min(range(len(instances)), key=lambda n: (instances[n].pages, n))
        worth = worths[instances[closing].kind]
        most = min(worth, instances[closing].spec.capacity_pages)
        bins = close_one(items, rooms=rooms, closing=closing, max_cost=int(most))
        if bins is None:
            return False
        mark = draft.savepoint()
        for request, to in zip(requests, bins, strict=True):
            draft.shift(request, instances[to].device)
        return self._keep(draft, mark, instances[closing], worth)

    def _keep(
        self, draft: Draft, mark: int, instance: InstanceAccount, worth: float
    ) -> bool:
        """Keeps what was drafted if it is worth its price and within the budget."""
        price = self._cached_pages(draft.ledger, instance.device)
        price += sum(request.pages for request, _, _ in draft.moves())
        is_paid = price <= worth and self._can_do_without(draft.ledger, instance)
        if not (is_paid and self._budget.take(draft)):
            draft.rollback(mark)
            return False
        self._draining.setdefault(instance.model, set()).add(instance.device)
        return True

    def _price(self, ledger: Ledger, instance: InstanceAccount) -> float:
        """Returns the least that closing an instance costs, in pages."""
        return instance.pages + self._cached_pages(ledger, instance.device)

    def _cached_pages(self, ledger: Ledger, device: DeviceGroupId) -> float:
        """Returns the pages of prefixes that were found there lately, decayed."""
        pages, at_s = self._hits.get(device, (0.0, 0.0))
        return pages * math.exp(-(ledger.now_s - at_s) / CACHE_MEMORY_S)

    def _find_draining(self, ledger: Ledger, model: ModelId) -> list[KindBooks]:
        """Returns the books of each instance that only waits for its moves to end."""
        draining = self._draining.get(model)
        if not draining:
            return []
        found = []
        for device in sorted(draining):
            instance = ledger.instances.get(device)
            if (
                instance is None
                or not instance.leaving_pages
                or instance.requests
                or instance.arriving
            ):
                draining.discard(device)
            else:
                found.append(instance.books)
        return found
