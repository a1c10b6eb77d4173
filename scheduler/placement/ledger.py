"""The ledger knows who holds which pages, and how much room every instance has.

    instance.pages = pages of the requests that live there
                   + pages of those that are leaving   (until their move commits)
                   + pages reserved for those arriving (likewise)

so a move in flight counts twice. `projected room` is what is left for one more request
once every row, that one included, has grown by the look-ahead; instances are indexed by
it, each kind of devices apart. The ledger owns requests, instances, open moves and idle
device groups; it decides nothing. The machine changes it for good, a `Draft` for the
time of planning.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from mell_jax.scheduler.ids import (
    DeviceGroupId,
    KindId,
    ModelId,
    MoveId,
    RequestId,
)
from mell_jax.scheduler.placement.accounts import (
    InstanceAccount,
    RequestAccount,
    Reservation,
)
from mell_jax.scheduler.placement.books import ModelBooks
from mell_jax.scheduler.placement.idle import IdleDevices
from mell_jax.scheduler.placement.kind import ONLY_KIND, DeviceKind
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.model import ModelSpec
from mell_jax.scheduler.placement.tenants import TenantBooks


class Ledger:
    """A ledger holds all requests and instances; only machine and draft change it.

    Args:
      models: what is true of each model on any device; without `kinds`, what an
        instance can hold.
      kinds: what each kind of devices can hold, and its price; None: there is one.
    """

    def __init__(
        self,
        models: Mapping[ModelId, ModelSpec],
        *,
        look_s: float,
        kinds: Mapping[KindId, DeviceKind] | None = None,
    ) -> None:
        _check_look(look_s)
        if kinds is None:
            kinds = {ONLY_KIND: DeviceKind(models=models)}
        self.now_s = 0.0
        self.look_s = look_s
        self.requests: dict[RequestId, RequestAccount] = {}
        self.instances: dict[DeviceGroupId, InstanceAccount] = {}
        self.moves: dict[MoveId, Reservation] = {}
        self.prefix: dict[RequestId, dict[DeviceGroupId, int]] = {}
        self.tenants = TenantBooks(models)
        self.changed: dict[DeviceGroupId, None] = {}  # since a policy last cleared it
        self._models = {
            name: ModelBooks(name, spec, kinds=kinds, look_s=look_s)
            for name, spec in models.items()
        }
        self._idle = IdleDevices(kinds)
        self._activations = 0

    # What policies ask.

    def spec(self, model: ModelId) -> ModelSpec:
        """Returns what is true of a model on any device; see `InstanceAccount.spec`."""
        return self._models[model].spec

    def kinds(self, model: ModelId) -> Sequence[KindBooks]:
        """Returns the kinds that a model runs on, those of the cheapest room first."""
        return self._models[model].kinds

    def on_kind(self, model: ModelId, kind: KindId) -> KindBooks | None:
        """Returns the books of a model on a kind; None if it does not run there."""
        return self._models[model].by_kind.get(kind)

    def limit(self, model: ModelId) -> int:
        """Returns the pages of the largest request that some kind can hold."""
        return self._models[model].limit

    @property
    def models(self) -> tuple[ModelId, ...]:
        return tuple(self._models)

    def of_model(self, model: ModelId) -> Mapping[DeviceGroupId, InstanceAccount]:
        """Returns the instances of `model` in order of activation; do not change it."""
        return self._models[model].instances

    def look_pages(self, model: ModelId) -> float:
        """Returns the growth that each row of `model` is charged, in pages.

        Of several kinds it is the one whose room is cheapest.
        """
        return self._models[model].kinds[0].look_pages

    def room(self, instance: InstanceAccount) -> int:
        """Returns the pages that one more request could have there; may be negative."""
        return instance.books.spec.capacity(instance.rows + 1) - instance.pages

    def slack(self, instance: InstanceAccount) -> int:
        """Returns the pages by which the requests already there could grow now."""
        return instance.books.spec.capacity(instance.rows) - instance.pages

    def fits(self, instance: InstanceAccount, pages: int, *, peak: int = 0) -> bool:
        """Tells whether one more request of `pages` fits, in pages and in step time.

        Args:
          peak: the most pages that it will ever need; the kind must be able to hold it.
        """
        return (
            not instance.is_closing
            and peak <= instance.books.limit
            and pages <= self.room(instance)
        )

    def wanted_pages(self, request: RequestAccount) -> int:
        """Returns the pages that a move reserves: all it asked for, if paused."""
        if request.device is None:
            return request.pages
        return self.instances[request.device].stalled.get(request.id, request.pages)

    def best_fit(
        self,
        model: ModelId,
        pages: int,
        *,
        skip: DeviceGroupId | None = None,
        peak: int = 0,
        reserve: Callable[[int], int] | None = None,
    ) -> DeviceGroupId | None:
        """Returns the instance with the least projected room >= `pages`.

        Args:
          peak: only kinds that can hold so many pages of one request are looked at.
          reserve: how many more pages have to be left free, by an instance's capacity.
        """
        return self._models[model].best_fit(
            pages, skip=skip, peak=peak, reserve=reserve
        )

    def worst_fit(
        self, model: ModelId, *, skip: DeviceGroupId | None = None, peak: int = 0
    ) -> DeviceGroupId | None:
        """Returns the instance with the most projected room, which may be negative."""
        return self._models[model].worst_fit(skip=skip, peak=peak)

    def fullest_first(
        self, model: ModelId, pages: int, *, peak: int = 0
    ) -> Iterator[DeviceGroupId]:
        """Yields instances with projected room >= `pages`, least first.

        Stop it before anything changes.
        """
        return self._models[model].fullest_first(pages, peak=peak)

    def emptiest_first(
        self, model: ModelId, *, peak: int = 0
    ) -> Iterator[DeviceGroupId]:
        """Yields instances by falling projected room; stop before a change."""
        return self._models[model].emptiest_first(peak=peak)

    def mean_arrival(self, model: ModelId) -> float:
        """Returns the mean pages of a new request."""
        return self._models[model].first_pages

    def expected_growth(self, model: ModelId, *, seconds: float) -> float:
        """Returns the pages that the instances of a model may need to grow for so long.

        Each is counted until one of its requests ends.
        """
        return self._models[model].expect_growth(seconds)

    def growth_ahead(self, instance: InstanceAccount, *, seconds: float) -> int:
        """Returns the pages by which an instance may grow for so long.

        It is counted until one of its requests ends.
        """
        look_pages = seconds * instance.spec.growth_pages_per_s
        return self._models[instance.model].charge_pages(instance.rows, look_pages)

    def growth_of(self, model: ModelId, own: KindBooks, *, rows: int) -> int:
        """Returns the pages kept free for so many rows on an instance of a kind."""
        return self._models[model].charge_pages(rows, own.look_pages)

    def capacity_pages(self, model: ModelId) -> int:
        """Returns the pages that all instances of a model could hold."""
        return self._models[model].capacity_pages

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
        self._models[instance.model].pages += pages
        if rows:  # most often a request has grown
            instance.books.rows += rows
        self.refile(instance)

    def leave(self, instance: InstanceAccount, *, pages: int) -> None:
        """Adds to the pages of an instance that moves in flight take away."""
        instance.leaving_pages += pages
        self._models[instance.model].leaving_pages += pages

    def refile(self, instance: InstanceAccount) -> None:
        """Files an instance under its projected room and notes that it has changed."""
        self.changed[instance.device] = None
        books = instance.books
        spec = books.spec
        after = instance.rows + 1
        room = spec.capacity(after) - instance.pages
        room -= self._models[instance.model].charge_pages(after, books.look_pages)
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
        self._models[request.model].learn_arrival(request.pages)

    def finished(self, request: RequestAccount) -> None:
        """Learns from a request that ended how much requests grow."""
        grown = request.pages - request.first_pages
        self._models[request.model].learn_growth(grown)

    def learn_loading(self, model: ModelId, *, kind: KindId, load_s: float) -> None:
        """Takes note of how long the latest activation of a model on a kind took.

        Raises:
          ValueError: the model does not run on such a kind.
        """
        books, own = self._models[model], self.on_kind(model, kind)
        if own is None:
            raise ValueError(
                f"model {model!r} does not run on devices of kind {kind!r}; it runs "
                f"on {sorted(books.by_kind)}"
            )
        own.spec = dataclasses.replace(own.spec, load_s=load_s)
        books.spec = dataclasses.replace(books.spec, load_s=load_s)

    def look_ahead(self, look_s: float) -> None:
        """Files every instance anew, under what `look_s` of growth leaves."""
        _check_look(look_s)
        self.look_s = look_s
        for books in self._models.values():
            for own in books.kinds:
                own.look_pages = look_s * own.spec.growth_pages_per_s
        for instance in self.instances.values():
            self.refile(instance)

    def open(self, device: DeviceGroupId, model: ModelId) -> InstanceAccount:
        """Makes an idle device group an instance of `model`."""
        self.drop_idle(device)
        self._activations += 1
        instance = InstanceAccount(
            device,
            model=model,
            books=self._models[model].by_kind[self._idle.kind_of(device)],
            serial=self._activations,
            opened_s=self.now_s,
        )
        self._enter(instance)
        return instance

    def _enter(self, instance: InstanceAccount) -> None:
        self.instances[instance.device] = instance
        self._models[instance.model].enter(instance)
        self.refile(instance)

    def close(self, device: DeviceGroupId, *, is_idle: bool) -> None:
        """Ends an instance; its device group becomes idle or leaves the fleet."""
        instance = self.instances.pop(device)
        self.changed[device] = None
        assert instance.rows == 0, f"{device} still holds {instance.rows} rows"
        self._models[instance.model].leave(instance)
        if is_idle:
            self.add_idle(device, kind=instance.kind)

    def reopen(self, instance: InstanceAccount) -> None:
        """Undoes `close`."""
        self.drop_idle(instance.device)
        self._enter(instance)

    def next_idle(self, kind: KindId = ONLY_KIND) -> DeviceGroupId | None:
        """Returns the idle device group of lowest id, which would be used next."""
        return self._idle.next(kind)

    def idle_for(self, model: ModelId, *, peak: int) -> Iterator[DeviceGroupId]:
        """Yields the idle device groups on which a model can hold so many pages."""
        for device in sorted(self._idle):
            own = self.on_kind(model, self._idle.kind_of(device))
            if own is not None and own.limit >= peak:
                yield device

    def is_idle(self, device: DeviceGroupId) -> bool:
        return device in self._idle

    def add_idle(self, device: DeviceGroupId, *, kind: KindId = ONLY_KIND) -> None:
        """Enters a device group that may be opened.

        Raises:
          ValueError: nothing is known of its kind.
        """
        self._idle.add(device, kind=kind)

    def drop_idle(self, device: DeviceGroupId) -> None:
        self._idle.drop(device)

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
                limit = self.instances[home].books.limit
                assert request.most_pages <= limit, f"{request.id} outgrows {home}"
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
            assert books.capacity_pages == sum(i.spec.capacity_pages for i in own)
            for kind in books.kinds:
                alike = [i for i in own if i.books is kind]
                assert kind.count == len(alike), f"instances of kind {kind.kind}"
                assert kind.rows == sum(i.rows for i in alike), f"rows of {kind.kind}"
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
