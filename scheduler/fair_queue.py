"""A fair queue holds what waits, a lane for each tenant: deficit round robin.

    lane "a"  credit  3   [x x x x x x]   turns: a while it has credit, then b while
    lane "b"  credit 10   [y y]           it has, then a quantum more for everybody

Inside a lane nobody overtakes. A head that does not fit lets other lanes pass until
`patience` has gone by; then they stand still until it fits. With one lane the order is
that of a plain queue, and costs as much. Owns the order alone, decides nothing else.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, final

Item = TypeVar("Item", bound=Hashable)
MAX_REFUSED = 16
"""Lanes whose heads do not fit, after which no more are tried in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant has a part in proportion to its weight of what all have at once.

    Raises:
      ValueError: the weight is not above 0 and finite.
    """

    name: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf):
            raise ValueError(f"weight must be above 0 and finite, got {self.weight}")


NOBODY = Tenant()
"""The tenant of callers that name none."""


@final
class _Lane(Generic[Item]):
    __slots__ = ("credit", "items", "passed", "weight")

    def __init__(self, *, weight: float, credit: float) -> None:
        self.items: OrderedDict[Item, int] = OrderedDict()  # costs, next one first
        self.weight = weight
        self.credit = credit  # may be spent; below 0 a debt
        self.passed = 0  # cost of what has overtaken the head since it did not fit


@final
class FairQueue(Generic[Item]):
    """A fair queue is told who comes and goes, and answers whose turn it is.

    Args:
      quantum: cost that a tenant of weight 1 has in a row, if others wait.
      patience: cost that may overtake a head that does not fit.

    Raises:
      ValueError: one of them is not above 0.
    """

    def __init__(self, *, quantum: float, patience: float) -> None:
        if not (quantum > 0 and patience > 0):
            raise ValueError(
                f"quantum and patience must be above 0, got {quantum} and {patience}"
            )
        self._quantum = quantum
        self._patience = patience
        self._lanes: OrderedDict[str, _Lane[Item]] = OrderedDict()  # next turn first
        self._tenants: dict[Item, str] = {}
        self._refused: set[str] = set()  # in the pass that goes on

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, item: Item) -> bool:
        return item in self._tenants

    # -- coming and going ----------------------------------------------------------

    def push(self, item: Item, *, tenant: Tenant, cost: int) -> None:
        """Queues an item behind those of its tenant."""
        self._lane(tenant).items[item] = cost
        self._tenants[item] = tenant.name

    def put_back(self, item: Item, *, tenant: Tenant) -> None:
        """Queues an item before those of its tenant; it was charged when it left."""
        lane = self._lane(tenant)
        lane.items[item] = 1
        lane.items.move_to_end(item, last=False)
        self._tenants[item] = tenant.name

    def discard(self, item: Item) -> bool:
        """Removes an item that nobody serves; tells whether it was there."""
        if item not in self._tenants:
            return False
        self._remove(item)
        return True

    def take(self, item: Item, *, passing: Iterable[str] = ()) -> None:
        """Removes an item that is served, and charges its tenant for it.

        Args:
          passing: tenants whose heads it overtakes, beside those that were refused in
            the pass that goes on.
        """
        name = self._tenants[item]
        lane = self._lanes[name]
        cost = lane.items[item]
        overtaken = {*self._refused, *passing} - {name}
        for other in overtaken & self._lanes.keys():
            self._lanes[other].passed += cost
        self._remove(item)
        if name in self._lanes:
            self._charge(name, lane, cost)

    def charge(self, tenant: str, *, cost: int) -> None:
        """Charges a tenant for what an item has cost since it was taken.

        A tenant of which nothing waits is charged nothing: it takes from nobody.
        """
        lane = self._lanes.get(tenant)
        if lane is not None:
            self._charge(tenant, lane, cost)

    # -- turns ---------------------------------------------------------------------

    def turns(self) -> Iterator[str]:
        """Yields the tenant whose turn it is, until there is none; one pass.

        The caller looks at its items and takes one, or says by `refuse` that it has no
        room for the first. A tenant of which nothing was taken has no other turn in
        this pass. Nothing may be added during a pass.
        """
        done: set[str] = set()
        self._refused.clear()
        while (name := self._next(done)) is not None:
            before = len(self._lanes[name].items)
            yield name
            lane = self._lanes.get(name)
            if lane is not None and len(lane.items) == before:
                done.add(name)
        self._refused.clear()

    def refuse(self, tenant: str) -> None:
        """Says that there is no room for a tenant's head: others may overtake it."""
        self._refused.add(tenant)

    def is_overtaken(self, tenant: str) -> bool:
        """Returns whether so much has passed a tenant's head that no more may."""
        return self._lanes[tenant].passed >= self._patience

    def head(self, tenant: str) -> Item:
        """Returns the item that has waited longest of a tenant that has some."""
        return next(iter(self._lanes[tenant].items))

    def heads(self) -> Iterator[Item]:
        """Yields the first item of each tenant; stop before a change."""
        for lane in self._lanes.values():
            yield next(iter(lane.items))

    def items(self, tenant: str) -> Iterator[Item]:
        """Yields the items of a tenant, longest waiting first; stop before a change."""
        lane = self._lanes.get(tenant)
        return iter(lane.items if lane is not None else ())

    @property
    def tenants(self) -> list[str]:
        """Returns the tenants that wait, the one with the next turn first."""
        return list(self._lanes)

    # -- lanes ---------------------------------------------------------------------

    def _lane(self, tenant: Tenant) -> _Lane[Item]:
        lane = self._lanes.get(tenant.name)
        if lane is None:
            credit = self._quantum * tenant.weight
            lane = self._lanes[tenant.name] = _Lane(weight=tenant.weight, credit=credit)
        lane.weight = tenant.weight
        return lane

    def _remove(self, item: Item) -> None:
        name = self._tenants.pop(item)
        lane = self._lanes[name]
        if next(iter(lane.items)) == item:
            lane.passed = 0
        del lane.items[item]
        if not lane.items:
            del self._lanes[name]
            self._refused.discard(name)

    def _charge(self, name: str, lane: _Lane[Item], cost: int) -> None:
        if len(self._lanes) == 1:  # a turn after the other is its own
            lane.credit = self._quantum * lane.weight
            return
        lane.credit -= cost
        if lane.credit <= 0:
            self._lanes.move_to_end(name)

    def _next(self, done: set[str]) -> str | None:
        open_ = {name: lane for name, lane in self._lanes.items() if name not in done}
        if not open_ or len(self._refused) >= MAX_REFUSED:
            return None
        if any(map(self.is_overtaken, self._refused)):
            return None
        for name in open_:
            if self.is_overtaken(name):
                return name
        if all(lane.credit <= 0 for lane in open_.values()):
            self._renew(open_.values())
        return next(name for name, lane in open_.items() if lane.credit > 0)

    def _renew(self, lanes: Iterable[_Lane[Item]]) -> None:
        """Gives every lane so many quanta that one of `lanes` may go on."""
        rounds = min(
            math.floor(-lane.credit / (self._quantum * lane.weight)) + 1
            for lane in lanes
        )
        for lane in self._lanes.values():
            lane.credit += rounds * self._quantum * lane.weight
