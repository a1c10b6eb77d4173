"""A model that waits may claim a device group from another model.

    share = device groups // models with requests, at least one

A model below its share claims from the one that has most above it: at once if it has
no instance at all, else from an instance that has had its turn. Where there are more
models than device groups, instances take turns.
"""

from mell_jax.scheduler.ids import KindId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.ledger import Ledger

TURN_S = 10.0
"""How long an instance is left alone while its claimant has another one."""


def choose_victim(
    ledger: Ledger, *, claimant: ModelId, demanding: int, peak: int = 0
) -> InstanceAccount | None:
    """Returns the instance to be emptied for a model that waits, if it is entitled.

    Args:
      demanding: models that have requests, the claimant among them.
      peak: pages of the request that waits; its device must be able to hold them.
    """
    if demanding < 2:
        return None  # empty instances of others are to be had without a claim
    devices = len(ledger.instances) + ledger.idle_devices
    share = max(devices // demanding, 1)
    owned = len(ledger.of_model(claimant))
    if owned >= share:
        return None
    kinds = {own.kind for own in ledger.kinds(claimant) if own.limit >= peak}
    others = {model: _staying(ledger, model, kinds) for model in ledger.models}
    del others[claimant]
    richest = max(others.values(), key=len)
    if len(richest) > share:
        emptiest = min(richest, key=lambda instance: instance.pages)
        return emptiest if owned == 0 or _had_its_turn(ledger, emptiest) else None
    oldest = min(
        (instance for some in others.values() for instance in some),
        key=lambda instance: instance.serial,
        default=None,
    )
    return oldest if oldest is not None and _had_its_turn(ledger, oldest) else None


def _staying(
    ledger: Ledger, model: ModelId, kinds: set[KindId]
) -> list[InstanceAccount]:
    """Returns a model's instances on devices of these kinds."""
    return [
        instance
        for instance in ledger.of_model(model).values()
        if not instance.is_closing and instance.kind in kinds
    ]


def _had_its_turn(ledger: Ledger, instance: InstanceAccount) -> bool:
    return ledger.now_s - instance.opened_s >= TURN_S
