"""Consolidate: few instances, few and cheap moves. The default policy.

    arrive     the fullest instance with room for the request and everybody's growth;
               else one with room for a moment; else it waits a little; else one that a
               cheap move makes room on; else one that is loading; else a new one
    overflow   the cheapest move that is enough for a while, to such an instance or to
               a new one; the dearer moves are, the longer the while
    leave      empty one of the emptiest instances if that is worth what it moves

Everything has one price: `move_price_s` seconds of a device are worth moving as many
pages as it holds (`volume`). Dear moves keep more instances open, and more room free on
each for growth, so that fewer requests have to move. Instances are filed under their
projected room: what is free once their rows have grown for `look_s` seconds, or until
one of them ends. Closings (`closing`) keep within a budget of link bytes and prefill
tokens; the guard keeps the count under 4/3 of the lower bound plus a constant.

Where devices are of several kinds it is their price that counts: what is opened
(`opening`), what is closed first, and what is worth emptying into a cheaper device
(`exchange`). The 4/3 are of devices that are all alike. With a reserve, room is kept
for what a lost device held (`reserve`).
"""

import math
from collections.abc import Callable
from itertools import islice

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import guard
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.closing import Closing
from mell_jax.scheduler.policies.exchange import Exchange
from mell_jax.scheduler.policies.opening import Opening
from mell_jax.scheduler.policies.relocate import Relocation
from mell_jax.scheduler.policies.reserve import Reserve
from mell_jax.scheduler.policies.volume import Volume

LOOK_S = 1.2  # of a large fleet, if a move is worth 1 s
SMALL = 60  # instances: below, the last one's free room serves as a reserve anyway
LOOK_STEP = 1.25  # by which the look-ahead has to be wrong before all are filed anew
TIGHT_S = 0.5  # growth that must have room before an instance is opened instead
TIGHT_WIDTH = 16  # emptiest instances looked at for that
RELIEF = 1.25  # of the look-ahead: growth that one overflow move makes room for
ARRIVAL_DEPTH = 1  # requests moved out of the way of an arrival
ARRIVAL_BUDGET = 1  # most pages moved for it, times its own


class Consolidate:
    """See the module's docstring."""

    def __init__(self, config: PolicyConfig) -> None:
        self._price_s = config.move_price_s
        self._fixed_look_s = config.look_s
        self._look_s = self._best_look_s(0) if config.look_s is None else config.look_s
        self._headroom = config.headroom
        self._place_wait_s = config.place_wait_s
        self._budget = Budget(config)
        self._reserve = Reserve(count=config.reserve)
        self._volume = Volume(price_s=config.move_price_s, reserve=self._reserve)
        self._opening = Opening(self._volume)
        self._exchange = Exchange(volume=self._volume, budget=self._budget)
        self._closing = Closing(
            volume=self._volume,
            budget=self._budget,
            epoch_s=config.epoch_s,
            reserve=self._reserve,
        )
        self._promised: dict[RequestId, DeviceGroupId] = {}
        self._newest: dict[ModelId, int] = {}  # serials of arrivals that are noted

    @property
    def look_s(self) -> float:
        """Seconds of growth that instances keep room for.

        Room on n instances costs as n * look_s, the moves that it spares as 1 / look_s,
        so the best look-ahead grows with the square root of the price of a move. In a
        small fleet half an instance is free on average: that room costs nothing.
        """
        return self._look_s

    def _best_look_s(self, instances: int) -> float:
        share = 1 + SMALL / max(1, instances)
        return LOOK_S * math.sqrt(self._price_s * share)

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        ledger = draft.ledger
        self._note_arrival(ledger, request)
        device = self._cached(ledger, request)
        if device is None and request.is_again:
            device = self._reserve.find(ledger, request)
        if device is None:
            device = ledger.best_fit(
                request.model,
                request.pages,
                peak=request.most_pages,
                reserve=self._headroom_of(request),
            )
        if device is None and not self._is_promised(ledger, request):
            device = self._tight(ledger, request, reserve=self._headroom_of(request))
            if device is None:
                device = self._find_more(draft, request)
        if device is not None:
            draft.shift(request, device)
            hit = ledger.cached_pages(request.id, device)
            self._closing.note_hit(ledger, device, pages=hit)
        self._reserve.fill(draft, request.model)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        while lack > 0 and instance.requests:
            freed = self._shed(draft, instance, lack)
            if freed == 0:
                break
            lack -= freed
        self._reserve.fill(draft, instance.model)

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        self._volume.note(draft.ledger, instance.model, pages=pages)
        self._closing.close(draft, instance.model)

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        ledger, model = draft.ledger, instance.model
        self._closing.note(ledger, model)
        if self._closing.is_long_spare(ledger, model):
            mark = draft.savepoint()
            is_short = draft.park(instance) and self._reserve.lacks(ledger, model)
            if is_short or not self._reserve.is_safe(ledger, model):
                draft.rollback(mark)

    def epoch(self, draft: Draft) -> None:
        self._promised.clear()
        self._budget.renew()
        self._closing.renew(draft.ledger)
        self._look_anew(len(draft.ledger.instances))
        for model in draft.ledger.models:
            if guard.is_exceeded(draft.ledger, model):
                guard.repack(draft, model)
            elif not self._closing.close(draft, model, is_epoch=True):
                self._exchange.swap(draft, model)
            self._reserve.fill(draft, model, is_epoch=True)

    def _look_anew(self, instances: int) -> None:
        if self._fixed_look_s is None:
            best_s = self._best_look_s(instances)
            if max(best_s, self._look_s) > LOOK_STEP * min(best_s, self._look_s):
                self._look_s = best_s

    # Arrivals.

    def _note_arrival(self, ledger: Ledger, request: RequestAccount) -> None:
        """Counts a request once, not again when it is offered or placed again."""
        if request.serial > self._newest.get(request.model, 0):
            self._newest[request.model] = request.serial
            self._volume.note(ledger, request.model, pages=request.pages)

    def _headroom_of(self, request: RequestAccount) -> Callable[[int], int] | None:
        """What an instance is to keep free beside a request, by its capacity."""
        if not self._headroom:
            return None
        return lambda whole: min(whole - request.pages, int(self._headroom * whole))

    def _cached(self, ledger: Ledger, request: RequestAccount) -> DeviceGroupId | None:
        """The instance with room that holds most of the request's prefix."""
        reserve = self._headroom_of(request)
        best, most = None, 0
        for device, pages in ledger.prefix.get(request.id, {}).items():
            instance = ledger.instances.get(device)
            if instance is None or instance.model != request.model:
                continue
            if request.most_pages > instance.books.limit:
                continue
            size = request.pages + _more(reserve, instance)
            if instance.projected >= size and pages > most:
                best, most = device, pages
        return best

    def _is_promised(self, ledger: Ledger, request: RequestAccount) -> bool:
        """Whether moves under way will make the room that was found before."""
        device = self._promised.get(request.id)
        instance = ledger.instances.get(device) if device is not None else None
        if instance is None or not instance.leaving_pages:
            return False
        return ledger.room(instance) + instance.leaving_pages >= request.pages

    def _tight(
        self,
        ledger: Ledger,
        request: RequestAccount,
        *,
        look_s: float = TIGHT_S,
        reserve: Callable[[int], int] | None = None,
    ) -> DeviceGroupId | None:
        """One of the emptiest instances with room for the request for a moment."""
        size, peak = ledger.wanted_pages(request), request.most_pages
        emptiest = ledger.emptiest_first(request.model, peak=peak)
        for device in islice(emptiest, TIGHT_WIDTH):
            instance = ledger.instances[device]
            grown = instance.spec.growth_pages_per_s * look_s
            need = size + int(grown * (instance.rows + 1)) + _more(reserve, instance)
            if device != request.device and ledger.fits(instance, need):
                return device
        return None

    def _find_more(self, draft: Draft, request: RequestAccount) -> DeviceGroupId | None:
        """Waits, makes room, or opens an instance: the first of these that is due."""
        ledger, model = draft.ledger, request.model
        until_s = request.queued_s + self._place_wait_s
        is_early = ledger.now_s < until_s
        if is_early and ledger.idle_devices and ledger.total_pages(model):
            draft.hold(request, until_s=until_s)
            return None
        if self._make_room(draft, request):
            return None
        device = self._loading(ledger, request)
        if device is not None:
            return device
        opened = self._open(draft, request)
        if opened is not None:
            return opened.device
        return self._tight(ledger, request, look_s=0.0)

    def _open(self, draft: Draft, request: RequestAccount) -> InstanceAccount | None:
        """Opens the kind of device that is best for a request, if one is idle."""
        kind = self._opening.choose(draft.ledger, request)
        return draft.activate(request.model, peak=request.most_pages, kind=kind)

    def _make_room(self, draft: Draft, request: RequestAccount) -> bool:
        """Has others moved out of the way if that is worth more than it moves."""
        ledger, model = draft.ledger, request.model
        kind = self._opening.choose(ledger, request)
        own = ledger.on_kind(model, kind) if kind is not None else None
        spared = own or ledger.kinds(model)[0]
        margin = self._volume.margin(ledger, model) - request.pages
        worth = self._volume.worth(spared, model, margin=margin)
        budget = int(min(worth, ARRIVAL_BUDGET * request.pages))
        if budget < 1:
            return False
        mark = draft.savepoint()
        found = Relocation(draft).find(
            request, depth=ARRIVAL_DEPTH, budget_pages=budget
        )
        if not (found and self._budget.take(draft)):
            draft.rollback(mark)
            return False
        assert request.device is not None
        self._promised[request.id] = request.device
        return True

    def _loading(self, ledger: Ledger, request: RequestAccount) -> DeviceGroupId | None:
        """An instance with room that is not ready yet: opening another is no faster."""
        load_s = ledger.spec(request.model).load_s
        if not load_s:
            return None
        emptiest = ledger.emptiest_first(request.model, peak=request.most_pages)
        for device in islice(emptiest, TIGHT_WIDTH):
            instance = ledger.instances[device]
            is_ready = ledger.now_s >= instance.opened_s + load_s
            if not is_ready and ledger.fits(instance, request.pages):
                return device
        return None

    # Overflow.

    def _shed(self, draft: Draft, instance: InstanceAccount, lack: int) -> int:
        """Shifts one request away; returns what that frees, 0 if nothing can go."""
        ledger = draft.ledger
        relief_s = max(TIGHT_S, RELIEF * self._look_s)
        enough = lack + ledger.growth_ahead(instance, seconds=relief_s)
        order = sorted(
            instance.requests.values(), key=lambda r: _shed_order(r, lack, enough)
        )
        for find in (self._roomy, self._tight):
            for request in order:
                size = ledger.wanted_pages(request)
                device = find(ledger, request)
                if device is not None:
                    draft.shift(request, device)
                    return size
        size = ledger.wanted_pages(order[0])
        opened = self._open(draft, order[0])
        device = opened.device if opened is not None else None
        if device is None:
            device = self._tight(ledger, order[0], look_s=0.0)
        if device is None:
            return 0
        draft.shift(order[0], device)
        return size

    def _roomy(self, ledger: Ledger, request: RequestAccount) -> DeviceGroupId | None:
        return ledger.best_fit(
            request.model,
            ledger.wanted_pages(request),
            skip=request.device,
            peak=request.most_pages,
        )


def _more(reserve: Callable[[int], int] | None, instance: InstanceAccount) -> int:
    return reserve(instance.spec.capacity_pages) if reserve is not None else 0


def _shed_order(
    request: RequestAccount, lack: int, enough: int
) -> tuple[int, int, int]:
    """The smallest that is enough for a while; then the largest that is enough now;
    then the largest of those that are not."""
    if request.pages >= enough:
        return (0, request.pages, request.serial)
    return (1 if request.pages >= lack else 2, -request.pages, request.serial)
