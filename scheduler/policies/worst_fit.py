"""Worst fit: a request goes to the emptiest instance, if it has room there.

The baseline that spreads: every instance keeps the most room to grow, and few empty.
Nothing moves until an instance overflows; then the smallest request that is enough goes
to the emptiest other one, or to a new one, on the cheapest device that can hold it.
`headroom` is the fraction of an instance that a placement leaves free.
"""

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.relief import reserve_of, shed


class WorstFit:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._headroom = config.headroom

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        instance = find_emptiest(draft, request, headroom=self._headroom)
        if instance is not None:
            draft.shift(request, instance.device)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        shed(
            draft,
            instance,
            lack=lack,
            find=lambda draft, request: find_emptiest(
                draft, request, headroom=self._headroom
            ),
        )

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        pass


def find_emptiest(
    draft: Draft, request: RequestAccount, *, headroom: float
) -> InstanceAccount | None:
    """The emptiest other instance with room and reserve, else a new one, else the
    emptiest with room: to have no reserve is better than to wait."""
    ledger, model = draft.ledger, request.model
    pages, peak = ledger.wanted_pages(request), request.most_pages
    device = ledger.worst_fit(model, skip=request.device, peak=peak)
    emptiest = ledger.instances[device] if device is not None else None
    if emptiest is not None:
        reserve = reserve_of(headroom)(emptiest.spec.capacity_pages)
        if ledger.fits(emptiest, pages + reserve):
            return emptiest
    opened = draft.activate(model, peak=peak)
    if opened is not None:
        return opened
    return emptiest if emptiest is not None and ledger.fits(emptiest, pages) else None
