"""MELL: size classes, moves that keep every GPU but a few full, batched by the epoch.

Liu et al., "Mell: Memory-Efficient Large Language Model Serving via Multi-GPU KV Cache
Management", INFOCOM 2025, arXiv 2501.06709. Arrivals and overflow are answered at once;
departures, changes of class and what an arrival asks of others are noted, and run once
per epoch on the books only: departures, then updates, then arrivals. What goes there
and back, or on by way of another, is never carried out. Our repairs of the paper stand
with the rules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.mell_items import Size, size_of
from mell_jax.scheduler.policies.mell_kinds import Kinds
from mell_jax.scheduler.policies.mell_rules import PER_GPU, Operation
from mell_jax.scheduler.policies.parking import Parking

LOOK_EPOCHS = 2.0  # of growth that a T is kept away from


@dataclass(slots=True, kw_only=True)
class MellCounts:
    """These count what operations planned, before redundant moves were dropped."""

    operations: int = 0
    moves: int = 0  # a bundle is one
    request_moves: int = 0
    most_moves: int = 0  # of one operation
    cut_short: int = 0  # operations that the cap has stopped

    def add(self, operation: Operation) -> None:
        self.operations += 1
        self.moves += operation.moves
        self.request_moves += operation.request_moves
        self.most_moves = max(self.most_moves, operation.moves)
        self.cut_short += operation.is_cut_short


class Mell:
    """See the module's docstring."""

    def __init__(self, config: PolicyConfig) -> None:
        epochs = LOOK_EPOCHS * config.epoch_s
        self.look_s = config.look_s if config.look_s is not None else epochs
        self.tally = MellCounts()
        self._config = config
        self._kinds = Kinds()
        self._parking = Parking(epoch_s=config.epoch_s)
        self._departures: list[tuple[DeviceGroupId, Size]] = []
        self._updates: dict[RequestId, RequestAccount] = {}
        self._arrivals: dict[RequestId, RequestAccount] = {}
        self._planned: list[tuple[RequestAccount, DeviceGroupId | None]] = []

    def figures(self) -> dict[str, float]:
        """Returns what the operations planned; a bundle is one item."""
        tally = self.tally
        return {
            "planned_item_moves": tally.moves,
            "planned_request_moves": tally.request_moves,
            "most_item_moves_of_an_operation": tally.most_moves,
            "operations_cut_short": tally.cut_short,
        }

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        with self._operation(draft, may_evict=False) as operation:
            operation.place(request)
        if request.device is not None:
            self._arrivals[request.id] = request

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        capacity = draft.ledger.spec(request.model).capacity_pages
        now = size_of(request.pages, capacity=capacity)
        if now != size_of(before, capacity=capacity):
            self._updates[request.id] = request

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        with self._operation(draft, may_evict=False) as operation:
            operation.relieve(instance, lack)
        for item in operation.shed:
            if item.size in PER_GPU:
                self._departures.append((instance.device, item.size))
                self._arrivals[item.requests[0].id] = item.requests[0]
            else:  # nothing to pull: the instance is full
                self._departures.append((instance.device, Size.SMALL))

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        capacity = draft.ledger.spec(instance.model).capacity_pages
        self._departures.append((instance.device, size_of(pages, capacity=capacity)))

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        self._parking.emptied(draft, instance)

    def epoch(self, draft: Draft) -> None:
        self._parking.epoch(draft)
        unfinished = self._unfinished(draft.ledger)
        departures, self._departures = self._departures, []
        for device, size in departures:
            with self._operation(draft) as operation:
                operation.depart(device, size)
        updates, self._updates = self._updates, {}
        for request in _living(draft.ledger, updates):
            with self._operation(draft) as operation:
                operation.update(request)
        arrivals, self._arrivals = self._arrivals, {}
        for request in _living(draft.ledger, arrivals):
            with self._operation(draft) as operation:
                operation.settle(request)
        for device in unfinished:
            with self._operation(draft) as operation:
                operation.depart(device, Size.SMALL)
        self._planned = draft.difference()

    def _unfinished(self, ledger: Ledger) -> dict[DeviceGroupId, None]:
        """GPUs at the ends of moves that the last epoch planned in vain."""
        ends: dict[DeviceGroupId, None] = {}
        for request, target in self._planned:
            is_known = ledger.requests.get(request.id) is request
            is_settled = request.device is not None and request.move is None
            if is_known and is_settled and request.device != target:
                for device in (request.device, target):
                    if device is not None:
                        ends[device] = None
        return ends

    @contextmanager
    def _operation(
        self, draft: Draft, *, may_evict: bool = True
    ) -> Iterator[Operation]:
        operation = Operation(
            draft,
            kinds=self._kinds,
            parking=self._parking,
            config=self._config,
            may_evict=may_evict,
        )
        yield operation
        self.tally.add(operation)


def _living(
    ledger: Ledger, requests: dict[RequestId, RequestAccount]
) -> list[RequestAccount]:
    return [r for r in requests.values() if ledger.requests.get(r.id) is r]
