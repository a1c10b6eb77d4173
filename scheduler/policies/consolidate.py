"""Consolidate: few instances, few and cheap moves. The default policy.

    arrive     the fullest instance with room for the request and everybody's growth;
               else one with room for a moment; else one that a cheap move makes room
               on; else a new one
    overflow   the cheapest move that is enough, to such an instance or to a new one
    epoch      empty one of the emptiest instances if everything on it fits elsewhere,
               directly, by moving others out of the way, or by an exact packing

Instances are filed under their projected room: what is free once their rows have grown
for `look_s` seconds, or until one of them ends. Consolidation keeps within a budget of
link bytes and prefill tokens; an instance that takes long to load is closed only once
there was one too many for as long; the guard keeps the count under 4/3 of the lower
bound plus a constant.
"""

from itertools import islice

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import InstanceAccount, Ledger, RequestAccount
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies import guard
from mell_jax.scheduler.policies.budget import Budget
from mell_jax.scheduler.policies.exact import PackItem, close_one
from mell_jax.scheduler.policies.parking import loads_at_once
from mell_jax.scheduler.policies.relocate import Relocation

LOOK_S = 5.0
TIGHT_S = 0.5  # growth that must have room before an instance is opened instead
TIGHT_WIDTH = 16  # emptiest instances looked at for that
RELIEF_S = 1.5  # growth that one overflow move makes room for, if it can
ARRIVAL_DEPTH = 1  # requests moved out of the way of an arrival
ARRIVAL_BUDGET = 1  # pages moved for it, times its own
DRAIN_DEPTH = 1
DRAIN_CANDIDATES = 2  # emptiest instances tried in an epoch
CLOSE_S = 4.0  # growth of everybody that must have room after closing an instance
CLOSE_ARRIVALS = 0.5  # and of so many new requests
EXACT_BINS = (4, 6, 8)  # emptiest instances packed exactly
EXACT_COST = 1.0  # most pages that an exact packing moves, of an instance
EXACT_MAX_ROWS = 5  # per instance: beyond, best fit is as good


class Consolidate:
    """See the module's docstring."""

    def __init__(self, config: PolicyConfig) -> None:
        self._look_s = LOOK_S if config.look_s is None else config.look_s
        self._headroom = config.headroom
        self._epoch_s = config.epoch_s
        self._budget = Budget(config)
        self._promised: dict[RequestId, DeviceGroupId] = {}
        self._spare_s: dict[ModelId, float] = {}  # since when one is one too many

    @property
    def look_s(self) -> float:
        return self._look_s

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        ledger = draft.ledger
        size = self._with_headroom(ledger, request)
        device = self._cached(ledger, request, size)
        if device is None:
            device = ledger.best_fit(request.model, size)
        if device is None and not self._is_promised(ledger, request):
            device = self._tight(ledger, request, size)
            if device is None:
                self._make_room(draft, request)
        if device is not None:
            draft.shift(request, device)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        while lack > 0 and instance.requests:
            freed = self._shed(draft, instance, lack)
            if freed == 0:
                return
            lack -= freed

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        if self._is_long_spare(draft.ledger, instance.model):
            draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        self._promised.clear()
        self._budget.renew()
        for model in draft.ledger.models:
            self._note_spare(draft.ledger, model)
            if guard.is_exceeded(draft.ledger, model):
                guard.repack(draft, model)
            elif model in self._spare_s and self._is_long_spare(draft.ledger, model):
                self._close_one(draft, model)

    # Arrivals.

    def _with_headroom(self, ledger: Ledger, request: RequestAccount) -> int:
        whole = ledger.spec(request.model).capacity_pages
        return min(whole, request.pages + int(self._headroom * whole))

    def _cached(
        self, ledger: Ledger, request: RequestAccount, size: int
    ) -> DeviceGroupId | None:
        """The instance with room that holds most of the request's prefix."""
        best, most = None, 0
        for device, pages in ledger.prefix.get(request.id, {}).items():
            instance = ledger.instances.get(device)
            if instance is None or instance.model != request.model:
                continue
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
        size: int,
        look_s: float = TIGHT_S,
    ) -> DeviceGroupId | None:
        """One of the emptiest instances with room for the request for a moment."""
        grown = ledger.spec(request.model).growth_pages_per_s * look_s
        emptiest = ledger.emptiest_first(request.model)
        for device in islice(emptiest, TIGHT_WIDTH):
            instance = ledger.instances[device]
            reserve = int(grown * (instance.rows + 1))
            if device != request.device and ledger.fits(instance, size + reserve):
                return device
        return None

    def _make_room(self, draft: Draft, request: RequestAccount) -> None:
        mark = draft.savepoint()
        found = Relocation(draft).find(
            request,
            depth=ARRIVAL_DEPTH,
            budget_pages=ARRIVAL_BUDGET * request.pages,
        )
        if found and self._keep(draft, mark):
            assert request.device is not None
            self._promised[request.id] = request.device
            return
        opened = draft.activate(request.model)
        device = opened.device if opened is not None else None
        if device is None:
            device = self._tight(draft.ledger, request, request.pages, look_s=0.0)
        if device is not None:
            draft.shift(request, device)

    # Overflow.

    def _shed(self, draft: Draft, instance: InstanceAccount, lack: int) -> int:
        """Shifts one request away; returns what that frees, 0 if nothing can go."""
        ledger = draft.ledger
        growth = ledger.spec(instance.model).growth_pages_per_s * instance.rows
        enough = lack + int(RELIEF_S * growth)
        order = sorted(
            instance.requests.values(), key=lambda r: _shed_order(r, lack, enough)
        )
        for find in (self._roomy, self._tight):
            for request in order:
                size = ledger.wanted_pages(request)
                device = find(ledger, request, size)
                if device is not None:
                    draft.shift(request, device)
                    return size
        size = ledger.wanted_pages(order[0])
        opened = draft.activate(instance.model)
        device = opened.device if opened is not None else None
        if device is None:
            device = self._tight(ledger, order[0], size, look_s=0.0)
        if device is None:
            return 0
        draft.shift(order[0], device)
        return size

    def _roomy(
        self, ledger: Ledger, request: RequestAccount, size: int
    ) -> DeviceGroupId | None:
        return ledger.best_fit(request.model, size, skip=request.device)

    # Epochs.

    def _note_spare(self, ledger: Ledger, model: ModelId) -> None:
        if self._is_worth_closing(ledger, model):
            self._spare_s.setdefault(model, ledger.now_s)
        else:
            self._spare_s.pop(model, None)

    def _is_long_spare(self, ledger: Ledger, model: ModelId) -> bool:
        """Whether an instance was one too many for as long as loading one takes."""
        load_s = ledger.spec(model).load_s
        if loads_at_once(load_s, epoch_s=self._epoch_s):
            return True
        return ledger.now_s - self._spare_s.get(model, ledger.now_s) >= load_s

    def _is_worth_closing(self, ledger: Ledger, model: ModelId) -> bool:
        """Whether one instance less leaves room enough to stay shut for a while."""
        total = ledger.total_pages(model)
        if total == 0:
            return True
        spec = ledger.spec(model)
        others = len(ledger.of_model(model)) - 1
        free = others * spec.capacity_pages - total
        growth = ledger.expected_growth(model, seconds=CLOSE_S)
        return free > growth + CLOSE_ARRIVALS * ledger.mean_arrival(model)

    def _close_one(self, draft: Draft, model: ModelId) -> None:
        """Parks the empty ones, or empties one of the emptiest within the budget."""
        ledger = draft.ledger
        candidates = list(islice(ledger.emptiest_first(model), max(EXACT_BINS)))
        instances = [ledger.instances[device] for device in candidates]
        empty = [instance for instance in instances if instance.rows == 0]
        for instance in empty:
            if self._is_worth_closing(ledger, model):
                draft.park(instance)
        if empty:
            return
        instances = [i for i in instances if not i.arriving and not i.leaving_pages]
        for instance in instances[:DRAIN_CANDIDATES]:
            if self._drain(draft, instance):
                return
        for count in EXACT_BINS:
            if count <= len(instances) and self._pack(draft, instances[:count]):
                return

    def _drain(self, draft: Draft, instance: InstanceAccount) -> bool:
        """Shifts everything off an instance, or nothing."""
        mark = draft.savepoint()
        skip = frozenset([instance.device])
        requests = sorted(instance.requests.values(), key=lambda r: -r.pages)
        search = Relocation(draft)
        for request in requests:
            found = search.find(
                request, skip=skip, depth=DRAIN_DEPTH, budget_pages=request.pages
            )
            if not found:
                draft.rollback(mark)
                return False
        return self._keep(draft, mark)

    def _pack(self, draft: Draft, instances: list[InstanceAccount]) -> bool:
        """Packs some instances into one less, exactly, or does nothing."""
        ledger = draft.ledger
        requests = [r for i in instances for r in i.requests.values()]
        if len(requests) > EXACT_MAX_ROWS * len(instances):
            return False
        rooms = [max(0, i.projected) + i.pages for i in instances]
        at = {instance.device: n for n, instance in enumerate(instances)}
        items = [
            PackItem(size=r.pages, home=at[r.device])
            for r in requests
            if r.device is not None
        ]
        closing = min(range(len(instances)), key=lambda n: (instances[n].pages, n))
        cost = ledger.spec(instances[0].model).capacity_pages
        bins = close_one(
            items, rooms=rooms, closing=closing, max_cost=int(EXACT_COST * cost)
        )
        if bins is None:
            return False
        mark = draft.savepoint()
        for request, to in zip(requests, bins, strict=True):
            draft.shift(request, instances[to].device)
        return self._keep(draft, mark)

    def _keep(self, draft: Draft, mark: int) -> bool:
        """Keeps what was drafted if the budget allows it."""
        if self._budget.take(draft):
            return True
        draft.rollback(mark)
        return False


def _shed_order(
    request: RequestAccount, lack: int, enough: int
) -> tuple[int, int, int]:
    """The smallest that is enough for a while; then the largest that is enough now;
    then the largest of those that are not."""
    if request.pages >= enough:
        return (0, request.pages, request.serial)
    return (1 if request.pages >= lack else 2, -request.pages, request.serial)
