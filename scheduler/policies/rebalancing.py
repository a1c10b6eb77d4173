"""A baseline that adds an epoch of its own to another's dispatch."""

from collections.abc import Callable

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.policy import Policy


class Rebalancing:
    """Places, sheds and parks as `dispatch` does; an epoch is left to `rebalance`."""

    def __init__(self, dispatch: Policy, *, rebalance: Callable[[Draft], None]) -> None:
        self._dispatch = dispatch
        self._rebalance = rebalance

    @property
    def look_s(self) -> float:
        return self._dispatch.look_s

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        self._dispatch.arrive(draft, request)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        self._dispatch.grown(draft, request, before)

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        self._dispatch.overflow(draft, instance, lack)

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        self._dispatch.departed(draft, instance, pages)

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        self._dispatch.emptied(draft, instance)

    def epoch(self, draft: Draft) -> None:
        self._rebalance(draft)
