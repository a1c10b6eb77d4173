"""The books of a model: what its instances hold in all, and on each kind of devices.

    ModelBooks "chat"      pages, what was learned of its requests
      KindBooks "A100"     limits, price, instances by projected room
      KindBooks "L4"       likewise

Only the ledger changes them. Kinds are in the order of what a page costs for the same
work: on a device that is half as fast a request holds its pages twice as long.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.kind import DeviceKind
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.model import ModelSpec

MEMORY = 500  # requests that learned means are about


class ModelBooks:
    """The instances of one model, on whatever kinds of devices, share these books."""

    __slots__ = (
        "_only",
        "arrived",
        "by_kind",
        "capacity_pages",
        "finished",
        "first_pages",
        "growth_pages",
        "instances",
        "kinds",
        "leaving_pages",
        "limit",
        "name",
        "pages",
        "spec",
    )

    def __init__(
        self,
        name: ModelId,
        spec: ModelSpec,
        *,
        kinds: Mapping[KindId, DeviceKind],
        look_s: float,
    ) -> None:
        self.name = name
        self.spec = spec
        self.by_kind = {
            kind: KindBooks(
                kind,
                spec=offer.models[name],
                price_per_hour=offer.price_per_hour,
                speed=offer.speed,
                look_s=look_s,
            )
            for kind, offer in kinds.items()
            if name in offer.models
        }
        if not self.by_kind:
            raise ValueError(
                f"model {name!r} runs on none of the kinds {sorted(kinds)}: name it "
                "in the models of one"
            )
        self.kinds = sorted(self.by_kind.values(), key=lambda own: own.page_price)
        cheapest = self.kinds[0]
        for own in self.kinds:
            ratio = own.work_price / cheapest.work_price
            own.worth_pages = cheapest.spec.capacity_pages * ratio
        self.limit = max(own.limit for own in self.kinds)
        self._only = cheapest if len(self.kinds) == 1 else None  # has nothing to merge
        self.instances: dict[DeviceGroupId, InstanceAccount] = {}
        self.capacity_pages = 0  # of all instances
        self.pages = 0  # on all instances, twice for a move in flight
        self.leaving_pages = 0  # of moves in flight: the second copy
        self.arrived = 0
        self.finished = 0
        self.first_pages = 0.0  # mean of a request at its arrival, learned
        self.growth_pages = 0.0  # mean growth of a request, learned from finished ones

    def enter(self, instance: InstanceAccount) -> None:
        """Counts an instance that is open from now on."""
        self.instances[instance.device] = instance
        self.capacity_pages += instance.spec.capacity_pages
        instance.books.count += 1

    def leave(self, instance: InstanceAccount) -> None:
        """Counts an instance no more."""
        del self.instances[instance.device]
        self.capacity_pages -= instance.spec.capacity_pages
        instance.books.count -= 1
        if instance.is_filed:
            instance.books.index.discard(instance.device, room=instance.projected)
            instance.is_filed = False

    def best_fit(
        self,
        pages: int,
        *,
        skip: DeviceGroupId | None,
        peak: int,
        reserve: Callable[[int], int] | None,
    ) -> DeviceGroupId | None:
        """Returns the instance with the least room, of the kinds that may be used."""
        best, least = None, 0
        for own in self.kinds:
            if own.limit < peak:
                continue
            more = reserve(own.spec.capacity_pages) if reserve is not None else 0
            device = own.index.best(pages + more, skip=skip)
            if own is self._only:
                return device
            if device is not None:
                room = self.instances[device].projected
                if best is None or room < least:
                    best, least = device, room
        return best

    def worst_fit(
        self, *, skip: DeviceGroupId | None, peak: int
    ) -> DeviceGroupId | None:
        """Returns the instance with the most room, of the kinds that may be used."""
        worst, most = None, 0
        for own in self.kinds:
            device = own.index.worst(skip=skip) if own.limit >= peak else None
            if device is not None:
                room = self.instances[device].projected
                if worst is None or room > most:
                    worst, most = device, room
        return worst

    def fullest_first(self, pages: int, *, peak: int) -> Iterator[DeviceGroupId]:
        """Yields instances with so much room, least first, of the kinds to be used."""
        if self._only is not None:
            return self._only.index.ascending(pages)
        found = [own.index.ascending(pages) for own in self.kinds if own.limit >= peak]
        return heapq.merge(*found, key=self._projected)

    def emptiest_first(self, *, peak: int) -> Iterator[DeviceGroupId]:
        """Yields instances, most room first, of the kinds that may be used."""
        if self._only is not None:
            return self._only.index.descending()
        found = [own.index.descending() for own in self.kinds if own.limit >= peak]
        return heapq.merge(*found, key=self._projected, reverse=True)

    def _projected(self, device: DeviceGroupId) -> int:
        return self.instances[device].projected

    def learn_arrival(self, pages: int) -> None:
        """Learns how large requests begin."""
        self.arrived += 1
        weight = 1 / min(self.arrived, MEMORY)
        self.first_pages += weight * (pages - self.first_pages)

    def learn_growth(self, pages: int) -> None:
        """Learns by how much a request has grown until its end."""
        self.finished += 1
        weight = 1 / min(self.finished, MEMORY)
        self.growth_pages += weight * (pages - self.growth_pages)

    def expect_growth(self, seconds: float) -> float:
        """Returns the pages that all instances may need to grow for so long."""
        growth = 0.0
        for own in self.kinds:
            if own.count:
                look_pages = seconds * own.spec.growth_pages_per_s
                each = self.charge_pages(own.rows / own.count, look_pages)
                growth += own.count * each
        return growth

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
