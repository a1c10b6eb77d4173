"""Best fit: a request goes to the fullest instance that has room for it.

The textbook baseline. Nothing moves until an instance overflows; then the smallest
request that is enough goes to the fullest instance that takes it, or to a new one, on
the cheapest device that can hold it. `headroom` is the fraction of an instance that a
placement leaves free for growth.
"""

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.relief import reserve_of, shed


class BestFit:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._reserve = reserve_of(config.headroom)

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        instance = self._find(draft, request)
        if instance is not None:
            draft.shift(request, instance.device)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        shed(draft, instance, lack=lack, find=self._find)

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        pass

    def _find(self, draft: Draft, request: RequestAccount) -> InstanceAccount | None:
        """The fullest other instance with room and reserve, else a new one, else the
        fullest with room: to have no reserve is better than to wait."""
        ledger, model, home = draft.ledger, request.model, request.device
        pages, peak = ledger.wanted_pages(request), request.most_pages
        device = ledger.best_fit(
            model, pages, skip=home, peak=peak, reserve=self._reserve
        )
        if device is None:
            opened = draft.activate(model, peak=peak)
            if opened is not None:
                return opened
            device = ledger.best_fit(model, pages, skip=home, peak=peak)
        return ledger.instances[device] if device is not None else None
