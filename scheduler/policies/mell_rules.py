"""The rules of MELL: allocate, depart, update; one object is one operation.

    allocate   T    L- or M-GPU with room > latest T-GPU > new GPU
               S/M  L-GPU without S/M (its T's make room) > latest S-/M-GPU > new GPU
               L    new GPU
    depart     what is left behind is completed: an L-GPU with an S or M, an M-GPU with
               two M, an S-GPU with three S, all but S-GPUs with T's up to 3/4
    update     an item whose class has changed departs and is allocated, if it has to
    overflow   what is beside an L goes, smallest class first, else the smallest enough

What completes a GPU comes from the latest (most recently activated) GPU of its kind, so
that only one of each kind is incomplete. An operation stops before it would exceed its
cap of moves; a bundle is one move. Rules that the paper lacks: overflow inside a class,
T's on M-GPUs, only what is in the way is evicted, a T keeps `look_s` of growth free.
The paper: Liu et al., "Mell", INFOCOM 2025, arXiv 2501.06709.
"""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell_items import Item, Size, items_of, single, size_of
from mell_jax.scheduler.policies.mell_kinds import Kinds, Shape
from mell_jax.scheduler.policies.parking import Parking
from mell_jax.scheduler.policies.relief import cover

FULL = 0.75  # a GPU that T's have filled
SHED_BESIDE_L = (Size.SMALL, Size.T, Size.S, Size.M)
PER_GPU = {Size.S: 3, Size.M: 2}


class Operation:
    """One arrival, departure, change of class or overflow, on the books of a draft."""

    def __init__(
        self,
        draft: Draft,
        *,
        kinds: Kinds,
        parking: Parking,
        config: PolicyConfig,
        may_evict: bool,
    ) -> None:
        self.moves = 0  # of items that had a place
        self.request_moves = 0
        self.shed: list[Item] = []  # by an overflow
        self.is_cut_short = False
        self._draft = draft
        self._ledger = draft.ledger
        self._kinds = kinds
        self._parking = parking
        self._config = config
        self._may_evict = may_evict  # T's from where an S or M is to go
        kinds.follow(draft.ledger)

    # Allocate.

    def place(self, request: RequestAccount) -> None:
        """Gives an arrival a place at once: nothing makes room for it yet."""
        item = single(self._ledger, request)
        target = self._find(item, home=None)
        target = target or self._open(request.model)
        if target is None:
            reserved = self._ledger.best_fit(request.model, item.pages)
            target = self._ledger.instances[reserved] if reserved is not None else None
        if target is not None:
            self._put(item, target)

    def allocate(
        self, item: Item, *, home: InstanceAccount, may_open: bool = True
    ) -> bool:
        """Moves an item from `home` to where it belongs; whether it could."""
        target = self._find(item, home=home)
        if target is None and may_open and self._has_left(1):
            target = self._open(home.model)
        return target is not None and self._move(item, target)

    def _move(self, item: Item, target: InstanceAccount) -> bool:
        """Makes room and moves; whether there are moves and room enough."""
        if not self._has_left(1):
            return False
        for other in self._in_the_way(target, item.pages):
            self.allocate(other, home=target)
        if not self._ledger.fits(target, item.pages):
            return False
        self._put(item, target)
        return True

    def _find(
        self, item: Item, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        """The GPU in use that an item belongs on."""
        if item.size is Size.L:
            return None
        if item.size in PER_GPU:
            beside = self._find_single(item, home=home)
            return beside or self._find_latest(item, home=home)
        joined = self._find_for_small(item, home=home)
        return joined or self._find_for_t(item, home=home)

    def _find_for_small(
        self, item: Item, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        """Best fit among GPUs with an open bundle."""
        if item.size is not Size.SMALL:
            return None
        request = item.requests[0]
        pages = item.pages + self._reserve(request)
        for device in self._kinds.open_bundles(request.model, pages):
            if home is None or device != home.device:
                return self._ledger.instances[device]
        return None

    def _find_for_t(
        self, item: Item, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        model = item.requests[0].model
        pages = item.pages + self._reserve(item.requests[0])
        roomy = [
            self._ledger.instances[device]
            for device in self._kinds.roomy(model)
            if home is None or device != home.device
        ]
        fitting = [i for i in roomy if pages <= i.projected]
        if fitting:
            return max(fitting, key=lambda i: self._priority(i, home))
        latest = self._latest(model, Size.T, home=home)
        return latest if latest is not None and pages <= latest.projected else None

    def _find_single(
        self, item: Item, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        """An L-GPU without S or M for an S or M."""
        singles = [
            self._ledger.instances[device]
            for device in self._kinds.singles(item.requests[0].model)
            if home is None or device != home.device
        ]
        fitting = [i for i in singles if self._can_take(i, item)]
        return max(fitting, key=lambda i: self._priority(i, home), default=None)

    def _find_latest(
        self, item: Item, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        """The latest GPU of an S's or M's kind, if it is incomplete."""
        latest = self._latest(item.requests[0].model, item.size, home=home)
        if latest is None or not self._can_take(latest, item):
            return None
        is_incomplete = _partners(self._shape(latest), item.size) < PER_GPU[item.size]
        return latest if is_incomplete else None

    def _can_take(self, instance: InstanceAccount, item: Item) -> bool:
        """Whether an S or M fits, its T's gone if need be and the cap allows."""
        if self._ledger.fits(instance, item.pages):
            return True
        if not self._may_evict or item.pages > self._shape(instance).room_over_t:
            return False
        return self._has_left(1 + len(self._in_the_way(instance, item.pages)))

    def _in_the_way(self, instance: InstanceAccount, pages: int) -> list[Item]:
        """The T's that have to go for `pages`."""
        lack = pages - self._ledger.room(instance)
        if lack <= 0:
            return []
        light = [i for i in items_of(self._ledger, instance) if i.size <= Size.T]
        return cover(light, lack)

    # Depart.

    def depart(self, device: DeviceGroupId, size: Size) -> None:
        """Repairs the GPU that an item of `size` has left."""
        instance = self._ledger.instances.get(device)
        if instance is None or self._kinds.shape(device) is None:
            return
        if size is Size.L:
            self._scatter(instance)
        elif size in PER_GPU:
            self._abandon(instance)
        self.complete(instance, least=int(size is Size.T))

    def complete(self, instance: InstanceAccount, *, least: int = 0) -> None:
        """Restores what the kind of a GPU promises; pulls at least `least` T's.

        If that made it the latest of its kind, then the one before is completed too.
        """
        self._complete(instance, least=least)
        kind = self._shape(instance).kind
        if kind < Size.L and self._latest(instance.model, kind, home=None) is instance:
            before = self._latest(instance.model, kind, home=instance)
            if before is not None:
                self._complete(before, least=0)

    def _complete(self, instance: InstanceAccount, *, least: int) -> None:
        kind = self._shape(instance).kind
        if kind is Size.L and self._shape(instance).is_single:
            self._pull_partner(instance)
        elif kind in PER_GPU:
            while _partners(self._shape(instance), kind) < PER_GPU[kind]:
                if not self._pull_same(instance, kind):
                    break
        if kind in (Size.L, Size.M, Size.T):
            self._fill(instance, least=least)

    def _scatter(self, instance: InstanceAccount) -> None:
        """Re-allocates all of a GPU that goes elsewhere without a new GPU."""
        items = items_of(self._ledger, instance)
        for item in sorted(items, key=lambda item: -item.pages):
            self.allocate(item, home=instance, may_open=False)

    def _pull_same(self, instance: InstanceAccount, kind: Size) -> bool:
        """Pulls an S or M from the latest GPU of that kind; whether it could."""
        source = self._latest(instance.model, kind, home=None)
        if source is None or source is instance:
            return False
        for item in items_of(self._ledger, source):
            if item.size is kind and self._can_take(instance, item):
                is_moved = self._move(item, instance)
                self._abandon(source)
                return is_moved
        return False

    def _pull_partner(self, instance: InstanceAccount) -> None:
        """Pulls an S or M that fits beside an L: from a latest GPU if one has it.

        The last one looked at has the smallest S or M of all.
        """
        model = instance.model
        latest = [self._kinds.latest(model, kind) for kind in (Size.M, Size.S)]
        for device in [*latest, next(self._kinds.partners(model), None)]:
            source = self._ledger.instances.get(device) if device is not None else None
            items = items_of(self._ledger, source) if source is not None else []
            fitting = [
                item
                for item in items
                if item.size in PER_GPU and self._can_take(instance, item)
            ]
            if source is not None and fitting:
                self._move(max(fitting, key=lambda item: item.pages), instance)
                self._abandon(source)
                self.complete(source)
                return

    def _abandon(self, source: InstanceAccount) -> None:
        """Re-allocates the T's of a GPU that has no S or M any more."""
        if self._shape(source).kind is Size.T:
            self._scatter(source)

    def _fill(self, instance: InstanceAccount, *, least: int) -> None:
        """Pulls T's from the latest T-GPU up to three quarters, and `least` of them."""
        ledger = self._ledger
        full = FULL * ledger.spec(instance.model).capacity_pages
        while instance.pages < full or least > 0:
            device = self._kinds.latest(instance.model, Size.T)
            if device is None or device == instance.device or not self._has_left(1):
                return
            room = instance.projected
            source = ledger.instances[device]
            items = [i for i in items_of(ledger, source) if i.pages <= room]
            if not items:
                return
            self._put(max(items, key=lambda item: item.pages), instance)
            least -= 1

    # Update.

    def update(self, request: RequestAccount) -> None:
        """Deals with a request whose class has changed."""
        home = self._home(request)
        if home is None:
            return
        item, shape = single(self._ledger, request), self._shape(home)
        if item.size is Size.L:
            self.complete(home)
        elif item.size in PER_GPU and shape.kind is not Size.L:
            is_at_home = shape.kind is item.size and _partners(shape, item.size) > 1
            if not is_at_home and self.allocate(item, home=home):
                self._abandon(home)
                self.complete(home)

    def settle(self, request: RequestAccount) -> None:
        """Does for an arrival of the epoch what needs moves."""
        home = self._home(request)
        if home is None:
            return
        item, shape = single(self._ledger, request), self._shape(home)
        if item.size is Size.L:
            self.complete(home)
        elif item.size in PER_GPU and shape.kind is item.size:
            target = self._find_single(item, home=home)
            if target is None and _partners(shape, item.size) == 1:
                target = self._find_latest(item, home=home)
            if target is not None and self._move(item, target):
                self._abandon(home)
                self.complete(home)

    # Overflow.

    def relieve(self, instance: InstanceAccount, lack: int) -> None:
        """Sheds what is beside an L, smallest class first; else the smallest enough."""
        requests = list(instance.requests.values())
        rounds = [requests]
        shape = self._kinds.shape(instance.device)  # None while it is given back
        if shape is not None and shape.kind is Size.L:
            capacity = self._ledger.spec(instance.model).capacity_pages
            rounds = [
                [r for r in requests if size_of(r.pages, capacity=capacity) is size]
                for size in SHED_BESIDE_L
            ]
        for candidates in rounds:
            for request in cover(candidates, lack):
                item = single(self._ledger, request)
                if self.allocate(item, home=instance):
                    lack -= item.pages
                    self.shed.append(item)

    # Books.

    def _has_left(self, moves: int) -> bool:
        """Whether the operation may make so many more moves."""
        if self.moves + moves <= self._config.move_cap:
            return True
        self.is_cut_short = True
        return False

    def _put(self, item: Item, target: InstanceAccount) -> None:
        if item.requests[0].device is not None:
            self.moves += 1
            self.request_moves += len(item.requests)
        for request in item.requests:
            self._draft.shift(request, target.device)

    def _open(self, model: ModelId) -> InstanceAccount | None:
        opened = self._parking.latest(self._draft, model)
        return opened or self._draft.activate(model)

    def _reserve(self, request: RequestAccount) -> int:
        spec = self._ledger.spec(request.model)
        return int(self._config.headroom * spec.capacity_pages)

    def _home(self, request: RequestAccount) -> InstanceAccount | None:
        """Finds where a request lives, if it is free to leave."""
        if request.device is None or request.move is not None:
            return None
        if self._kinds.shape(request.device) is None:
            return None
        return self._ledger.instances[request.device]

    def _shape(self, instance: InstanceAccount) -> Shape:
        shape = self._kinds.shape(instance.device)
        assert shape is not None, f"instance {instance.device} may not be used"
        return shape

    def _latest(
        self, model: ModelId, kind: Size, *, home: InstanceAccount | None
    ) -> InstanceAccount | None:
        """The latest GPU of a kind that is not `home`."""
        for device in self._kinds.latest_first(model, kind):
            if home is None or device != home.device:
                return self._ledger.instances[device]
        return None

    def _priority(
        self, instance: InstanceAccount, home: InstanceAccount | None
    ) -> tuple[float, int]:
        """Idle memory and nearness weigh up; then fewer requests are better."""
        config = self._config
        spec = self._ledger.spec(instance.model)
        idle = self._ledger.room(instance) / spec.capacity_pages
        hosts = config.devices_per_host
        is_near = home is not None and instance.device // hosts == home.device // hosts
        return config.load_weight * idle + config.near_weight * is_near, -instance.rows


def _partners(shape: Shape, size: Size) -> int:
    return shape.small if size is Size.S else shape.medium
