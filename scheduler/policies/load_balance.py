"""Load balance: worst fit that also evens out and scales in, as Llumnix v0 does.

    loads   0.9  0.3  0.8  0.2      pairs: 0.9 -> 0.2, 0.8 -> 0.3

Once per epoch (Sun et al., OSDI 2024, arXiv 2406.03243) the fullest instance is paired
with the emptiest, the second with the second, and so on while loads differ by more than
`GAP`; each pair moves the largest request of at most half the difference, so none swaps
roles. Where the others would stay below `SCALE_IN_LOAD` the instance with the fewest
requests is emptied. Dispatch, overflow and `headroom` are worst fit's.
"""

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.rebalancing import Rebalancing
from mell_jax.scheduler.policies.worst_fit import WorstFit

GAP = 0.2  # of the capacity
SCALE_IN_LOAD = 0.9  # of what `headroom` leaves


def build_load_balance(config: PolicyConfig) -> Policy:
    """See the module's docstring."""
    return Rebalancing(WorstFit(config), rebalance=_Balancer(config).epoch)


class _Balancer:
    """What happens in an epoch."""

    def __init__(self, config: PolicyConfig) -> None:
        self._most_load = SCALE_IN_LOAD * (1 - config.headroom)

    def epoch(self, draft: Draft) -> None:
        for model in draft.ledger.models:
            self._scale_in(draft, model)
            for high, low in _pairs(draft, model):
                _balance(draft, high, low)

    def _scale_in(self, draft: Draft, model: ModelId) -> None:
        """Empties the instance with the fewest requests if the others can take them."""
        instances = _by_load(draft, model)
        if not instances:
            return
        source = min(instances, key=lambda i: (i.rows, i.pages, i.serial))
        used = sum(instance.pages for instance in instances)
        others = [i.spec.capacity_pages for i in instances if i is not source]
        if not 0 < used <= self._most_load * sum(others):
            return
        savepoint = draft.savepoint()
        for request in sorted(source.requests.values(), key=lambda r: -r.pages):
            peak = request.most_pages
            device = draft.ledger.worst_fit(model, skip=source.device, peak=peak)
            target = draft.ledger.instances[device] if device is not None else None
            pages = draft.ledger.wanted_pages(request)
            if target is None or not draft.ledger.fits(target, pages):
                draft.rollback(savepoint)
                return
            draft.shift(request, target.device)


def _by_load(draft: Draft, model: ModelId) -> list[InstanceAccount]:
    instances = draft.ledger.of_model(model).values()
    return sorted(
        (instance for instance in instances if not instance.is_closing),
        key=lambda instance: (_load(instance), instance.serial),
    )


def _load(instance: InstanceAccount) -> float:
    return instance.pages / instance.spec.capacity_pages


def _pairs(
    draft: Draft, model: ModelId
) -> list[tuple[InstanceAccount, InstanceAccount]]:
    """Fullest with emptiest, as long as they differ enough; not the empty ones."""
    by_load = [instance for instance in _by_load(draft, model) if instance.rows]
    half = len(by_load) // 2
    pairs = zip(reversed(by_load), by_load[:half], strict=False)
    return [
        (high, low)
        for high, low in pairs
        if high.pages - _scaled(low, to=high) > GAP * high.spec.capacity_pages
    ]


def _scaled(instance: InstanceAccount, *, to: InstanceAccount) -> float:
    """The pages of an instance if it were as large as another, and as full as it is."""
    return instance.pages * to.spec.capacity_pages / instance.spec.capacity_pages


def _balance(draft: Draft, high: InstanceAccount, low: InstanceAccount) -> None:
    ledger = draft.ledger
    high_size, low_size = high.spec.capacity_pages, low.spec.capacity_pages
    even = high.pages * low_size - low.pages * high_size
    most = min(even // (high_size + low_size), ledger.room(low))
    fitting = [
        request
        for request in high.requests.values()
        if ledger.wanted_pages(request) <= most
        and request.most_pages <= low.books.limit
    ]
    if fitting:
        largest = max(fitting, key=lambda request: (request.pages, -request.serial))
        draft.shift(largest, low.device)
