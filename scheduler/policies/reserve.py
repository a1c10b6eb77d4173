"""A reserve is room kept free, so that what a lost device held fits elsewhere at once.

    count 1     d0 [7 2 .]  d1 [6 2 . .]  d2 [. . . . . . . . . .]     d0 may be lost
    free pages of all  >=  what the largest device can hold

It is by volume after every event, which is O(1), and by a packing at epochs and before
a closing: the requests of the instances that hold most go by best fit decreasing to the
room of the others. What uses the room is made up for by a device that stands by.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from mell_jax.scheduler.ids import DeviceGroupId, ModelId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger

LOOKED_AT = 16  # emptiest instances that may take in what is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """The reserve is for `count` devices that are lost at once; 0: there is none."""

    count: int

    def pages(
        self, ledger: Ledger, model: ModelId, *, less: Sequence[KindBooks] = ()
    ) -> int:
        """Returns what is to stay free if an instance of each kind in `less` closes.

        It is what the `count` largest of the rest can hold, of kinds in use.
        """
        if not self.count:
            return 0
        left, pages = self.count, 0
        kinds = sorted(ledger.kinds(model), key=lambda own: -own.spec.capacity_pages)
        for own in kinds if ledger.total_pages(model) else ():
            if not own.rows:
                continue  # they stand by
            taken = min(left, max(0, own.count - less.count(own)))
            pages += taken * own.spec.capacity_pages
            left -= taken
        return pages

    def lacks(self, ledger: Ledger, model: ModelId) -> int:
        """Returns the pages that are not free though they should be; 0: none."""
        if not self.count:
            return 0
        held = ledger.total_pages(model) - ledger.leaving_pages(model)
        if not held:
            return 0
        free = ledger.capacity_pages(model) - held
        return max(0, self.pages(ledger, model) - free)

    def is_safe(
        self, ledger: Ledger, model: ModelId, *, without: InstanceAccount | None = None
    ) -> bool:
        """Tells whether the requests of the `count` fullest instances fit elsewhere.

        Args:
          without: an instance that is about to close.
        """
        if not self.count:
            return True
        instances = [
            instance
            for instance in ledger.of_model(model).values()
            if not (instance.is_closing or instance is without)
        ]
        instances.sort(key=lambda instance: (-instance.pages, instance.serial))
        lost, left = instances[: self.count], instances[self.count :]
        rooms = sorted((ledger.room(i), n, i.books.limit) for n, i in enumerate(left))
        requests = [request for i in lost for request in i.requests.values()]
        for request in sorted(requests, key=lambda r: (-r.pages, r.serial)):
            at = bisect_left(rooms, (request.pages, -1, 0))
            while at < len(rooms) and rooms[at][2] < request.most_pages:
                at += 1
            if at == len(rooms):
                return False
            room, number, limit = rooms.pop(at)
            insort(rooms, (room - request.pages, number, limit))
        return True

    def find(self, ledger: Ledger, request: RequestAccount) -> DeviceGroupId | None:
        """Returns where a request that has lost its place can go on at once.

        It is the fullest ready instance with room for it and everybody's growth, else
        one of the emptiest with room for it alone.
        """
        if not self.count:
            return None
        model, pages, peak = request.model, request.pages, request.most_pages
        for device in ledger.fullest_first(model, pages, peak=peak):
            if _is_ready(ledger, ledger.instances[device]):
                return device
        for device in islice(ledger.emptiest_first(model, peak=peak), LOOKED_AT):
            instance = ledger.instances[device]
            if _is_ready(ledger, instance) and ledger.fits(instance, pages):
                return device
        return None

    def fill(self, draft: Draft, model: ModelId, *, is_epoch: bool = False) -> None:
        """Opens devices that stand by until there is room enough, if there are any.

        A packing may ask for one more than the volume does, once an epoch.
        """
        ledger = draft.ledger
        while lack := self.lacks(ledger, model):
            if not self._open(draft, model, lack=lack):
                return
        if is_epoch and not self.is_safe(ledger, model):
            self._open(draft, model, lack=0)

    def _open(self, draft: Draft, model: ModelId, *, lack: int) -> bool:
        """Opens the kind that makes up for a lack at the least price.

        Where the lack is one of room that lies together (0), only kinds that can hold
        any request will do.
        """
        ledger = draft.ledger
        kinds = ledger.kinds(model)
        idle = [own for own in kinds if ledger.next_idle(own.kind) is not None]
        if not idle:
            return False
        peak = max(
            request.most_pages
            for instance in ledger.of_model(model).values()
            for request in (*instance.requests.values(), *instance.arriving.values())
        )
        fitting = [own for own in idle if own.limit >= peak]
        if not fitting and not lack:
            return False

        def price(own: KindBooks) -> float:
            return own.price_per_hour * -(-max(1, lack) // own.spec.capacity_pages)

        best = min(fitting or idle, key=price)
        draft.activate(model, kind=best.kind, is_kept=True)
        return True


def _is_ready(ledger: Ledger, instance: InstanceAccount) -> bool:
    return ledger.now_s >= instance.opened_s + instance.spec.load_s


NO_RESERVE = Reserve(count=0)
