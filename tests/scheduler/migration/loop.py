"""A fleet in one process: controller and instances, messages passed on at once.

What an engine has to do with the effects, in its smallest form: rows are numbers of
computed positions. `trace` says what was done, in order.
"""

from collections import deque
from typing import cast

from mell_jax.scheduler.ids import CopyId, DeviceGroupId, MoveId, RequestId
from mell_jax.scheduler.migration import effects, events, messages
from mell_jax.scheduler.migration.controller import Controller
from mell_jax.scheduler.migration.endpoint import Endpoint
from mell_jax.scheduler.migration.source import StagingLimits
from mell_jax.scheduler.placement import plan
from mell_jax.scheduler.transfer import Mode

LEFT, RIGHT, THIRD = DeviceGroupId(0), DeviceGroupId(1), DeviceGroupId(2)
NOWHERE = DeviceGroupId(99)
ONE = RequestId(1)
PAGE = 16


def begin_move(
    move: MoveId,
    *,
    target: DeviceGroupId,
    request: RequestId = ONE,
    mode: Mode = Mode.KV,
    pages: int = 8,
    known: int = 100,
    is_urgent: bool = False,
) -> events.BeginMove:
    """An order whose source does not matter: the controller knows the owner."""
    decided = plan.Move(
        move=move,
        request=request,
        source=NOWHERE,
        target=target,
        pages=pages,
        is_urgent=is_urgent,
    )
    return events.BeginMove(move=decided, mode=mode, pages=pages, known=known)


class Loop:
    """Three devices; every write to pages is done when it is asked for."""

    def __init__(self, *, max_stages: int = 3, cached: int = 0) -> None:
        self.controller = Controller()
        self.instances: dict[DeviceGroupId, Endpoint] = {}
        self.trace: list[str] = []
        self.has_room = True
        self._cached = cached
        self._queue: deque[tuple[DeviceGroupId, messages.Message]] = deque()
        limits = StagingLimits(page_tokens=PAGE, max_stages=max_stages, tail_pages=2)
        for device in (LEFT, RIGHT, THIRD):
            self.order(events.AddDevice(device=device))
            self.instances[device] = Endpoint(
                device, limits=limits, horizon=self.controller.next_copy_id
            )

    def order(self, event: events.ControllerEvent) -> None:
        self._decide(event)
        self._pass_on()

    def tell(self, device: DeviceGroupId, event: events.EndpointEvent) -> None:
        self._work(device, event)
        self._pass_on()

    def place(self, device: DeviceGroupId, *, known: int = 100) -> None:
        self.order(events.StartRequest(request=ONE, device=device, known=known))

    def move(
        self,
        target: DeviceGroupId,
        *,
        known: int = 100,
        move: int = 5,
        mode: Mode = Mode.KV,
        is_urgent: bool = False,
    ) -> None:
        self.order(
            begin_move(
                MoveId(move),
                target=target,
                mode=mode,
                known=known,
                is_urgent=is_urgent,
            )
        )

    def computed(self, device: DeviceGroupId, positions: int) -> None:
        """A step of the device is over."""
        copy_id = self.copy_on(device)
        self.tell(
            device, events.Computed(request=ONE, copy_id=copy_id, computed=positions)
        )

    def stopped(self, device: DeviceGroupId, positions: int, *tail: int) -> None:
        copy_id = self.copy_on(device)
        event = events.RowStopped(
            request=ONE, copy_id=copy_id, computed=positions, tail=tail
        )
        self.tell(device, event)

    def lost(self, device: DeviceGroupId) -> None:
        del self.instances[device]
        self.order(events.LoseDevice(device=device))

    def copy_on(self, device: DeviceGroupId) -> CopyId:
        return self.instances[device].copies[0]

    def take_trace(self) -> list[str]:
        trace, self.trace = self.trace, []
        return trace

    def _decide(self, event: messages.ToController | events.ControllerEvent) -> None:
        for effect in self.controller.step(event):
            match effect:
                case effects.Send():
                    self._queue.append((effect.to, effect.message))
                case effects.Fence():
                    self.trace.append(f"fence {effect.copy_id}")
                case effects.Deliver():
                    self.trace.append(f"deliver {list(effect.tokens)}")
                case effects.Report():
                    self.trace.append(type(effect.event).__name__)
                case effects.Forget():
                    self.trace.append("forget")

    def _work(
        self, device: DeviceGroupId, event: messages.ToEndpoint | events.EndpointEvent
    ) -> None:
        for effect in self.instances[device].step(event):
            match effect:
                case effects.Send():
                    self._queue.append((effect.to, effect.message))
                case effects.TakePages():
                    self._take(device, effect)
                case effects.WriteChunk():
                    self._say(device, f"write {effect.first}:{effect.end}")
                    written = events.Written(
                        request=ONE, copy_id=effect.copy_id, end=effect.end
                    )
                    self._work(device, written)
                case effects.StartRow():
                    self._say(device, f"start at {effect.computed} {effect.tail}")
                case effects.StopRow():
                    self._say(device, f"stop, tokens since {effect.since}")
                case _:
                    self._say(device, type(effect).__name__)

    def _take(self, device: DeviceGroupId, effect: effects.TakePages) -> None:
        if not self.has_room:
            self._work(device, events.Failed(request=ONE, copy_id=effect.copy_id))
            return
        self._say(device, f"take {effect.pages}")
        took = events.Took(request=ONE, copy_id=effect.copy_id, cached=self._cached)
        self._work(device, took)

    def _say(self, device: DeviceGroupId, what: str) -> None:
        self.trace.append(f"{('left', 'right', 'third')[device]}: {what}")

    def _pass_on(self) -> None:
        while self._queue:
            to, message = self._queue.popleft()
            if to == messages.CONTROLLER:
                self._decide(cast(messages.ToController, message))
            elif to in self.instances:
                self._work(to, cast(messages.ToEndpoint, message))
