"""The executor carries out a draft: what has room now, other moves when they have.

    difference  ->  preempt, park | activate, place, move | deferred until room or epoch

It owns the life of a move: reserve at the target, count at both ends, release one end
when it is over. Every instance that changes is noted in `freed`, for the machine
to look at again.
"""

import itertools
import math
from collections.abc import Callable

from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.placement.accounts import (
    InstanceAccount,
    RequestAccount,
    Reservation,
)
from mell_jax.scheduler.placement.draft import Draft
from mell_jax.scheduler.placement.ledger import Ledger


class PlanExecutor:
    """The executor turns changes into decisions; there is one per machine.

    Args:
      may_go: tells whether a request may be on a device group; None: anywhere.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        may_go: Callable[[RequestId, DeviceGroupId], bool] | None = None,
    ) -> None:
        self.draft = Draft(ledger)
        self.freed: dict[DeviceGroupId, None] = {}
        self.preempted: list[RequestAccount] = []  # to be queued by the machine
        self.decisions: list[plan.Decision] = []
        self._ledger = ledger
        self._may_go = may_go
        self._barred: RequestAccount | None = None  # the latest one
        self._deferred: dict[RequestId, tuple[RequestAccount, DeviceGroupId]] = {}
        self._next_move = 0

    def apply(self, *, is_urgent: bool = False) -> None:
        """Carries out the draft as far as there is room, and empties it."""
        draft = self.draft
        self._barred = None
        if not draft.is_touched:
            return
        changes = draft.difference()
        parked, kept = draft.parked, draft.kept
        draft.clear()
        for request, device in changes:
            if device is None:
                self.preempt(request)
        for device in parked:
            self.park(device)
        for instance in kept:
            self._activate(instance.device, instance.model)
        left = [(request, device) for request, device in changes if device is not None]
        left = self._start_all(left, is_urgent=is_urgent, may_activate=True)
        for request, device in left:
            if request.device is not None:
                self._deferred[request.id] = (request, device)

    def is_barred(self, request: RequestAccount) -> bool:
        """Tells whether the latest draft had one that waits go where it may not be."""
        return self._barred is request and request.device is None

    def detour(self, request: RequestAccount) -> None:
        """Places a request where it may be and there is room, if there is such a place.

        Where the policy would have it, it may not be: the fullest is taken.
        """
        ledger, model, peak = self._ledger, request.model, request.most_pages
        fitting = ledger.fullest_first(model, request.pages, peak=peak)
        others = ledger.emptiest_first(model, peak=peak)
        idle = ledger.idle_for(model, peak=peak)
        for device in itertools.chain(fitting, others, idle):
            instance = ledger.instances.get(device)
            has_room = instance is None or ledger.fits(instance, request.pages)
            if has_room and self._is_allowed(request, device):
                break
        else:
            return
        self._start(request, device, is_urgent=False, may_activate=True)

    def _is_allowed(self, request: RequestAccount, device: DeviceGroupId) -> bool:
        return self._may_go is None or self._may_go(request.id, device)

    def retry_deferred(self) -> None:
        """Starts the moves that have room by now."""
        if not self._deferred:
            return
        requests = self._ledger.requests
        wanted = [
            (request, device)
            for request, device in self._deferred.values()
            if requests.get(request.id) is request and request.device is not None
        ]
        left = self._start_all(wanted, is_urgent=False, may_activate=False)
        self._deferred = {request.id: (request, device) for request, device in left}

    def drop_deferred(self) -> None:
        """Forgets the moves that still have no room."""
        self._deferred.clear()

    def preempt(self, request: RequestAccount) -> None:
        """Takes a request's pages away; it is left to the machine to queue it."""
        device = request.device
        assert device is not None
        wanted = self._ledger.wanted_pages(request)
        self._ledger.instances[device].stalled.pop(request.id, None)
        self._ledger.settle(request, None)
        request.pages = wanted  # or it would come back to where its next page is not
        request.queued_s = self._ledger.now_s
        request.held_until_s = -math.inf
        request.is_again = True
        self.freed[device] = None
        self.preempted.append(request)
        self.decisions.append(plan.Preempt(request=request.id, device=device))

    def park(self, device: DeviceGroupId) -> None:
        """Closes an empty instance; its device group is idle."""
        self._ledger.close(device, is_idle=True)
        self.freed.pop(device, None)
        self.decisions.append(plan.Park(device=device))

    def end_move(self, move_id: MoveId, *, is_committed: bool) -> None:
        """Releases the end that does not own the request afterwards."""
        ledger = self._ledger
        move = ledger.moves.pop(move_id)
        request = move.request
        source, target = ledger.instances[move.source], ledger.instances[move.target]
        ledger.leave(source, pages=-request.pages)
        del target.arriving[request.id]
        request.move = None
        left, stays = (source, target) if is_committed else (target, source)
        left.stalled.pop(request.id, None)
        stays.requests[request.id] = request
        request.device = stays.device
        ledger.charge(left, pages=-request.pages, rows=-1)
        ledger.refile(stays)
        self.freed[left.device] = None
        self.freed[stays.device] = None

    def _start_all(
        self,
        wanted: list[tuple[RequestAccount, DeviceGroupId]],
        *,
        is_urgent: bool,
        may_activate: bool,
    ) -> list[tuple[RequestAccount, DeviceGroupId]]:
        """Starts what has room, over and over; returns what has none."""
        count = -1
        while wanted and len(wanted) != count:
            count = len(wanted)
            wanted = [
                (request, device)
                for request, device in wanted
                if not self._start(
                    request, device, is_urgent=is_urgent, may_activate=may_activate
                )
            ]
        return wanted

    def _start(
        self,
        request: RequestAccount,
        device: DeviceGroupId,
        *,
        is_urgent: bool,
        may_activate: bool,
    ) -> bool:
        """Places or moves a request if need be; tells whether that was possible."""
        ledger = self._ledger
        if request.device == device or request.move is not None:
            return True
        if not self._is_allowed(request, device):
            self._barred = request
            return False
        target = ledger.instances.get(device)
        if target is None and may_activate and ledger.is_idle(device):
            target = self._activate(device, request.model)
        if target is None or target.model != request.model:
            return False
        wanted = ledger.wanted_pages(request)
        if not ledger.fits(target, wanted, peak=request.most_pages):
            return False
        if request.device is None:
            ledger.settle(request, device)
            self.decisions.append(
                plan.Place(request=request.id, device=device, pages=request.pages)
            )
        else:
            self._begin_move(request, target, is_urgent=is_urgent)
        return True

    def _activate(self, device: DeviceGroupId, model: ModelId) -> InstanceAccount:
        instance = self._ledger.open(device, model)
        spec = instance.spec
        self.decisions.append(
            plan.Activate(
                device=device,
                model=model,
                load_s=spec.load_s,
                weights_bytes=spec.weights_bytes,
                kind=instance.kind,
            )
        )
        return instance

    def _begin_move(
        self, request: RequestAccount, target: InstanceAccount, *, is_urgent: bool
    ) -> None:
        ledger = self._ledger
        assert request.device is not None
        move_id, self._next_move = MoveId(self._next_move), self._next_move + 1
        source = ledger.instances[request.device]
        del source.requests[request.id]
        ledger.leave(source, pages=request.pages)
        target.arriving[request.id] = request
        ledger.refile(source)
        ledger.charge(target, pages=request.pages, rows=1)
        request.move = move_id
        if request.id in source.stalled:
            target.stalled[request.id] = source.stalled[request.id]
        move = plan.Move(
            move=move_id,
            request=request.id,
            source=source.device,
            target=target.device,
            pages=request.pages,
            is_urgent=is_urgent,
        )
        ledger.moves[move_id] = Reservation(request=request, move=move)
        self.decisions.append(move)
