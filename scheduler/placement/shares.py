"""Tenants with less than their part of a full fleet take it from those with more.

    part of a tenant = its weight / weights of all that have requests

What a tenant holds is the larger of its parts of pages and of rows. Nobody is taken
below its part or loses its last request, and nobody gets more than its part in this way
unless it has nothing at all: so nothing is taken back and forth. All of it is for
models with several tenants; with one the youngest request gives way, as ever.
"""

from dataclasses import dataclass

from mell_jax.scheduler.fair_queue import MAX_REFUSED, FairQueue
from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.plan_executor import PlanExecutor
from mell_jax.scheduler.placement.tenants import TenantAccount

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """These requests of others have to go from an instance to make room there."""

    instance: InstanceAccount
    losers: tuple[RequestAccount, ...]


class _Parts:
    """The parts of a model's instances that its tenants hold, and are entitled to."""

    def __init__(self, ledger: Ledger, *, model: ModelId) -> None:
        spec = ledger.spec(model)
        count = max(len(ledger.of_model(model)), 1)
        self._pages = ledger.capacity_pages(model) or spec.capacity_pages
        self._rows = spec.max_rows * count
        accounts = ledger.tenants.of_model(model).values()
        used = sum(self.held(account) for account in accounts)
        weights = sum(account.weight for account in accounts)
        self._per_weight = min(used, 1.0) / weights

    def held(self, account: TenantAccount, *, pages: int = 0, rows: int = 0) -> float:
        """Returns the part of a tenant that has so much more, or less."""
        return max(
            (account.pages + pages) / self._pages, (account.rows + rows) / self._rows
        )

    def due(self, account: TenantAccount) -> float:
        return account.weight * self._per_weight


def find_below(ledger: Ledger, model: ModelId) -> set[str]:
    """Returns the tenants that hold less than their part."""
    parts = _Parts(ledger, model=model)
    accounts = ledger.tenants.of_model(model)
    return {
        name
        for name, account in accounts.items()
        if parts.held(account) < parts.due(account) - _ROUNDING
    }


def find_room(ledger: Ledger, request: RequestAccount) -> Room | None:
    """Returns where a waiting request gets its tenant's part, if it is entitled."""
    parts = _Parts(ledger, model=request.model)
    mine = request.tenant
    wanted = parts.held(mine, pages=request.pages, rows=1)
    if mine.rows and wanted > parts.due(mine) + _ROUNDING:
        return None
    found = None
    least = 0
    for instance in ledger.of_model(request.model).values():
        losers = _losers(ledger, request, instance, parts)
        lost = sum(loser.pages for loser in losers)
        if losers and (found is None or lost < least):
            found, least = Room(instance=instance, losers=losers), lost
    return found


def _losers(
    ledger: Ledger, request: RequestAccount, instance: InstanceAccount, parts: _Parts
) -> tuple[RequestAccount, ...]:
    """Returns the youngest of tenants with more than their part, until it fits."""
    if instance.is_closing or instance.stalled:
        return ()
    if request.most_pages > instance.books.limit:
        return ()  # its kind of device is too small
    spec = instance.spec
    pages, rows = instance.pages + request.pages, instance.rows + 1
    lost: dict[TenantAccount, tuple[int, int]] = {}  # pages, rows
    losers = []
    for other in sorted(instance.requests.values(), key=lambda r: -r.serial):
        account = other.tenant
        if account is request.tenant:
            continue
        before = lost.get(account, (0, 0))
        gone = before[0] + other.pages, before[1] + 1
        left = parts.held(account, pages=-gone[0], rows=-gone[1])
        if account.rows - gone[1] < 1 or left < parts.due(account) - _ROUNDING:
            continue
        lost[account] = gone
        losers.append(other)
        pages, rows = pages - other.pages, rows - 1
        if pages <= spec.capacity(rows):
            return tuple(losers)
    return ()


def serve_parts(
    queue: FairQueue[RequestAccount],
    model: ModelId,
    *,
    executor: PlanExecutor,
    ledger: Ledger,
) -> None:
    """Places what tenants are entitled to where others have more than they are.

    Nobody else gets its part while one that has less than its own was overtaken so
    often that it has to come next.
    """
    below = find_below(ledger, model) & set(queue.tenants)
    tired = [tenant for tenant in queue.tenants if queue.is_overtaken(tenant)]
    owed = [tenant for tenant in tired if tenant in below]
    for tenant in owed or queue.tenants[:MAX_REFUSED]:
        while (request := next(queue.items(tenant), None)) is not None:
            if request.held_until_s > ledger.now_s:
                break  # a device is there, the policy only waits with it
            room = find_room(ledger, request)
            if room is None:
                break
            for loser in room.losers:
                executor.preempt(loser)
            executor.draft.shift(request, room.instance.device)
            executor.apply()
            assert request.device is not None, f"no room for request {request.id}"
            queue.take(request, passing=below)


def choose_preempted(ledger: Ledger, instance: InstanceAccount) -> RequestAccount:
    """Returns which request of an overfull instance gives way.

    It is the youngest of the tenant that has most for its weight; a tenant with one
    request keeps it while others have more.
    """
    requests = instance.requests.values()
    if not ledger.tenants.is_shared(instance.model):
        return max(requests, key=lambda request: request.serial)
    parts = _Parts(ledger, model=instance.model)

    def claim(request: RequestAccount) -> tuple[bool, float, int]:
        account = request.tenant
        return account.rows > 1, parts.held(account) / account.weight, request.serial

    return max(requests, key=claim)
