"""The ledger knows who holds which pages, and how much room every instance has.

    instance.pages = pages of the requests that live there
                   + pages of those that are leaving   (until their move commits)
                   + pages reserved for those arriving (likewise)

so a move in flight counts twice. `projected room` is what is left for one more request
once every row, that one included, has grown by the look-ahead; instances are indexed by
it. The ledger owns requests, instances, open moves and idle device groups; it decides
nothing. The machine changes it for good, a `Draft` for the time of planning.
"""

import dataclasses
import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.tenants import TenantAccount, TenantBooks

MEMORY = 500  # requests that learned means are about


class RequestAccount:
    """A live request has an owner, `device`, or waits (None)."""

    __slots__ = (
        "device",
        "first_pages",
        "held_until_s",
        "id",
        "model",
        "move",
        "pages",
        "peak_pages",
        "queued_s",
        "serial",
        "tenant",
    )

    def __init__(
        self,
        request: RequestId,
        *,
        serial: int,
        model: ModelId,
        pages: int,
        peak_pages: int | None,
        tenant: TenantAccount,
        queued_s: float = 0.0,
    ) -> None:
        self.id = request
        self.tenant = tenant
        self.serial = serial  # order of arrival
        self.model = model
        self.pages = pages
        self.first_pages = pages
        self.peak_pages = peak_pages
        self.queued_s = queued_s  # when it arrived, or was last preempted
        self.held_until_s = -math.inf  # a policy lets it wait, by its own choice
        self.device: DeviceGroupId | None = None
        self.move: MoveId | None = None  # set while a move is in flight


class InstanceAccount:
    """A device group serves a model here; policies read it only."""

    __slots__ = (
        "arriving",
        "device",
        "is_closing",
        "is_filed",
        "leaving_pages",
        "model",
        "opened_s",
        "pages",
        "projected",
        "requests",
        "rows",
        "serial",
        "stalled",
    )

    def __init__(
        self, device: DeviceGroupId, *, model: ModelId, serial: int, opened_s: float
    ) -> None:
        self.device = device
        self.model = model
        self.serial = serial  # counts activations: larger is more recent
        self.opened_s = opened_s  # at the tick before
        self.pages = 0  # lives here, leaving, or reserved
        self.rows = 0  # requests behind `pages`
        self.projected = 0  # room for one more after the look-ahead; may be negative
        self.is_filed = False  # in the index, under `projected`
        self.requests: dict[
            RequestId, RequestAccount
        ] = {}  # live here, not being moved
        self.leaving_pages = 0
        self.arriving: dict[RequestId, RequestAccount] = {}  # moves in flight to here
        self.stalled: dict[RequestId, int] = {}  # pages wanted in all, no room yet
        self.is_closing = False  # to be given back: takes nothing new


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A move in flight holds the pages of its request at both ends."""

    request: RequestAccount
    move: plan.Move

    @property
    def source(self) -> DeviceGroupId:
        return self.move.source

    @property
    def target(self) -> DeviceGroupId:
        return self.move.target


class _ModelBooks:
    """The instances of one model share these books."""

    __slots__ = (
        "arrived",
        "finished",
        "first_pages",
        "growth_pages",
        "index",
        "instances",
        "leaving_pages",
        "look_pages",
        "name",
        "pages",
        "rows",
        "spec",
    )

    def __init__(self, name: ModelId, spec: ModelSpec, look_pages: float) -> None:
        self.name = name
        self.spec = spec
        self.look_pages = look_pages
        self.index = FreeIndex(spec.capacity_pages, lowest=-spec.capacity_pages)
        self.instances: dict[DeviceGroupId, InstanceAccount] = {}
        self.pages = 0  # on all instances, twice for a move in flight
        self.leaving_pages = 0  # of moves in flight: the second copy
        self.rows = 0
        self.arrived = 0
        self.finished = 0
        self.first_pages = 0.0  # mean of a request at its arrival, learned
        self.growth_pages = 0.0  # mean growth of a request, learned from finished ones

    def charge_pages(self, rows: float, look_pages: float) -> int:
        """Returns the pages by which `rows` requests are expected to grow.

        It looks until one of them ends, or as far as the look-ahead. With ends at
        random that is G * (1 - exp(-rows * look / G)), G being a request's mean growth:
        an instance of many short requests needs little room to grow.
        """
        growth = rows * look_pages
        if growth == 0 or not self.finished:
            return int(growth)
        mean = self.growth_pages
        return int(mean * -math.expm1(-growth / mean)) if mean > 0 else 0


class Ledger:
    """A ledger holds all requests and instances; only machine and draft change it."""

    def __init__(self, models: Mapping[ModelId, ModelSpec], *, look_s: float) -> None:
        _check_look(look_s)
        self.now_s = 0.0
        self.look_s = look_s
        self.requests: dict[RequestId, RequestAccount] = {}
        self.instances: dict[DeviceGroupId, InstanceAccount] = {}
        self.moves: dict[MoveId, Reservation] = {}
        self.prefix: dict[RequestId, dict[DeviceGroupId, int]] = {}
        self.tenants = TenantBooks(models)
        self.changed: dict[DeviceGroupId, None] = {}  # since a policy last cleared it
        self._models = {
            name: _ModelBooks(name, spec, look_s * spec.growth_pages_per_s)
            for name, spec in models.items()
        }
        self._idle: set[DeviceGroupId] = set()
        self._idle_heap: list[DeviceGroupId] = []  # also ids that are not idle any more
        self._activations = 0

    # What policies ask.

    def spec(self, model: ModelId) -> ModelSpec:
        return self._models[model].spec

    @property
    def models(self) -> tuple[ModelId, ...]:
        return tuple(self._models)

    def of_model(self, model: ModelId) -> Mapping[DeviceGroupId, InstanceAccount]:
        """Returns the instances of `model` in order of activation; do not change it."""
        return self._models[model].instances

    def look_pages(self, model: ModelId) -> float:
        """Returns the growth that each row of `model` is charged, in pages."""
        return self._models[model].look_pages

    def room(self, instance: InstanceAccount) -> int:
        """Returns the pages that one more request could have there; may be negative."""
        spec = self._models[instance.model].spec
        return spec.capacity(instance.rows + 1) - instance.pages

    def slack(self, instance: InstanceAccount) -> int:
        """Returns the pages by which the requests already there could grow now."""
        spec = self._models[instance.model].spec
        return spec.capacity(instance.rows) - instance.pages

    def fits(self, instance: InstanceAccount, pages: int) -> bool:
        """Tells whether one more request of `pages` fits, in pages and in step time."""
        return not instance.is_closing and pages <= self.room(instance)

    def wanted_pages(self, request: RequestAccount) -> int:
        """Returns the pages that a move reserves: all it asked for, if paused."""
        if request.device is None:
            return request.pages
        return self.instances[request.device].stalled.get(request.id, request.pages)

    def best_fit(
        self, model: ModelId, pages: int, *, skip: DeviceGroupId | None = None
    ) -> DeviceGroupId | None:
        """Returns the instance with the least projected room >= `pages`."""
        return self._models[model].index.best(pages, skip=skip)

    def worst_fit(
        self, model: ModelId, *, skip: DeviceGroupId | None = None
    ) -> DeviceGroupId | None:
        """Returns the instance with the most projected room, which may be negative."""
        return self._models[model].index.worst(skip=skip)

    def fullest_first(self, model: ModelId, pages: int) -> Iterator[DeviceGroupId]:
        """Yields instances with projected room >= `pages`, least first.

        Stop it before anything changes.
        """
        return self._models[model].index.ascending(pages)

    def emptiest_first(self, model: ModelId) -> Iterator[DeviceGroupId]:
        """Yields instances by falling projected room; stop before a change."""
        return self._models[model].index.descending()

    def mean_arrival(self, model: ModelId) -> float:
        """Returns the mean pages of a new request."""
        return self._models[model].first_pages

    def expected_growth(self, model: ModelId, *, seconds: float) -> float:
        """Returns the pages that the instances of a model may need to grow for so long.

        Each is counted until one of its requests ends.
        """
        books = self._models[model]
        count = len(books.instances)
        if count == 0:
            return 0.0
        look_pages = seconds * books.spec.growth_pages_per_s
        return count * books.charge_pages(books.rows / count, look_pages)

    def growth_ahead(self, instance: InstanceAccount, *, seconds: float) -> int:
        """Returns the pages by which an instance may grow for so long.

        It is counted until one of its requests ends.
        """
        books = self._models[instance.model]
        look_pages = seconds * books.spec.growth_pages_per_s
        return books.charge_pages(instance.rows, look_pages)

    def total_pages(self, model: ModelId) -> int:
        """Returns the pages of a model's requests; a move in flight counts twice."""
        return self._models[model].pages

    def leaving_pages(self, model: ModelId) -> int:
        """Returns the pages of a model's moves in flight, counted once."""
        return self._models[model].leaving_pages

    @property
    def idle_devices(self) -> int:
        return len(self._idle)

    def cached_pages(self, request: RequestId, device: DeviceGroupId) -> int:
        """Returns the pages of its prefix that `device` held at its arrival."""
        return self.prefix.get(request, {}).get(device, 0)

    # What machine and draft change.

    def charge(self, instance: InstanceAccount, *, pages: int, rows: int) -> None:
        """Adds to what an instance holds and files it anew under its projected room."""
        instance.pages += pages
        instance.rows += rows
        books = self._models[instance.model]
        books.pages += pages
        books.rows += rows
        self.refile(instance)

    def leave(self, instance: InstanceAccount, *, pages: int) -> None:
        """Adds to the pages of an instance that moves in flight take away."""
        instance.leaving_pages += pages
        self._models[instance.model].leaving_pages += pages

    def refile(self, instance: InstanceAccount) -> None:
        """Files an instance under its projected room and notes that it has changed."""
        self.changed[instance.device] = None
        books = self._models[instance.model]
        spec = books.spec
        after = instance.rows + 1
        room = spec.capacity(after) - instance.pages
        room -= books.charge_pages(after, books.look_pages)
        room = max(room, -spec.capacity_pages)
        is_filed = not instance.is_closing
        if room != instance.projected or is_filed != instance.is_filed:
            if instance.is_filed:
                books.index.discard(instance.device, room=instance.projected)
            if is_filed:
                books.index.add(instance.device, room=room)
            instance.projected = room
            instance.is_filed = is_filed

    def settle(self, request: RequestAccount, device: DeviceGroupId | None) -> None:
        """Takes a request that is not being moved from where it is to `device`."""
        assert request.move is None, f"request {request.id} is being moved"
        if request.device is not None:
            source = self.instances[request.device]
            del source.requests[request.id]
            self.charge(source, pages=-request.pages, rows=-1)
            request.tenant.charge(pages=-request.pages, rows=-1)
        request.device = device
        if device is not None:
            target = self.instances[device]
            target.requests[request.id] = request
            self.charge(target, pages=request.pages, rows=1)
            request.tenant.charge(pages=request.pages, rows=1)

    def arrived(self, request: RequestAccount) -> None:
        """Files a new request and learns how large requests begin."""
        self.requests[request.id] = request
        books = self._models[request.model]
        books.arrived += 1
        weight = 1 / min(books.arrived, MEMORY)
        books.first_pages += weight * (request.pages - books.first_pages)

    def finished(self, request: RequestAccount) -> None:
        """Learns from a request that ended how much requests grow."""
        books = self._models[request.model]
        books.finished += 1
        weight = 1 / min(books.finished, MEMORY)
        grown = request.pages - request.first_pages
        books.growth_pages += weight * (grown - books.growth_pages)

    def learn_loading(self, model: ModelId, *, load_s: float) -> None:
        """Takes note of how long the latest activation of a model took."""
        books = self._models[model]
        books.spec = dataclasses.replace(books.spec, load_s=load_s)

    def look_ahead(self, look_s: float) -> None:
        """Files every instance anew, under what `look_s` of growth leaves."""
        _check_look(look_s)
        self.look_s = look_s
        for books in self._models.values():
            books.look_pages = look_s * books.spec.growth_pages_per_s
        for instance in self.instances.values():
            self.refile(instance)

    def open(self, device: DeviceGroupId, model: ModelId) -> InstanceAccount:
        """Makes an idle device group an instance of `model`."""
        self.drop_idle(device)
        self._activations += 1
        instance = InstanceAccount(
            device, model=model, serial=self._activations, opened_s=self.now_s
        )
        self.instances[device] = instance
        self._models[model].instances[device] = instance
        self.refile(instance)
        return instance

    def close(self, device: DeviceGroupId, *, is_idle: bool) -> None:
        """Ends an instance; its device group becomes idle or leaves the fleet."""
        instance = self.instances.pop(device)
        self.changed[device] = None
        books = self._models[instance.model]
        del books.instances[device]
        assert instance.rows == 0, f"{device} still holds {instance.rows} rows"
        if instance.is_filed:
            books.index.discard(device, room=instance.projected)
            instance.is_filed = False
        if is_idle:
            self.add_idle(device)

    def reopen(self, instance: InstanceAccount) -> None:
        """Undoes `close`."""
        self.drop_idle(instance.device)
        self.instances[instance.device] = instance
        self._models[instance.model].instances[instance.device] = instance
        self.refile(instance)

    def next_idle(self) -> DeviceGroupId | None:
        """Returns the idle device group of lowest id, which would be used next."""
        while self._idle_heap and self._idle_heap[0] not in self._idle:
            heapq.heappop(self._idle_heap)
        return self._idle_heap[0] if self._idle_heap else None

    def is_idle(self, device: DeviceGroupId) -> bool:
        return device in self._idle

    def add_idle(self, device: DeviceGroupId) -> None:
        self._idle.add(device)
        heapq.heappush(self._idle_heap, device)

    def drop_idle(self, device: DeviceGroupId) -> None:
        self._idle.remove(device)  # its entry in the heap is skipped later

    def check(self) -> None:
        """Recounts everything; for tests.

        Raises:
          AssertionError: the books do not balance.
        """
        pages = dict.fromkeys(self.instances, 0)
        rows = dict.fromkeys(self.instances, 0)
        stalled = dict.fromkeys(self.instances, 0)
        for request in self.requests.values():
            homes = [request.device] if request.device is not None else []
            if request.move is not None:
                move = self.moves[request.move]
                assert move.source == request.device and move.request is request
                homes.append(move.target)
            for home in homes:
                pages[home] += request.pages
                rows[home] += 1
                stalled[home] += request.id in self.instances[home].stalled
            wants = {self.instances[home].stalled.get(request.id) for home in homes}
            assert len(wants) <= 1, f"{request.id} is paused at one end: {wants}"
            if request.device is not None:
                lives = request.id in self.instances[request.device].requests
                assert lives == (request.move is None), f"{request.id} misfiled"
        for device, instance in self.instances.items():
            assert instance.pages == pages[device], f"pages of {device}"
            assert instance.rows == rows[device], f"rows of {device}"
            strays = len(instance.stalled) - stalled[device]
            assert not strays, f"{strays} requests are paused on {device} in vain"
            assert self.slack(instance) >= 0 or not instance.rows, f"{device} is over"
            moves = [m for m in self.moves.values() if m.target == device]
            arriving = {m.request.id: m.request for m in moves}
            assert instance.arriving == arriving, f"arrivals at {device}"
            leaving = [m for m in self.moves.values() if m.source == device]
            assert instance.leaving_pages == sum(m.request.pages for m in leaving)
        for model, books in self._models.items():
            own = [i for i in self.instances.values() if i.model == model]
            assert books.leaving_pages == sum(i.leaving_pages for i in own)
        settled = sum(len(instance.requests) for instance in self.instances.values())
        placed = [r for r in self.requests.values() if r.device is not None]
        assert settled + len(self.moves) == len(placed), "a request in two places"
        held = (
            (r.tenant, r.pages, r.device is not None) for r in self.requests.values()
        )
        self.tenants.check(held)


def _check_look(look_s: float) -> None:
    if not (look_s >= 0):
        raise ValueError(f"look_s must be >= 0, got {look_s}")
