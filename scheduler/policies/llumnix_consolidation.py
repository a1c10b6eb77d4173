"""Llumnix v1's two bin-packing policies: relieve what is too full, empty what is not.

    load  0 ------- floor ------------ dispatch --- ceil --- 1
             source of                              source of
             consolidation                          mitigation
             `------------- targets ----------'

New requests go to the fullest instance that stays under `dispatch`. Per period each of
the two policies makes one pair: mitigation takes the fullest source, consolidation the
emptiest, both to the fullest target that takes a request of theirs, shortest first.
Llumnix goes by predicted time per output token, this by pages. `headroom` is what
`dispatch` leaves free; Llumnix's own thresholds (0.6, 0.85, 0.95) are those of 0.15.
Llumnix is Sun et al., OSDI 2024, arXiv 2406.03243, which has neither of the two.
"""

from collections.abc import Iterable

from mell_jax.scheduler.ids import ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.best_fit import BestFit
from mell_jax.scheduler.policies.rebalancing import Rebalancing

PERIOD_S = 0.1
FLOOR = 0.60 / 0.85  # of `dispatch`
CEIL_HEADROOM = 0.05 / 0.15  # of `headroom`


def build_llumnix_consolidation(config: PolicyConfig) -> Policy:
    """See the module's docstring."""
    return Rebalancing(BestFit(config), rebalance=_BinPacking(config).epoch)


class _BinPacking:
    """What happens in an epoch."""

    def __init__(self, config: PolicyConfig) -> None:
        self._target_load = 1 - config.headroom
        self._ceil = 1 - CEIL_HEADROOM * config.headroom
        self._floor = FLOOR * self._target_load
        self._pairs = max(1, round(config.epoch_s / PERIOD_S))

    def epoch(self, draft: Draft) -> None:
        for model in draft.ledger.models:
            for _ in range(self._pairs):
                self._mitigate(draft, model)
                self._consolidate(draft, model)

    def _mitigate(self, draft: Draft, model: ModelId) -> None:
        """Takes the fullest instance back to the load that dispatch aims at."""
        source = max(_open(draft, model), key=_load, default=None)
        capacity = source.spec.capacity_pages if source is not None else 0
        if source is not None and source.pages > self._ceil * capacity:
            self._hand_over(draft, source, down_to=int(self._target_load * capacity))

    def _consolidate(self, draft: Draft, model: ModelId) -> None:
        """Takes the emptiest instance towards nothing."""
        busy = [instance for instance in _open(draft, model) if instance.requests]
        source = min(busy, key=_load, default=None)
        if source is None:
            return
        if source.pages < self._floor * source.spec.capacity_pages:
            self._hand_over(draft, source, down_to=0)

    def _reserve(self, capacity: int) -> int:
        """Pages that `dispatch` leaves free."""
        return capacity - int(self._target_load * capacity)

    def _hand_over(
        self, draft: Draft, source: InstanceAccount, *, down_to: int
    ) -> None:
        """One pair: the shortest requests go to one target while it takes them."""
        ledger = draft.ledger
        target: InstanceAccount | None = None
        by_length = sorted(
            source.requests.values(),
            key=lambda request: (request.pages, request.serial),
        )
        for request in by_length:
            if source.pages <= down_to:
                return
            pages, peak = ledger.wanted_pages(request), request.most_pages
            if target is None:
                device = ledger.best_fit(
                    source.model,
                    pages,
                    skip=source.device,
                    peak=peak,
                    reserve=self._reserve,
                )
                if device is None:
                    return
                target = ledger.instances[device]
            needed = pages + self._reserve(target.spec.capacity_pages)
            if not ledger.fits(target, needed, peak=peak):
                return
            draft.shift(request, target.device)


def _open(draft: Draft, model: ModelId) -> Iterable[InstanceAccount]:
    instances = draft.ledger.of_model(model).values()
    return (instance for instance in instances if not instance.is_closing)


def _load(instance: InstanceAccount) -> tuple[float, int]:
    return instance.pages / instance.spec.capacity_pages, instance.serial
