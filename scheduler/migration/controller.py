"""The controller alone decides who owns a request, and when a move commits.

    RESERVING -> COPYING -> commit -> COMMITTED -> source released:  MoveCommitted
        |           |
        '-----------'-- abort -----> ABORTING  -> target released,
                                                  source resumed:    MoveAborted

It owns the records and the numbering of copies; it knows no pages and no tokens. The
driver passes it messages of endpoints, orders of the placement machine and losses of
devices, and carries its effects out in order. Reports come before the placement machine
may hear of the event that caused them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mell_jax.scheduler.ids import NO_COPY, CopyId, DeviceGroupId, RequestId
from mell_jax.scheduler.migration import events, messages
from mell_jax.scheduler.migration.effects import (
    ControllerEffect,
    Deliver,
    Fence,
    Forget,
    Report,
    Send,
)
from mell_jax.scheduler.migration.records import MovePhase, OpenMove, Owner
from mell_jax.scheduler.placement.events import MoveAborted, MoveCommitted


class Controller:
    """The controller keeps the owner records of a fleet; there is one per fleet.

    Args:
      last_copy_id: the highest that a predecessor gave out.
      stride: between two of its copy ids; what is not a multiple others may give out.
    """

    def __init__(self, *, last_copy_id: CopyId = NO_COPY, stride: int = 1) -> None:
        self.owners: dict[RequestId, Owner] = {}
        self._stride = stride
        self._last_copy_id = CopyId(last_copy_id // stride * stride)
        # Openings without an answer, by device; a device that is lost has no entry.
        self._unanswered: dict[DeviceGroupId, set[CopyId]] = {}
        self._opened_at: dict[CopyId, DeviceGroupId] = {}  # all of these
        self._lost: set[DeviceGroupId] = set()
        self._near: dict[DeviceGroupId, dict[RequestId, None]] = {}  # whom it concerns
        self._effects: list[ControllerEffect] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.AddDevice: self._device_added,
            events.LoseDevice: self._device_lost,
            events.StartRequest: self._place,
            events.BeginMove: self._move,
            events.AbortMove: self._abort_move,
            events.AdoptRequest: self._adopt,
            events.PreemptRequest: self._preempt,
            events.End: self._end,
            events.Resend: self._resend,
            messages.Started: self._started,
            messages.Reserved: self._reserved,
            messages.Refused: self._refused,
            messages.Stopped: self._stopped,
            messages.GaveUp: self._gave_up,
            messages.Resumed: self._resumed,
            messages.Ready: self._ready,
            messages.Released: self._released,
        }

    def step(
        self, event: messages.ToController | events.ControllerEvent
    ) -> Sequence[ControllerEffect]:
        """Takes one message or event and answers with what to do, in order.

        Raises:
          ValueError: an order names an unknown device, or places a request that has a
            home or has ended.
        """
        self._handlers[type(event)](event)
        done, self._effects = self._effects, []
        return done

    @property
    def next_copy_id(self) -> CopyId:
        """Returns an id above all given out: the `horizon` of a new `Endpoint`."""
        return CopyId(self._last_copy_id + self._stride)

    def concerned(self, device: DeviceGroupId) -> list[Owner]:
        """Returns those who are, were, or are to come there, as far as it counts."""
        return [self.owners[request] for request in self._near.get(device, ())]

    def check(self) -> None:
        """Recounts whom each device concerns; for tests.

        Raises:
          AssertionError: it was lost count of.
        """
        for device, near in self._near.items():
            owners = self.owners.values()
            found = {owner.request for owner in owners if owner.concerns(device)}
            assert near.keys() == found, f"{device}: {near} is noted, {found} is so"

    # Devices.

    def _device_added(self, event: events.AddDevice) -> None:
        if event.device in self._unanswered:
            raise ValueError(f"device {event.device} is in the fleet already")
        self._unanswered[event.device] = set()
        self._near[event.device] = {}
        self._lost.discard(event.device)

    def _device_lost(self, event: events.LoseDevice) -> None:
        if not self._is_there(event.device):
            return
        for copy_id in self._unanswered.pop(event.device):
            del self._opened_at[copy_id]
        self._lost.add(event.device)
        for request in self._near.pop(event.device):
            owner = self.owners[request]
            gone = [e for e, device in owner.closing.items() if device == event.device]
            for copy_id in gone:
                del owner.closing[copy_id]
            waits = owner.next_move
            if waits is not None and waits.move.target == event.device:
                self._drop_next_move(owner)  # it may be back before its turn comes
            if owner.home == event.device:
                self._disown(owner)
            elif owner.move is not None and owner.move.target == event.device:
                self._abort(owner, owner.move)
            self._settle(owner)

    # Orders.

    def _place(self, event: events.StartRequest) -> None:
        if not self._is_there(event.device):
            return  # the placement machine is about to hear of the loss
        owner = self.owners.get(event.request)
        if owner is None:
            owner = self.owners[event.request] = Owner(event.request)
        if owner.home is not None or owner.is_over:
            raise ValueError(
                f"request {event.request} runs on {owner.home} or has ended: preempt "
                "it before it is placed again"
            )
        owner.home = event.device
        owner.waiting = event
        self._near[event.device][owner.request] = None
        self._settle(owner)

    def _adopt(self, event: events.AdoptRequest) -> None:
        if event.request in self.owners:
            raise ValueError(f"request {event.request} has an owner already")
        owner = self.owners[event.request] = Owner(event.request)
        owner.home, owner.copy_id = event.device, event.copy_id
        self._near[event.device][event.request] = None

    def _move(self, event: events.BeginMove) -> None:
        owner = self.owners.get(event.move.request)
        # A lost target may be back by its turn, but then the books expect no such move.
        is_there = self._is_there(event.move.target)
        if owner is None or owner.home is None or not is_there:
            self._report(MoveAborted(move=event.move.move))
            return
        self._drop_next_move(owner)  # the newer order counts
        owner.next_move = event
        self._near[event.move.target][owner.request] = None
        self._settle(owner)

    def _abort_move(self, event: events.AbortMove) -> None:
        owner = self.owners.get(event.request)
        if owner is None:
            return
        if owner.next_move is not None and owner.next_move.move.move == event.move:
            self._drop_next_move(owner)
        elif owner.move is not None and owner.move.id == event.move:
            self._abort(owner, owner.move)

    def _preempt(self, event: events.PreemptRequest) -> None:
        owner = self.owners.get(event.request)
        if owner is not None and owner.home is not None:
            self._disown(owner)
            self._settle(owner)

    def _end(self, event: events.End) -> None:
        owner = self.owners.get(event.request)
        if owner is not None and not owner.is_over:
            owner.is_over = True
            self._disown(owner)
            self._settle(owner)

    # Messages.

    def _started(self, message: messages.Started) -> None:
        self._answered(message.copy_id)
        owner = self.owners.get(message.request)
        if owner is not None and owner.copy_id == message.copy_id:
            owner.opening = None
            self._settle(owner)

    def _reserved(self, message: messages.Reserved) -> None:
        self._answered(message.copy_id)
        move = self._move_to(message.request, message.copy_id)
        if move is not None and move.phase is MovePhase.RESERVING:
            move.phase = MovePhase.COPYING
            move.cached = message.cached
            self._send(move.source, move.begin())

    def _refused(self, message: messages.Refused) -> None:
        self._abort_to(message.request, message.copy_id)

    def _gave_up(self, message: messages.GaveUp) -> None:
        self._abort_to(message.request, message.to_copy_id)

    def _stopped(self, message: messages.Stopped) -> None:
        move = self._move_to(message.request, message.to_copy_id)
        if (
            move is None
            or move.phase is not MovePhase.COPYING
            or move.stopped is not None
        ):
            return
        move.stopped = message
        self._effects.append(
            Deliver(
                request=message.request,
                copy_id=message.copy_id,
                since=message.since,
                tokens=message.tail,
            )
        )
        if move.is_ready:
            self._commit(move)

    def _ready(self, message: messages.Ready) -> None:
        self._answered(message.copy_id)
        move = self._move_to(message.request, message.copy_id)
        if move is not None and move.phase is MovePhase.COPYING:
            move.is_ready = True
            if move.stopped is not None:
                self._commit(move)

    def _resumed(self, message: messages.Resumed) -> None:
        move = self._move_to(message.request, message.to_copy_id)
        if move is not None and move.phase is MovePhase.ABORTING:
            move.is_resumed = True
            self._settle(self.owners[message.request])

    def _released(self, message: messages.Released) -> None:
        self._answered(message.copy_id)
        owner = self.owners.get(message.request)
        device = owner.closing.pop(message.copy_id, None) if owner is not None else None
        if owner is not None and device is not None:
            self._settle(owner)
            self._part(owner, device)

    def _resend(self, event: events.Resend) -> None:
        for owner in self.owners.values():
            if owner.opening is not None:
                assert owner.home is not None
                self._send(owner.home, owner.opening)
            for copy_id, device in owner.closing.items():
                self._send_release(owner.request, copy_id, device)
            move = owner.move
            if move is None:
                continue
            if move.phase is MovePhase.RESERVING:
                self._send_reserve(move)
            elif move.phase is MovePhase.COPYING and move.stopped is None:
                self._send(move.source, move.begin())
            elif move.phase is MovePhase.ABORTING and not move.is_resumed:
                self._send(move.source, move.resume())

    # The ways that ownership changes.

    def _start(self, owner: Owner, place: events.StartRequest) -> None:
        owner.waiting = None
        owner.copy_id = self._open(place.device)
        owner.opening = messages.Start(
            request=owner.request,
            copy_id=owner.copy_id,
            known=place.known,
            horizon=self._horizon(place.device),
        )
        self._effects.append(Fence(request=owner.request, copy_id=owner.copy_id))
        self._send(place.device, owner.opening)

    def _begin_move(self, owner: Owner, order: events.BeginMove) -> None:
        target = order.move.target
        if owner.home == target or not self._is_there(target):
            self._drop_next_move(owner)
            return
        assert owner.home is not None
        owner.next_move = None
        owner.move = OpenMove(
            order,
            copy_id=self._open(target),
            source=owner.home,
            source_copy_id=owner.copy_id,
        )
        self._send_reserve(owner.move)

    def _commit(self, move: OpenMove) -> None:
        """The one point where a move becomes true."""
        owner = self.owners[move.request]
        assert move.stopped is not None
        move.phase = MovePhase.COMMITTED
        owner.home, owner.copy_id = move.target, move.copy_id
        self._effects.append(Fence(request=owner.request, copy_id=owner.copy_id))
        self._close(owner, move.source_copy_id, move.source)
        owner.opening = messages.Commit(
            request=owner.request,
            copy_id=owner.copy_id,
            since=move.stopped.since,
            tail=move.stopped.tail,
        )
        self._send(owner.home, owner.opening)

    def _disown(self, owner: Owner) -> None:
        """The one way out of a device, whatever was going on."""
        self._drop_next_move(owner)
        if owner.move is not None:
            self._drop_move(owner, owner.move)
        if owner.home is not None and owner.waiting is None:
            self._close(owner, owner.copy_id, owner.home)
        home, owner.home = owner.home, None
        owner.opening = owner.waiting = None
        if home is not None:
            self._part(owner, home)
        owner.copy_id = self._new_copy_id()
        self._effects.append(Fence(request=owner.request, copy_id=owner.copy_id))

    # The end of a move.

    def _abort(self, owner: Owner, move: OpenMove) -> None:
        """Frees the destination; the source goes on where it stands."""
        if not move.is_open:
            return
        move.is_resumed = (
            move.phase is MovePhase.RESERVING
        )  # it was never told to begin
        move.phase = MovePhase.ABORTING
        self._close(owner, move.copy_id, move.target)
        if not move.is_resumed:
            self._send(move.source, move.resume())
        self._settle(owner)

    def _drop_move(self, owner: Owner, move: OpenMove) -> None:
        """Ends a move whose request leaves both ends."""
        if move.is_open:
            self._close(owner, move.copy_id, move.target)
        self._finish_move(owner, move)

    def _drop_next_move(self, owner: Owner) -> None:
        if owner.next_move is not None:
            move, owner.next_move = owner.next_move.move, None
            self._report(MoveAborted(move=move.move))
            self._part(owner, move.target)

    def _part(self, owner: Owner, device: DeviceGroupId) -> None:
        """Notes that a device may concern an owner no more."""
        if device in self._near and not owner.concerns(device):
            self._near[device].pop(owner.request, None)

    def _finish_move(self, owner: Owner, move: OpenMove) -> None:
        owner.move = None
        if move.phase is MovePhase.COMMITTED:
            self._report(MoveCommitted(move=move.id))
        else:
            self._report(MoveAborted(move=move.id))

    def _settle(self, owner: Owner) -> None:
        """Does what had to wait for releases and answers."""
        move = owner.move
        if move is not None and not owner.closing:
            is_aborted = move.phase is MovePhase.ABORTING and move.is_resumed
            if move.phase is MovePhase.COMMITTED or is_aborted:
                self._finish_move(owner, move)
        if owner.closing:
            return
        if owner.is_over:
            del self.owners[owner.request]
            self._effects.append(Forget(request=owner.request))
            return
        if owner.waiting is not None:
            self._start(owner, owner.waiting)
        # A source that has not started would answer Resume, and then begin late.
        is_free = owner.move is None and owner.opening is None
        if owner.next_move is not None and is_free:
            self._begin_move(owner, owner.next_move)

    # Sending.

    def _close(self, owner: Owner, copy_id: CopyId, device: DeviceGroupId) -> None:
        if device in self._unanswered:
            owner.closing[copy_id] = device
            self._send_release(owner.request, copy_id, device)

    def _send_release(
        self, request: RequestId, copy_id: CopyId, device: DeviceGroupId
    ) -> None:
        self._send(
            device,
            messages.Release(
                request=request, copy_id=copy_id, horizon=self._horizon(device)
            ),
        )

    def _send_reserve(self, move: OpenMove) -> None:
        self._send(move.target, move.reserve(horizon=self._horizon(move.target)))

    def _send(self, device: DeviceGroupId, message: messages.ToEndpoint) -> None:
        self._effects.append(Send(to=device, message=message))

    def _report(self, event: MoveCommitted | MoveAborted) -> None:
        self._effects.append(Report(event=event))

    # Copies.

    def _new_copy_id(self) -> CopyId:
        self._last_copy_id = self.next_copy_id
        return self._last_copy_id

    def _open(self, device: DeviceGroupId) -> CopyId:
        copy_id = self._new_copy_id()
        self._unanswered[device].add(copy_id)
        self._opened_at[copy_id] = device
        return copy_id

    def _answered(self, copy_id: CopyId) -> None:
        device = self._opened_at.pop(copy_id, None)
        if device is not None:
            self._unanswered[device].remove(copy_id)

    def _horizon(self, device: DeviceGroupId) -> CopyId:
        """Openings for the device below it have been answered."""
        return min(self._unanswered[device], default=self.next_copy_id)

    # Looking up.

    def _move_to(self, request: RequestId, copy_id: CopyId) -> OpenMove | None:
        owner = self.owners.get(request)
        if owner is None or owner.move is None or owner.move.copy_id != copy_id:
            return None
        return owner.move

    def _abort_to(self, request: RequestId, copy_id: CopyId) -> None:
        move = self._move_to(request, copy_id)
        if move is not None:
            self._abort(self.owners[request], move)

    def _is_there(self, device: DeviceGroupId) -> bool:
        """False for a device that was lost.

        Raises:
          ValueError: it never was in the fleet.
        """
        if device not in self._unanswered and device not in self._lost:
            raise ValueError(f"device {device} was never added to the fleet")
        return device in self._unanswered
