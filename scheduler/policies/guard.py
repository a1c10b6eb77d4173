"""The guarantee: at most 4/3 of the fewest possible instances, plus a constant.

When a policy's instances exceed that, everything is packed anew by first fit
decreasing, into the instances that hold most of it already. First fit decreasing
itself needs at most 11/9 of the optimum (plus 6/9), so one such epoch restores the
bound.
"""

import numpy as np

from mell_jax.scheduler.bounds import lower_bound
from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import InstanceAccount, Ledger, RequestAccount

CONSTANT = 2


def is_exceeded(ledger: Ledger, model: ModelId) -> bool:
    """Tells whether a model uses more instances than the guarantee allows.

    Empty ones, which wait a while before they are parked, do not count: packing cannot
    help there. The volume answers in O(1) nearly always; L2 is computed only when it
    does not.
    """
    instances = ledger.of_model(model)
    spec = ledger.spec(model)
    volume = -(-ledger.total_pages(model) // spec.capacity_pages)
    if 3 * (len(instances) - CONSTANT) <= 4 * volume:
        return False
    used = sum(instance.rows > 0 for instance in instances.values())
    sizes = np.array(
        [r.pages for i in instances.values() for r in i.requests.values()], np.int64
    )
    bound = lower_bound(sizes, capacity=spec.capacity_pages)
    return 3 * (used - CONSTANT) > 4 * bound


def repack(draft: Draft, model: ModelId) -> None:
    """First fit decreasing of what is not being moved, over the instances in use."""
    ledger = draft.ledger
    requests = [
        request
        for instance in ledger.of_model(model).values()
        for request in instance.requests.values()
    ]
    requests.sort(key=lambda request: (-request.pages, request.serial))
    homes = {request.id: request.device for request in requests}
    bins = sorted(
        (i for i in ledger.of_model(model).values() if not i.is_closing),
        key=lambda instance: (-instance.pages, instance.serial),
    )
    for request in requests:
        draft.shift(request, None)
    for request in requests:
        draft.shift(request, _first_fit(ledger, bins, request, homes[request.id]))


def _first_fit(
    ledger: Ledger,
    bins: list[InstanceAccount],
    request: RequestAccount,
    home: DeviceGroupId | None,
) -> DeviceGroupId | None:
    for instance in bins:
        if ledger.fits(instance, request.pages):
            return instance.device
    return home
