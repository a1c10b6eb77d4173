"""The guarantee: at most 4/3 of the fewest possible instances, plus a constant.

When a policy's instances exceed that, everything is packed anew by first fit
decreasing, into the instances that hold most of it already. First fit decreasing
itself needs at most 11/9 of the optimum (plus 6/9), so one such epoch restores the
bound.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from mell_jax.scheduler.bounds import lower_bound
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, RequestId
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import InstanceAccount, Ledger, RequestAccount

CONSTANT = 2
Places = Mapping[RequestId, DeviceGroupId | None]


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
    """First fit decreasing of what is not being moved, over the instances in use.

    It says which requests go together; each group then takes the instance that holds
    most of it, lest full instances wait for each other to make room.
    """
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
    groups = {
        request.id: _place(draft, request, _first_fit(ledger, bins, request, homes))
        for request in requests
    }
    places = _match(requests, homes=homes, groups=groups)
    for request in requests:
        draft.shift(request, None)
    for request in requests:
        place = places.get(groups[request.id])
        instance = ledger.instances.get(place) if place is not None else None
        is_room = instance is not None and ledger.fits(instance, request.pages)
        draft.shift(request, place if is_room else homes[request.id])


def _place(
    draft: Draft, request: RequestAccount, device: DeviceGroupId | None
) -> DeviceGroupId | None:
    draft.shift(request, device)
    return device


def _match(
    requests: list[RequestAccount], *, homes: Places, groups: Places
) -> dict[DeviceGroupId | None, DeviceGroupId]:
    """Returns the instance of each group, those first that keep most pages."""
    kept: Counter[tuple[DeviceGroupId, DeviceGroupId]] = Counter()
    for request in requests:
        group, home = groups[request.id], homes[request.id]
        if group is not None and home is not None:
            kept[group, home] += request.pages
    places: dict[DeviceGroupId | None, DeviceGroupId] = {}
    taken: set[DeviceGroupId] = set()
    for (group, home), _ in sorted(kept.items(), key=lambda one: (-one[1], one[0])):
        if group not in places and home not in taken:
            places[group] = home
            taken.add(home)
    return places


def _first_fit(
    ledger: Ledger,
    bins: list[InstanceAccount],
    request: RequestAccount,
    homes: Places,
) -> DeviceGroupId | None:
    for instance in bins:
        if ledger.fits(instance, request.pages):
            return instance.device
    return homes[request.id]
