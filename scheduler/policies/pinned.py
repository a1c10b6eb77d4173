"""Pinned: another policy chooses the place, and there a request stays to its end.

The baseline without migration, as servers behind a router have it: what overflows is
not moved; the machine preempts the youngest, which is prefilled again later. Nothing
is known of lengths, other than by `reserve_peak`, which never moves anything either.
"""

from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.best_fit import BestFit
from mell_jax.scheduler.policies.worst_fit import WorstFit


class Pinned:
    """See the module's docstring."""

    def __init__(self, inner: Policy) -> None:
        self._inner = inner

    @property
    def look_s(self) -> float:
        return self._inner.look_s

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        self._inner.arrive(draft, request)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        pass  # the machine preempts

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        self._inner.emptied(draft, instance)

    def epoch(self, draft: Draft) -> None:
        pass


def build_pinned_best_fit(config: PolicyConfig) -> Policy:
    """Returns best fit that moves nothing."""
    return Pinned(BestFit(config))


def build_pinned_worst_fit(config: PolicyConfig) -> Policy:
    """Returns worst fit, the router to the emptiest, that moves nothing."""
    return Pinned(WorstFit(config))
