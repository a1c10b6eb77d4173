"""A request is let in or refused before anything else happens to it."""

from mell_jax.scheduler.fair_queue import Tenant
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.events import Arrive
from mell_jax.scheduler.placement.ledger import Ledger


def admit(
    event: Arrive, *, ledger: Ledger, serial: int
) -> RequestAccount | plan.Reject:
    """Enters a new request in the books, without a place, unless it can never have one.

    Args:
      serial: the order of its arrival among those let in.
    """
    limit = ledger.limit(event.model)
    if max(event.pages, event.peak_pages or 0) > limit:
        return plan.Reject(request=event.request, reason=plan.RejectReason.TOO_LARGE)
    request = RequestAccount(
        event.request,
        serial=serial,
        model=event.model,
        pages=event.pages,
        peak_pages=event.peak_pages,
        tenant=ledger.tenants.enter(
            event.model, Tenant(name=event.tenant, weight=event.weight)
        ),
        queued_s=ledger.now_s,
    )
    ledger.arrived(request)
    return request
