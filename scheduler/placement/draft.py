"""A policy plans on a draft: only the difference is carried out at the end.

    draft.shift(r, b); draft.shift(r, c); draft.shift(s, b); draft.shift(s, a)
    draft.difference()  ->  r: a -> c          (s went there and back: nothing)

The copy is the ledger itself with a log that undoes every change, so a draft costs what
it touches and reads of the ledger see it. In a draft the room of a request that left is
free at once; the machine starts a move only when its target has the room in truth, and
keeps the rest of the moves of the same plan until it has.
"""

from collections.abc import Callable

from mell_jax.scheduler.ids import DeviceGroupId, KindId, ModelId, RequestId
from mell_jax.scheduler.placement.accounts import InstanceAccount, RequestAccount
from mell_jax.scheduler.placement.kind_books import KindBooks
from mell_jax.scheduler.placement.ledger import Ledger


class Draft:
    """A draft holds what a policy changes; it is empty between events.

    There is one per machine.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._log: list[Callable[[], None]] = []
        self._origins: dict[RequestId, tuple[RequestAccount, DeviceGroupId | None]] = {}
        self._parked: list[DeviceGroupId] = []
        self._kept: list[InstanceAccount] = []

    @property
    def is_touched(self) -> bool:
        return bool(self._log)

    @property
    def parked(self) -> tuple[DeviceGroupId, ...]:
        return tuple(self._parked)

    @property
    def kept(self) -> tuple[InstanceAccount, ...]:
        """Returns instances to be opened though no request goes there."""
        return tuple(self._kept)

    def shift(self, request: RequestAccount, device: DeviceGroupId | None) -> None:
        """Takes a request to `device`, or to the queue (None: it is preempted).

        The request may be waiting or live on an instance; `request.move` must be None.
        Room is not checked here: use `ledger.fits` or an index query first.
        """
        before = request.device
        if before == device:
            return
        self._origins.setdefault(request.id, (request, before))
        self.ledger.settle(request, device)
        self._log.append(lambda: self.ledger.settle(request, before))

    def activate(
        self,
        model: ModelId,
        *,
        peak: int = 0,
        kind: KindId | None = None,
        is_kept: bool = False,
    ) -> InstanceAccount | None:
        """Opens an empty instance of `model`; None when no device group is idle.

        An empty instance of another model gives up its device group if need be.

        Args:
          peak: pages of one request that its kind of device must be able to hold.
          kind: of the device; None is the cheapest for the same work, and the largest
            of these.
          is_kept: it stands by; else what gets no request in the end is not activated.
        """
        fitting = [
            own
            for own in self.ledger.kinds(model)
            if own.limit >= peak and (kind is None or own.kind == kind)
        ]
        fitting.sort(key=lambda own: (own.work_price, -own.limit))
        idle = (self.ledger.next_idle(own.kind) for own in fitting)
        device = next((device for device in idle if device is not None), None)
        if device is None:
            device = self._reclaim(model, fitting)
        if device is None:
            return None
        instance = self.ledger.open(device, model)
        self._log.append(lambda: self.ledger.close(device, is_idle=True))
        if is_kept:
            self._kept.append(instance)
            self._log.append(lambda: self._kept.remove(instance))
        return instance

    def hold(self, request: RequestAccount, *, until_s: float) -> None:
        """Lets a request wait though an instance could be opened for it.

        The machine offers it again whenever something is freed, and at `until_s` at
        the latest; it claims no instance of another model for it meanwhile.
        """
        request.held_until_s = until_s

    def park(self, instance: InstanceAccount) -> bool:
        """Ends an instance that holds nothing, not even a reservation.

        The last instance of a model that keeps it stays: its cached pages and its being
        open are worth having as long as nobody else wants its device group, and who
        does takes it by `activate`. Returns whether the instance was parked.
        """
        spec = self.ledger.spec(instance.model)
        if spec.keeps_last and len(self.ledger.of_model(instance.model)) == 1:
            return False
        self._close(instance)
        return True

    def _close(self, instance: InstanceAccount) -> None:
        assert instance.rows == 0, f"{instance.device} still holds {instance.rows} rows"
        device = instance.device
        self.ledger.close(device, is_idle=True)
        self._parked.append(device)

        def undo() -> None:
            self.ledger.reopen(instance)
            self._parked.remove(device)

        self._log.append(undo)

    def savepoint(self) -> int:
        """Returns a mark for `rollback`."""
        return len(self._log)

    def rollback(self, savepoint: int = 0) -> None:
        """Undoes everything since the mark."""
        while len(self._log) > savepoint:
            self._log.pop()()
        if not self._log:
            self._origins.clear()

    def difference(self) -> list[tuple[RequestAccount, DeviceGroupId | None]]:
        """Returns the requests that have a new place, with it."""
        return [
            (request, request.device)
            for request, before in self._origins.values()
            if request.device != before
        ]

    def moves(self) -> list[tuple[RequestAccount, DeviceGroupId, DeviceGroupId]]:
        """Returns those that would move pages: request, source, target."""
        return [
            (request, before, request.device)
            for request, before in self._origins.values()
            if before is not None
            and request.device is not None
            and request.device != before
        ]

    def clear(self) -> None:
        """Undoes everything; the machine calls this."""
        self.rollback()

    def _reclaim(self, model: ModelId, kinds: list[KindBooks]) -> DeviceGroupId | None:
        """Closes an empty instance of another model, on the first kind that has one."""
        for own in kinds:
            for other in self.ledger.models:
                theirs = self.ledger.on_kind(other, own.kind)
                if other == model or theirs is None:
                    continue
                for emptiest in theirs.index.descending():
                    instance = self.ledger.instances[emptiest]
                    if instance.rows:
                        break
                    if not self._is_left(emptiest):
                        self._close(instance)
                        return self.ledger.next_idle(own.kind)
        return None

    def _is_left(self, device: DeviceGroupId) -> bool:
        """Returns whether the draft takes somebody away, who stays until he moves."""
        return any(before == device for _, before in self._origins.values())
