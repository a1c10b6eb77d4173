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
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import Ledger

CONSTANT = 2
Homes = Mapping[RequestId, DeviceGroupId | None]
Groups = Mapping[RequestId, DeviceGroupId]


def is_exceeded(ledger: Ledger, model: ModelId) -> bool:
    """Tells whether a model uses more instances than the guarantee allows.

    Empty ones, which wait a while before they are parked, do not count: packing cannot
    help there. The volume answers in O(1) nearly always; L2 is computed only when it
    does not.
    """
    if len(ledger.kinds(model)) > 1:
        return False  # the guarantee counts devices that are all alike
    instances = ledger.of_model(model)
    spec = ledger.kinds(model)[0].spec
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
    most of it, lest full instances wait for each other to make room. Where that would
    not fit, everything stays where first fit has put it; where first fit needs more
    instances than there are, everything stays where it is.
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
    before = draft.savepoint()
    _take_out(draft, requests)
    groups: dict[RequestId, DeviceGroupId] = {}
    for request in requests:
        group = _first_fit(ledger, bins, request)
        if group is None:
            draft.rollback(before)
            return
        groups[request.id] = group
        draft.shift(request, group)
    mark = draft.savepoint()
    places = _match(
        requests, homes=homes, groups=groups, among=[i.device for i in bins]
    )
    _take_out(draft, requests)
    if not _settle(draft, requests, groups=groups, places=places):
        draft.rollback(mark)


def _take_out(draft: Draft, requests: list[RequestAccount]) -> None:
    for request in requests:
        draft.shift(request, None)


def _settle(
    draft: Draft,
    requests: list[RequestAccount],
    *,
    groups: Groups,
    places: Mapping[DeviceGroupId, DeviceGroupId],
) -> bool:
    """Shifts every group to its place; returns whether all of them fit."""
    ledger = draft.ledger
    for request in requests:
        place = places[groups[request.id]]
        if not ledger.fits(ledger.instances[place], request.pages):
            return False
        draft.shift(request, place)
    return True


def _match(
    requests: list[RequestAccount],
    *,
    homes: Homes,
    groups: Groups,
    among: list[DeviceGroupId],
) -> dict[DeviceGroupId, DeviceGroupId]:
    """Returns an instance for each group, those first that keep most pages."""
    kept: Counter[tuple[DeviceGroupId, DeviceGroupId]] = Counter()
    for request in requests:
        group, home = groups[request.id], homes[request.id]
        if home is not None and home in among:
            kept[group, home] += request.pages
    places: dict[DeviceGroupId, DeviceGroupId] = {}
    free = dict.fromkeys(among)
    for (group, home), _ in sorted(kept.items(), key=lambda one: (-one[1], one[0])):
        if group not in places and home in free:
            places[group] = home
            del free[home]
    for group in dict.fromkeys(groups.values()):
        if group not in places:  # nothing of it may stay
            places[group] = group if group in free else next(iter(free))
            del free[places[group]]
    return places


def _first_fit(
    ledger: Ledger, bins: list[InstanceAccount], request: RequestAccount
) -> DeviceGroupId | None:
    for instance in bins:
        if ledger.fits(instance, request.pages):
            return instance.device
    return None
