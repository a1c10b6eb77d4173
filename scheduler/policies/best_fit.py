"""Best fit: a request goes to the fullest instance that has room for it.

The textbook baseline. Nothing moves until an instance overflows; then the smallest
request that is enough goes to the fullest instance that takes it, or to a new one.
`headroom` is the fraction of an instance that arrivals leave free for growth.
"""

from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import Instance, Request
from mell_jax.scheduler.placement.policy import PolicyConfig


class BestFit:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._headroom = config.headroom

    def arrive(self, draft: Draft, request: Request) -> None:
        ledger = draft.ledger
        reserve = int(self._headroom * ledger.spec(request.model).capacity_pages)
        device = ledger.best_fit(request.model, request.pages + reserve)
        instance = ledger.instances[device] if device is not None else None
        instance = instance or draft.activate(request.model)
        if instance is None:  # no new device: the reserve is better than a queue
            device = ledger.best_fit(request.model, request.pages)
            instance = ledger.instances[device] if device is not None else None
        if instance is not None:
            draft.shift(request, instance.device)

    def grown(self, draft: Draft, request: Request, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: Instance, lack: int) -> None:
        ledger = draft.ledger
        enough = [r for r in instance.requests.values() if r.pages >= lack]
        for request in sorted(enough, key=lambda r: (r.pages, r.serial)):
            device = ledger.best_fit(
                request.model, ledger.wanted_pages(request), skip=instance.device
            )
            target = ledger.instances[device] if device is not None else None
            target = target or draft.activate(request.model)
            if target is not None:
                draft.shift(request, target.device)
                return

    def departed(self, draft: Draft, instance: Instance, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: Instance) -> None:
        draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        pass
