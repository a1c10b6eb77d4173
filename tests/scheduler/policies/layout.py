"""Ledgers of one model, laid out as a picture: `lay_out([7, 2], [6, 2])`.

Requests are numbered in the order of the picture, instances too.
"""

from mell_jax.scheduler.fair_queue import NOBODY
from mell_jax.scheduler.ids import DeviceGroupId, RequestId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.events import ONLY_MODEL
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.model import ModelSpec

TEN = ModelSpec(capacity_pages=10)


def lay_out(
    *instances: list[int], spec: ModelSpec = TEN, idle: int = 0, look_s: float = 0.0
) -> Draft:
    """An untouched draft of a ledger whose instances hold requests of these pages."""
    ledger = Ledger({ONLY_MODEL: spec}, look_s=look_s)
    for number in range(len(instances) + idle):
        ledger.add_idle(DeviceGroupId(number))
    for number, sizes in enumerate(instances):
        ledger.open(DeviceGroupId(number), ONLY_MODEL)
        for pages in sizes:
            ledger.settle(add(ledger, pages), DeviceGroupId(number))
    return Draft(ledger)


def add(ledger: Ledger, pages: int) -> RequestAccount:
    """A request that waits."""
    number = len(ledger.requests)
    request = RequestAccount(
        RequestId(number),
        serial=number + 1,
        model=ONLY_MODEL,
        pages=pages,
        peak_pages=None,
        tenant=ledger.tenants.enter(ONLY_MODEL, NOBODY),
        queued_s=ledger.now_s,
    )
    ledger.arrived(request)
    return request


def homes(draft: Draft) -> list[int | None]:
    """Where each request is, in the order of the picture."""
    return [request.device for request in draft.ledger.requests.values()]


def sizes(draft: Draft) -> dict[int, list[int]]:
    """Pages of the requests on each instance, in the order in which they came."""
    return {
        int(device): [request.pages for request in instance.requests.values()]
        for device, instance in draft.ledger.instances.items()
    }
