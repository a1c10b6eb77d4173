"""Reserve the peak: best fit by the size a request will have in the end; no moves.

The baseline of a clairvoyant who never moves anything: `peak_pages` of the arrival is
taken for what the request will need, kept free from the start, and nothing ever
overflows. A request without one counts with its size. `headroom` is the fraction
of an instance that arrivals leave free on top.
"""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.relief import reserve_pages


class ReservePeak:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._headroom = config.headroom
        self._index: dict[ModelId, FreeIndex] = {}
        self._filed: dict[DeviceGroupId, tuple[ModelId, int]] = {}

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        ledger = draft.ledger
        self._refresh(ledger)
        index = self._index.get(request.model)
        reserve = reserve_pages(ledger, request, headroom=self._headroom)
        peak = _peak(request)
        device = index.best(peak + reserve) if index is not None else None
        opened = draft.activate(request.model) if device is None else None
        if opened is not None:
            device = opened.device
        elif device is None and index is not None:
            device = index.best(peak)
        if device is not None:
            draft.shift(request, device)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        pass  # a peak was wrong: the machine preempts

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        pass

    def _refresh(self, ledger: Ledger) -> None:
        """Files the instances that changed under the room beside all peaks."""
        for device in ledger.changed:
            if device in self._filed:
                model, room = self._filed.pop(device)
                self._index[model].discard(device, room=room)
            instance = ledger.instances.get(device)
            room = _room(ledger, instance) if instance is not None else -1
            if instance is not None and room >= 0:
                size = ledger.spec(instance.model).capacity_pages
                index = self._index.setdefault(instance.model, FreeIndex(size))
                index.add(device, room=room)
                self._filed[device] = (instance.model, room)
        ledger.changed.clear()


def _peak(request: RequestAccount) -> int:
    return max(request.pages, request.peak_pages or 0)


def _room(ledger: Ledger, instance: InstanceAccount) -> int:
    """Pages that a request may ever need to be taken in; -1: none is taken in."""
    if instance.is_closing:
        return -1
    peaks = sum(_peak(request) for request in instance.requests.values())
    moving = instance.pages - sum(r.pages for r in instance.requests.values())
    return ledger.spec(instance.model).capacity(instance.rows + 1) - peaks - moving
