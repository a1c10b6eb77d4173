"""Finds room for a request by moving smaller ones out of its way.

    3 pages wanted     d0 [7 2 .]   d1 [6 2 . .]      a dot is a free page
    nobody has 3, but the 2 of d0 fits d1, and then d0 has 3

Every request in a chain is smaller than the one before it, so a chain ends; it runs
over a few of the emptiest instances, within a budget of pages moved and of options
tried. What it finds can be carried out one move after the other.
"""

from mell_jax.scheduler.ids import DeviceGroupId
from mell_jax.scheduler.placement.accounts import RequestAccount
from mell_jax.scheduler.placement.draft import Draft

WIDTH = 8  # instances looked at for each link of a chain
MAX_TRIES = 200


class Relocation:
    """One search; every find is left in the draft, nothing else is."""

    def __init__(self, draft: Draft, *, max_tries: int = MAX_TRIES) -> None:
        self._draft = draft
        self._ledger = draft.ledger
        self._tries_left = max_tries

    def find(
        self,
        request: RequestAccount,
        *,
        skip: frozenset[DeviceGroupId] = frozenset(),
        depth: int,
        budget_pages: int,
    ) -> bool:
        """Shifts `request` to an instance not in `skip`, moving others if it has to.

        Args:
          depth: most requests moved out of the way.
          budget_pages: most pages that these have together.
        """
        size, peak = self._ledger.wanted_pages(request), request.most_pages
        for device in self._ledger.fullest_first(request.model, size, peak=peak):
            if device not in skip:
                self._draft.shift(request, device)
                return True
        if depth == 0:
            return False
        for other in self._in_the_way(request, skip, size, budget_pages):
            home = other.device
            assert home is not None
            self._tries_left -= 1
            if self._tries_left < 0:
                return False
            mark = self._draft.savepoint()
            found = self.find(
                other,
                skip=skip | {home},
                depth=depth - 1,
                budget_pages=budget_pages - other.pages,
            )
            if found and self._ledger.instances[home].projected >= size:
                self._draft.shift(request, home)
                return True
            self._draft.rollback(mark)
        return False

    def _in_the_way(
        self,
        request: RequestAccount,
        skip: frozenset[DeviceGroupId],
        size: int,
        budget_pages: int,
    ) -> list[RequestAccount]:
        """Smaller requests whose leaving makes room for `request`, cheapest first."""
        found: list[RequestAccount] = []
        width = WIDTH
        peak = request.most_pages
        for device in self._ledger.emptiest_first(request.model, peak=peak):
            if device in skip:
                continue
            instance = self._ledger.instances[device]
            enough = size - instance.projected
            most = min(size - 1, budget_pages)
            found += [
                other
                for other in instance.requests.values()
                if enough <= other.pages <= most
            ]
            width -= 1
            if width == 0:
                break
        return sorted(found, key=lambda other: (other.pages, other.serial))
