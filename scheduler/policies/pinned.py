"""Pinned: a request stays to its end where it was placed; nothing ever moves.

    pinned_best_fit   to the fullest instance with room: few instances are open
    pinned_spread     to the emptiest of all devices, parked ones first: all are open

The baselines without migration, as servers behind a router are. What overflows is not
moved: the machine preempts the youngest, which is prefilled again later. Nothing is
known of lengths, other than by `reserve_peak`, which never moves anything either.
`headroom` is the fraction of an instance that a placement leaves free.
"""

from collections.abc import Callable
from typing import final

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import Policy, PolicyConfig
from mell_jax.scheduler.policies.best_fit import BestFit
from mell_jax.scheduler.policies.spread import Spread


@final
class Pinned:
    """Places requests as `arrive` says, and does nothing else."""

    look_s = 0.0

    def __init__(self, arrive: Callable[[Draft, RequestAccount], None]) -> None:
        self._arrive = arrive

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        self._arrive(draft, request)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        pass  # the machine preempts

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        draft.park(instance)

    def epoch(self, draft: Draft) -> None:
        pass


def build_pinned_best_fit(config: PolicyConfig) -> Policy:
    """See the module's docstring."""
    return Pinned(BestFit(config).arrive)


def build_pinned_spread(config: PolicyConfig) -> Policy:
    """See the module's docstring."""
    return Pinned(Spread(config).arrive)
