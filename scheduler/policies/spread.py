"""Spread: a request goes to the emptiest of all devices, and parked ones are emptiest.

The router in front of a number of devices that are all paid for anyway: each is used
before two requests share one, by the pages that they hold. What overflows moves to the
emptiest other one. `headroom` is the fraction of an instance that a placement leaves
free.
"""

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.relief import shed
from mell_jax.scheduler.policies.worst_fit import find_emptiest


class Spread:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._headroom = config.headroom

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
        """An idle instance, or a new one, else the emptiest other one with room."""
        ledger, model = draft.ledger, request.model
        peak = request.most_pages
        device = ledger.worst_fit(model, skip=request.device, peak=peak)
        is_idle = device is not None and not ledger.instances[device].rows
        opened = None if is_idle else draft.activate(model, peak=peak)
        if opened is not None:
            return opened
        return find_emptiest(draft, request, headroom=self._headroom)
