"""This policy does nothing by itself, so that only what a benchmark moves moves."""

from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft


class Still:
    """Opens an instance for each of the first arrivals, then places round robin.

    Nothing is ever moved or parked.

    Args:
      instances: how many to open.
    """

    look_s = 0.0

    def __init__(self, instances: int) -> None:
        self._instances = instances

    def arrive(self, draft: Draft, request: RequestAccount) -> None:
        served = draft.ledger.of_model(request.model)
        if len(served) < self._instances:
            opened = draft.activate(request.model)
            assert opened is not None, f"{self._instances} instances: one is missing"
            draft.shift(request, opened.device)
            return
        least = min(served.values(), key=lambda instance: instance.rows)
        if draft.ledger.fits(least, request.pages):
            draft.shift(request, least.device)

    def grown(self, draft: Draft, request: RequestAccount, before: int) -> None:
        pass

    def overflow(self, draft: Draft, instance: InstanceAccount, lack: int) -> None:
        pass

    def departed(self, draft: Draft, instance: InstanceAccount, pages: int) -> None:
        pass

    def emptied(self, draft: Draft, instance: InstanceAccount) -> None:
        pass

    def epoch(self, draft: Draft) -> None:
        pass
