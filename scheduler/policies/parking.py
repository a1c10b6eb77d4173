"""An empty instance is given back at once, or after as long as it took to load.

Waiting as long as loading costs is the ski rental rule: never more than twice the price
of the best decision in hindsight, whatever comes. Policies look again at every epoch
only, so what loads in less than half of one is not waited for at all.
"""

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft


def loads_at_once(load_s: float, *, epoch_s: float) -> bool:
    """Tells whether waiting for the next epoch would cost more than loading anew."""
    return load_s < 0.5 * epoch_s


class Parking:
    """Remembers since when instances are empty."""

    def __init__(self, *, epoch_s: float) -> None:
        self._epoch_s = epoch_s
        self._emptied_s: dict[DeviceGroupId, float] = {}

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        """Parks an instance whose model loads at once; else it stays for a while."""
        load_s = instance.spec.load_s
        is_cheap = loads_at_once(load_s, epoch_s=self._epoch_s)
        if not (is_cheap and draft.park(instance)):
            self._emptied_s.setdefault(instance.device, draft.ledger.now_s)

    def epoch(self, draft: Draft) -> None:
        """Parks what has been empty for as long as loading it again would take."""
        ledger = draft.ledger
        for device, since_s in list(self._emptied_s.items()):
            instance = ledger.instances.get(device)
            if instance is None or instance.rows:
                del self._emptied_s[device]
                continue
            is_long = ledger.now_s - since_s >= instance.spec.load_s
            if is_long and draft.park(instance):
                del self._emptied_s[device]

    def latest(self, draft: Draft, model: ModelId) -> InstanceAccount | None:
        """An empty instance of the model that may be used again."""
        for device in reversed(self._emptied_s):
            instance = draft.ledger.instances.get(device)
            if instance is None or instance.model != model or instance.is_closing:
                continue
            if instance.rows == 0:
                return instance
        return None
