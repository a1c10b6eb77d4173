"""Reserve the peak: best fit by the size a request will have in the end; no moves.

The baseline of a clairvoyant who never moves anything: `peak_pages` of the arrival is
taken for what the request will need, kept free from the start, and nothing ever
overflows. A request without one counts with its size. What is opened is the cheapest
device that can hold it. `headroom` is the fraction of an instance that arrivals leave
free on top.
"""

from collections.abc import Callable

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.index import FreeIndex
from mell_jax.scheduler.placement.ledger import Ledger
from mell_jax.scheduler.placement.policy import PolicyConfig
from mell_jax.scheduler.policies.relief import reserve_of


class ReservePeak:
    """See the module's docstring."""

    look_s = 0.0

    def __init__(self, config: PolicyConfig) -> None:
        self._reserve = reserve_of(config.headroom)
        self._index: dict[tuple[ModelId, KindId], FreeIndex] = {}
        self._filed: dict[DeviceGroupId, tuple[ModelId, KindId, int]] = {}

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        ledger = draft.ledger
        self._refresh(ledger)
        device = self._find(ledger, request, reserve=self._reserve)
        if device is None:
            opened = draft.activate(request.model, peak=request.most_pages)
            device = opened.device if opened is not None else None
        if device is None:
            device = self._find(ledger, request, reserve=reserve_of(0.0))
        if device is not None:
            draft.shift(request, device)

    def _find(
        self,
        ledger: Ledger,
        request: RequestAccount,
        *,
        reserve: Callable[[int], int],
    ) -> DeviceGroupId | None:
        """The instance with the least room for the peak and what is to stay free."""
        found = []
        for own in ledger.kinds(request.model):
            index = self._index.get((request.model, own.kind))
            if index is not None:
                need = request.most_pages + reserve(own.spec.capacity_pages)
                device = index.best(need)
                if device is not None:
                    found.append(device)
        return min(found, key=lambda device: self._filed[device][2], default=None)

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
                model, kind, room = self._filed.pop(device)
                self._index[model, kind].discard(device, room=room)
            instance = ledger.instances.get(device)
            room = _room(instance) if instance is not None else -1
            if instance is not None and room >= 0:
                key = (instance.model, instance.kind)
                if key not in self._index:
                    self._index[key] = FreeIndex(instance.spec.capacity_pages)
                self._index[key].add(device, room=room)
                self._filed[device] = (*key, room)
        ledger.changed.clear()


def _room(instance: InstanceAccount) -> int:
    """Pages that a request may ever need to be taken in; -1: none is taken in."""
    if instance.is_closing:
        return -1
    peaks = sum(request.most_pages for request in instance.requests.values())
    moving = instance.pages - sum(r.pages for r in instance.requests.values())
    return instance.spec.capacity(instance.rows + 1) - peaks - moving
